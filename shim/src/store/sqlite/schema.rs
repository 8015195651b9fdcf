//! Opening a store file: permissions, pragmas, format version, integrity, and recovery after an unclean end.

use super::{Lost, OpenError};
use crate::revision::Revision;
use rusqlite::{Connection, OptionalExtension, params};
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// "skif": tells our files from other programs'.
const APPLICATION_ID: i64 = 0x736b_6966;
/// Format of the tables below.
const FORMAT: i64 = 1;
/// Revisions promised to the disk at once: after a power loss counting resumes above them.
pub(super) const RESERVE: u64 = 4096;
/// Above this size a clean file is not checked page by page at every start (that would cost more than it finds).
const QUICK_CHECK_BYTES: u64 = 64 << 20;

const TABLES: &str = "
    -- One row per revision; value NULL is a deletion, prev the revision of the value before (0: none).
    CREATE TABLE log(revision INTEGER PRIMARY KEY, key TEXT NOT NULL, prev INTEGER NOT NULL, value BLOB) STRICT;
    -- Live keys; expires in Unix milliseconds.
    CREATE TABLE current(key TEXT PRIMARY KEY, revision INTEGER NOT NULL, expires INTEGER) STRICT, WITHOUT ROWID;
    CREATE INDEX expiry ON current(expires) WHERE expires IS NOT NULL;
    -- compacted, reserved, base, clean, synced: numbers; boot: text.
    CREATE TABLE meta(name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    -- Revisions lost to power cuts.
    CREATE TABLE lost(first INTEGER PRIMARY KEY, last INTEGER NOT NULL) STRICT;
    INSERT INTO meta VALUES ('compacted', 1), ('reserved', 1), ('base', 1), ('clean', 1), ('synced', 0), ('boot', '');
";

/// An open file, ready for the writer.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) current: Revision,
    pub(super) compacted: u64,
    pub(super) reserved: u64,
    pub(super) lost: Vec<Lost>,
}

pub(super) fn open(path: &Path, boot: &str) -> Result<Opened, OpenError> {
    let size = make_private(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    let wrap = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            OpenError::Corrupt { path: path.to_owned(), detail: source.to_string() }
        }
        _ => OpenError::Sqlite { path: path.to_owned(), source },
    };
    let mut connection = Connection::open(path).map_err(wrap)?;
    configure(&connection).map_err(wrap)?;
    check_format(&mut connection, path, wrap)?;
    let clean = meta(&connection, "clean").map_err(wrap)? == 1;
    if !clean || size <= QUICK_CHECK_BYTES {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(wrap)?;
        if verdict != "ok" {
            return Err(OpenError::Corrupt { path: path.to_owned(), detail: verdict });
        }
    }
    recover(connection, boot, clean).map_err(wrap)
}

/// Creates the file where it is absent, for its owner only; WAL and shared memory files take over its mode.
fn make_private(path: &Path) -> std::io::Result<u64> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(metadata.len())
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(32);
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

fn check_format(
    connection: &mut Connection,
    path: &Path,
    wrap: impl Fn(rusqlite::Error) -> OpenError,
) -> Result<(), OpenError> {
    let number = |c: &Connection, sql: &str| c.query_row(sql, [], |r| r.get::<_, i64>(0));
    let format = number(connection, "PRAGMA user_version").map_err(&wrap)?;
    let application = number(connection, "PRAGMA application_id").map_err(&wrap)?;
    let tables = number(connection, "SELECT count(*) FROM sqlite_schema").map_err(&wrap)?;
    if tables == 0 && format == 0 {
        let mut create = || {
            let tx = connection.transaction()?;
            tx.execute_batch(TABLES)?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", FORMAT)?;
            tx.commit()
        };
        return create().map_err(wrap);
    }
    if application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    if format > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), found: format, known: FORMAT });
    }
    Ok(())
}

/// Decides where revisions continue, marks the file as in use and reserves the first block.
fn recover(mut connection: Connection, boot: &str, clean: bool) -> rusqlite::Result<Opened> {
    let tx = connection.transaction()?;
    let compacted = meta(&tx, "compacted")?;
    let reserved = meta(&tx, "reserved")?;
    let newest: u64 = tx.query_row("SELECT coalesce(max(revision), 0) FROM log", [], |r| r.get(0))?;
    let known = newest.max(compacted).max(meta(&tx, "base")?);
    let last_boot: Option<String> =
        tx.query_row("SELECT value FROM meta WHERE name = 'boot'", [], |r| r.get(0)).optional()?;
    // Within one boot of the machine the kernel still had every byte that was written, synced or not.
    let nothing_lost = clean || (!boot.is_empty() && last_boot.as_deref() == Some(boot));
    let current = if nothing_lost || reserved <= known { known } else { reserved + 1 };
    if current > known {
        tx.execute("INSERT INTO lost(first, last) VALUES (?1, ?2)", params![known + 1, reserved])?;
    }
    tx.execute("DELETE FROM lost WHERE last <= ?1", [compacted])?;
    let lost = tx
        .prepare("SELECT first, last FROM lost ORDER BY first")?
        .query_map([], |r| Ok(Lost { first: r.get(0)?, last: r.get(1)? }))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let reserved = reserved.max(current + RESERVE);
    set_meta(&tx, "base", current)?;
    set_meta(&tx, "reserved", reserved)?;
    set_meta(&tx, "clean", 0)?;
    tx.execute("UPDATE meta SET value = ?1 WHERE name = 'boot'", [boot])?;
    tx.commit()?;
    Ok(Opened { connection, current: Revision(current), compacted, reserved, lost })
}

pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |r| r.get(0))
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?;
    statement.execute(params![name, value]).map(drop)
}
