//! TLS of :10250: the serving certificate and the CA of clients, read again when their files change.

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{CipherSuite, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Why the listener's TLS could not be set up; names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {message}; see --tls-cert-file, --tls-private-key-file and --client-ca-file", path.display())]
    File { path: PathBuf, message: String },
    #[error("TLS configuration: {0}")]
    Config(String),
}

/// The files of the listener.
#[derive(Clone, Debug)]
pub(in crate::server) struct TlsFiles {
    pub(in crate::server) certificate: PathBuf,
    /// May be the same file.
    pub(in crate::server) key: PathBuf,
    /// Client certificates are verified against it; `None`: there are no client certificates.
    pub(in crate::server) client_ca: Option<PathBuf>,
    /// The certificate is still to be signed: until then no handshake succeeds.
    pub(in crate::server) awaited: bool,
    pub(in crate::server) terms: TlsTerms,
}

static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

/// What callers must be able to (`tlsMinVersion`, `tlsCipherSuites`).
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct TlsTerms {
    only_tls13: bool,
    /// Of TLS 1.2, by Go's names; empty: all that rustls has.
    suites: Vec<String>,
}

impl TlsTerms {
    pub(in crate::server) fn new(min_version: &str, suites: &[String]) -> Self {
        Self { only_tls13: min_version == "VersionTLS13", suites: suites.to_vec() }
    }

    /// Versions and suites; those of TLS 1.3 cannot be chosen from, as in Go.
    fn apply(&self, mut provider: CryptoProvider) -> (CryptoProvider, &'static [&'static SupportedProtocolVersion]) {
        if !self.suites.is_empty() {
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || self.names(suite.suite()));
        }
        let has_tls12 = provider.cipher_suites.iter().any(|suite| suite.tls13().is_none());
        let only_tls13 = self.only_tls13 || !has_tls12;
        (provider, if only_tls13 { ONLY_TLS13 } else { rustls::ALL_VERSIONS })
    }

    fn names(&self, suite: CipherSuite) -> bool {
        self.suites.iter().any(|wanted| is_named(suite, wanted))
    }

    /// Suites that Go would offer and we do not: those without forward secrecy or authenticated encryption.
    pub(in crate::server) fn unknown(&self) -> Vec<&str> {
        let known = |name: &&String| ALL_CIPHER_SUITES.iter().any(|suite| is_named(suite.suite(), name));
        self.suites.iter().filter(|name| !known(name)).map(String::as_str).collect()
    }
}

/// By Go's name, or for TLS 1.3 by rustls' (`TLS13_AES_128_GCM_SHA256`), which says the version too.
fn is_named(suite: CipherSuite, go: &str) -> bool {
    let name = format!("{suite:?}").replacen("TLS13_", "TLS_", 1);
    // Go knows ChaCha's by two names.
    go == name || name.strip_suffix("_SHA256") == Some(go)
}

/// What identifies a file's content: modification time (s, ns), inode, size.
type Stamp = Option<(i64, i64, u64, u64)>;

/// The listener's TLS as of the latest change of its files. Looked at with each connection: three stats cost nothing
/// beside a handshake, and no change is missed.
pub(in crate::server) struct Tls {
    files: TlsFiles,
    current: Mutex<([Stamp; 3], Option<Arc<ServerConfig>>)>,
}

impl Tls {
    /// # Errors
    /// Files that cannot be used, unless the certificate is awaited.
    pub(in crate::server) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let config = match config(&files) {
            Ok(config) => Some(Arc::new(config)),
            Err(TlsError::File { path, .. }) if files.awaited && path == files.certificate => None,
            Err(error) => return Err(error),
        };
        Ok(Self { files, current: Mutex::new((stamps, config)) })
    }

    /// `None`: there is no serving certificate yet. Files that cannot be used are reported, and the old ones stay.
    pub(in crate::server) fn current(&self) -> Option<Arc<ServerConfig>> {
        let stamps = stamps(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamps {
            current.0 = stamps;
            match config(&self.files) {
                Ok(config) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "serving certificate or client CA changed");
                    current.1 = Some(Arc::new(config));
                }
                Err(error) => tracing::warn!(%error, "changed certificates cannot be used; the old ones stay"),
            }
        }
        current.1.clone()
    }
}

fn stamps(files: &TlsFiles) -> [Stamp; 3] {
    let stamp = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len()))
    };
    [stamp(&files.certificate), stamp(&files.key), files.client_ca.as_deref().and_then(stamp)]
}

/// Our serving certificate; a client certificate is optional, and verified when given.
fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let bad = |error: &dyn std::fmt::Display| TlsError::Config(error.to_string());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
    let provider = CryptoProvider::get_default().ok_or_else(|| bad(&"no cryptography is installed"))?;
    let (provider, versions) = files.terms.apply(provider.as_ref().clone());
    let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions);
    let builder = builder.map_err(|e| bad(&e))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for ca in certificates(path)? {
                roots.add(ca).map_err(|e| bad(&e))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|e| bad(&e))?)
        }
    };
    let mut tls = builder.with_single_cert(chain, key).map_err(|e| bad(&e))?;
    // Upgrades (exec, attach, port-forward) exist in HTTP/1.1 only, and nobody multiplexes towards a node.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).map_err(unreadable(path))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(unreadable(path))?;
    if all.is_empty() {
        return Err(TlsError::File { path: path.to_owned(), message: "holds no certificate".into() });
    }
    Ok(all)
}

fn unreadable(path: &Path) -> impl FnOnce(rustls::pki_types::pem::Error) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError::File { path, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let text = format!("{}{}", params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    #[test]
    fn versions_and_suites_are_those_that_the_configuration_names() {
        let check = |min: &str, suites: &[&str], expected: &[&str], versions: usize| {
            let suites: Vec<String> = suites.iter().map(|name| (*name).to_owned()).collect();
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let (provider, found) = TlsTerms::new(min, &suites).apply(provider);
            let old = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
            let old: Vec<String> = old.map(|suite| format!("{:?}", suite.suite())).collect();
            if !suites.is_empty() {
                assert_eq!(old, expected);
            }
            assert_eq!(found.len(), versions, "{min} {suites:?}");
        };
        check("", &[], &[], 2);
        check("VersionTLS12", &[], &[], 2);
        check("VersionTLS13", &[], &[], 1);
        let gcm = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        check("", &[gcm, "TLS_RSA_WITH_AES_128_CBC_SHA"], &[gcm], 2);
        let chacha = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305";
        check("", &[chacha], &["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"], 2);
        check("", &["TLS_RSA_WITH_AES_128_CBC_SHA"], &[], 1);
    }

    #[test]
    fn suites_that_are_not_offered_are_named() {
        let named = ["TLS_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"];
        assert_eq!(TlsTerms::new("", &named.map(str::to_owned)).unknown(), ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
    }

    #[test]
    fn a_certificate_is_awaited_taken_up_replaced_and_kept_when_the_next_is_none() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet-server-current.pem");
        let files = TlsFiles {
            certificate: path.clone(),
            key: path.clone(),
            client_ca: None,
            awaited: true,
            terms: TlsTerms::default(),
        };
        assert!(Tls::load(TlsFiles { awaited: false, ..files.clone() }).is_err(), "a file that must be there");
        let tls = Tls::load(files).unwrap();
        assert!(tls.current().is_none());
        write(&path, "one");
        let first = tls.current().unwrap();
        assert!(Arc::ptr_eq(&first, &tls.current().unwrap()), "nothing changed");
        write(&path, "two");
        let second = tls.current().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::write(&path, "junk").unwrap();
        assert!(Arc::ptr_eq(&second, &tls.current().unwrap()));
    }
}
