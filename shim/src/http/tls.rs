//! TLS towards clients and towards agents; certificate files are read again when they change.

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Why certificates cannot be used; names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: cannot be read as PEM: {source}")]
    Pem { path: String, source: rustls_pki_types::pem::Error },
    #[error("{0}: holds no certificate")]
    Empty(String),
    #[error("{path}: {source}")]
    Rejected { path: String, source: rustls::Error },
    #[error("{path}: cannot verify client certificates with this CA: {source}")]
    Verifier { path: String, source: rustls::server::VerifierBuilderError },
}

/// Files of the listener.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Client certificates are verified against it; a client without one is let in as nobody.
    pub client_ca: PathBuf,
}

/// Files for connections to agents.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Signed the agents' serving certificates.
    pub ca: PathBuf,
}

/// The process-wide provider; installed once, whoever comes first.
pub fn install_provider() {
    // An error means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A value built from files, built again when one of them changes.
struct Reloading<T> {
    files: Vec<PathBuf>,
    current: Mutex<(Vec<Option<SystemTime>>, Arc<T>)>,
}

impl<T> Reloading<T> {
    fn new(files: Vec<PathBuf>, value: T) -> Self {
        let stamps = stamps(&files);
        Self { files, current: Mutex::new((stamps, Arc::new(value))) }
    }

    /// The current value. New files that cannot be used are reported, and the old value stays.
    fn get(&self, build: impl FnOnce() -> Result<T, TlsError>) -> Arc<T> {
        let stamps = stamps(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamps {
            current.0 = stamps;
            match build() {
                Ok(value) => {
                    current.1 = Arc::new(value);
                    tracing::info!(files = ?self.files, "certificates reloaded");
                }
                Err(error) => tracing::warn!(%error, "changed certificates cannot be used; the old ones stay"),
            }
        }
        current.1.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<SystemTime>> {
    files.iter().map(|f| std::fs::metadata(f).and_then(|m| m.modified()).ok()).collect()
}

/// The listener's TLS.
pub struct ServerTls {
    files: ServerFiles,
    config: Reloading<rustls::ServerConfig>,
}

impl ServerTls {
    pub fn load(files: ServerFiles) -> Result<Self, TlsError> {
        let watched = vec![files.certificate.clone(), files.key.clone(), files.client_ca.clone()];
        let config = Reloading::new(watched, server_config(&files)?);
        Ok(Self { files, config })
    }

    pub fn current(&self) -> Arc<rustls::ServerConfig> {
        self.config.get(|| server_config(&self.files))
    }
}

/// TLS towards agents.
pub struct ClientTls {
    files: ClientFiles,
    config: Mutex<Option<Arc<Reloading<rustls::ClientConfig>>>>,
}

impl ClientTls {
    /// Reads nothing yet: a server without nodes needs no such certificate.
    pub fn new(files: ClientFiles) -> Self {
        Self { files, config: Mutex::new(None) }
    }

    pub fn current(&self) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        let mut slot = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let reloading = match &*slot {
            Some(reloading) => reloading.clone(),
            None => {
                let files = &self.files;
                let watched = vec![files.certificate.clone(), files.key.clone(), files.ca.clone()];
                let reloading = Arc::new(Reloading::new(watched, client_config(files)?));
                *slot = Some(reloading.clone());
                reloading
            }
        };
        drop(slot);
        Ok(reloading.get(|| client_config(&self.files)))
    }
}

fn server_config(files: &ServerFiles) -> Result<rustls::ServerConfig, TlsError> {
    let (chain, key) = (certificates(&files.certificate)?, key(&files.key)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&files.client_ca)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|source| TlsError::Verifier { path: show(&files.client_ca), source })?;
    let rejected = |source| TlsError::Rejected { path: show(&files.certificate), source };
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(rejected)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(rejected)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn client_config(files: &ClientFiles) -> Result<rustls::ClientConfig, TlsError> {
    let rejected = |source| TlsError::Rejected { path: show(&files.certificate), source };
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(rejected)?
        .with_root_certificates(roots(&files.ca)?)
        .with_client_auth_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(rejected)?;
    // Upgrades need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: show(path), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if found.is_empty() { Err(TlsError::Empty(show(path))) } else { Ok(found) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Pem { path: show(path), source })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Rejected { path: show(path), source })?;
    }
    Ok(roots)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
