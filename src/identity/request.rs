//! What the node asks for in a CertificateSigningRequest: the kubelet's subjects, usages and signers.

use crate::cluster::CertificateRequest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use sha2::{Digest, Sha512_256};
use std::collections::BTreeSet;
use std::net::IpAddr;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// Our keys are ECDSA: without `key encipherment`, which only RSA keys can do.
const CLIENT_USAGES: &[&str] = &["digital signature", "client auth"];
const SERVING_USAGES: &[&str] = &["digital signature", "server auth"];

/// `system:node:<name>`: the user that a node is.
pub fn user(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// The node's client certificate; `name`: empty for one of the server's choice.
pub fn client(node_name: &str, key: &KeyPair, name: String) -> Result<CertificateRequest, rcgen::Error> {
    let pem = params(node_name, Vec::new())?.serialize_request(key)?.pem()?;
    Ok(CertificateRequest { name, signer: CLIENT_SIGNER, usages: CLIENT_USAGES, pem })
}

/// Its serving certificate, for these names.
pub fn serving(node_name: &str, names: &BTreeSet<String>, key: &KeyPair) -> Result<CertificateRequest, rcgen::Error> {
    let pem = params(node_name, names.iter().cloned().collect())?.serialize_request(key)?.pem()?;
    Ok(CertificateRequest { name: String::new(), signer: SERVING_SIGNER, usages: SERVING_USAGES, pem })
}

/// The names of a node's serving certificate: those under which its status can be reached.
pub fn serving_names(hostname: &str, addresses: &[IpAddr]) -> BTreeSet<String> {
    addresses.iter().map(IpAddr::to_string).chain([hostname.to_owned()]).collect()
}

/// The name of a first request, which follows from its key: made again after a crash it is the same request.
pub fn first_name(node_name: &str, key: &KeyPair) -> String {
    let mut digest = Sha512_256::new();
    digest.update(key.public_key_raw());
    for part in [CLIENT_SIGNER, "system:nodes", &user(node_name)].iter().chain(CLIENT_USAGES) {
        digest.update(b"|");
        digest.update(part.as_bytes());
    }
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(digest.finalize()))
}

fn params(node_name: &str, names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, user(node_name));
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::{FromDer, parse_x509_pem};

    fn shown(request: &CertificateRequest) -> String {
        let (_, block) = parse_x509_pem(request.pem.as_bytes()).unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents).unwrap();
        let names = parsed.requested_extensions().into_iter().flatten().count();
        format!("{} [{}] {names}", parsed.certification_request_info.subject, request.usages.join(","))
    }

    #[test]
    fn requests_are_the_kubelets() {
        let key = crate::identity::new_key().unwrap();
        let first = client("n1", &key, first_name("n1", &key)).unwrap();
        assert_eq!(shown(&first), "O=system:nodes, CN=system:node:n1 [digital signature,client auth] 0");
        assert_eq!(first.signer, "kubernetes.io/kube-apiserver-client-kubelet");
        let names = serving_names("n1", &["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1", "n1"]);
        let serving = serving("n1", &names, &key).unwrap();
        assert_eq!(shown(&serving), "O=system:nodes, CN=system:node:n1 [digital signature,server auth] 1");
        assert_eq!(serving.signer, "kubernetes.io/kubelet-serving");
    }

    #[test]
    fn a_first_request_is_named_after_its_key_and_node() {
        let (one, other) = (crate::identity::new_key().unwrap(), crate::identity::new_key().unwrap());
        let name = first_name("n1", &one);
        assert!(name.starts_with("node-csr-"), "{name}");
        // 32 bytes in base64 without padding, as upstream's.
        assert_eq!(name.len(), "node-csr-".len() + 43);
        assert_eq!(name, first_name("n1", &one));
        assert_ne!(name, first_name("n2", &one));
        assert_ne!(name, first_name("n1", &other));
    }
}
