//! Why a member breaks off: its TLS is asked, since a client certificate that is refused ends gRPC without a word.

use super::fault::Fault;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(2);

/// What TLS has against the connection; `None` where it has nothing, or cannot be asked.
///
/// In TLS 1.3 the server judges our certificate after we think the handshake done: the alert is what comes instead of
/// data. An etcd that is content waits for ours, so silence is consent.
pub(super) async fn refusal(url: &str, ca: &[u8], client: Option<(&[u8], &[u8])>) -> Option<Fault> {
    let config = client_config(ca, client)?;
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let asked = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.read_u8().await
    };
    let error = tokio::time::timeout(PATIENCE, asked).await.ok()?.err()?;
    Some(super::fault::of_connection(&error)).filter(|fault| matches!(fault, Fault::Unreachable { lasting: true, .. }))
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
