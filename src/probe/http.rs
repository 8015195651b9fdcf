//! A GET, as probes, lifecycle hooks and the reader of manifests send it; what comes of it is theirs to judge.

use super::Verdict;
use super::tcp::dial_error;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
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
/// Requests at most until a redirect is not followed any more (`net/http`).
const MAX_REQUESTS: u32 = 10;

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
        let path = escaped(action.path.as_deref().unwrap_or("/"));
        Ok(Self {
            https: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: host.map_or_else(|| pod_ip.to_string(), str::to_owned),
            port: super::port(&action.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        })
    }

    /// The same without TLS, and without what must not be sent in clear.
    pub fn in_clear(&self) -> Self {
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        Self { https: false, headers, ..self.clone() }
    }

    pub fn authority(&self) -> String {
        let host = &self.host;
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }

    /// Where a `Location` leads from here, with the headers that Go's client keeps on such a way.
    fn follow(&self, location: &str) -> Result<Self, String> {
        let unreadable = |why: String| format!("failed to parse Location header {location:?}: {why}");
        let location = location.split('#').next().unwrap_or_default();
        let scheme = if self.https { "https" } else { "http" };
        let absolute = match (location.starts_with("//"), location.contains("://")) {
            (true, _) => Some(format!("{scheme}:{location}")),
            (false, true) => Some(location.to_owned()),
            (false, false) => None,
        };
        let mut next = match &absolute {
            Some(url) => {
                let uri: http::Uri =
                    url.parse().map_err(|error: http::uri::InvalidUri| unreadable(error.to_string()))?;
                let mut next = of_uri(&uri);
                next.headers = self.headers.clone();
                // A host header of its own was for the server that was asked first.
                next.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
                next
            }
            None => Self { path: join(&self.path, location), ..self.clone() },
        };
        next.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("referer"));
        next.headers.push(("Referer".to_owned(), self.url()));
        Ok(next)
    }
}

/// A path, with a query perhaps, as Go's `url.URL` writes it: what may stand in one stays, also `%` where it is all well
/// escaped.
fn escaped(written: &str) -> String {
    let written = written.split('#').next().unwrap_or_default();
    let (path, query) = match written.split_once('?') {
        Some((path, query)) => (path, format!("?{}", query.replace(' ', "%20"))),
        None => (written, String::new()),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    let is_escape =
        |at: usize| path.as_bytes().get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    let escapes_well = path.bytes().enumerate().all(|(at, byte)| byte != b'%' || is_escape(at));
    if escapes_well && path.bytes().all(|byte| is_plain(byte) || b"%!'()*[]".contains(&byte)) {
        return format!("{path}{query}");
    }
    let mut text = String::with_capacity(path.len() * 3);
    for byte in path.bytes() {
        match byte {
            b'%' if escapes_well => text.push('%'),
            byte if is_plain(byte) => text.push(char::from(byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text + &query
}

fn of_uri(uri: &http::Uri) -> Target {
    let https = uri.scheme_str() == Some("https");
    Target {
        https,
        host: uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        headers: Vec::new(),
    }
}

/// A path (with a query perhaps) as seen from another (RFC 3986, 5.2).
fn join(base: &str, reference: &str) -> String {
    let base = base.split('?').next().unwrap_or_default();
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let whole = match path {
        "" => base.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("{}/{path}", base.rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let is_folder = !parts.is_empty() && (whole.ends_with("/.") || whole.ends_with("/.."));
    let folder = if is_folder { "/" } else { "" };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("/{}{folder}{query}", parts.join("/"))
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Where a redirect leads.
    location: Option<String>,
    /// Its beginning.
    pub body: String,
}

/// Why there is no answer, as Go's client words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    #[error("Get {url:?}: http: server gave HTTP response to HTTPS client")]
    InClear { url: String },
    #[error("Get {url:?}: {why}")]
    Failed { url: String, why: String },
}

/// What a URL shows.
pub async fn fetch(url: &str, headers: Vec<(String, String)>) -> Result<String, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let target = Target { headers, ..of_uri(&uri) };
    let answer = get(&target, Caller::Manifests, FETCH_DEADLINE).await.map_err(|error| error.to_string())?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(format!("{url}: status {status}")),
    }
}

/// What a probe makes of an answer (`DoHTTPProbe`).
pub fn verdict(answer: Result<Answer, GetError>) -> Verdict {
    match answer {
        Ok(Answer { status: 200..300, .. }) => Verdict::Passed,
        Ok(Answer { status: 300..400, body, .. }) => {
            Verdict::Warned(format!("Probe terminated redirects, Response body: {body}"))
        }
        Ok(Answer { status, .. }) => Verdict::Failed(format!("HTTP probe failed with statuscode: {status}")),
        Err(error) => Verdict::Failed(error.to_string()),
    }
}

/// Asks within a time, and where it is sent on from there: not to another host (`RedirectChecker`).
pub async fn get(target: &Target, caller: Caller, within: Duration) -> Result<Answer, GetError> {
    let deadline = crate::clock::now().mono + within;
    let mut current = target.clone();
    let mut asked = 1;
    loop {
        let answer = match tokio::time::timeout_at(deadline, ask(&current, caller)).await {
            Ok(answer) => answer?,
            Err(_) => {
                let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
                return Err(GetError::Failed { url: current.url(), why });
            }
        };
        let Some(location) = answer.location.as_deref() else { return Ok(answer) };
        let next = current.follow(location).map_err(|why| GetError::Failed { url: current.url(), why })?;
        if caller != Caller::Manifests && next.host != target.host {
            return Ok(answer);
        }
        if asked == MAX_REQUESTS {
            let why = format!("stopped after {MAX_REQUESTS} redirects");
            return Err(GetError::Failed { url: location.to_owned(), why });
        }
        asked += 1;
        current = next;
    }
}

/// One question. The caller bounds the time.
async fn ask(target: &Target, caller: Caller) -> Result<Answer, GetError> {
    let failed = |why: String| GetError::Failed { url: target.url(), why };
    let address = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| failed(format!("dial tcp: lookup {}: no such host", target.host)))?;
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| failed(dial_error(address, &error)))?;
    let request = request(target, caller).map_err(failed)?;
    let answer = if target.https {
        let stream = match tls(target, address, stream).await {
            Ok(stream) => stream,
            Err(error) if error.contains("corrupt message") => return Err(GetError::InClear { url: target.url() }),
            Err(error) => return Err(failed(error)),
        };
        exchange(TokioIo::new(stream), request, caller.max_body_bytes()).await
    } else {
        exchange(TokioIo::new(stream), request, caller.max_body_bytes()).await
    };
    answer.map_err(failed)
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

async fn exchange<S>(stream: S, request: Request<Empty<bytes::Bytes>>, max_body_bytes: usize) -> Result<Answer, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(AskFirst::new(stream)).await.map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let location = match status {
            301 | 302 | 303 | 307 | 308 => response.headers().get(header::LOCATION),
            _ => None,
        };
        let location = location.and_then(|value| value.to_str().ok()).filter(|to| !to.is_empty()).map(str::to_owned);
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while bytes.len() < max_body_bytes
            && let Some(Ok(frame)) = body.frame().await
        {
            bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
        bytes.truncate(max_body_bytes);
        Ok(Answer { status, location, body: String::from_utf8_lossy(&bytes).into_owned() })
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
    connector.connect(name, stream).await.map_err(|error| error.to_string())
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
    use std::collections::BTreeMap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn an_answer_that_comes_before_the_question_counts() {
        let (ours, mut server) = tokio::io::duplex(4096);
        server.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        let request = Request::get("/").body(Empty::new()).unwrap();
        let answer = exchange(TokioIo::new(ours), request, MAX_BODY_BYTES).await;
        assert_eq!(answer, Ok(Answer { status: 404, location: None, body: "no".to_owned() }));
    }

    #[test]
    fn paths_are_escaped_as_go_does() {
        for (written, expected) in [
            ("/", "/"),
            ("/a/b?c=d&e=%20", "/a/b?c=d&e=%20"),
            ("/a b", "/a%20b"),
            ("/a b?c d", "/a%20b?c%20d"),
            ("/a%20b c", "/a%20b%20c"),
            ("/a%zz", "/a%25zz"),
            ("/a!b", "/a!b"),
            ("/a!b c", "/a%21b%20c"),
            ("/ä#part", "/%C3%A4"),
            ("healthz", "healthz"),
        ] {
            assert_eq!(escaped(written), expected, "{written}");
        }
    }

    #[test]
    fn references_are_joined_to_paths() {
        for (base, reference, expected) in [
            ("/a/b", "/c", "/c"),
            ("/a/b", "c", "/a/c"),
            ("/a/b/", "c?d=e", "/a/b/c?d=e"),
            ("/a/b?q", "", "/a/b"),
            ("/a/b", "?x=1", "/a/b?x=1"),
            ("/a/b/c", "../d", "/a/d"),
            ("/a", "../../..", "/"),
            ("/a/b", "./", "/a/"),
        ] {
            assert_eq!(join(base, reference), expected, "{base} {reference}");
        }
    }

    /// A server that answers each path as told and closes; it lives as long as the test.
    async fn server(answers: BTreeMap<&'static str, String>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = vec![0; 4096];
                let length = stream.read(&mut asked).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
                let path = asked.split(' ').nth(1).unwrap_or_default();
                let answer = answers.get(path).cloned().unwrap_or_else(|| "404 Not Found\r\n".to_owned());
                let answer = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\nbody of {path}", answer.trim_end());
                // The client may have gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        };
        crate::supervisor::Supervisor::new().spawn("server", serve);
        port
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_host_and_end_with_a_warning_elsewhere() {
        let found = |to: &str| format!("302 Found\r\nLocation: {to}\r\n");
        let port = server(BTreeMap::from([
            ("/fine", "200 OK\r\n".to_owned()),
            ("/once", found("/fine")),
            ("/relative/x", found("../fine")),
            ("/away", found("http://example.invalid/")),
            ("/nowhere", "302 Found\r\n".to_owned()),
            ("/loop", found("/loop")),
            ("/to-404", found("/none")),
        ]))
        .await;
        let warned = |path: &str| Verdict::Warned(format!("Probe terminated redirects, Response body: body of {path}"));
        for (path, expected) in [
            ("/fine", Verdict::Passed),
            ("/once", Verdict::Passed),
            ("/relative/x", Verdict::Passed),
            ("/away", warned("/away")),
            ("/nowhere", warned("/nowhere")),
            ("/loop", Verdict::Failed("Get \"/loop\": stopped after 10 redirects".to_owned())),
            ("/to-404", Verdict::Failed("HTTP probe failed with statuscode: 404".to_owned())),
        ] {
            let target =
                Target { https: false, host: "127.0.0.1".to_owned(), port, path: path.to_owned(), headers: Vec::new() };
            let answer = get(&target, Caller::Probe, Duration::from_secs(30)).await;
            assert_eq!(verdict(answer), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn a_server_without_tls_is_told_from_one_that_fails() {
        let port = server(BTreeMap::new()).await;
        let target =
            Target { https: true, host: "127.0.0.1".to_owned(), port, path: "/".to_owned(), headers: Vec::new() };
        let error = get(&target, Caller::Lifecycle, Duration::from_secs(30)).await.unwrap_err();
        assert_eq!(error, GetError::InClear { url: format!("https://127.0.0.1:{port}/") });
        let answer = get(&target.in_clear(), Caller::Lifecycle, Duration::from_secs(30)).await.unwrap();
        assert_eq!(answer.status, 404);
    }
}
