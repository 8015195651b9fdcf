//! Work on a store file from outside the server: statistics, check, backup (beside a running server), restore, compaction.

use super::lock::FileLock;
use super::schema::{self, Identity, identify, meta, newest, set_meta, wrap};
use super::{OpenError, writer};
use crate::revision::Revision;
use crate::store::key::resource_of;
use rusqlite::{Connection, OpenFlags, params};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How long a reader waits for a writer that recovers the file.
const BUSY_MILLISECONDS: u32 = 5000;

/// Why a tool could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("there is no store at {}", .0.display())]
    Missing(PathBuf),
    #[error("{} holds no store: it is empty", .0.display())]
    Empty(PathBuf),
    #[error("{} exists already: choose another name, or move it away", .0.display())]
    Exists(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// What a store holds and what it costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub revision: Revision,
    /// Lists at and watches from here on can be answered.
    pub compacted: Revision,
    /// Changes kept, each with its value.
    pub changes: u64,
    pub keys: u64,
    /// Bytes of the live values.
    pub bytes: u64,
    pub file_bytes: u64,
    /// Of the file's bytes: those that hold nothing.
    pub free_bytes: u64,
    /// Bytes of the write-ahead log beside the file.
    pub log_bytes: u64,
    /// By storage prefix (`pods`, `services/specs`).
    pub resources: BTreeMap<String, ResourceStats>,
}

/// One resource's share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceStats {
    pub keys: u64,
    pub bytes: u64,
}

/// Counts what a store holds; also beside a running server.
///
/// # Errors
/// When the file is missing or cannot be read.
pub fn stats(path: &Path) -> Result<Stats, ToolError> {
    let connection = reader(path)?;
    let read = || -> rusqlite::Result<Stats> {
        let tx = connection.unchecked_transaction()?;
        let mut resources: BTreeMap<String, ResourceStats> = BTreeMap::new();
        let mut statement = tx.prepare(
            "SELECT c.key, coalesce(length(l.value), 0) FROM current c JOIN log l ON l.revision = c.revision",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let resource = resources.entry(resource_of(row.get_ref(0)?.as_str()?).to_owned()).or_default();
            resource.keys += 1;
            resource.bytes += row.get::<_, u64>(1)?;
        }
        let pragma = |name: &str| tx.pragma_query_value(None, name, |r| r.get::<_, u64>(0));
        let page = pragma("page_size")?;
        Ok(Stats {
            revision: Revision(newest(&tx)?),
            compacted: Revision(meta(&tx, "compacted")?),
            changes: tx.query_row("SELECT count(*) FROM log", [], |r| r.get(0))?,
            keys: resources.values().map(|r| r.keys).sum(),
            bytes: resources.values().map(|r| r.bytes).sum(),
            file_bytes: pragma("page_count")? * page,
            free_bytes: pragma("freelist_count")? * page,
            log_bytes: fs::metadata(beside(path, "-wal")).map_or(0, |m| m.len()),
            resources,
        })
    };
    Ok(read().map_err(wrap(path))?)
}

/// Looks for damage, page by page and in what the tables say of one another; also beside a running server. Returns what
/// is wrong, in words: nothing when the store is sound.
///
/// # Errors
/// When the file is missing, not a store, or too damaged to be read at all.
pub fn check(path: &Path) -> Result<Vec<String>, ToolError> {
    let connection = reader(path)?;
    findings(&connection).map_err(|e| wrap(path)(e).into())
}

fn findings(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let tx = connection.unchecked_transaction()?;
    let mut found: Vec<String> = tx
        .prepare("PRAGMA integrity_check(20)")?
        .query_map([], |r| r.get(0))?
        .filter(|line| !line.as_ref().is_ok_and(|line: &String| line == "ok"))
        .collect::<rusqlite::Result<_>>()?;
    if !found.is_empty() {
        return Ok(found);
    }
    let rules = [
        (
            "keys without a value",
            "SELECT count(*) FROM current c LEFT JOIN log l ON l.revision = c.revision WHERE l.value IS NULL OR l.key <> c.key",
        ),
        (
            "keys that are not at their newest change",
            "SELECT count(*) FROM current c WHERE EXISTS (SELECT 1 FROM log l WHERE l.prev = c.revision)",
        ),
        (
            "changes whose previous value is missing",
            "SELECT count(*) FROM log l LEFT JOIN log p ON p.revision = l.prev
             WHERE l.prev > 0 AND l.revision > (SELECT value FROM meta WHERE name = 'compacted') AND p.revision IS NULL",
        ),
        (
            "live values that no key leads to",
            "SELECT count(*) FROM log l WHERE l.value IS NOT NULL
             AND l.revision NOT IN (SELECT revision FROM current)
             AND l.revision NOT IN (SELECT prev FROM log)",
        ),
        (
            "revisions above the reserved ones",
            "SELECT count(*) FROM log WHERE revision > (SELECT value FROM meta WHERE name = 'reserved')",
        ),
    ];
    for (what, sql) in rules {
        let count: u64 = tx.query_row(sql, [], |r| r.get(0))?;
        if count > 0 {
            found.push(format!("{count} {what}"));
        }
    }
    Ok(found)
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    pub revision: Revision,
    pub keys: u64,
    pub bytes: u64,
}

/// Writes a consistent copy of the store to a new file `to`; also beside a running server, whose writers do not wait.
///
/// # Errors
/// When the store cannot be read, `to` exists, or cannot be written (nothing is left of it then).
pub fn backup(path: &Path, to: &Path) -> Result<Backup, ToolError> {
    let connection = reader(path)?;
    if to.exists() {
        return Err(ToolError::Exists(to.to_owned()));
    }
    let part = beside(to, ".part");
    let copied = copy_into(&connection, &part).and_then(|()| {
        fs::hard_link(&part, to).map_err(io(to))?;
        sync_directory(to)
    });
    let removed = fs::remove_file(&part);
    copied?;
    removed.map_err(io(&part))?;
    let copy = reader(to)?;
    let summary = || -> rusqlite::Result<Backup> {
        let keys = copy.query_row("SELECT count(*) FROM current", [], |r| r.get(0))?;
        Ok(Backup { revision: Revision(newest(&copy)?), keys, bytes: fs::metadata(to).map_or(0, |m| m.len()) })
    };
    Ok(summary().map_err(wrap(to))?)
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub keys: u64,
    /// Where revisions go on: above all that anyone has seen of the store that was replaced.
    pub revision: Revision,
    /// Where the replaced store is now.
    pub replaced: Option<PathBuf>,
}

/// Puts a backup in the place of the store at `path`, which no server may have open. Clients that saw newer revisions
/// than the backup's list anew (410): revisions go on above those of the store that is replaced, or where that cannot
/// tell, `bump` above the backup's own (as `etcdutl snapshot restore --bump-revision`).
///
/// # Errors
/// When the backup is not sound, the store is in use, or files cannot be written; the store is then as it was.
pub fn restore(from: &Path, path: &Path, bump: u64) -> Result<Restored, ToolError> {
    let source = reader(from)?;
    let damage = findings(&source).map_err(wrap(from))?;
    if !damage.is_empty() {
        return Err(OpenError::Corrupt { path: from.to_owned(), detail: damage.join("; ") }.into());
    }
    let _lock = FileLock::take(path)?;
    let fresh = beside(path, ".restoring");
    if fresh.exists() {
        fs::remove_file(&fresh).map_err(io(&fresh))?;
    }
    let done = copy_into(&source, &fresh).and_then(|()| put_in_place(&fresh, path, bump));
    // What is not in place by now is of no use.
    drop(fs::remove_file(&fresh));
    done
}

fn put_in_place(fresh: &Path, path: &Path, bump: u64) -> Result<Restored, ToolError> {
    let seen = if path.exists() { settle(path) } else { None };
    let (keys, revision) = raise(fresh, |known| seen.unwrap_or(0).max(known + if seen.is_some() { 0 } else { bump }))
        .map_err(wrap(fresh))?;
    let file = OpenOptions::new().read(true).write(true).open(fresh).map_err(io(fresh))?;
    file.sync_all().map_err(io(fresh))?;
    let mut replaced = None;
    if path.exists() {
        let away = free_name(path);
        // What `settle` could not move into the file belongs to it, and must not be taken for the new file's.
        for suffix in ["-wal", "-shm"] {
            let (log, there) = (beside(path, suffix), beside(&away, suffix));
            if log.exists() {
                fs::rename(&log, &there).map_err(io(&log))?;
            }
        }
        fs::hard_link(path, &away).map_err(io(&away))?;
        replaced = Some(away);
    }
    fs::rename(fresh, path).map_err(io(path))?;
    sync_directory(path)?;
    Ok(Restored { keys, revision, replaced })
}

/// Moves the log of a store that nobody has open into its file; returns the highest revision that it can have handed
/// out, where it can be read.
fn settle(path: &Path) -> Option<u64> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
    if identify(&connection, path).ok()? != Identity::Store {
        return None;
    }
    let reserved = meta(&connection, "reserved").ok()?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).ok()?;
    Some(reserved.max(newest(&connection).ok()?))
}

/// Makes a closed store go on above the revision that `above` says (given the highest it can have handed out itself);
/// what lies between is lost to watchers and old lists. Returns its keys and that revision.
fn raise(path: &Path, above: impl FnOnce(u64) -> u64) -> rusqlite::Result<(u64, Revision)> {
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let tx = connection.transaction()?;
    let known = newest(&tx)?;
    let last = above(known.max(meta(&tx, "reserved")?));
    let first = last + 1;
    tx.execute("DELETE FROM lost WHERE last > ?1", [known])?;
    tx.execute("INSERT INTO lost(first, last) VALUES (?1, ?2)", params![known + 1, last])?;
    set_meta(&tx, "base", first)?;
    set_meta(&tx, "reserved", first)?;
    set_meta(&tx, "clean", 1)?;
    let keys = tx.query_row("SELECT count(*) FROM current", [], |r| r.get(0))?;
    tx.commit()?;
    Ok((keys, Revision(first)))
}

/// Makes a store that nobody has open (it is created where it is absent) go on above `revision`.
///
/// # Errors
/// When it is in use or cannot be written.
pub fn continue_above(path: &Path, revision: Revision) -> Result<Revision, ToolError> {
    let _lock = FileLock::take(path)?;
    let opened = schema::open(path)?;
    // Closed at once: the log goes into the file.
    drop(opened);
    let (_, first) = raise(path, |known| known.max(revision.0)).map_err(wrap(path))?;
    Ok(first)
}

/// What compaction gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub revision: Revision,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Drops all history of a store that no server has open and makes its file as small as it can be.
///
/// # Errors
/// When it is in use or cannot be written (a full disk: the rewritten copy needs as much as the live values).
pub fn compact(path: &Path) -> Result<Compacted, ToolError> {
    if !path.exists() {
        return Err(ToolError::Missing(path.to_owned()));
    }
    let size = || fs::metadata(path).map_or(0, |m| m.len()) + fs::metadata(beside(path, "-wal")).map_or(0, |m| m.len());
    let bytes_before = size();
    let _lock = FileLock::take(path)?;
    let opened = schema::open(path)?;
    let (mut connection, current) = (opened.connection, opened.current);
    let mut work = || -> rusqlite::Result<()> {
        let tx = connection.transaction()?;
        writer::drop_superseded(&tx, opened.compacted, current.0)?;
        tx.execute("DELETE FROM lost", [])?;
        tx.commit()?;
        connection.execute_batch("VACUUM")?;
        set_meta(&connection, "clean", 1)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    };
    work().map_err(wrap(path))?;
    drop(connection);
    Ok(Compacted { revision: current, bytes_before, bytes_after: size() })
}

/// A connection that only reads; a server may have the file open.
fn reader(path: &Path) -> Result<Connection, ToolError> {
    if !path.exists() {
        return Err(ToolError::Missing(path.to_owned()));
    }
    if fs::metadata(path).is_ok_and(|m| m.len() == 0) {
        return Err(ToolError::Empty(path.to_owned()));
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(wrap(path))?;
    connection.pragma_update(None, "busy_timeout", BUSY_MILLISECONDS).map_err(wrap(path))?;
    match identify(&connection, path)? {
        Identity::Store => Ok(connection),
        Identity::Empty => Err(ToolError::Empty(path.to_owned())),
    }
}

/// Copies the store as of now into a new private file, densely, and syncs it. What is left after a failure is removed.
fn copy_into(connection: &Connection, to: &Path) -> Result<(), ToolError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ToolError::Exists(to.to_owned()),
        _ => io(to)(error),
    })?;
    let name = to.as_os_str().as_encoded_bytes();
    let copied = connection.execute("VACUUM INTO ?1", [String::from_utf8_lossy(name)]).map_err(|error| {
        match error.sqlite_error_code() {
            // The copy's disk, not the store's.
            Some(rusqlite::ErrorCode::DiskFull) => io(to)(std::io::ErrorKind::StorageFull.into()),
            _ => wrap(to)(error).into(),
        }
    });
    let synced = copied.and_then(|_| file.sync_all().map_err(io(to)));
    if synced.is_err() {
        for left in [to.to_owned(), beside(to, "-journal")] {
            drop(fs::remove_file(left));
        }
    }
    synced
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ToolError {
    let path = path.to_owned();
    move |source| ToolError::Io { path, source }
}

/// `state.db` → `state.db-wal`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// `state.db.replaced`, or with the first number that is free.
fn free_name(path: &Path) -> PathBuf {
    let plain = beside(path, ".replaced");
    if !plain.exists() {
        return plain;
    }
    (1_u32..).map(|n| beside(path, &format!(".replaced-{n}"))).find(|name| !name.exists()).unwrap_or(plain)
}

/// A new name is durable once its directory is.
fn sync_directory(path: &Path) -> Result<(), ToolError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(io(directory))
}

#[cfg(test)]
mod tests;
