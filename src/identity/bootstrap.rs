//! First identity: a bootstrap kubeconfig (a token, mostly) → key, CertificateSigningRequest, client certificate, and a
//! kubeconfig that refers to it. A kubeconfig whose certificate still holds is left as it is.

use super::request;
use super::store::{self, CertificateStore, StoreError};
use crate::clock;
use crate::cluster::{ClusterError, Connection};
use jiff::Timestamp;
use node_config::files::{self, FileError};
use node_config::kubeconfig::{self, KubeconfigError, Reference, Seen};
use rcgen::KeyPair;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the first certificate may take: someone may have to approve it.
const WAIT: Duration = Duration::from_secs(3600);

/// What a first identity is made from.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// `--kubeconfig`: used where it is valid, written otherwise.
    pub kubeconfig: PathBuf,
    /// `--bootstrap-kubeconfig`.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    pub cert_dir: PathBuf,
    pub node_name: String,
}

/// Why the node has no identity; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(
        "{found}, and there is no --bootstrap-kubeconfig{}: have one written by kubeadm join (its token: kubeadm token create \
         --print-join-command), or put a kubeconfig with the node's certificate in its place",
        bootstrap.as_ref().map(|path| format!(" ({} does not exist)", path.display())).unwrap_or_default()
    )]
    NoWay { found: String, bootstrap: Option<PathBuf> },
    #[error("{0}; the file of --kubeconfig must be a kubeconfig")]
    Kubeconfig(KubeconfigError),
    #[error("the bootstrap kubeconfig: {0}")]
    BootstrapKubeconfig(KubeconfigError),
    #[error(
        "the API server at {server} does not take the credentials of {}: {why}; make a new token by kubeadm token create",
        path.display()
    )]
    Refused { server: String, path: PathBuf, why: String },
    #[error("no client certificate from {server}: {source}")]
    Request { server: String, source: ClusterError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
}

impl BootstrapError {
    /// Whether files must change before another attempt can succeed.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::NoWay { .. } | Self::Kubeconfig(_) | Self::BootstrapKubeconfig(_) => true,
            Self::Refused { .. } | Self::Request { .. } | Self::Store(_) | Self::File(_) | Self::Key(_) => false,
        }
    }
}

/// What the kubeconfig is good for.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    Valid,
    /// What is wrong with it.
    Unusable(String),
}

/// Makes sure that the kubeconfig lets the node in. True: it was written.
pub async fn ensure(wanted: &Bootstrap) -> Result<bool, BootstrapError> {
    let found = match standing(&wanted.kubeconfig, clock::now().wall).map_err(BootstrapError::Kubeconfig)? {
        Standing::Valid => return Ok(false),
        Standing::Unusable(found) => found,
    };
    let way = wanted.bootstrap_kubeconfig.clone();
    let Some(path) = way.as_deref().filter(|path| path.exists()) else {
        return Err(BootstrapError::NoWay { found, bootstrap: way });
    };
    tracing::info!(found, by = %path.display(), "asking for a client certificate");
    obtain(wanted, path).await?;
    Ok(true)
}

/// Whether the kubeconfig can be used as it is.
///
/// # Errors
/// For a file that is there and is no kubeconfig: it is somebody's, and not overwritten.
pub fn standing(kubeconfig: &Path, now: Timestamp) -> Result<Standing, KubeconfigError> {
    let show = kubeconfig.display();
    if !kubeconfig.exists() {
        return Ok(Standing::Unusable(format!("there is no kubeconfig {show}")));
    }
    let seen = match kubeconfig::look(kubeconfig) {
        Ok(seen) => seen,
        // The kubeconfig of a node whose `pki` was emptied.
        Err(KubeconfigError::File(error)) if error.path != kubeconfig => {
            return Ok(Standing::Unusable(format!(
                "kubeconfig {show} names {}, which cannot be read",
                error.path.display()
            )));
        }
        Err(error) => return Err(error),
    };
    Ok(judge(&seen, &show.to_string(), now))
}

fn judge(seen: &Seen, show: &str, now: Timestamp) -> Standing {
    let Some(pem) = &seen.client_certificate else {
        if seen.other_credentials {
            return Standing::Valid;
        }
        return Standing::Unusable(format!("kubeconfig {show} has no credentials"));
    };
    match store::read(&String::from_utf8_lossy(pem)) {
        None => Standing::Unusable(format!("what kubeconfig {show} has as client certificate is none")),
        Some(held) if held.validity.holds_at(now) => Standing::Valid,
        Some(held) if held.validity.not_after <= now => {
            Standing::Unusable(format!("the client certificate of {show} expired at {}", held.validity.not_after))
        }
        Some(held) => Standing::Unusable(format!(
            "the client certificate of {show} holds only from {}: is this machine's clock right?",
            held.validity.not_before
        )),
    }
}

/// Asks by the bootstrap kubeconfig, and keeps what is given.
async fn obtain(wanted: &Bootstrap, path: &Path) -> Result<(), BootstrapError> {
    let seen = kubeconfig::look(path).map_err(BootstrapError::BootstrapKubeconfig)?;
    let server = seen.server.clone();
    let failed = |source: ClusterError| match source {
        ClusterError::Denied(why) => BootstrapError::Refused { server: server.clone(), path: path.to_owned(), why },
        source => BootstrapError::Request { server: server.clone(), source },
    };
    let connection = Connection::open(path).await.map_err(failed)?;
    let store = CertificateStore::client(&wanted.cert_dir);
    // The key outlives a crash: the next start asks for the same certificate, not for one more.
    let pending = wanted.cert_dir.join("kubelet-client.key.tmp");
    let key = pending_key(&pending)?;
    let asked = request::client(&wanted.node_name, &key, request::first_name(&wanted.node_name, &key))?;
    let certificate = connection.request_certificate(&asked, WAIT).await.map_err(failed)?;
    store.update(&String::from_utf8_lossy(&certificate), &key.serialize_pem(), clock::now().wall)?;
    let reference = Reference {
        server: seen.server,
        certificate_authority: seen.certificate_authority,
        client_pem: std::path::absolute(store.current()).unwrap_or_else(|_| store.current()),
    };
    kubeconfig::write_reference(&wanted.kubeconfig, &reference).map_err(BootstrapError::Kubeconfig)?;
    match std::fs::remove_file(&pending) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %pending.display(), %error, "the key's first copy stays");
        }
        Ok(()) | Err(_) => {}
    }
    tracing::info!(kubeconfig = %wanted.kubeconfig.display(), "client certificate obtained");
    Ok(())
}

fn pending_key(path: &Path) -> Result<KeyPair, BootstrapError> {
    if let Some(key) = files::read_optional(path)?.and_then(|text| KeyPair::from_pem(&text).ok()) {
        return Ok(key);
    }
    let key = super::new_key()?;
    if let Some(dir) = path.parent() {
        files::make_dir(dir, 0o755)?;
    }
    files::write_atomic(path, key.serialize_pem(), files::PRIVATE)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(not_after: Option<(i32, u8, u8)>) -> Seen {
        let pem = not_after.map(|(year, month, day)| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
            params.not_before = rcgen::date_time_ymd(2025, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, month, day);
            params.self_signed(&crate::identity::new_key().unwrap()).unwrap().pem().into_bytes()
        });
        Seen { client_certificate: pem, ..Seen::default() }
    }

    #[test]
    fn a_kubeconfig_is_used_while_its_certificate_holds() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(judge(&seen(Some((2027, 1, 1))), "k", now), Standing::Valid);
        let token = Seen { other_credentials: true, ..Seen::default() };
        assert_eq!(judge(&token, "k", now), Standing::Valid);
        let mut junk = seen(None);
        junk.client_certificate = Some(b"junk".to_vec());
        for (seen, text) in [
            (seen(Some((2025, 12, 31))), "the client certificate of k expired at 2025-12-31T00:00:00Z"),
            (seen(None), "kubeconfig k has no credentials"),
            (junk, "what kubeconfig k has as client certificate is none"),
        ] {
            assert_eq!(judge(&seen, "k", now), Standing::Unusable(text.into()));
        }
        let early = "2024-01-01T00:00:00Z".parse().unwrap();
        assert!(matches!(judge(&super::tests::seen(Some((2027, 1, 1))), "k", early), Standing::Unusable(_)));
    }

    #[tokio::test]
    async fn without_a_way_in_it_says_what_to_run() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Bootstrap {
            kubeconfig: dir.path().join("kubelet.conf"),
            bootstrap_kubeconfig: Some(dir.path().join("bootstrap-kubelet.conf")),
            cert_dir: dir.path().join("pki"),
            node_name: "n1".into(),
        };
        let text = ensure(&wanted).await.unwrap_err().to_string();
        assert!(text.contains("there is no kubeconfig") && text.contains("kubeadm token create"), "{text}");
        std::fs::write(&wanted.kubeconfig, "a: [").unwrap();
        let text = ensure(&wanted).await.unwrap_err().to_string();
        assert!(text.contains("is not a kubeconfig"), "{text}");
    }

    #[test]
    fn a_key_that_was_not_signed_yet_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki/kubelet-client.key.tmp");
        let first = pending_key(&path).unwrap();
        assert_eq!(pending_key(&path).unwrap().serialize_pem(), first.serialize_pem());
    }
}
