//! A GET, as probes and lifecycle hooks send it: status 200 to 399 passes.

use super::tcp::dial_error;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Read of an answer at most (`maxRespBodyLength`: 10 KiB).
const MAX_BODY_BYTES: usize = 10 * 1024;

/// Read of manifests at most; what is longer is refused by its parser.
const MAX_MANIFEST_BYTES: usize = 3 * 1024 * 1024;
/// A server of manifests that does not answer within this (the kubelet's client waits as long).
const FETCH_DEADLINE: Duration = Duration::from_secs(10);

/// Who asks: it is in the user agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Probe,
    Lifecycle,
    /// Static pods from a URL.
    Manifests,
}

impl Caller {
    fn agent(self) -> &'static str {
        match self {
            Self::Probe => "kube-probe/1.36",
            Self::Lifecycle => "kube-lifecycle/1.36",
            Self::Manifests => "kubelet/1.36",
        }
    }

    /// Read of an answer at most.
    fn max_body_bytes(self) -> usize {
        match self {
            Self::Probe | Self::Lifecycle => MAX_BODY_BYTES,
            Self::Manifests => MAX_MANIFEST_BYTES,
        }
    }
}

/// Where to, parsed once.
#[derive(Clone, Debug)]
pub struct Target {
    https: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

impl Target {
    pub fn of(action: &HTTPGetAction, container: &Container, pod_ip: IpAddr) -> Result<Self, String> {
        let host = action.host.as_deref().filter(|host| !host.is_empty());
        let path = action.path.as_deref().unwrap_or("/");
        Ok(Self {
            https: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: host.map_or_else(|| pod_ip.to_string(), str::to_owned),
            port: super::port(&action.port, container)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// What a URL shows.
pub async fn fetch(url: &str) -> Result<String, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let https = uri.scheme_str() == Some("https");
    let target = Target {
        https,
        host: uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        headers: Vec::new(),
    };
    match tokio::time::timeout(FETCH_DEADLINE, get(&target, Caller::Manifests)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{url} did not answer within {FETCH_DEADLINE:?}")),
    }
}

/// The answer's body, or what went wrong as Go's client words it. The caller bounds the time.
pub async fn get(target: &Target, caller: Caller) -> Result<String, String> {
    let failed = |what: String| format!("Get \"{}\": {what}", target.url());
    let address = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| failed(format!("dial tcp: lookup {}: no such host", target.host)))?;
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| failed(dial_error(address, &error)))?;
    let request = request(target, caller)?;
    let (status, body) = if target.https {
        let stream = tls(target, address, stream).await.map_err(failed)?;
        exchange(TokioIo::new(stream), request, caller.max_body_bytes()).await.map_err(failed)?
    } else {
        exchange(TokioIo::new(stream), request, caller.max_body_bytes()).await.map_err(failed)?
    };
    if (200..400).contains(&status) { Ok(body) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
}

fn request(target: &Target, caller: Caller) -> Result<Request<Empty<bytes::Bytes>>, String> {
    let agent = caller.agent();
    let mut request = Request::get(&target.path).body(Empty::new()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    let own: Vec<_> = target
        .headers
        .iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?)))
        .collect();
    for (name, value) in own {
        // An empty Accept or User-Agent leaves the header out, as upstream documents it.
        if !value.is_empty() || (name != header::ACCEPT && name != header::USER_AGENT) {
            headers.append(name, value);
        }
    }
    let mut default = |name: HeaderName, value: &str| {
        let written = target.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name.as_str()));
        if let (false, Ok(value)) = (written, HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    };
    default(header::HOST, &target.authority());
    default(header::USER_AGENT, agent);
    default(header::ACCEPT, "*/*");
    if caller == Caller::Probe {
        default(header::CONNECTION, "close");
    }
    Ok(request)
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<bytes::Bytes>>,
    max_body_bytes: usize,
) -> Result<(u16, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(AskFirst::new(stream)).await.map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), max_body_bytes).collect().await;
        let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, body))
    };
    let mut answer = std::pin::pin!(answer);
    // The connection moves the bytes. A server that closes at once ends it together with its answer, which then stands.
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            Ok(()) => answer.await.map_err(|_| "EOF".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Reads nothing before the first write: some servers answer before they are asked, which hyper takes for an error and
/// Go's client does not.
struct AskFirst<S> {
    stream: S,
    asked: bool,
    reader: Option<Waker>,
}

impl<S> AskFirst<S> {
    fn new(stream: S) -> Self {
        Self { stream, asked: false, reader: None }
    }
}

impl<S: hyper::rt::Read + Unpin> hyper::rt::Read for AskFirst<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: hyper::rt::Write + Unpin> hyper::rt::Write for AskFirst<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Probes do not verify certificates (`InsecureSkipVerify`).
async fn tls(
    target: &Target,
    address: SocketAddr,
    stream: tokio::net::TcpStream,
) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from(target.host.clone())
        .unwrap_or_else(|_| rustls_pki_types::ServerName::from(address.ip()));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| {
        let garbage = error.to_string().contains("corrupt message");
        if garbage { "http: server gave HTTP response to HTTPS client".to_owned() } else { error.to_string() }
    })
}

/// Accepts every certificate; signatures of the handshake are still checked by rustls' provider.
#[derive(Debug)]
struct AcceptAny(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls_pki_types::CertificateDer<'_>,
        _intermediates: &[rustls_pki_types::CertificateDer<'_>],
        _server_name: &rustls_pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn an_answer_that_comes_before_the_question_counts() {
        let (ours, mut server) = tokio::io::duplex(4096);
        server.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        let request = Request::get("/").body(Empty::new()).unwrap();
        let answer = exchange(TokioIo::new(ours), request, MAX_BODY_BYTES).await;
        assert_eq!(answer, Ok((404, "no".to_owned())));
    }
}
