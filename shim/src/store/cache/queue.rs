//! One watcher's queue of changes, bounded in bytes; the feed never waits for it.

use super::delivery::{Change, Delivery};
use crate::revision::Revision;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Bytes that waiting changes may pin per watcher: a burst of some thousand objects. One change always fits.
const QUEUED_BYTES: usize = 8 << 20;

/// What both ends share.
struct Queue {
    state: Mutex<State>,
    /// Rung when there is something to read, the end included.
    bell: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Delivery>>,
    bytes: usize,
    /// No more will come, or nobody reads.
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held left at worst a byte count that is off: the watch may end early.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().ended = true;
        self.bell.notify_one();
    }
}

/// What became of a change that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    Queued,
    /// The watcher reads too slowly: its queue is dropped, and the watch ends.
    Overflowed,
    /// Nobody reads any more.
    Gone,
}

/// The cache's end of a queue; dropping it ends the watch.
pub(super) struct Sender(Arc<Queue>);

impl Sender {
    pub(super) fn send(&self, delivery: &Arc<Delivery>) -> Sent {
        let mut state = self.0.lock();
        if state.ended {
            return Sent::Gone;
        }
        let weight = delivery.change.weight();
        if state.bytes > 0 && state.bytes + weight > QUEUED_BYTES {
            // At once: a client that does not read may take minutes to be noticed, and would pin what it never gets.
            state.waiting = VecDeque::new();
            state.ended = true;
            self.0.bell.notify_one();
            return Sent::Overflowed;
        }
        state.bytes += weight;
        state.waiting.push_back(delivery.clone());
        self.0.bell.notify_one();
        Sent::Queued
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.lock().ended
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One watcher's end of its queue. `None` means it was too slow (or the cache was loaded anew): the client gets a 410.
pub struct CacheWatch {
    queue: Arc<Queue>,
    /// Changes at or below are the watcher's already (it may start ahead of the cache).
    after: Revision,
    /// The newest revision that was handed out or asked for as progress.
    told: Revision,
    applied: watch::Receiver<Revision>,
}

/// A queue that begins with `backlog`: changes that the cache still has (its ring is smaller than a queue).
pub(super) fn channel(
    backlog: impl Iterator<Item = Arc<Change>>,
    after: Revision,
    applied: watch::Receiver<Revision>,
) -> (Sender, CacheWatch) {
    let waiting: VecDeque<Arc<Delivery>> = backlog.map(Delivery::new).collect();
    let bytes = waiting.iter().map(|delivery| delivery.change.weight()).sum();
    let state = Mutex::new(State { waiting, bytes, ended: false });
    let queue = Arc::new(Queue { state, bell: Notify::new() });
    (Sender(queue.clone()), CacheWatch { queue, after, told: after, applied })
}

impl CacheWatch {
    /// The next change. Cancel-safe: nothing is taken before the last await.
    pub async fn next(&mut self) -> Option<Arc<Delivery>> {
        loop {
            {
                let mut state = self.queue.lock();
                while let Some(delivery) = state.waiting.pop_front() {
                    state.bytes -= delivery.change.weight();
                    if delivery.change.revision > self.after {
                        self.told = delivery.change.revision;
                        return Some(delivery);
                    }
                }
                if state.ended {
                    return None;
                }
            }
            // A change sent since the lock was released has left its permit.
            self.queue.bell.notified().await;
        }
    }

    /// The revision up to which everything was delivered: for a bookmark at any moment. `None` while changes wait.
    pub fn progress(&mut self) -> Option<Revision> {
        // Read before looking at the queue: what was applied by then has been queued by then.
        let applied = *self.applied.borrow();
        if !self.queue.lock().waiting.is_empty() {
            return None;
        }
        self.told = self.told.max(applied);
        Some(self.told)
    }
}

impl Drop for CacheWatch {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.ended = true;
        state.waiting = VecDeque::new();
    }
}
