//! Keeps the node's certificates: renews the client's and the serving one before they end, and takes up kubeconfigs
//! and certificates that others change on disk. Nothing that is under way notices.

use crate::clock;
use crate::cluster::{ClusterError, Connection};
use crate::identity::renewal::Validity;
use crate::identity::store::{CertificateStore, Held, StoreError};
use crate::identity::{self, request};
use crate::metrics::catalog;
use crate::model::node::NodeFacts;
use jiff::Timestamp;
use node_config::agent::AgentConfig;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a request may wait for approval before it is made anew (client-go's certificate manager).
const WAIT: Duration = Duration::from_secs(15 * 60);
/// First and longest wait after a failure; client-go waits 2 s, doubling four times.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_LAST: Duration = Duration::from_secs(32);
/// The wall clock is read again at least this often while waiting: it may jump, the wait does not.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);
/// Files are looked at this often, whatever inotify says.
const AUDIT: Duration = Duration::from_secs(60);

/// What is needed to keep certificates.
#[derive(Clone)]
pub struct Certificates {
    pub config: Arc<AgentConfig>,
    pub connection: Arc<Connection>,
    /// For the addresses that the serving certificate names.
    pub facts: watch::Receiver<NodeFacts>,
}

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot make a key or a request: {0}")]
    Make(#[from] rcgen::Error),
    #[error(
        "the client certificate has expired, and there is no --bootstrap-kubeconfig to get another: make a token by \
         kubeadm token create, write {} with it, and restart the agent", .0.display()
    )]
    Expired(PathBuf),
}

impl Certificates {
    /// Renews the client certificate (`rotateCertificates`), for ever.
    pub async fn keep_client(self) {
        let store = CertificateStore::client(&self.config.cert_dir);
        let mut pace = Pace::default();
        let mut told = false;
        loop {
            let Some(held) = store.load() else {
                if !std::mem::replace(&mut told, true) {
                    let (kubeconfig, current) = (self.config.kubeconfig.display(), store.current());
                    tracing::warn!(
                        "the certificate in {kubeconfig} is not renewed: put it with its key into {} and name that file there",
                        current.display()
                    );
                }
                tokio::time::sleep(LONGEST_SLEEP).await;
                continue;
            };
            if let Some(wait) = pace.wait(&held.validity, clock::now().wall) {
                tokio::time::sleep(wait).await;
                continue;
            }
            match self.renew_client(&store, &held).await {
                Ok(held) => {
                    tracing::info!(until = %held.validity.not_after, "client certificate renewed");
                    pace.renewed(clock::now().wall);
                }
                Err(error) => {
                    tracing::warn!(%error, until = %held.validity.not_after, "client certificate not renewed, retrying");
                    catalog::CLIENT_CERTIFICATE_RENEW_ERRORS.add_one();
                    tokio::time::sleep(pace.failed()).await;
                }
            }
        }
    }

    async fn renew_client(&self, store: &CertificateStore, held: &Held) -> Result<Held, RenewError> {
        let key = identity::new_key()?;
        let asked = request::client(&self.config.node_name, &key, String::new())?;
        let certificate = if held.validity.holds_at(clock::now().wall) {
            self.connection.request_certificate(&asked, WAIT).await?
        } else {
            let path = self.config.bootstrap_kubeconfig.clone();
            let path = path.unwrap_or_else(|| "/etc/kubernetes/bootstrap-kubelet.conf".into());
            if !path.exists() {
                return Err(RenewError::Expired(path));
            }
            Connection::open(&path).await?.request_certificate(&asked, WAIT).await?
        };
        let held = store.update(&String::from_utf8_lossy(&certificate), &key.serialize_pem(), clock::now().wall)?;
        self.connection.reload().await?;
        Ok(held)
    }

    /// Gets and renews the serving certificate (`serverTLSBootstrap`), for ever; also when the node's addresses change.
    pub async fn keep_serving(mut self) {
        let store = CertificateStore::serving(&self.config.cert_dir);
        let mut pace = Pace::default();
        loop {
            let names = request::serving_names(&self.config.node_name, &self.facts.borrow_and_update().ips);
            if let Some(held) = store.load().filter(|held| held.names == names)
                && let Some(wait) = pace.wait(&held.validity, clock::now().wall)
            {
                // Both arms are cancel-safe: a watch keeps what was sent.
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    changed = self.facts.changed() => if changed.is_err() { return },
                }
                continue;
            }
            match self.renew_serving(&store, &names).await {
                Ok(held) => {
                    tracing::info!(until = %held.validity.not_after, "serving certificate obtained");
                    pace.renewed(clock::now().wall);
                }
                Err(error) => {
                    tracing::warn!(%error, "serving certificate not obtained, retrying");
                    catalog::SERVER_CERTIFICATE_RENEW_ERRORS.add_one();
                    tokio::time::sleep(pace.failed()).await;
                }
            }
        }
    }

    async fn renew_serving(&self, store: &CertificateStore, names: &BTreeSet<String>) -> Result<Held, RenewError> {
        let key = identity::new_key()?;
        let asked = request::serving(&self.config.node_name, names, &key)?;
        let certificate = self.connection.request_certificate(&asked, WAIT).await?;
        Ok(store.update(&String::from_utf8_lossy(&certificate), &key.serialize_pem(), clock::now().wall)?)
    }
}

/// When the next attempt is due.
struct Pace {
    /// When the certificate in use was signed for us; `None`: before our time.
    obtained: Option<Timestamp>,
    /// Drawn anew for each certificate.
    spread: f64,
    retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { obtained: None, spread: rand::random(), retry: RETRY_FIRST }
    }
}

impl Pace {
    /// How long to sleep before looking again; `None`: it is time to renew.
    fn wait(&self, validity: &Validity, now: Timestamp) -> Option<Duration> {
        let left = validity.renew_at(self.obtained, self.spread).duration_since(now);
        // Negative: it is past.
        Duration::try_from(left).ok().filter(|left| !left.is_zero()).map(|left| left.min(LONGEST_SLEEP))
    }

    fn renewed(&mut self, now: Timestamp) {
        *self = Self { obtained: Some(now), ..Self::default() };
    }

    fn failed(&mut self) -> Duration {
        let wait = self.retry;
        self.retry = (wait * 2).min(RETRY_LAST);
        wait
    }
}

/// Follows the kubeconfig and the certificates that it names.
pub struct ReloadTask {
    connection: Arc<Connection>,
    folders: BTreeSet<PathBuf>,
}

impl ReloadTask {
    pub fn new(connection: Arc<Connection>, kubeconfig: &Path, cert_dir: &Path) -> Self {
        let folders = kubeconfig.parent().into_iter().chain([cert_dir]).filter(|path| !path.as_os_str().is_empty());
        Self { connection, folders: folders.map(Path::to_owned).collect() }
    }

    /// Reloads the connection whenever what it depends on has changed, for ever.
    pub async fn run(self) {
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        loop {
            if watcher.is_none() {
                watcher = self.follow(changed.clone());
            }
            // Both arms are cancel-safe: a notification is kept until it is taken.
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(AUDIT) => {}
            }
            match self.connection.reload().await {
                Ok(true) => tracing::info!("kubeconfig or client certificate changed: new requests use it"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the kubeconfig on disk cannot be used; the one in use stays"),
            }
        }
    }

    /// Notifies of changes in the folders; `None`: some cannot be watched (yet).
    fn follow(&self, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
        let told = move |event: notify::Result<notify::Event>| {
            // Reading is no change: the reader would wake itself for ever. An error (an overflow) may hide one.
            if event.is_err() || event.is_ok_and(|event| !event.kind.is_access()) {
                changed.notify_one();
            }
        };
        let mut watcher = notify::recommended_watcher(told).ok()?;
        for folder in &self.folders {
            watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
        }
        Some(watcher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_short_enough_to_notice_a_clock_that_jumps_and_failures_wait_longer() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let life = Validity { not_before: at(0), not_after: at(1_000_000) };
        let mut pace = Pace { spread: 0.0, ..Pace::default() };
        assert_eq!(pace.wait(&life, at(0)), Some(LONGEST_SLEEP));
        assert_eq!(pace.wait(&life, at(699_990)), Some(Duration::from_secs(10)));
        assert_eq!(pace.wait(&life, at(700_000)), None);
        let waits: Vec<u64> = (0..6).map(|_| pace.failed().as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 32]);
        // A short life that its signer backdated is not renewed at once.
        pace.renewed(at(300));
        pace.spread = 0.0;
        let short = Validity { not_before: at(0), not_after: at(320) };
        assert_eq!(pace.wait(&short, at(300)), Some(Duration::from_secs(14)));
        assert_eq!(pace.failed(), RETRY_FIRST);
    }

    #[tokio::test]
    async fn a_kubeconfig_that_changes_on_disk_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.conf");
        let write = |server: &str| {
            let reference = node_config::kubeconfig::Reference {
                server: server.to_owned(),
                certificate_authority: None,
                client_pem: dir.path().join("none.pem"),
            };
            node_config::kubeconfig::write_reference(&path, &reference).unwrap();
        };
        let key = identity::new_key().unwrap();
        let pem = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem() + &key.serialize_pem();
        std::fs::write(dir.path().join("none.pem"), pem).unwrap();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        write("https://127.0.0.1:1");
        let connection = Connection::open(&path).await.unwrap();
        assert!(!connection.reload().await.unwrap());
        write("https://127.0.0.1:2");
        assert!(connection.reload().await.unwrap());
        std::fs::write(&path, "a: [").unwrap();
        assert!(connection.reload().await.is_err());
    }
}
