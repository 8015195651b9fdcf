//! The writer thread: group commit and durability classes. It alone writes, and publishes in order.

mod upkeep;

use super::clock::StoreClock;
use super::lock::FileLock;
use super::schema::{RESERVE, set_meta};
use super::{Shared, SqliteOptions, metrics, read, store_error};
use crate::clock;
use crate::revision::Revision;
use crate::store::{Class, Event, Expect, KeyValue, StoreError, Write};
use rusqlite::{Connection, Transaction, TransactionBehavior, ffi, params};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
pub(super) use upkeep::drop_superseded;

/// Writes and bytes that share one fsync at most; bounds how long the first of them waits.
const BATCH_WRITES: usize = 256;
const BATCH_BYTES: usize = 4 << 20;
/// Bytes that may be written before the file is measured again, where it is not near its quota.
const MEASURE_BYTES: u64 = 4 << 20;

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

/// The opened file, as the writer takes it over.
pub(super) struct File {
    pub(super) connection: Connection,
    pub(super) reserved: u64,
    pub(super) compacted: u64,
    pub(super) clock: StoreClock,
    pub(super) lock: FileLock,
}

pub(super) struct Writer {
    connection: Connection,
    options: SqliteOptions,
    clock: StoreClock,
    shared: Arc<Shared>,
    /// Newest revision ever assigned, also in transactions that failed: none is used twice.
    assigned: u64,
    /// Revisions up to here are promised to the disk.
    reserved: u64,
    compacted: u64,
    /// How far compaction should get; it does so in chunks between batches.
    compact_to: u64,
    /// There may be more free pages to give back than one step does.
    vacuum: bool,
    /// (when, newest revision then), oldest first.
    marks: VecDeque<(Instant, u64)>,
    /// When the oldest unsynced lazy write was acknowledged.
    unsynced: Option<Instant>,
    /// When the next key expires.
    expiry: Option<Instant>,
    synchronous: Class,
    /// Bytes that may be written before the file is measured again.
    room: u64,
    /// Why nothing can be written any more: a sync failed, and what the kernel then dropped nobody knows.
    broken: Option<String>,
    _lock: FileLock,
}

/// Why a write was not made.
enum Refused {
    /// Its expectation did not hold; what is there.
    Lost(Option<KeyValue>),
    /// The quota is reached.
    Full(String),
}

impl Writer {
    pub(super) fn new(file: File, options: SqliteOptions, shared: Arc<Shared>) -> Self {
        let now = clock::now().mono;
        let assigned = shared.current().0;
        metrics::set(&shared.metrics.current, assigned);
        metrics::set(&shared.metrics.compacted, file.compacted);
        let writer = Self {
            connection: file.connection,
            options,
            clock: file.clock,
            shared,
            assigned,
            reserved: file.reserved,
            compacted: file.compacted,
            compact_to: file.compacted,
            vacuum: false,
            marks: VecDeque::from([(now, assigned)]),
            unsynced: None,
            // Whatever expired while nobody looked goes at once.
            expiry: Some(now),
            synchronous: Class::Ordinary,
            room: 0,
            broken: None,
            _lock: file.lock,
        };
        if let Err(error) = writer.measure() {
            tracing::warn!(%error, "the store's size could not be read");
        }
        writer
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

    /// Compact and close; true ends the thread.
    fn serve(&mut self, request: Request) -> bool {
        match request {
            Request::Commit(commit) => {
                self.commit(vec![commit]);
                false
            }
            Request::Compact { below, reply } => {
                let result = self.compact_below(below.0).map_err(|e| self.failed(&e));
                // A caller that went away wants no answer.
                let _ = reply.send(result);
                false
            }
            Request::Close { reply } => {
                let result = self.finish().map_err(|e| self.failed(&e));
                let _ = reply.send(result);
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
        let full = self.full(&batch);
        let clock = self.clock;
        let mut outcomes = Vec::with_capacity(batch.len());
        let result = self.transact(class, batch.len() as u64, |tx, assigned| {
            for commit in &batch {
                outcomes.push(match &full {
                    Some(why) if commit.write.put.is_some() => Err(Refused::Full(why.clone())),
                    Some(_) | None => apply(tx, &commit.write, assigned, clock)?,
                });
            }
            Ok(())
        });
        if let Err(error) = result {
            let error = self.failed(&error);
            tracing::error!(%error, "a commit to the store failed");
            for commit in batch {
                let _ = commit.reply.send(Err(again(&error)));
            }
            return;
        }
        let mut events = Vec::with_capacity(outcomes.len());
        let mut answers = Vec::with_capacity(outcomes.len());
        for (commit, outcome) in batch.into_iter().zip(outcomes) {
            let answer = match outcome {
                Ok(event) => {
                    if let (Some(ttl), Some(_)) = (commit.write.ttl, &event.put) {
                        // A time too far off to be counted never comes.
                        let due = clock::now().mono.checked_add(ttl);
                        self.expiry = [self.expiry, due].into_iter().flatten().min();
                    }
                    let revision = event.revision;
                    events.push(event);
                    Ok(revision)
                }
                Err(Refused::Lost(current)) => Err(StoreError::Lost(current)),
                Err(Refused::Full(why)) => Err(StoreError::Full(why)),
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

    /// Why this batch's puts are refused, if they are: the quota is reached, and history has nothing more to give.
    fn full(&mut self, batch: &[Commit]) -> Option<String> {
        let quota = self.options.quota_bytes;
        let puts = batch.iter().filter_map(|c| c.write.put.as_ref().map(|put| put.len() + c.write.key.as_str().len()));
        // A row of the log, one of the current keys, and what splits of pages leave empty.
        let weight: u64 = puts.map(|bytes| 2 * bytes as u64 + 512).sum();
        if quota == 0 || weight == 0 {
            return None;
        }
        if self.room < weight {
            let in_use = match self.measure() {
                Ok(in_use) if in_use + weight > quota => self.compact_all().and_then(|()| self.measure()),
                other => other,
            };
            match in_use {
                Ok(in_use) if in_use + weight > quota => {
                    return Some(format!(
                        "{in_use} bytes are in use, the quota is {quota}: delete objects, or raise --quota-backend-bytes"
                    ));
                }
                Ok(in_use) => self.room = (quota - in_use).min(MEASURE_BYTES.max(weight)),
                Err(error) => tracing::warn!(%error, "the store's size could not be read"),
            }
        }
        self.room = self.room.saturating_sub(weight);
        None
    }

    /// Reads how big the file is; returns the bytes in use.
    fn measure(&self) -> rusqlite::Result<u64> {
        let pragma = |name: &str| self.connection.pragma_query_value(None, name, |r| r.get::<_, u64>(0));
        let (pages, free, bytes) = (pragma("page_count")?, pragma("freelist_count")?, pragma("page_size")?);
        let in_use = (pages - free.min(pages)) * bytes;
        self.shared.metrics.sized(pages * bytes, in_use);
        Ok(in_use)
    }

    /// What a failed transaction means from here on.
    fn failed(&mut self, error: &rusqlite::Error) -> StoreError {
        if let rusqlite::Error::SqliteFailure(cause, _) = error {
            let code = cause.extended_code;
            if self.broken.is_none() && [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC].contains(&code) {
                // The kernel reports a failed write-back once and may have dropped the pages: a later sync that succeeds
                // proves nothing. The log as it is on disk is read at the next start.
                self.broken = Some("the disk failed to sync a write: check it, then restart skiff".into());
            }
        }
        match &self.broken {
            Some(why) => StoreError::Unavailable(why.clone()),
            None => store_error(error),
        }
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
        let deletes = events.iter().filter(|event| event.put.is_none()).count() as u64;
        let metrics = &self.shared.metrics;
        metrics.deletes.inc_by(deletes);
        metrics.puts.inc_by(events.len() as u64 - deletes);
        metrics::set(&metrics.current, last.0);
        self.shared.hub.publish(events, last);
        self.mark();
    }

    /// One transaction that may assign `most` revisions, durable as its class says when it returns.
    fn transact<T>(
        &mut self,
        class: Class,
        most: u64,
        body: impl FnOnce(&Transaction<'_>, &mut u64) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if self.broken.is_some() {
            let error = ffi::Error { code: rusqlite::ErrorCode::SystemIoFailure, extended_code: ffi::SQLITE_IOERR };
            return Err(rusqlite::Error::SqliteFailure(error, None));
        }
        // A reservation must be on disk before a revision of it is seen: it rides on an ordinary commit.
        let reserve = (self.assigned + most > self.reserved).then_some(self.assigned + most + RESERVE);
        let class = if reserve.is_some() { Class::Ordinary } else { class };
        self.set_synchronous(class)?;
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(reserved) = reserve {
            set_meta(&tx, "reserved", reserved)?;
        }
        let before = tx.total_changes();
        let out = body(&tx, &mut self.assigned)?;
        let changed = reserve.is_some() || tx.total_changes() > before;
        let begun = clock::now().mono;
        tx.commit()?;
        let took = clock::now().mono.duration_since(begun).as_secs_f64();
        self.reserved = reserve.unwrap_or(self.reserved);
        // A transaction that changed nothing (every race lost) has synced nothing either.
        match class {
            Class::Ordinary | Class::Lazy if !changed => {}
            Class::Ordinary => {
                self.shared.metrics.synced.observe(took);
                self.unsynced = None;
            }
            Class::Lazy => {
                self.shared.metrics.unsynced.observe(took);
                self.unsynced = self.unsynced.or_else(|| Some(clock::now().mono));
            }
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

    /// Makes everything durable, says so in the file and empties the log.
    fn finish(&mut self) -> rusqlite::Result<()> {
        self.shared.hub.end();
        self.shared.readers.close();
        let (newest, seen) = (self.assigned, self.seen());
        self.transact(Class::Ordinary, 0, |tx, _| {
            set_meta(tx, "base", newest)?;
            set_meta(tx, "clock", seen)?;
            set_meta(tx, "clean", 1)
        })?;
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

/// The same error for another caller of the batch (`StoreError` holds what one caller alone gets).
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full(text) => StoreError::Full(text.clone()),
        StoreError::Corrupt(text) => StoreError::Corrupt(text.clone()),
        other => StoreError::Unavailable(match other {
            StoreError::Unavailable(text) => text.clone(),
            other => other.to_string(),
        }),
    }
}

/// Makes one write within the transaction, or tells the entry that its expectation met.
fn apply(
    tx: &Transaction<'_>,
    write: &Write,
    assigned: &mut u64,
    clock: StoreClock,
) -> rusqlite::Result<Result<Event, Refused>> {
    let have = read::entry(tx, &write.key)?;
    let holds = match write.expect {
        Expect::Any => true,
        Expect::Absent => have.is_none(),
        Expect::At(revision) => have.as_ref().is_some_and(|kv| kv.revision == revision),
    };
    if !holds || (write.put.is_none() && have.is_none()) {
        return Ok(Err(Refused::Lost(have)));
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
        let expires = write.ttl.map(|ttl| clock.expiry(ttl));
        let upsert = "INSERT INTO current(key, revision, expires) VALUES (?1, ?2, ?3)
            ON CONFLICT(key) DO UPDATE SET revision = excluded.revision, expires = excluded.expires";
        tx.prepare_cached(upsert)?.execute(params![key, revision, expires])?;
    } else {
        tx.prepare_cached("DELETE FROM current WHERE key = ?1")?.execute([key])?;
    }
    Ok(Ok(Event { key: write.key.clone(), revision: Revision(revision), put: write.put.clone(), previous: have }))
}
