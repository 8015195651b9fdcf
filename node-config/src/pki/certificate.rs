//! What a certificate on disk says, and whether it still serves.

use super::RENEW_BEFORE;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, parse_x509_pem};

/// The parts of a certificate that decide its fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) common_name: String,
    pub(super) organization: Option<String>,
    pub(super) sans: BTreeSet<String>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// DER of the public key (SubjectPublicKeyInfo).
    pub(super) public_key: Vec<u8>,
    /// Subject key identifier, and the issuer's (authority key identifier).
    pub(super) key_id: Option<Vec<u8>>,
    pub(super) issuer_key_id: Option<Vec<u8>>,
}

impl Facts {
    /// `None`: no certificate.
    pub(super) fn of_pem(pem: &str) -> Option<Self> {
        let (_, block) = parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, cert) = X509Certificate::from_der(&block.contents).ok()?;
        let subject = cert.subject();
        let mut facts = Self {
            common_name: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
            organization: subject.iter_organization().next().and_then(|value| value.as_str().ok()).map(str::to_owned),
            sans: BTreeSet::new(),
            not_before: time(cert.validity().not_before.timestamp()),
            not_after: time(cert.validity().not_after.timestamp()),
            public_key: cert.public_key().raw.to_vec(),
            key_id: None,
            issuer_key_id: None,
        };
        for extension in cert.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => facts.key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.issuer_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.sans = names.general_names.iter().map(san_text).collect();
                }
                _ => {}
            }
        }
        Some(facts)
    }

    pub(super) fn ends_after(&self, moment: SystemTime) -> bool {
        self.not_after > moment
    }
}

fn time(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0))
}

fn san_text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => IpAddr::from(four).to_string(),
            (_, Ok(sixteen)) => IpAddr::from(sixteen).to_string(),
            (Err(_), Err(_)) => format!("{bytes:x?}"),
        },
        other => other.to_string(),
    }
}

/// What a certificate must be.
pub(super) struct Wanted<'a> {
    pub(super) common_name: &'a str,
    pub(super) organization: Option<&'a str>,
    pub(super) sans: &'a BTreeSet<String>,
    pub(super) issuer_key_id: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Why, for the log.
    Issue(&'static str),
}

/// Whether the certificate and key on disk serve as they are. `public_key`: of the private key on disk.
pub(super) fn judge(found: Option<&Facts>, public_key: Option<&[u8]>, wanted: &Wanted<'_>, now: SystemTime) -> Verdict {
    let Some(found) = found else { return Verdict::Issue("absent") };
    if public_key != Some(&found.public_key) {
        return Verdict::Issue("its key does not match");
    }
    if found.issuer_key_id.as_deref() != wanted.issuer_key_id {
        return Verdict::Issue("signed by another CA");
    }
    if !found.ends_after(now + RENEW_BEFORE) {
        return Verdict::Issue("ends soon");
    }
    if found.not_before > now {
        return Verdict::Issue("not yet valid");
    }
    if found.common_name != wanted.common_name || found.organization.as_deref() != wanted.organization {
        return Verdict::Issue("made for another name");
    }
    if &found.sans != wanted.sans {
        return Verdict::Issue("made for other addresses");
    }
    Verdict::Keep
}
