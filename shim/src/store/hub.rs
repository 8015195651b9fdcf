//! Fan-out of committed events to watches, shared by the embedded engines: publishing never waits for a watcher.

use super::{Event, StoreError, WatchStream, Watched};
use crate::revision::Revision;
use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Batches a watch may lag behind before it is ended: a batch is one group commit, and the watch cache that reads
/// them does so in microseconds, so a reader this late is stuck.
const QUEUED_BATCHES: usize = 1024;

type Batch = Arc<[Event]>;

/// The registered watches of one engine.
pub(super) struct Hub {
    watchers: Mutex<Vec<Watcher>>,
    /// Newest revision whose events are all in the watches' queues.
    published: watch::Sender<Revision>,
}

struct Watcher {
    prefix: Box<str>,
    queue: mpsc::Sender<Batch>,
}

impl Hub {
    pub(super) fn new(current: Revision) -> Self {
        Self { watchers: Mutex::default(), published: watch::Sender::new(current) }
    }

    /// Hands `events` (in revision order, up to `revision`) to every watch; one that is full ends.
    pub(super) fn publish(&self, events: Vec<Event>, revision: Revision) {
        let batch: Batch = events.into();
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|w| {
            if !batch.iter().any(|e| e.key.as_str().starts_with(&*w.prefix)) {
                return !w.queue.is_closed();
            }
            w.queue.try_send(batch.clone()).is_ok()
        });
        // Under the lock: registrations see a revision that matches what their queue will hold.
        self.published.send_replace(revision);
    }

    /// A live feed of everything after the returned revision.
    pub(super) fn subscribe(&self, prefix: &str) -> (Live, Revision) {
        let (queue, batches) = mpsc::channel(QUEUED_BATCHES);
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let published = self.published.subscribe();
        let since = *published.borrow();
        watchers.push(Watcher { prefix: prefix.into(), queue });
        (Live { prefix: prefix.into(), batches, published, after: since, told: since }, since)
    }

    /// Ends every watch (the engine closes).
    pub(super) fn end(&self) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The live part of a watch.
pub(super) struct Live {
    prefix: Box<str>,
    batches: mpsc::Receiver<Batch>,
    published: watch::Receiver<Revision>,
    /// Events up to here were delivered or lie in the history part.
    after: Revision,
    /// Newest revision the reader was told of.
    told: Revision,
}

impl Live {
    /// Skips what the reader has already (a watch that starts ahead of the published revision).
    pub(super) fn start_after(&mut self, revision: Revision) {
        self.after = self.after.max(revision);
        self.told = self.told.max(revision);
    }

    /// The next events or progress; `None` when the watch overflowed or the engine closed. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Watched> {
        loop {
            // Cancel-safe: both arms only receive.
            tokio::select! {
                biased;
                batch = self.batches.recv() => {
                    let events = self.select(&batch?);
                    if !events.is_empty() {
                        return Some(Watched::Events(events));
                    }
                }
                changed = self.published.changed() => {
                    let revision = *self.published.borrow_and_update();
                    // What was published up to that revision is in the queue by now, and goes first.
                    match self.batches.try_recv() {
                        Ok(batch) => {
                            self.published.mark_changed();
                            let events = self.select(&batch);
                            if !events.is_empty() {
                                return Some(Watched::Events(events));
                            }
                        }
                        Err(mpsc::error::TryRecvError::Disconnected) => return None,
                        Err(mpsc::error::TryRecvError::Empty) if changed.is_err() => return None,
                        Err(mpsc::error::TryRecvError::Empty) if revision > self.told => {
                            self.told = revision;
                            return Some(Watched::Progress(revision));
                        }
                        Err(mpsc::error::TryRecvError::Empty) => {}
                    }
                }
            }
        }
    }

    fn select(&mut self, batch: &Batch) -> Vec<Event> {
        let events: Vec<Event> = batch
            .iter()
            .filter(|e| e.revision > self.after && e.key.as_str().starts_with(&*self.prefix))
            .cloned()
            .collect();
        if let Some(last) = batch.last() {
            self.after = self.after.max(last.revision);
            if !events.is_empty() {
                self.told = self.told.max(last.revision);
            }
        }
        events
    }
}

/// Where a watch reads events older than its registration from; a page at a time, so that history costs no memory.
#[async_trait]
pub(super) trait History: Send + Sync {
    /// Events with `after < revision <= upto`, oldest first, at least one unless there is none left.
    async fn page(&self, prefix: &str, after: Revision, upto: Revision) -> Result<Vec<Event>, StoreError>;
}

/// A watch: history up to the registration, then the live feed.
pub(super) struct HubWatch<H> {
    history: Option<(H, Revision, Revision)>,
    live: Live,
    queued: VecDeque<Watched>,
}

impl<H: History> HubWatch<H> {
    /// A watch of everything above `after`, where the live feed begins after `since`.
    pub(super) fn new(history: H, mut live: Live, after: Revision, since: Revision) -> Self {
        live.start_after(after);
        let history = (after < since).then_some((history, after, since));
        Self { history, live, queued: VecDeque::new() }
    }
}

#[async_trait]
impl<H: History + 'static> WatchStream for HubWatch<H> {
    async fn next(&mut self) -> Option<Result<Watched, StoreError>> {
        if let Some(queued) = self.queued.pop_front() {
            return Some(Ok(queued));
        }
        if let Some((history, after, upto)) = &mut self.history {
            match history.page(&self.live.prefix, *after, *upto).await {
                Err(error) => return Some(Err(error)),
                Ok(events) => match events.last() {
                    Some(last) => {
                        *after = last.revision;
                        return Some(Ok(Watched::Events(events)));
                    }
                    None => {
                        let upto = *upto;
                        self.history = None;
                        return Some(Ok(Watched::Progress(upto)));
                    }
                },
            }
        }
        self.live.next().await.map(Ok)
    }
}
