//! Who may use the node's HTTPS API: client certificates of the cluster's CA, and what each identity may do.
//!
//! First cut of the kubelet's authentication and authorization (`authentication.x509.clientCAFile`,
//! `authentication.anonymous.enabled: false`): `system:masters` may do everything, others nothing. Delegation to the API
//! server (TokenReview, SubjectAccessReview) comes with the identity work.

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The group that upstream's bootstrap binds to cluster-admin.
const MASTERS: &str = "system:masters";

/// Why the listener's TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    #[error("TLS configuration: {0}")]
    Config(String),
}

/// TLS of :10250: our serving certificate; a client certificate is optional, and verified when given.
pub(super) fn tls(cert: &Path, key: &Path, client_ca: &Path) -> Result<ServerConfig, TlsError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |error: rustls::pki_types::pem::Error| TlsError::File { path, message: error.to_string() }
    };
    let config = |error: &dyn std::fmt::Display| TlsError::Config(error.to_string());
    let chain =
        CertificateDer::pem_file_iter(cert).map_err(file(cert))?.collect::<Result<Vec<_>, _>>().map_err(file(cert))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(file(key))?;
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_file_iter(client_ca).map_err(file(client_ca))? {
        roots.add(ca.map_err(file(client_ca))?).map_err(|e| config(&e))?;
    }
    let verifier =
        WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().map_err(|e| config(&e))?;
    let mut tls = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| config(&e))?;
    // Upgrades (exec, attach, port-forward) exist in HTTP/1.1 only, and nobody multiplexes towards a node.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// A caller, as its client certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

impl User {
    /// Common name and organizations of a certificate that TLS has verified.
    pub(super) fn from_certificate(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = cert.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Self { name, groups })
    }
}

/// The answer to a caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    Allowed,
    /// 401.
    Unauthorized,
    /// 403 with this text.
    Forbidden(String),
}

/// Decides by identity alone; `verb` and `subresource` are what the kubelet's attributes would be (`get`, `proxy`).
pub(super) fn decide(user: Option<&User>, node: &str, verb: &str, subresource: &str) -> Access {
    match user {
        None => Access::Unauthorized,
        Some(user) if user.groups.iter().any(|group| group == MASTERS) => Access::Allowed,
        Some(user) => Access::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}], node={node})",
            user.name
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_masters_are_allowed() {
        let user =
            |groups: &[&str]| User { name: "u".into(), groups: groups.iter().map(|g| (*g).to_owned()).collect() };
        assert_eq!(decide(None, "n", "get", "proxy"), Access::Unauthorized);
        assert_eq!(decide(Some(&user(&["a", "system:masters"])), "n", "get", "proxy"), Access::Allowed);
        let text = "Forbidden (user=u, verb=get, resource=nodes, subresource(s)=[proxy], node=n)";
        assert_eq!(decide(Some(&user(&["system:nodes"])), "n", "get", "proxy"), Access::Forbidden(text.to_owned()));
    }

    #[test]
    fn a_certificates_subject_is_the_user() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver-kubelet-client");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let cert = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let user = User::from_certificate(cert.der()).unwrap();
        assert_eq!(user, User { name: "kube-apiserver-kubelet-client".into(), groups: vec!["system:masters".into()] });
    }
}
