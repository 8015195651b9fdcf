//! What a CertificateSigningRequest asks for, and upstream's rules for the certificates of nodes.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, parse_x509_pem};

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// A parsed PKCS#10 request with what its object says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) signer: String,
    /// Who asks.
    pub(super) username: String,
    pub(super) usages: Vec<String>,
    pub(super) expiration_seconds: Option<i32>,
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    /// All attributes of the subject, in order: OID and value.
    pub(super) subject: Vec<(Vec<u64>, String)>,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) emails: Vec<String>,
    pub(super) uris: Vec<String>,
    /// DER of the SubjectPublicKeyInfo.
    pub(super) public_key: Vec<u8>,
}

impl Asked {
    /// Reads the request and verifies its signature; what is wrong with it otherwise.
    pub(super) fn read(request: &CertificateSigningRequest) -> Result<Self, String> {
        let spec = &request.spec;
        let (_, block) = parse_x509_pem(&spec.request.0).map_err(|error| format!("it is not PEM: {error}"))?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| format!("it is no PKCS#10 request: {error}"))?;
        parsed.verify_signature().map_err(|_| "its signature does not match its key".to_owned())?;
        let info = &parsed.certification_request_info;
        let mut asked = Self {
            signer: spec.signer_name.clone(),
            username: spec.username.clone().unwrap_or_default(),
            usages: spec.usages.clone().unwrap_or_default(),
            expiration_seconds: spec.expiration_seconds,
            public_key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        let texts = |parts: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
            parts.filter_map(|part| part.as_str().ok()).map(str::to_owned).collect::<Vec<_>>()
        };
        asked.organizations = texts(&mut info.subject.iter_organization());
        asked.common_name = texts(&mut info.subject.iter_common_name()).into_iter().next_back().unwrap_or_default();
        for part in info.subject.iter_attributes() {
            let oid = part.attr_type().iter().map(Iterator::collect).ok_or("its subject has an unreadable name")?;
            let value = part.as_str().map_err(|_| "its subject has a value that is no text")?;
            asked.subject.push((oid, value.to_owned()));
        }
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    asked.add_name(name)?;
                }
            }
        }
        Ok(asked)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                self.addresses.push(address.map_err(|_| "it names an address of no known length")?);
            }
            // Go's parser, which upstream's signer uses, passes over the others.
            _ => {}
        }
        Ok(())
    }

    /// Upstream's `ValidateKubeletClientCSR`.
    pub(super) fn check_kubelet_client(&self) -> Result<(), String> {
        self.check_node_subject()?;
        for (names, what) in [
            (!self.dns_names.is_empty(), "DNS"),
            (!self.emails.is_empty(), "email"),
            (!self.addresses.is_empty(), "IP"),
            (!self.uris.is_empty(), "URI"),
        ] {
            if names {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        self.check_usages("client auth", "usages did not match {digital signature,client auth}")
    }

    /// Upstream's `ValidateKubeletServingCSR`.
    pub(super) fn check_kubelet_serving(&self) -> Result<(), String> {
        self.check_node_subject()?;
        if self.dns_names.is_empty() && self.addresses.is_empty() {
            return Err("DNS or IP subjectAltName is required".into());
        }
        for (names, what) in [(!self.emails.is_empty(), "email"), (!self.uris.is_empty(), "URI")] {
            if names {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        self.check_usages("server auth", "usages did not match {digital signature,server auth}")
    }

    /// Upstream's `validAPIServerClientUsages`.
    pub(super) fn check_client_usages(&self) -> Result<(), String> {
        let allowed = ["digital signature", "key encipherment", "client auth"];
        if let Some(usage) = self.usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
        if self.usages.iter().any(|usage| usage == "client auth") {
            Ok(())
        } else {
            Err("missing required usage for client certificate: client auth".into())
        }
    }

    fn check_node_subject(&self) -> Result<(), String> {
        if self.organizations != [NODES] {
            return Err("subject organization is not system:nodes".into());
        }
        if !self.common_name.starts_with(NODE_PREFIX) {
            return Err("subject common name does not begin with system:node:".into());
        }
        Ok(())
    }

    /// Signature and `purpose`; with encipherment, too, where the key is an RSA one.
    fn check_usages(&self, purpose: &str, otherwise: &str) -> Result<(), String> {
        let known = |usage: &String| usage == "digital signature" || usage == "key encipherment" || usage == purpose;
        let has = |wanted: &str| self.usages.iter().any(|usage| usage == wanted);
        if self.usages.iter().all(known) && has("digital signature") && has(purpose) {
            Ok(())
        } else {
            Err(otherwise.to_owned())
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use rcgen::{CertificateParams, DnType, KeyPair};

    /// A request as a kubelet makes it, with these names.
    pub(in crate::control) fn request(signer: &str, usages: &[&str], sans: &[&str]) -> CertificateSigningRequest {
        let sans: Vec<String> = sans.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: signer.to_owned(),
                usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
                username: Some("system:node:n1".into()),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_made() {
        let asked = Asked::read(&request(KUBELET_SERVING, &["server auth"], &["n1", "10.0.0.1", "fd00::1"])).unwrap();
        assert_eq!(
            (asked.common_name.as_str(), asked.organizations.as_slice()),
            ("system:node:n1", &["system:nodes".into()][..])
        );
        assert_eq!(asked.dns_names, ["n1"]);
        assert_eq!(asked.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    }

    #[test]
    fn a_request_that_was_tampered_with_is_refused() {
        let mut forged = request(KUBELET_CLIENT, &[], &[]);
        let (_, block) = parse_x509_pem(&forged.spec.request.0).unwrap();
        let mut der = block.contents;
        // A letter of the common name.
        let at = der.windows(2).rposition(|two| two == b"n1").unwrap();
        der[at + 1] = b'2';
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        forged.spec.request = ByteString(pem.into_bytes());
        assert_eq!(Asked::read(&forged), Err("its signature does not match its key".into()));
    }

    #[test]
    fn certificates_of_nodes_follow_upstreams_rules() {
        let asked = |usages: &[&str], sans: &[&str]| Asked::read(&request("", usages, sans)).unwrap();
        let client = |usages: &[&str], sans: &[&str]| asked(usages, sans).check_kubelet_client().is_ok();
        let serving = |usages: &[&str], sans: &[&str]| asked(usages, sans).check_kubelet_serving().is_ok();
        assert!(client(&["client auth", "digital signature"], &[]));
        assert!(client(&["client auth", "digital signature", "key encipherment"], &[]));
        assert!(!client(&["client auth"], &[]));
        assert!(!client(&["client auth", "digital signature", "server auth"], &[]));
        assert!(!client(&["client auth", "digital signature"], &["n1"]));
        assert!(serving(&["server auth", "digital signature"], &["n1"]));
        assert!(!serving(&["server auth", "digital signature"], &[]));
        assert!(!serving(&["server auth", "digital signature", "client auth"], &["n1"]));
        let mut other = asked(&["client auth", "digital signature"], &[]);
        other.organizations.push("system:masters".into());
        assert!(other.check_kubelet_client().is_err());
        other.organizations.pop();
        other.common_name = "admin".into();
        assert!(other.check_kubelet_client().is_err());
        assert!(asked(&["client auth"], &[]).check_client_usages().is_ok());
        assert!(asked(&["digital signature"], &[]).check_client_usages().is_err());
        assert!(asked(&["client auth", "server auth"], &[]).check_client_usages().is_err());
    }
}
