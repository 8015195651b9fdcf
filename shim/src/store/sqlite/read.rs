//! Reads of the SQLite engine: a small pool of connections and the queries they run, each in one snapshot.

use super::schema::{keep_statements, meta};
use super::store_error;
use crate::revision::Revision;
use crate::store::key::{StoreKey, prefix_end};
use crate::store::{Event, KeyValue, Page, StoreError};
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections; the watch cache answers nearly all reads, so few suffice.
const READERS: usize = 2;
/// How long a read waits for a connection before it is refused.
const READER_WAIT_SECONDS: Duration = Duration::from_secs(10);
/// Events of one history page.
const EVENTS_PAGE: usize = 256;

/// Read connections, opened when first needed.
pub(super) struct Pool {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Arc::default(), permits: Arc::new(Semaphore::new(READERS)) }
    }

    /// Runs `read` in one read transaction on a blocking thread.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let busy = || StoreError::Unavailable("the store's readers are busy".into());
        let place = tokio::time::timeout(READER_WAIT_SECONDS, self.permits.clone().acquire_owned());
        let permit = place.await.map_err(|_| busy())?.map_err(|_| busy())?;
        let (path, idle) = (self.path.clone(), self.idle.clone());
        let work = move || {
            let pooled = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => connect(&path)?,
            };
            let tx = connection.transaction()?;
            let result = read(&tx);
            tx.finish()?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            result
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(|e| match e {
                ReadError::Store(error) => error,
                ReadError::Sqlite(error) => store_error(&error),
            }),
            Err(_) => Err(StoreError::Unavailable("a read of the store was cut off".into())),
        }
    }

    /// Closes the connections, so that the last checkpoint can empty the log file.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A read fails as the store's callers know it, or as SQLite does.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    keep_statements(&connection, 16)?;
    connection.execute_batch("PRAGMA cache_size = -512; PRAGMA mmap_size = 0; PRAGMA busy_timeout = 5000;")?;
    Ok(connection)
}

/// The newest revision that this snapshot holds; `floor` was current before it was taken.
fn revision(connection: &Connection, floor: Revision) -> rusqlite::Result<Revision> {
    let newest: u64 =
        connection.prepare_cached("SELECT coalesce(max(revision), 0) FROM log")?.query_row([], |r| r.get(0))?;
    Ok(Revision(newest).max(floor))
}

/// Refuses revisions that have been compacted away, and those of the future.
pub(super) fn check(connection: &Connection, at: Revision, floor: Revision) -> Result<(), ReadError> {
    check_kept(connection, at)?;
    let current = revision(connection, floor)?;
    if at > current { Err(StoreError::Future { asked: at, current }.into()) } else { Ok(()) }
}

fn check_kept(connection: &Connection, at: Revision) -> Result<(), ReadError> {
    let oldest = Revision(meta(connection, "compacted")?);
    if at < oldest { Err(StoreError::Compacted { oldest }.into()) } else { Ok(()) }
}

fn blob(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    Ok(row.get_ref(column)?.as_blob_or_null()?.map(Bytes::copy_from_slice))
}

pub(super) fn get(
    connection: &Connection,
    key: &StoreKey,
    floor: Revision,
) -> Result<(Revision, Option<KeyValue>), ReadError> {
    let revision = revision(connection, floor)?;
    Ok((revision, entry(connection, key)?))
}

const ENTRY: &str = "SELECT c.revision, l.value FROM current c JOIN log l ON l.revision = c.revision WHERE c.key = ?1";

/// The live entry of a key.
pub(super) fn entry(connection: &Connection, key: &StoreKey) -> rusqlite::Result<Option<KeyValue>> {
    connection
        .prepare_cached(ENTRY)?
        .query_row([key.as_str()], |row| {
            let value = blob(row, 1)?.unwrap_or_default();
            Ok(KeyValue { key: key.clone(), revision: Revision(row.get(0)?), value })
        })
        .optional()
}

/// A list request.
pub(super) struct List {
    pub(super) prefix: String,
    pub(super) at: Option<Revision>,
    pub(super) after: Option<StoreKey>,
    pub(super) limit: usize,
    pub(super) floor: Revision,
}

/// Live keys in order.
const LIST: &str = "
    SELECT c.key, c.revision, l.value FROM current c JOIN log l ON l.revision = c.revision
    WHERE c.key >= ?1 AND c.key < ?2 AND c.key > ?3 ORDER BY c.key LIMIT ?4";

/// Keys in order as they were at ?5: those that did not change since, and what the first change since replaced
/// (SQLite takes `prev` from the row that has the minimum).
const LIST_AT: &str = "
    SELECT k.key, k.revision, l.value FROM (
        SELECT key, revision FROM current WHERE key >= ?1 AND key < ?2 AND key > ?3 AND revision <= ?5
        UNION ALL
        SELECT key, prev FROM (
            SELECT key, prev, min(revision) FROM log
            WHERE revision > ?5 AND key >= ?1 AND key < ?2 AND key > ?3 GROUP BY key
        ) WHERE prev > 0
    ) k JOIN log l ON l.revision = k.revision ORDER BY k.key LIMIT ?4";

pub(super) fn list(connection: &Connection, query: &List) -> Result<Page, ReadError> {
    let end = end_of(&query.prefix);
    let after = query.after.as_ref().map_or("", StoreKey::as_str);
    // One more than asked tells whether more follow; -1 is SQLite's "all".
    let limit = if query.limit == 0 { -1 } else { i64::try_from(query.limit).unwrap_or(i64::MAX - 1) + 1 };
    let read = |row: &Row<'_>| {
        let key = StoreKey::from_stored(row.get_ref(0)?.as_str()?);
        Ok(KeyValue { key, revision: Revision(row.get(1)?), value: blob(row, 2)?.unwrap_or_default() })
    };
    let (revision, mut items) = match query.at {
        Some(at) => {
            check(connection, at, query.floor)?;
            let mut statement = connection.prepare_cached(LIST_AT)?;
            let rows = statement.query_map(params![query.prefix, end, after, limit, at.0], read)?;
            (at, rows.collect::<rusqlite::Result<Vec<_>>>()?)
        }
        None => {
            let revision = revision(connection, query.floor)?;
            let mut statement = connection.prepare_cached(LIST)?;
            let rows = statement.query_map(params![query.prefix, end, after, limit], read)?;
            (revision, rows.collect::<rusqlite::Result<Vec<_>>>()?)
        }
    };
    let more = query.limit > 0 && items.len() > query.limit;
    if more {
        items.truncate(query.limit);
    }
    Ok(Page { revision, items, more })
}

fn end_of(prefix: &str) -> String {
    prefix_end(prefix).unwrap_or_else(|| char::MAX.to_string())
}

/// Old events with the values they replaced.
const EVENTS: &str = "
    SELECT l.key, l.revision, l.value, p.revision, p.value FROM log l LEFT JOIN log p ON p.revision = l.prev
    WHERE l.revision > ?3 AND l.revision <= ?4 AND l.key >= ?1 AND l.key < ?2 ORDER BY l.revision LIMIT ?5";

pub(super) fn events(
    connection: &Connection,
    prefix: &str,
    after: Revision,
    upto: Revision,
) -> Result<Vec<Event>, ReadError> {
    check_kept(connection, after)?;
    let mut statement = connection.prepare_cached(EVENTS)?;
    let rows = statement.query_map(params![prefix, end_of(prefix), after.0, upto.0, EVENTS_PAGE], |row| {
        let key = StoreKey::from_stored(row.get_ref(0)?.as_str()?);
        let previous = match row.get::<_, Option<u64>>(3)? {
            Some(revision) => {
                let value = blob(row, 4)?.unwrap_or_default();
                Some(KeyValue { key: key.clone(), revision: Revision(revision), value })
            }
            None => None,
        };
        Ok(Event { key, revision: Revision(row.get(1)?), put: blob(row, 2)?, previous })
    })?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};
    use rusqlite::StatementStatus;

    #[test]
    fn a_statement_is_prepared_once_whatever_it_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let _store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        let connection = connect(&path).unwrap();
        for name in ["a", "b", "c"] {
            assert!(entry(&connection, &StoreKey::from_stored(name)).unwrap().is_none());
        }
        assert_eq!(connection.prepare_cached(ENTRY).unwrap().get_status(StatementStatus::RePrepare), 0);
    }
}
