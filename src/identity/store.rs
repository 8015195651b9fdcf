//! Certificates in `--cert-dir`, as client-go's file store lays them out: `<name>-<date>.pem` holds certificate and key,
//! `<name>-current.pem` links to the one in use. Files of the kubelet are taken over, and it takes over ours.

use super::renewal::Validity;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use node_config::files::{self, FileError};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::parse_x509_pem;

/// One purpose's certificates.
#[derive(Clone, Debug)]
pub struct CertificateStore {
    dir: PathBuf,
    name: &'static str,
}

/// What the current certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub common_name: String,
    pub validity: Validity,
    /// DNS names and addresses, as text.
    pub names: BTreeSet<String>,
}

/// Why the store could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot link {}: {source}", path.display())]
    Link { path: PathBuf, source: std::io::Error },
    #[error("what was signed is no certificate")]
    NoCertificate,
}

impl CertificateStore {
    /// `kubelet-client-current.pem`.
    pub fn client(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), name: "kubelet-client" }
    }

    /// `kubelet-server-current.pem`.
    pub fn serving(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), name: "kubelet-server" }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The link to the certificate in use.
    pub fn current(&self) -> PathBuf {
        self.dir.join(format!("{}-current.pem", self.name))
    }

    /// What is in use; `None`: nothing that can be read as a certificate with its key.
    pub fn load(&self) -> Option<Held> {
        let text = std::fs::read_to_string(self.current()).ok()?;
        text.contains("PRIVATE KEY-----").then(|| read(&text)).flatten()
    }

    /// Writes certificate and key under the moment's name, then turns the link over: a reader, or a crash at any
    /// moment, finds the old pair or the new one.
    pub fn update(&self, certificate: &str, key: &str, now: Timestamp) -> Result<Held, StoreError> {
        let held = read(certificate).ok_or(StoreError::NoCertificate)?;
        files::make_dir(&self.dir, 0o755)?;
        // Local time, as the kubelet names them.
        let date = now.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d-%H-%M-%S");
        let path = self.dir.join(format!("{}-{date}.pem", self.name));
        files::write_atomic(&path, format!("{}\n{key}", certificate.trim_end()), files::PRIVATE)?;
        let updated = self.dir.join(format!("{}-updated.pem", self.name));
        let link = |source| StoreError::Link { path: updated.clone(), source };
        match std::fs::remove_file(&updated) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(link(error)),
        }
        std::os::unix::fs::symlink(std::path::absolute(&path).unwrap_or(path), &updated).map_err(link)?;
        std::fs::rename(&updated, self.current()).map_err(link)?;
        Ok(held)
    }
}

/// The first certificate of a PEM text.
pub fn read(pem: &str) -> Option<Held> {
    let begin = pem.find("-----BEGIN CERTIFICATE-----")?;
    let (_, block) = parse_x509_pem(&pem.as_bytes()[begin..]).ok()?;
    let certificate = block.parse_x509().ok()?;
    let moment = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let sans = certificate.subject_alternative_name().ok().flatten();
    let names = sans.iter().flat_map(|sans| &sans.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    });
    Some(Held {
        common_name: certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned(),
        validity: Validity {
            not_before: moment(certificate.validity().not_before)?,
            not_after: moment(certificate.validity().not_after)?,
        },
        names: names.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn pair(name: &str) -> (String, String) {
        let key = crate::identity::new_key().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["n1".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn pairs_are_kept_as_the_kubelet_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = CertificateStore::client(&dir.path().join("pki"));
        assert_eq!(store.load(), None);
        for (name, now, file) in [
            ("one", "2026-01-02T03:04:05Z", "kubelet-client-2026-01-02-03-04-05.pem"),
            ("two", "2026-01-02T03:04:06Z", "kubelet-client-2026-01-02-03-04-06.pem"),
        ] {
            let (certificate, key) = pair(name);
            let held = store.update(&certificate, &key, now.parse().unwrap()).unwrap();
            assert_eq!(store.load(), Some(held.clone()));
            assert_eq!(held.common_name, name);
            assert_eq!(held.names, BTreeSet::from(["n1".to_owned(), "10.0.0.1".to_owned()]));
            let target = std::fs::read_link(dir.path().join("pki/kubelet-client-current.pem")).unwrap();
            assert_eq!(target, dir.path().join("pki").join(file));
            assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path().join("pki")).unwrap().count(), 3, "both pairs and the link");
    }

    #[test]
    fn what_is_no_certificate_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = CertificateStore::serving(dir.path());
        let (certificate, key) = pair("one");
        store.update(&certificate, &key, Timestamp::UNIX_EPOCH).unwrap();
        assert!(matches!(store.update("junk", &key, Timestamp::UNIX_EPOCH), Err(StoreError::NoCertificate)));
        assert_eq!(store.load().unwrap().common_name, "one");
    }
}
