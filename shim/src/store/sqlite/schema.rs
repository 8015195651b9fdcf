//! Opening a store file: permissions, pragmas, format version, integrity, and recovery after an unclean end.

use super::clock::StoreClock;
use super::{Lost, OpenError};
use crate::revision::Revision;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// "skif": tells our files from other programs'.
const APPLICATION_ID: i64 = 0x736b_6966;
/// Format of the tables below.
const FORMAT: i64 = 1;
/// Revisions promised to the disk at once: after an unclean end counting resumes above them. Less than the watch cache
/// looks back when it loads, so that watches resume across a `kill -9`; enough that lazy writes seldom need a sync.
pub(super) const RESERVE: u64 = 512;
/// Above this size a clean file is not checked page by page at every start (that would cost more than it finds).
const QUICK_CHECK_BYTES: u64 = 64 << 20;

const TABLES: &str = "
    -- One row per revision; value NULL is a deletion, prev the revision of the value before (0: none).
    CREATE TABLE log(revision INTEGER PRIMARY KEY, key TEXT NOT NULL, prev INTEGER NOT NULL, value BLOB) STRICT;
    -- Live keys; expires in Unix milliseconds.
    CREATE TABLE current(key TEXT PRIMARY KEY, revision INTEGER NOT NULL, expires INTEGER) STRICT, WITHOUT ROWID;
    CREATE INDEX expiry ON current(expires) WHERE expires IS NOT NULL;
    -- compacted, reserved, base: revisions; clean: 0 while open; clock: newest time seen, Unix milliseconds.
    CREATE TABLE meta(name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    -- Revisions that unclean ends may have lost.
    CREATE TABLE lost(first INTEGER PRIMARY KEY, last INTEGER NOT NULL) STRICT;
    INSERT INTO meta VALUES ('compacted', 1), ('reserved', 1), ('base', 1), ('clean', 1), ('clock', 0);
";

/// An open file, ready for the writer.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) current: Revision,
    pub(super) compacted: u64,
    pub(super) reserved: u64,
    pub(super) lost: Vec<Lost>,
    pub(super) clock: StoreClock,
}

pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    let size = make_private(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    if size == Some(0) {
        let detail = "the file is empty".to_owned();
        return Err(OpenError::Corrupt { path: path.to_owned(), detail });
    }
    let wrap = wrap(path);
    let mut connection = Connection::open(path).map_err(wrap)?;
    configure(&connection).map_err(wrap)?;
    if identify(&connection, path)? == Identity::Empty {
        create(&mut connection).map_err(wrap)?;
    }
    let clean = meta(&connection, "clean").map_err(wrap)? == 1;
    if !clean || size.is_none_or(|size| size <= QUICK_CHECK_BYTES) {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(wrap)?;
        if verdict != "ok" {
            return Err(OpenError::Corrupt { path: path.to_owned(), detail: verdict });
        }
    }
    if !clean {
        tracing::info!(path = %path.display(), "the store was not closed cleanly: checked, and its revisions skip ahead");
    }
    recover(connection, clean).map_err(wrap)
}

/// What an error of SQLite means to one who opens that file.
pub(super) fn wrap(path: &Path) -> impl Fn(rusqlite::Error) -> OpenError + Copy {
    move |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            OpenError::Corrupt { path: path.to_owned(), detail: source.to_string() }
        }
        _ => OpenError::Sqlite { path: path.to_owned(), source },
    }
}

/// Creates the file where it is absent, for its owner only; WAL and shared memory files take over its mode. Returns the
/// size of a file that was there.
fn make_private(path: &Path) -> std::io::Result<Option<u64>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        // SQLite syncs the directory with the first commit.
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let file = options.open(path)?;
            let metadata = file.metadata()?;
            if metadata.permissions().mode() & 0o077 != 0 {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            Ok(Some(metadata.len()))
        }
        Err(error) => Err(error),
    }
}

/// Keeps so many prepared statements. A plan does not depend on the values bound: the partial index would have each
/// statement on its table prepared anew for each value.
pub(super) fn keep_statements(connection: &Connection, count: usize) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(count);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    keep_statements(connection, 32)?;
    // auto_vacuum must come before the first table. Sizes: negative cache_size is KiB.
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA cache_size = -1024;
         PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA wal_autocheckpoint = 1000;
         PRAGMA journal_size_limit = 8388608;
         PRAGMA busy_timeout = 5000;",
    )
}

/// Whose tables a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Identity {
    /// Nobody's: a file just made.
    Empty,
    /// A store of this format.
    Store,
}

/// Refuses other programs' files and those of a newer skiff.
pub(super) fn identify(connection: &Connection, path: &Path) -> Result<Identity, OpenError> {
    let number = |sql: &str| connection.query_row(sql, [], |r| r.get::<_, i64>(0)).map_err(wrap(path));
    let format = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if tables == 0 && format == 0 {
        return Ok(Identity::Empty);
    }
    if application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    if format > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), found: format, known: FORMAT });
    }
    Ok(Identity::Store)
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let tx = connection.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", FORMAT)?;
    tx.commit()
}

/// Decides where revisions continue, marks the file as in use and reserves the first block.
fn recover(mut connection: Connection, clean: bool) -> rusqlite::Result<Opened> {
    let tx = connection.transaction()?;
    let compacted = meta(&tx, "compacted")?;
    let reserved = meta(&tx, "reserved")?;
    let known = newest(&tx)?;
    // Whether a kill or a power cut ended it cannot be told for certain (a file system may have been rolled back within
    // one boot of the machine), so any unclean end counts as one that lost what was not synced. After a mere kill that
    // costs a gap: nobody has seen a revision of it.
    let current = if clean || reserved <= known { known } else { reserved + 1 };
    if current > known {
        tx.execute("INSERT INTO lost(first, last) VALUES (?1, ?2)", params![known + 1, reserved])?;
    }
    tx.execute("DELETE FROM lost WHERE last <= ?1", [compacted])?;
    let lost = tx
        .prepare("SELECT first, last FROM lost ORDER BY first")?
        .query_map([], |r| Ok(Lost { first: r.get(0)?, last: r.get(1)? }))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let seen: Option<i64> = tx.query_row("SELECT value FROM meta WHERE name = 'clock'", [], |r| r.get(0)).optional()?;
    let clock = StoreClock::after(seen.unwrap_or(0));
    let reserved = reserved.max(current + RESERVE);
    set_meta(&tx, "base", current)?;
    set_meta(&tx, "reserved", reserved)?;
    set_meta(&tx, "clean", 0)?;
    tx.commit()?;
    Ok(Opened { connection, current: Revision(current), compacted, reserved, lost, clock })
}

/// The newest revision that the file knows of.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<u64> {
    let logged: u64 = connection.query_row("SELECT coalesce(max(revision), 0) FROM log", [], |r| r.get(0))?;
    Ok(logged.max(meta(connection, "compacted")?).max(meta(connection, "base")?))
}

pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |r| r.get(0))
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta(name, value) VALUES (?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute(params![name, value]).map(drop)
}
