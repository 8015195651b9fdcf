//! CA and certificates of a cluster of our own: made at first start, renewed at later ones. File names are kubeadm's.
//!
//! Every start calls `ensure`: what is valid is kept, what is missing, damaged, near its end or made for other names
//! is issued anew. A crash between any two writes is repaired by the next start.

mod certificate;

use crate::files::{self, FileError};
use certificate::{Facts, Verdict};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// As kubeadm: ten years for the CA, one for what it signs.
const CA_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// A certificate that ends sooner is renewed at start.
pub const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks of other machines may lag ours.
const BACKDATE: Duration = DAY;

/// Why there are no usable certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is no usable private key; restore it, or move the whole pki directory away to start a new CA", path.display())]
    Key { path: PathBuf, source: rcgen::Error },
    #[error(
        "{file} must be issued ({reason}), but there is no {}; restore the CA's key, or issue the certificate yourself",
        key.display()
    )]
    NoCaKey { file: String, reason: &'static str, key: PathBuf },
    #[error("cannot make the certificate {file}")]
    Issue { file: &'static str, source: rcgen::Error },
}

/// Paths of everything in `pki/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pki {
    dir: PathBuf,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    fn pair(&self, name: &str) -> Pair {
        Pair { cert: self.dir.join(format!("{name}.crt")), key: self.dir.join(format!("{name}.key")) }
    }
    pub fn ca(&self) -> Pair {
        self.pair("ca")
    }
    /// Serving certificate of the API server.
    pub fn apiserver(&self) -> Pair {
        self.pair("apiserver")
    }
    /// The API server's client certificate towards agents.
    pub fn apiserver_kubelet_client(&self) -> Pair {
        self.pair("apiserver-kubelet-client")
    }
    /// The agent's serving certificate (:10250).
    pub fn kubelet(&self) -> Pair {
        self.pair("kubelet")
    }
    /// The agent's client certificate, `system:node:<name>`.
    pub fn kubelet_client(&self) -> Pair {
        self.pair("kubelet-client")
    }
    /// Client certificate of the administrator.
    pub fn admin(&self) -> Pair {
        self.pair("admin")
    }
    /// Signs service account tokens.
    pub fn service_account_key(&self) -> PathBuf {
        self.dir.join("sa.key")
    }
    pub fn service_account_public_key(&self) -> PathBuf {
        self.dir.join("sa.pub")
    }
    /// The agent's kubeconfig.
    pub fn kubelet_kubeconfig(&self) -> PathBuf {
        self.dir.join("kubelet.conf")
    }
}

/// The names and addresses that certificates are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub node_name: String,
    pub hostname: String,
    pub node_ips: Vec<IpAddr>,
    /// `--advertise-address` and a `--bind-address` that is not "all".
    pub api_addresses: Vec<IpAddr>,
    /// First address of the service range: the `kubernetes` service.
    pub service_ip: Option<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Whether this machine runs the API server, a node, or both.
    pub server: bool,
    pub node: bool,
}

/// What `ensure` did with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub file: &'static str,
    /// `None`: kept as it was; else why it was issued (`absent`, `ends soon`, …).
    pub issued: Option<&'static str>,
}

/// One certificate that the CA signs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    file: &'static str,
    common_name: String,
    organization: Option<&'static str>,
    /// DNS names and addresses as text.
    sans: BTreeSet<String>,
    server_auth: bool,
}

/// The certificates wanted for these names.
fn leaves(names: &Names) -> Vec<Leaf> {
    let client = |file, common_name: String, organization| Leaf {
        file,
        common_name,
        organization: Some(organization),
        sans: BTreeSet::new(),
        server_auth: false,
    };
    let texts = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let mut leaves = Vec::new();
    if names.server {
        let kubernetes = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"];
        let mut sans: BTreeSet<String> = kubernetes.map(str::to_owned).into();
        sans.insert(format!("kubernetes.default.svc.{}", names.cluster_domain));
        sans.insert(names.hostname.clone());
        sans.extend(texts(&names.node_ips));
        sans.extend(texts(&names.api_addresses));
        sans.extend(names.service_ip.map(|address| address.to_string()));
        let common_name = "kube-apiserver".to_owned();
        leaves.push(Leaf { file: "apiserver", common_name, organization: None, sans, server_auth: true });
        let common_name = "kube-apiserver-kubelet-client".to_owned();
        leaves.push(client("apiserver-kubelet-client", common_name, "system:masters"));
        leaves.push(client("admin", "kubernetes-admin".to_owned(), "system:masters"));
    }
    if names.node {
        leaves.push(client("kubelet-client", format!("system:node:{}", names.node_name), "system:nodes"));
        let mut sans = BTreeSet::from([names.node_name.clone(), names.hostname.clone()]);
        sans.extend(texts(&names.node_ips));
        let common_name = format!("system:node:{}", names.node_name);
        leaves.push(Leaf { file: "kubelet", common_name, organization: Some("system:nodes"), sans, server_auth: true });
    }
    leaves
}

/// Makes or renews everything that `names` asks for in `dir` (which exists).
pub fn ensure(pki: &Pki, names: &Names, now: SystemTime) -> Result<Vec<Done>, PkiError> {
    let mut done = Vec::new();
    let (ca_pem, ca_key) = ensure_ca(pki, now, &mut done)?;
    let ca_facts = Facts::of_pem(&ca_pem);
    let issuer = ca_key.map(|key| {
        let issue = |source| PkiError::Issue { file: "ca", source };
        Issuer::from_ca_cert_pem(&ca_pem, key).map_err(issue)
    });
    let issuer = issuer.transpose()?;
    for leaf in leaves(names) {
        let pair = pki.pair(leaf.file);
        let facts = files::read_optional(&pair.cert)?.and_then(|pem| Facts::of_pem(&pem));
        let key = read_key(&pair.key)?;
        let wanted = certificate::Wanted {
            common_name: &leaf.common_name,
            organization: leaf.organization,
            sans: &leaf.sans,
            issuer_key_id: ca_facts.as_ref().and_then(|ca| ca.key_id.as_deref()),
        };
        let public_key = key.as_ref().map(rcgen::PublicKeyData::subject_public_key_info);
        match certificate::judge(facts.as_ref(), public_key.as_deref(), &wanted, now) {
            Verdict::Keep => done.push(Done { file: leaf.file, issued: None }),
            Verdict::Issue(reason) => {
                let Some(issuer) = &issuer else {
                    let file = pair.cert.display().to_string();
                    return Err(PkiError::NoCaKey { file, reason, key: pki.ca().key });
                };
                issue(&leaf, &pair, issuer, now)?;
                done.push(Done { file: leaf.file, issued: Some(reason) });
            }
        }
    }
    if names.server {
        ensure_service_account_key(pki, &mut done)?;
    }
    Ok(done)
}

/// The CA: key first, then certificate. A key alone (a crash, or a certificate near its end) gets a new certificate,
/// under which everything that it signed stays valid. `None`: the key is kept elsewhere.
fn ensure_ca(pki: &Pki, now: SystemTime, done: &mut Vec<Done>) -> Result<(String, Option<KeyPair>), PkiError> {
    let pair = pki.ca();
    let old = files::read_optional(&pair.cert)?;
    let facts = old.as_deref().and_then(Facts::of_pem);
    let text = files::read_optional(&pair.key)?;
    if let (Some(old), None) = (&old, &text) {
        done.push(Done { file: "ca", issued: None });
        return Ok((old.clone(), None));
    }
    let key = match text {
        Some(text) => KeyPair::from_pem(&text).map_err(|source| PkiError::Key { path: pair.key.clone(), source })?,
        None => {
            let key = KeyPair::generate().map_err(|source| PkiError::Issue { file: "ca", source })?;
            files::write_atomic(&pair.key, key.serialize_pem(), files::PRIVATE)?;
            key
        }
    };
    let reason = match (&facts, old) {
        (Some(facts), Some(old)) if facts.ends_after(now + RENEW_BEFORE) => {
            done.push(Done { file: "ca", issued: None });
            return Ok((old, Some(key)));
        }
        (Some(_), Some(_)) => "ends soon",
        _ => "absent",
    };
    let mut params = params("kubernetes", None, now, CA_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    let cert = params.self_signed(&key).map_err(|source| PkiError::Issue { file: "ca", source })?;
    files::write_atomic(&pair.cert, cert.pem(), files::PUBLIC)?;
    done.push(Done { file: "ca", issued: Some(reason) });
    Ok((cert.pem(), Some(key)))
}

fn issue(leaf: &Leaf, pair: &Pair, issuer: &Issuer<'_, KeyPair>, now: SystemTime) -> Result<(), PkiError> {
    let failed = |source| PkiError::Issue { file: leaf.file, source };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = params(&leaf.common_name, leaf.organization, now, LEAF_VALIDITY);
    let sans: Vec<String> = leaf.sans.iter().cloned().collect();
    params.subject_alt_names = CertificateParams::new(sans).map_err(failed)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![if leaf.server_auth { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }];
    params.use_authority_key_identifier_extension = true;
    let cert = params.signed_by(&key, issuer).map_err(failed)?;
    // A crash in between leaves a pair that does not match, which the next start sees.
    files::write_atomic(&pair.key, key.serialize_pem(), files::PRIVATE)?;
    files::write_atomic(&pair.cert, cert.pem(), files::PUBLIC)?;
    Ok(())
}

fn params(common_name: &str, organization: Option<&str>, now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + validity;
    params
}

/// `None`: absent or unreadable as a key (a leaf's is then issued anew).
fn read_key(path: &Path) -> Result<Option<KeyPair>, FileError> {
    Ok(files::read_optional(path)?.and_then(|text| KeyPair::from_pem(&text).ok()))
}

/// The key is never replaced: tokens signed with it are out.
fn ensure_service_account_key(pki: &Pki, done: &mut Vec<Done>) -> Result<(), PkiError> {
    let path = pki.service_account_key();
    let (key, issued) = match files::read_optional(&path)? {
        Some(text) => (KeyPair::from_pem(&text).map_err(|source| PkiError::Key { path, source })?, None),
        None => {
            let key = KeyPair::generate().map_err(|source| PkiError::Issue { file: "sa", source })?;
            files::write_atomic(&path, key.serialize_pem(), files::PRIVATE)?;
            (key, Some("absent"))
        }
    };
    files::write_if_changed(&pki.service_account_public_key(), key.public_key_pem(), files::PUBLIC)?;
    done.push(Done { file: "sa", issued });
    Ok(())
}

#[cfg(test)]
mod tests;
