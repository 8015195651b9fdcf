//! Why a member breaks off, found out by other means than gRPC, which a connection that was never right ends without a
//! word: TLS where the other side has none, or none where it wants it, or a client certificate that it refuses.

use super::fault::{Fault, NO_TLS, ONLY_TLS};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(2);

/// What TLS has against the connection; `None` where it has nothing, or cannot be asked.
///
/// In TLS 1.3 the server judges our certificate after we think the handshake done: the alert is what comes instead of
/// data. An etcd that is content waits for ours, so silence is consent.
pub(super) async fn refusal(url: &str, ca: &[u8], client: Option<(&[u8], &[u8])>) -> Option<Fault> {
    let error = shake_hands(url, client_config(ca, client)?).await?.err()?;
    Some(super::fault::of_connection(&error)).filter(|fault| matches!(fault, Fault::Unreachable { lasting: true, .. }))
}

/// Whether the other side wants TLS and the address says `http`, or the other way round.
pub(super) async fn other_scheme(url: &str) -> Option<Fault> {
    let why = match url.starts_with("https://") {
        true => answers_in_plain(url).await.then_some(NO_TLS)?,
        false => answers_in_tls(url).await.then_some(ONLY_TLS)?,
    };
    Some(Fault::Unreachable { why: why.to_owned(), lasting: true })
}

/// An etcd without TLS tells its version to whoever asks in HTTP; a TLS server tells them at most that they are wrong.
async fn answers_in_plain(url: &str) -> bool {
    const WANTED: &[u8; 12] = b"HTTP/1.1 200";
    let asked = async {
        let (host, port) = place(url)?;
        let mut stream = TcpStream::connect((host.as_str(), port)).await.ok()?;
        let request = format!("GET /version HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = [0; WANTED.len()];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer == *WANTED)
    };
    matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Some(true)))
}

/// Trusting nobody: that there is a certificate to be refused is what is asked.
async fn answers_in_tls(url: &str) -> bool {
    let Some(config) = client_config(&[], None) else { return false };
    let Some(Err(error)) = shake_hands(url, config).await else { return false };
    matches!(super::fault::tls(&error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Shakes hands and waits for a first byte; `None` where nothing comes of it in time.
async fn shake_hands(url: &str, config: ClientConfig) -> Option<std::io::Result<u8>> {
    let (host, port) = place(url)?;
    let asked = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.read_u8().await
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()
}

/// Host and port of an address.
fn place(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((host, uri.port_u16().unwrap_or(usual)))
}

fn client_config(ca: &[u8], client: Option<(&[u8], &[u8])>) -> Option<ClientConfig> {
    let certificates = |pem| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(ca)?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let builder = builder.with_root_certificates(roots);
    match client {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).ok()?;
            builder.with_client_auth_cert(certificates(certificate)?, key).ok()
        }
        None => Some(builder.with_no_client_auth()),
    }
}
