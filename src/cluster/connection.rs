//! The client behind a kubeconfig: made anew when the file, or a certificate that it names, has changed. Or one of an
//! API server in the same process, which needs none.
//!
//! Requests that are under way and watches stay on the client that they began with; each new one takes the latest.

use super::ClusterError;
use super::write::from_kube;
use http::{HeaderValue, Request, header};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// managedFields are named after the first word: writers of a node's fields are called `kubelet`.
const USER_AGENT: HeaderValue = HeaderValue::from_static("kubelet/v1.36.2 (linux) skiff");

/// The way to one API server.
pub struct Connection {
    /// `None`: the server is in this process.
    kubeconfig: Option<PathBuf>,
    current: RwLock<Made>,
}

struct Made {
    client: kube::Client,
    /// Of the kubeconfig and the files that it names.
    digest: Vec<u8>,
}

/// What an API server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerVersion {
    pub major: u32,
    pub minor: u32,
    /// `v1.36.2`.
    pub text: String,
}

/// Why a first contact failed.
#[derive(Debug, thiserror::Error)]
pub enum ContactError {
    /// It may be starting: not a reason to give up.
    #[error("{0}")]
    Unavailable(String),
    /// Its certificate is not what the kubeconfig's CA vouches for.
    #[error("{0}")]
    Untrusted(String),
    /// It refuses our certificate or token.
    #[error("{0}")]
    Refused(String),
}

impl Connection {
    /// Reads the kubeconfig and its key files; connects with the first call. Must run within a tokio runtime.
    pub async fn open(kubeconfig: &Path) -> Result<Self, ClusterError> {
        let (file, digest) = read(kubeconfig)?;
        let made = Made { client: client(kubeconfig, file).await?, digest };
        Ok(Self { kubeconfig: Some(kubeconfig.to_owned()), current: RwLock::new(made) })
    }

    /// To a server in this process, whose `client` enters it as the node: no socket, no TLS, nothing to renew. `url` is
    /// where others reach it, for the metrics.
    pub fn in_process(client: kube::Client, url: &http::Uri) -> Self {
        super::write::goes_to(url);
        let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
            let client = client.clone();
            request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
            async move { client.send(request).await }
        });
        let made = Made { client: kube::Client::new(service, "default"), digest: Vec::new() };
        Self { kubeconfig: None, current: RwLock::new(made) }
    }

    /// The client as of now.
    pub(super) fn client(&self) -> kube::Client {
        self.current.read().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// Looks at the files again. True: they had changed, and new requests use what they say now. What cannot be used
    /// changes nothing.
    pub async fn reload(&self) -> Result<bool, ClusterError> {
        let Some(kubeconfig) = &self.kubeconfig else { return Ok(false) };
        let (file, digest) = read(kubeconfig)?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).digest == digest {
            return Ok(false);
        }
        let made = Made { client: client(kubeconfig, file).await?, digest };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(true)
    }

    /// First contact: who answers, and whether both sides trust one another.
    pub async fn server_version(&self) -> Result<ServerVersion, ContactError> {
        let request = Request::get("/version").header(header::ACCEPT, "application/json").body(Vec::new());
        let request = request.map_err(|error| ContactError::Unavailable(error.to_string()))?;
        let client = self.client();
        let answer = tokio::time::timeout(super::write::CALL_DEADLINE, client.request::<serde_json::Value>(request));
        let answer = match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(contact_error(error)),
            Err(_) => return Err(ContactError::Unavailable("no answer within 10 s".into())),
        };
        // A provider may write "36+".
        let number = |field: &str| {
            let text = answer[field].as_str().unwrap_or_default();
            text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
        };
        let text = answer["gitVersion"].as_str().unwrap_or_default().to_owned();
        Ok(ServerVersion { major: number("major"), minor: number("minor"), text })
    }
}

fn refuse(kubeconfig: &Path, error: &dyn std::fmt::Display) -> ClusterError {
    ClusterError::Kubeconfig { path: kubeconfig.to_owned(), message: error.to_string() }
}

/// The kubeconfig, and the digest of all that a client of it depends on.
fn read(kubeconfig: &Path) -> Result<(Kubeconfig, Vec<u8>), ClusterError> {
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| refuse(kubeconfig, &error))?;
    let digest = digest(kubeconfig, &file);
    Ok((file, digest))
}

async fn client(kubeconfig: &Path, file: Kubeconfig) -> Result<kube::Client, ClusterError> {
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| refuse(kubeconfig, &error))?;
    super::write::goes_to(&config.cluster_url);
    config.connect_timeout = Some(CONNECT_DEADLINE);
    // Who calls knows whether and when to try again; the client's own retries would hide an outage and outlive it.
    config.default_retry = false;
    config.headers.push((header::USER_AGENT, USER_AGENT));
    kube::Client::try_from(config).map_err(|error| refuse(kubeconfig, &error))
}

/// Of everything on disk that the client depends on; a file that cannot be read counts as empty.
fn digest(kubeconfig: &Path, file: &Kubeconfig) -> Vec<u8> {
    let users = file.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    let users = users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]);
    let clusters = file.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    let named = users.chain(clusters.map(|cluster| &cluster.certificate_authority)).flatten().map(PathBuf::from);
    let mut digest = Sha256::new();
    for path in std::iter::once(kubeconfig.to_owned()).chain(named) {
        let bytes = std::fs::read(&path).unwrap_or_default();
        digest.update(bytes.len().to_le_bytes());
        digest.update(bytes);
    }
    digest.finalize().to_vec()
}

fn contact_error(error: kube::Error) -> ContactError {
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(why)) => ContactError::Untrusted(why.to_string()),
        Some(rustls::Error::AlertReceived(alert)) => ContactError::Refused(format!("{alert:?}")),
        _ => match from_kube(error) {
            ClusterError::Denied(why) => ContactError::Refused(why),
            other => ContactError::Unavailable(other.to_string()),
        },
    }
}

/// The TLS layer's error, under the layers that carry it.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error hides what it was made of from `source`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| tls_error(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}
