//! What the writer does though nobody asks: syncing lazy writes, expiry, compaction of history, giving pages back.

use super::{Class, Writer, apply};
use crate::clock;
use crate::revision::Revision;
use crate::store::key::StoreKey;
use crate::store::sqlite::metrics;
use crate::store::sqlite::schema::set_meta;
use crate::store::{Expect, Write};
use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;
use tokio::time::Instant;

/// Lazy writes reach the disk this long after they were acknowledged (the promise is 5 s).
const LAZY_SYNC: Duration = Duration::from_secs(4);
/// Distance of the marks by which the age of a revision is known.
const MARK_SECONDS: Duration = Duration::from_secs(30);
/// Pause after compaction failed (a full disk, say).
const COMPACT_RETRY: Duration = Duration::from_secs(30);
/// Revisions compacted in one transaction, so that writers hardly wait.
const COMPACT_CHUNK: u64 = 2_000;
/// Free pages given back to the file system in one step, once a quarter of the file is free.
const VACUUM_PAGES: u32 = 512;
/// Expired keys deleted in one transaction, and the least distance of two sweeps.
const EXPIRE_CHUNK: usize = 256;
const EXPIRE_DISTANCE: Duration = Duration::from_millis(10);

impl Writer {
    /// When there is something to do though nobody asks.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let now = clock::now().mono;
        if self.broken.is_some() {
            return None;
        }
        let compaction = if self.compact_to > self.compacted || self.vacuum {
            Some(now)
        } else {
            // The newest mark alone has nothing after it that could be compacted.
            (self.assigned > self.compacted)
                .then(|| self.marks.front().and_then(|(at, _)| at.checked_add(self.options.history)))
                .flatten()
        };
        [self.unsynced.map(|at| at + LAZY_SYNC), self.expiry, compaction].into_iter().flatten().min()
    }

    /// What is due. Failures are tried again later.
    pub(super) fn upkeep(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let now = clock::now().mono;
        if self.unsynced.is_some_and(|at| now >= at + LAZY_SYNC)
            && let Err(error) = self.sync()
        {
            let error = self.failed(&error);
            tracing::error!(%error, "lazy writes could not be synced");
            self.unsynced = Some(now);
        }
        if self.expiry.is_some_and(|at| now >= at)
            && let Err(error) = self.expire()
        {
            let error = self.failed(&error);
            tracing::error!(%error, "expired keys could not be deleted; trying again");
            self.expiry = Some(now + LAZY_SYNC);
        }
        self.age(now);
        if self.compact_to > self.compacted {
            if let Err(error) = self.compact_chunk() {
                let error = self.failed(&error);
                tracing::error!(%error, "the store's history could not be compacted; trying again later");
                // Comes due again as the age of a mark.
                let goal = std::mem::replace(&mut self.compact_to, self.compacted);
                let again = now.checked_sub(self.options.history).map_or(now, |at| at + COMPACT_RETRY);
                self.marks.push_front((again, goal));
            }
        } else if self.vacuum
            && let Err(error) = self.give_back()
        {
            let error = self.failed(&error);
            tracing::warn!(%error, "free pages could not be given back");
            self.vacuum = false;
        }
    }

    /// Notes which revision is the newest now, so that its age is known later.
    pub(super) fn mark(&mut self) {
        let now = clock::now().mono;
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= MARK_SECONDS) {
            self.marks.push_back((now, self.assigned));
        }
    }

    /// Moves the goal of compaction as history gets too old or too long.
    fn age(&mut self, now: Instant) {
        let old = |at: &Instant| now.duration_since(*at) >= self.options.history;
        while self.marks.front().is_some_and(|(at, _)| old(at)) {
            if let Some((_, revision)) = self.marks.pop_front() {
                self.compact_to = self.compact_to.max(revision);
            }
        }
        if self.marks.is_empty() && self.assigned > self.compact_to {
            self.marks.push_back((now, self.assigned));
        }
        if self.assigned - self.compacted > self.options.history_revisions {
            self.compact_to = self.compact_to.max(self.assigned - self.options.history_revisions / 2);
        }
    }

    /// The newest time that the file should know.
    pub(super) fn seen(&self) -> u64 {
        u64::try_from(self.clock.millis()).unwrap_or(0)
    }

    /// An ordinary commit syncs everything before it.
    fn sync(&mut self) -> rusqlite::Result<()> {
        let seen = self.seen();
        self.transact(Class::Ordinary, 0, |tx, _| set_meta(tx, "clock", seen))
    }

    /// Deletes expired keys and notes when the next one is due.
    fn expire(&mut self) -> rusqlite::Result<()> {
        let clock = self.clock;
        let now = clock.millis();
        let sql = "SELECT key, revision FROM current WHERE expires <= ?1 ORDER BY expires LIMIT ?2";
        let due = self
            .connection
            .prepare_cached(sql)?
            .query_map(params![now, EXPIRE_CHUNK], |r| Ok((r.get::<_, String>(0)?, r.get::<_, u64>(1)?)))?
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
                    events.extend(apply(tx, &delete, assigned, clock)?.ok());
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
        self.expiry = next.and_then(|at| {
            let wait = Duration::from_millis(u64::try_from(at - now).unwrap_or(0));
            clock::now().mono.checked_add(wait.max(EXPIRE_DISTANCE))
        });
        Ok(())
    }

    /// Compacts up to that revision before it returns.
    pub(super) fn compact_below(&mut self, below: u64) -> rusqlite::Result<()> {
        self.compact_to = self.compact_to.max(below);
        while self.compacted < self.compact_to {
            self.compact_chunk()?;
        }
        Ok(())
    }

    /// Gives up all history: the quota is reached.
    pub(super) fn compact_all(&mut self) -> rusqlite::Result<()> {
        self.compact_below(self.shared.current().0)
    }

    /// Drops superseded rows of some more revisions.
    fn compact_chunk(&mut self) -> rusqlite::Result<()> {
        let (from, to) = (self.compacted, self.compact_to.min(self.compacted + COMPACT_CHUNK));
        self.transact(Class::Lazy, 0, |tx, _| drop_superseded(tx, from, to))?;
        self.compacted = to;
        metrics::set(&self.shared.metrics.compacted, to);
        self.give_back()
    }

    /// Gives free pages back to the file system, a step at a time, while a quarter of the file is free.
    fn give_back(&mut self) -> rusqlite::Result<()> {
        let pages = |name: &str| self.connection.pragma_query_value(None, name, |r| r.get::<_, u32>(0));
        let free = pages("freelist_count")?;
        self.vacuum = free > VACUUM_PAGES && free > pages("page_count")? / 4;
        if self.vacuum {
            let mut vacuum = self.connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
            // No progress, no further step.
            drop(rows);
            drop(vacuum);
            self.vacuum = pages("freelist_count")? < free;
        }
        self.measure().map(drop)
    }
}

/// Deletes what the revisions above `from` and up to `to` superseded, and their own deletions: history then begins at `to`.
pub(in crate::store::sqlite) fn drop_superseded(tx: &Connection, from: u64, to: u64) -> rusqlite::Result<()> {
    let superseded = "DELETE FROM log WHERE revision IN
        (SELECT prev FROM log WHERE revision > ?1 AND revision <= ?2 AND prev > 0)";
    tx.prepare_cached(superseded)?.execute(params![from, to])?;
    let deletions = "DELETE FROM log WHERE revision > ?1 AND revision <= ?2 AND value IS NULL";
    tx.prepare_cached(deletions)?.execute(params![from, to])?;
    set_meta(tx, "compacted", to)
}
