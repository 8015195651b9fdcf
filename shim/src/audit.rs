//! The audit log: who asked for what, when, and what came of it, as far as a policy wants to know
//! (`audit.k8s.io/v1`, JSON lines).

mod event;
mod file;
mod policy;

pub use event::{Origin, Record};
pub use file::LogConfig;
pub use policy::{Level, Policy, PolicyError, Stage};

use crate::clock;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Lines that may wait to be written: some MiB. A request whose line finds no room waits for it (upstream's blocking
/// mode); at the end of a stream nobody can wait, and the line is counted as lost.
const WAITING_LINES: usize = 4096;
/// How long the last lines may take to be written when the server stops.
const CLOSE: Duration = Duration::from_secs(5);

/// Where the policy is, and where the log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// `--audit-policy-file`; without one nothing is logged.
    pub policy_file: Option<PathBuf>,
    /// Without a path nothing is logged.
    pub log: Option<LogConfig>,
}

/// Why auditing cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("--audit-policy-file {path}: {source}")]
    Policy { path: PathBuf, source: PolicyError },
    #[error("--audit-log-path {path}: {source}")]
    Log { path: PathBuf, source: std::io::Error },
}

/// Decides what is recorded and hands it to the log; shared by all requests.
pub struct Auditor {
    policy: Policy,
    lines: Mutex<Option<mpsc::Sender<String>>>,
    written: Mutex<Option<oneshot::Receiver<()>>>,
    events: AtomicU64,
    lost: AtomicU64,
}

impl Auditor {
    /// Reads the policy and opens the log; `None` when either is missing.
    pub fn open(config: &AuditConfig) -> Result<Option<Arc<Self>>, AuditError> {
        let (Some(path), Some(log)) = (&config.policy_file, &config.log) else {
            if config.log.is_some() {
                tracing::warn!("no --audit-policy-file: nothing is written to the audit log");
            }
            return Ok(None);
        };
        let policy = Policy::read(path).map_err(|source| AuditError::Policy { path: path.clone(), source })?;
        let failed = |source| AuditError::Log { path: log.path.clone(), source };
        let (lines, waiting) = mpsc::channel(WAITING_LINES);
        let (done, written) = oneshot::channel();
        let mut file = file::Log::open(log.clone(), clock::now().wall).map_err(failed)?;
        std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || {
                file.write_all(waiting);
                // Nobody listens when the server was not stopped cleanly.
                let _ = done.send(());
            })
            .map_err(failed)?;
        Ok(Some(Arc::new(Self {
            policy,
            lines: Mutex::new(Some(lines)),
            written: Mutex::new(Some(written)),
            events: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })))
    }

    /// Writes what is still waiting; nothing is recorded afterwards.
    pub async fn close(&self) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(written) = written
            && tokio::time::timeout(CLOSE, written).await.is_err()
        {
            tracing::warn!("the last lines of the audit log could not be written in time");
        }
    }

    /// Events recorded, and events lost (`apiserver_audit_event_total`, `apiserver_audit_error_total`).
    pub fn counts(&self) -> (u64, u64) {
        (self.events.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    fn sender(&self) -> Option<mpsc::Sender<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn write(&self, line: String) {
        let sent = match self.sender() {
            Some(lines) => lines.send(line).await.is_ok(),
            None => false,
        };
        self.count(sent);
    }

    fn write_now(&self, line: String) {
        self.count(self.sender().is_some_and(|lines| lines.try_send(line).is_ok()));
    }

    fn count(&self, sent: bool) {
        let counter = if sent { &self.events } else { &self.lost };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
