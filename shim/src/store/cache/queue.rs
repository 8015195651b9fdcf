//! One watcher's bounded queue of changes; the feed never waits for it.

use super::{CacheEvent, Change};
use crate::revision::Revision;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Changes that may wait for a watcher: a burst of a thousand objects fits, a stuck client does not hold more.
const QUEUED_CHANGES: usize = 1024;
/// Bytes that waiting changes may pin per watcher; one change always fits.
const QUEUED_BYTES: usize = 8 << 20;
/// How often an idle watcher is told of progress (`next`); those who need it sooner ask `progress`.
const PROGRESS_SECONDS: Duration = Duration::from_secs(30);

/// The cache's end of a queue.
pub(super) struct Sender {
    queue: mpsc::Sender<Arc<Change>>,
    bytes: Arc<AtomicUsize>,
}

impl Sender {
    /// False when the watcher is gone or too slow: the queue is then dropped, and the watch ends.
    pub(super) fn send(&self, change: &Arc<Change>) -> bool {
        let weight = change.weight();
        let waiting = self.bytes.fetch_add(weight, Ordering::Relaxed);
        if waiting > 0 && waiting + weight > QUEUED_BYTES {
            return false;
        }
        self.queue.try_send(change.clone()).is_ok()
    }
    pub(super) fn is_open(&self) -> bool {
        !self.queue.is_closed()
    }
}

/// One watcher's bounded queue. `None` means it was too slow (or the cache restarted): the client gets a 410.
pub struct CacheWatch {
    /// What the ring held at the start.
    backlog: VecDeque<Arc<Change>>,
    queue: mpsc::Receiver<Arc<Change>>,
    bytes: Arc<AtomicUsize>,
    /// Changes at or below are the watcher's already (it may start ahead of the cache).
    after: Revision,
    applied: watch::Receiver<Revision>,
    told: Revision,
    timer: tokio::time::Interval,
}

pub(super) fn channel(
    backlog: VecDeque<Arc<Change>>,
    after: Revision,
    applied: watch::Receiver<Revision>,
) -> (Sender, CacheWatch) {
    let (sender, queue) = mpsc::channel(QUEUED_CHANGES);
    let bytes = Arc::new(AtomicUsize::new(0));
    let mut timer = tokio::time::interval(PROGRESS_SECONDS);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer.reset();
    let watch = CacheWatch { backlog, queue, bytes: bytes.clone(), after, applied, told: after, timer };
    (Sender { queue: sender, bytes }, watch)
}

impl CacheWatch {
    /// The next change, or every 30 s how far the cache has come meanwhile. Cancel-safe.
    pub async fn next(&mut self) -> Option<CacheEvent> {
        loop {
            if let Some(change) = self.backlog.pop_front() {
                self.told = change.revision;
                return Some(CacheEvent::Change(change));
            }
            // Cancel-safe: `recv` and `tick` lose nothing when dropped.
            tokio::select! {
                biased;
                change = self.queue.recv() => {
                    let change = change?;
                    if let Some(change) = self.take(change) {
                        return Some(CacheEvent::Change(change));
                    }
                }
                _ = self.timer.tick() => {
                    if let Some(revision) = self.progress() {
                        return Some(CacheEvent::Progress(revision));
                    }
                }
            }
        }
    }

    /// The next change if one is ready now (to write several frames at once).
    pub fn try_next(&mut self) -> Option<Arc<Change>> {
        if let Some(change) = self.backlog.pop_front() {
            self.told = change.revision;
            return Some(change);
        }
        while let Ok(change) = self.queue.try_recv() {
            if let Some(change) = self.take(change) {
                return Some(change);
            }
        }
        None
    }

    /// The revision up to which everything was delivered, if that is news: for a bookmark at any moment.
    pub fn progress(&mut self) -> Option<Revision> {
        // Read before looking at the queue: what was applied by then has been queued by then.
        let applied = *self.applied.borrow();
        if !self.backlog.is_empty() || !self.queue.is_empty() || applied <= self.told {
            return None;
        }
        self.told = applied;
        Some(applied)
    }

    fn take(&mut self, change: Arc<Change>) -> Option<Arc<Change>> {
        self.bytes.fetch_sub(change.weight(), Ordering::Relaxed);
        if change.revision <= self.after {
            return None;
        }
        self.told = change.revision;
        Some(change)
    }
}
