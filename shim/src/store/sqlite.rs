//! The default engine: one SQLite file in WAL mode, one writer thread with group commit, a few readers.
//!
//! `log` holds one row per revision, `current` maps each live key to its newest row: a value is written once.
//! Compaction deletes log rows that a newer one superseded.

mod clock;
mod lock;
mod metrics;
mod read;
mod schema;
#[cfg(test)]
mod tests;
pub mod tools;
mod writer;

use super::hub::{History, Hub, HubWatch};
use super::key::StoreKey;
use super::{Event, KeyValue, Page, Store, StoreError, WatchStream, Write};
use crate::revision::Revision;
use async_trait::async_trait;
use prometheus_client::registry::Registry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use writer::Request;

/// Writes that may wait for the writer thread; more wait outside, in their own tasks.
const QUEUED_WRITES: usize = 512;
/// How long a write waits for a place in the queue before it is refused.
const QUEUE_WAIT_SECONDS: Duration = Duration::from_secs(10);

/// What an operator can set; the defaults suit a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Bytes in use from which on writes are refused, but for deletes (etcd's `--quota-backend-bytes` and default);
    /// 0 is no limit.
    pub quota_bytes: u64,
    /// History is kept this long (kube-apiserver's compaction interval of etcd).
    pub history: Duration,
    /// History is kept for no more revisions than this; it is then halved.
    pub history_revisions: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { quota_bytes: 2 << 30, history: Duration::from_secs(300), history_revisions: 50_000 }
    }
}

/// Why a store file could not be opened; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store {} is in use by process {pid}: stop it first", .path.display())]
    Locked { path: PathBuf, pid: String },
    #[error(
        "the store {} was written by a newer skiff (format {found}, this one knows {known}): \
         start that version, or restore a backup made by this one", .path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} is another program's database: choose another file for the store", .path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the store {} is damaged ({detail}): restore a backup with `skiff store restore`, or move the file away to start empty",
        .path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error("cannot open the store {}: check that its directory exists, is writable and has space", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot open the store {}", .path.display())]
    Sqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// Revisions that may have been handed out before an unclean end, by writes that are gone: nobody may read at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost {
    first: u64,
    last: u64,
}

/// What the writer, the readers and the handle share.
struct Shared {
    hub: Hub,
    /// Newest acknowledged revision.
    current: AtomicU64,
    lost: Vec<Lost>,
    readers: read::Pool,
    metrics: metrics::Metrics,
}

impl Shared {
    fn current(&self) -> Revision {
        Revision(self.current.load(Ordering::Acquire))
    }

    fn lost(&self, at: Revision) -> Option<Revision> {
        self.lost.iter().find(|l| (l.first..=l.last).contains(&at.0)).map(|l| Revision(l.last + 1))
    }

    /// Refuses revisions lost to a power cut; compaction and the future are checked where the rows are read, since a
    /// reader may see a commit that is only just being acknowledged.
    fn check_lost(&self, at: Revision) -> Result<(), StoreError> {
        self.lost(at).map_or(Ok(()), |oldest| Err(StoreError::Compacted { oldest }))
    }
}

/// A store in one SQLite file.
pub struct SqliteStore {
    shared: Arc<Shared>,
    requests: Option<SyncSender<Request>>,
    permits: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens or creates the file (blocking: a few milliseconds), locks it and starts the writer.
    ///
    /// # Errors
    /// When another process holds the file, or it cannot be read, written or trusted; each error names the remedy.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let lock = lock::FileLock::take(path)?;
        let opened = schema::open(path)?;
        let shared = Arc::new(Shared {
            hub: Hub::new(opened.current),
            current: AtomicU64::new(opened.current.0),
            lost: opened.lost,
            readers: read::Pool::new(path),
            metrics: metrics::Metrics::new(options.quota_bytes),
        });
        // One place for each permit, and one for each caller of compact and close that got there first.
        let (requests, queue) = std::sync::mpsc::sync_channel(QUEUED_WRITES + 16);
        let file = writer::File {
            connection: opened.connection,
            reserved: opened.reserved,
            compacted: opened.compacted,
            clock: opened.clock,
            lock,
        };
        let writer = writer::Writer::new(file, options, shared.clone());
        let thread =
            std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(&queue)).map_err(io)?;
        Ok(Self {
            shared,
            requests: Some(requests),
            permits: Arc::new(Semaphore::new(QUEUED_WRITES)),
            writer: Mutex::new(Some(thread)),
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".into());
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        requests.try_send(request(reply)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Unavailable("the store's queue is full".into()),
            TrySendError::Disconnected(_) => closed(),
        })?;
        answer.await.map_err(|_| closed())?
    }
}

impl Drop for SqliteStore {
    /// Waits for the writer, so that the file is released when this returns.
    fn drop(&mut self) {
        self.shared.hub.end();
        self.requests = None;
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the store's writer ended by a panic");
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &StoreKey) -> Result<(Revision, Option<KeyValue>), StoreError> {
        let (key, floor) = (key.clone(), self.shared.current());
        self.shared.readers.with(move |c| read::get(c, &key, floor)).await
    }

    async fn list(
        &self,
        prefix: &str,
        at: Option<Revision>,
        after: Option<&StoreKey>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let floor = self.shared.current();
        if let Some(at) = at {
            self.shared.check_lost(at)?;
        }
        let query = read::List { prefix: prefix.to_owned(), at, after: after.cloned(), limit, floor };
        self.shared.readers.with(move |c| read::list(c, &query)).await
    }

    async fn commit(&self, write: Write) -> Result<Revision, StoreError> {
        let busy = || StoreError::Unavailable("the store's write queue is full".into());
        let place = tokio::time::timeout(QUEUE_WAIT_SECONDS, self.permits.clone().acquire_owned());
        let permit = place.await.map_err(|_| busy())?.map_err(|_| busy())?;
        self.ask(|reply| Request::Commit(writer::Commit { write, reply, _permit: permit })).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        self.shared.check_lost(after)?;
        let (live, since) = self.shared.hub.subscribe(prefix);
        let floor = self.shared.current();
        self.shared.readers.with(move |c| read::check(c, after, floor)).await?;
        let history = SqliteHistory(self.shared.clone());
        Ok(Box::new(HubWatch::new(history, live, after, since)))
    }

    async fn compact(&self, below: Revision) -> Result<(), StoreError> {
        let current = self.shared.current();
        if below > current {
            return Err(StoreError::Future { asked: below, current });
        }
        self.ask(|reply| Request::Compact { below, reply }).await
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.current())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.hub.end();
        self.ask(|reply| Request::Close { reply }).await
    }

    fn lost(&self, at: Revision) -> Option<Revision> {
        self.shared.lost(at)
    }

    fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
    }
}

/// Old events, read from the log a page at a time.
struct SqliteHistory(Arc<Shared>);

#[async_trait]
impl History for SqliteHistory {
    async fn page(&self, prefix: &str, after: Revision, upto: Revision) -> Result<Vec<Event>, StoreError> {
        let prefix = prefix.to_owned();
        self.0.readers.with(move |c| read::events(c, &prefix, after, upto)).await
    }
}

/// What an error of SQLite means to the store's callers.
fn store_error(error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(format!("{text}: free disk space for the store")),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(format!(
            "{text}: stop the server and run `skiff store check`, then restore a backup with `skiff store restore`"
        )),
        Some(ErrorCode::ReadOnly) => StoreError::Unavailable(format!("{text}: make its file system writable")),
        _ => StoreError::Unavailable(text),
    }
}
