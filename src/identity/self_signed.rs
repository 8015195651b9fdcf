//! A serving certificate of our own making, where neither a file nor `serverTLSBootstrap` gives one: `kubelet.crt` and
//! `kubelet.key` in `--cert-dir`, as the kubelet makes them.

use super::store;
use crate::clock;
use jiff::Timestamp;
use node_config::files::{self, FileError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
};
use std::path::Path;
use std::time::Duration;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot make a serving certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Keeps what is there and valid, or else makes a pair for the host name. True: made.
pub fn ensure(certificate: &Path, key: &Path, hostname: &str) -> Result<bool, SelfSignedError> {
    let now = clock::now().wall;
    let held = files::read_optional(certificate)?.as_deref().and_then(store::read);
    if key.exists() && held.is_some_and(|held| held.validity.holds_at(now)) {
        return Ok(false);
    }
    for path in [certificate, key] {
        if let Some(parent) = path.parent() {
            files::make_dir(parent, 0o755)?;
        }
    }
    let (chain, pem) = make(hostname, now)?;
    // A crash in between leaves no key, or the old certificate: both are made anew.
    files::write_atomic(key, pem, files::PRIVATE)?;
    files::write_atomic(certificate, chain, files::PUBLIC)?;
    Ok(true)
}

/// A certificate for the host with the one-off CA that signed it, and its key.
fn make(hostname: &str, now: Timestamp) -> Result<(String, String), rcgen::Error> {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let begin = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.saturating_sub(3600));
    let named = |name: String| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (begin, begin + YEAR);
        params
    };
    let mut ca = named(format!("{hostname}-ca@{seconds}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    let ca_key = super::new_key()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let mut leaf = named(format!("{hostname}@{seconds}"));
    leaf.subject_alt_names = vec![SanType::DnsName(hostname.try_into()?)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = super::new_key()?;
    let signed = leaf.signed_by(&key, &Issuer::from_ca_cert_pem(&ca_pem, ca_key)?)?;
    Ok((format!("{}{ca_pem}", signed.pem()), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("pki/kubelet.crt"), dir.path().join("pki/kubelet.key"));
        assert!(ensure(&certificate, &key, "n1").unwrap());
        let text = std::fs::read_to_string(&certificate).unwrap();
        assert!(!ensure(&certificate, &key, "n1").unwrap());
        assert_eq!(std::fs::read_to_string(&certificate).unwrap(), text);
        let held = store::read(&text).unwrap();
        assert!(held.common_name.starts_with("n1@"), "{held:?}");
        assert!(held.names.contains("n1"));
        std::fs::remove_file(&key).unwrap();
        assert!(ensure(&certificate, &key, "n1").unwrap(), "a certificate without its key serves nobody");
    }
}
