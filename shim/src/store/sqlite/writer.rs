//! The writer thread: group commit, durability classes, expiry, compaction. It alone writes, and publishes in order.

use super::lock::FileLock;
use super::schema::{RESERVE, set_meta};
use super::{Shared, read, store_error};
use crate::clock;
use crate::revision::Revision;
use crate::store::key::StoreKey;
use crate::store::{Class, Event, Expect, KeyValue, StoreError, Write};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// Writes and bytes that share one fsync at most; bounds how long the first of them waits.
const BATCH_WRITES: usize = 256;
const BATCH_BYTES: usize = 4 << 20;
/// Lazy writes reach the disk this long after they were acknowledged (the promise is 5 s).
const LAZY_SYNC: Duration = Duration::from_secs(4);
/// History is kept this long (kube-apiserver's etcd compaction interval).
const HISTORY_SECONDS: Duration = Duration::from_secs(300);
/// Distance of the marks by which the age of a revision is known.
const MARK_SECONDS: Duration = Duration::from_secs(30);
/// History is kept for no more revisions than this; it is then halved.
const HISTORY_REVISIONS: u64 = 50_000;
/// Revisions compacted in one transaction, so that writers hardly wait.
const COMPACT_CHUNK: u64 = 2_000;
/// Free pages given back to the file system in one step, once a quarter of the file is free.
const VACUUM_PAGES: u32 = 512;
/// Expired keys deleted in one transaction, and the least distance of two sweeps.
const EXPIRE_CHUNK: usize = 256;
const EXPIRE_DISTANCE: Duration = Duration::from_millis(10);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the writer.
pub(super) enum Request {
    Commit(Commit),
    Compact { below: Revision, reply: Reply<()> },
    Close { reply: Reply<()> },
}

pub(super) struct Commit {
    pub(super) write: Write,
    pub(super) reply: Reply<Revision>,
    /// The place in the queue, given back when the write is answered.
    pub(super) _permit: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    /// Newest revision ever assigned, also in transactions that failed: none is used twice.
    assigned: u64,
    /// Revisions up to here are promised to the disk.
    reserved: u64,
    compacted: u64,
    /// How far compaction should get; it does so in chunks between batches.
    compact_to: u64,
    /// (when, newest revision then), oldest first.
    marks: VecDeque<(Instant, u64)>,
    /// When the oldest unsynced lazy write was acknowledged.
    unsynced: Option<Instant>,
    /// When the next key expires.
    expiry: Option<Instant>,
    synchronous: Class,
    _lock: FileLock,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        reserved: u64,
        compacted: u64,
        shared: Arc<Shared>,
        lock: FileLock,
    ) -> Self {
        let now = clock::now().mono;
        let assigned = shared.current().0;
        Self {
            connection,
            shared,
            assigned,
            reserved,
            compacted,
            compact_to: compacted,
            marks: VecDeque::from([(now, assigned)]),
            unsynced: None,
            // Whatever expired while nobody looked goes at once.
            expiry: Some(now),
            synchronous: Class::Ordinary,
            _lock: lock,
        }
    }

    /// Serves until asked to close or until all handles are gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let request = match self.deadline() {
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => requests.recv_timeout(due.saturating_duration_since(clock::now().mono)),
            };
            match request {
                Ok(Request::Commit(first)) => {
                    if let Some(other) = self.commit_all(first, requests)
                        && self.serve(other)
                    {
                        return;
                    }
                }
                Ok(other) => {
                    if self.serve(other) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if let Err(error) = self.finish() {
                        tracing::error!(%error, "the store was not closed cleanly; the next start checks it");
                    }
                    return;
                }
            }
            self.upkeep();
        }
    }

    /// When there is something to do though nobody asks.
    fn deadline(&self) -> Option<Instant> {
        let now = clock::now().mono;
        let compaction = if self.compact_to > self.compacted {
            Some(now)
        } else {
            // The newest mark alone has nothing after it that could be compacted.
            (self.assigned > self.compacted).then(|| self.marks.front().map(|(at, _)| *at + HISTORY_SECONDS)).flatten()
        };
        [self.unsynced.map(|at| at + LAZY_SYNC), self.expiry, compaction].into_iter().flatten().min()
    }

    /// Compact and close; true ends the thread.
    fn serve(&mut self, request: Request) -> bool {
        match request {
            Request::Commit(commit) => {
                self.commit(vec![commit]);
                false
            }
            Request::Compact { below, reply } => {
                self.compact_to = self.compact_to.max(below.0);
                let mut result = Ok(());
                while result.is_ok() && self.compacted < self.compact_to {
                    result = self.compact_chunk();
                }
                // A caller that went away wants no answer.
                let _ = reply.send(result.map_err(|e| store_error(&e)));
                false
            }
            Request::Close { reply } => {
                let _ = reply.send(self.finish().map_err(|e| store_error(&e)));
                true
            }
        }
    }

    /// Takes what else is waiting into one transaction; returns a request that is no commit.
    fn commit_all(&mut self, first: Commit, requests: &Receiver<Request>) -> Option<Request> {
        let weight = |c: &Commit| c.write.put.as_ref().map_or(0, bytes::Bytes::len);
        let mut bytes = weight(&first);
        let mut batch = vec![first];
        let mut other = None;
        while batch.len() < BATCH_WRITES && bytes < BATCH_BYTES && other.is_none() {
            match requests.try_recv() {
                Ok(Request::Commit(commit)) => {
                    bytes += weight(&commit);
                    batch.push(commit);
                }
                Ok(request) => other = Some(request),
                Err(_) => break,
            }
        }
        self.commit(batch);
        other
    }

    fn commit(&mut self, batch: Vec<Commit>) {
        let lazy = batch.iter().all(|c| c.write.class == Class::Lazy);
        let class = if lazy { Class::Lazy } else { Class::Ordinary };
        let mut outcomes = Vec::with_capacity(batch.len());
        let result = self.transact(class, batch.len() as u64, |tx, assigned| {
            for commit in &batch {
                outcomes.push(apply(tx, &commit.write, assigned)?);
            }
            Ok(())
        });
        if let Err(error) = result {
            tracing::error!(%error, "a commit to the store failed");
            for commit in batch {
                let _ = commit.reply.send(Err(store_error(&error)));
            }
            return;
        }
        let mut events = Vec::with_capacity(outcomes.len());
        let mut answers = Vec::with_capacity(outcomes.len());
        for (commit, outcome) in batch.into_iter().zip(outcomes) {
            let answer = match outcome {
                Ok(event) => {
                    if let (Some(ttl), Some(_)) = (commit.write.ttl, &event.put) {
                        let due = clock::now().mono + ttl;
                        self.expiry = Some(self.expiry.map_or(due, |e| e.min(due)));
                    }
                    let revision = event.revision;
                    events.push(event);
                    Ok(revision)
                }
                Err(current) => Err(StoreError::Lost(current)),
            };
            answers.push((commit, answer));
        }
        self.advance(&events);
        for (commit, answer) in answers {
            // A caller that went away wants no answer; its write stands.
            let _ = commit.reply.send(answer);
        }
        self.publish(events);
    }

    /// What was committed is the current revision from here on. Revisions that a failed transaction used up never are:
    /// no event would tell the caches that they have come so far.
    fn advance(&self, events: &[Event]) {
        if let Some(last) = events.last() {
            self.shared.current.store(last.revision.0, Ordering::Release);
        }
    }

    fn publish(&mut self, events: Vec<Event>) {
        let Some(last) = events.last().map(|e| e.revision) else { return };
        self.advance(&events);
        self.shared.hub.publish(events, last);
        let now = clock::now().mono;
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= MARK_SECONDS) {
            self.marks.push_back((now, self.assigned));
        }
    }

    /// One transaction that may assign `most` revisions, durable as its class says when it returns.
    fn transact<T>(
        &mut self,
        class: Class,
        most: u64,
        body: impl FnOnce(&Transaction<'_>, &mut u64) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        // A reservation must be on disk before a revision of it is seen: it rides on an ordinary commit.
        let reserve = (self.assigned + most > self.reserved).then_some(self.assigned + most + RESERVE);
        let class = if reserve.is_some() { Class::Ordinary } else { class };
        self.set_synchronous(class)?;
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(reserved) = reserve {
            set_meta(&tx, "reserved", reserved)?;
        }
        let out = body(&tx, &mut self.assigned)?;
        tx.commit()?;
        self.reserved = reserve.unwrap_or(self.reserved);
        match class {
            Class::Ordinary => self.unsynced = None,
            Class::Lazy => self.unsynced = self.unsynced.or_else(|| Some(clock::now().mono)),
        }
        Ok(out)
    }

    /// FULL syncs the log at each commit; NORMAL leaves that to the kernel, in order.
    fn set_synchronous(&mut self, class: Class) -> rusqlite::Result<()> {
        if self.synchronous != class {
            let mode = match class {
                Class::Ordinary => "PRAGMA synchronous = FULL",
                Class::Lazy => "PRAGMA synchronous = NORMAL",
            };
            self.connection.execute_batch(mode)?;
            self.synchronous = class;
        }
        Ok(())
    }

    /// What is due: syncing lazy writes, expiry, a chunk of compaction. Failures are tried again later.
    fn upkeep(&mut self) {
        let now = clock::now().mono;
        if self.unsynced.is_some_and(|at| now >= at + LAZY_SYNC)
            && let Err(error) = self.sync()
        {
            tracing::error!(%error, "lazy writes could not be synced; trying again");
            self.unsynced = Some(now);
        }
        if self.expiry.is_some_and(|at| now >= at)
            && let Err(error) = self.expire()
        {
            tracing::error!(%error, "expired keys could not be deleted; trying again");
            self.expiry = Some(now + LAZY_SYNC);
        }
        while self.marks.front().is_some_and(|(at, _)| now >= *at + HISTORY_SECONDS) {
            if let Some((_, revision)) = self.marks.pop_front() {
                self.compact_to = self.compact_to.max(revision);
            }
        }
        if self.marks.is_empty() && self.assigned > self.compact_to {
            self.marks.push_back((now, self.assigned));
        }
        if self.assigned - self.compacted > HISTORY_REVISIONS {
            self.compact_to = self.compact_to.max(self.assigned - HISTORY_REVISIONS / 2);
        }
        if self.compact_to > self.compacted
            && let Err(error) = self.compact_chunk()
        {
            tracing::error!(%error, "the store's history could not be compacted; trying again later");
            self.compact_to = self.compacted;
        }
    }

    /// An ordinary commit syncs everything before it.
    fn sync(&mut self) -> rusqlite::Result<()> {
        self.transact(Class::Ordinary, 0, |tx, _| {
            tx.execute("UPDATE meta SET value = value + 1 WHERE name = 'synced'", []).map(drop)
        })
    }

    /// Deletes expired keys and notes when the next one is due.
    fn expire(&mut self) -> rusqlite::Result<()> {
        let wall = unix_millis();
        let sql = "SELECT key, revision FROM current WHERE expires <= ?1 ORDER BY expires LIMIT ?2";
        let due = self
            .connection
            .prepare_cached(sql)?
            .query_map(params![wall, EXPIRE_CHUNK], |r| Ok((r.get::<_, String>(0)?, r.get::<_, u64>(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        if !due.is_empty() {
            let mut events = Vec::with_capacity(due.len());
            self.transact(Class::Lazy, due.len() as u64, |tx, assigned| {
                for (key, revision) in &due {
                    let delete = Write {
                        key: StoreKey::from_stored(key),
                        expect: Expect::At(Revision(*revision)),
                        put: None,
                        ttl: None,
                        class: Class::Lazy,
                    };
                    events.extend(apply(tx, &delete, assigned)?.ok());
                }
                Ok(())
            })?;
            self.publish(events);
        }
        let next: Option<i64> = self
            .connection
            .prepare_cached("SELECT min(expires) FROM current WHERE expires IS NOT NULL")?
            .query_row([], |r| r.get(0))
            .optional()?
            .flatten();
        self.expiry = next.map(|at| {
            let wait = Duration::from_millis(u64::try_from(at - wall).unwrap_or(0));
            clock::now().mono + wait.max(EXPIRE_DISTANCE)
        });
        Ok(())
    }

    /// Drops superseded rows of some more revisions; then gives free pages back.
    fn compact_chunk(&mut self) -> rusqlite::Result<()> {
        let (from, to) = (self.compacted, self.compact_to.min(self.compacted + COMPACT_CHUNK));
        self.transact(Class::Lazy, 0, |tx, _| {
            let superseded = "DELETE FROM log WHERE revision IN
                (SELECT prev FROM log WHERE revision > ?1 AND revision <= ?2 AND prev > 0)";
            tx.prepare_cached(superseded)?.execute(params![from, to])?;
            let deletions = "DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND value IS NULL";
            tx.prepare_cached(deletions)?.execute(params![from, to])?;
            set_meta(tx, "compacted", to)
        })?;
        self.compacted = to;
        let pages = |name: &str| self.connection.pragma_query_value(None, name, |r| r.get::<_, u32>(0));
        let free = pages("freelist_count")?;
        if free > VACUUM_PAGES && free > pages("page_count")? / 4 {
            let mut vacuum = self.connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    /// Makes everything durable, says so in the file and empties the log.
    fn finish(&mut self) -> rusqlite::Result<()> {
        self.shared.hub.end();
        self.shared.readers.close();
        let newest = self.assigned;
        self.transact(Class::Ordinary, 0, |tx, _| {
            set_meta(tx, "base", newest)?;
            set_meta(tx, "clean", 1)
        })?;
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

fn unix_millis() -> i64 {
    clock::now().wall.as_millisecond()
}

/// Makes one write within the transaction, or tells the entry that its expectation met.
fn apply(tx: &Transaction<'_>, write: &Write, assigned: &mut u64) -> rusqlite::Result<Result<Event, Option<KeyValue>>> {
    let have = read::entry(tx, &write.key)?;
    let holds = match write.expect {
        Expect::Any => true,
        Expect::Absent => have.is_none(),
        Expect::At(revision) => have.as_ref().is_some_and(|kv| kv.revision == revision),
    };
    if !holds || (write.put.is_none() && have.is_none()) {
        return Ok(Err(have));
    }
    *assigned += 1;
    let revision = *assigned;
    let key = write.key.as_str();
    let prev = have.as_ref().map_or(0, |kv| kv.revision.0);
    tx.prepare_cached("INSERT INTO log(revision, key, prev, value) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        revision,
        key,
        prev,
        write.put.as_deref()
    ])?;
    if write.put.is_some() {
        let ttl = write.ttl.map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let expires = ttl.map(|ttl| unix_millis().saturating_add(ttl));
        let upsert = "INSERT INTO current(key, revision, expires) VALUES (?1, ?2, ?3)
            ON CONFLICT(key) DO UPDATE SET revision = excluded.revision, expires = excluded.expires";
        tx.prepare_cached(upsert)?.execute(params![key, revision, expires])?;
    } else {
        tx.prepare_cached("DELETE FROM current WHERE key = ?1")?.execute([key])?;
    }
    Ok(Ok(Event { key: write.key.clone(), revision: Revision(revision), put: write.put.clone(), previous: have }))
}
