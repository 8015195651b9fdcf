//! The reference engine: an ordered persistent map and a log of recent changes, gone with the process.

use super::hub::{History, Hub, HubWatch};
use super::key::{StoreKey, prefix_range};
use super::{Event, Expect, KeyValue, Page, Store, StoreError, WatchStream, Write};
use crate::clock;
use crate::revision::Revision;
use async_trait::async_trait;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// Changes kept for watches and old lists; older ones are compacted away.
const LOG_LIMIT: usize = 10_000;
/// Where revisions begin. Clients that ask for low numbers mean "the oldest there is": as on any server that has lived for
/// a while, they are told that it is gone.
const FIRST: Revision = Revision(100);
/// Events a history page carries.
const PAGE: usize = 256;

/// Keeps everything in memory: for test API servers, and as the reference the other engines are held against.
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    hub: Hub,
    /// Rung when an earlier expiry was added, or the store closed.
    bell: Condvar,
}

struct State {
    current: Revision,
    /// Lists at and watches after this revision and later are complete.
    oldest: Revision,
    map: imbl::OrdMap<StoreKey, KeyValue>,
    log: VecDeque<Event>,
    /// (when, key, revision that set it): stale entries are skipped.
    expiries: BTreeSet<(Instant, StoreKey, Revision)>,
    /// The expiry thread runs.
    expiring: bool,
    closed: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        let first = FIRST;
        let state = State {
            current: first,
            oldest: first,
            map: imbl::OrdMap::new(),
            log: VecDeque::new(),
            expiries: BTreeSet::new(),
            expiring: false,
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), hub: Hub::new(first), bell: Condvar::new() }) }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held left no half-made change: each is made in one place, last.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.hub.end();
        self.bell.notify_all();
    }

    /// Deletes keys as they expire; runs on a thread of its own, which exists only once a TTL was asked for.
    fn expire(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = clock::now().mono;
            let Some((due, key, revision)) = state.expiries.first().cloned() else {
                state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if due > now {
                state = self.bell.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.expiries.pop_first();
            if state.map.get(&key).is_some_and(|kv| kv.revision == revision) {
                let event = state.apply(key, None);
                self.hub.publish(vec![event], state.current);
            }
        }
    }
}

impl State {
    fn check(&self, at: Revision) -> Result<(), StoreError> {
        if at < self.oldest {
            return Err(StoreError::Compacted { oldest: self.oldest });
        }
        if at > self.current {
            return Err(StoreError::Future { asked: at, current: self.current });
        }
        Ok(())
    }

    fn apply(&mut self, key: StoreKey, put: Option<bytes::Bytes>) -> Event {
        let revision = Revision(self.current.0 + 1);
        self.current = revision;
        let previous = match &put {
            Some(value) => self.map.insert(key.clone(), KeyValue { key: key.clone(), revision, value: value.clone() }),
            None => self.map.remove(key.as_str()),
        };
        let event = Event { key, revision, put, previous };
        self.log.push_back(event.clone());
        if self.log.len() > LOG_LIMIT {
            let half = self.log[LOG_LIMIT / 2].revision;
            self.compact(half);
        }
        event
    }

    fn compact(&mut self, below: Revision) {
        self.oldest = self.oldest.max(below.min(self.current));
        while self.log.front().is_some_and(|e| e.revision <= self.oldest) {
            self.log.pop_front();
        }
    }

    /// The map as it was at `at`: newer changes undone, newest first.
    fn map_at(&self, at: Revision) -> imbl::OrdMap<StoreKey, KeyValue> {
        let mut map = self.map.clone();
        for event in self.log.iter().rev().take_while(|e| e.revision > at) {
            match &event.previous {
                Some(previous) => map.insert(event.key.clone(), previous.clone()),
                None => map.remove(event.key.as_str()),
            };
        }
        map
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &StoreKey) -> Result<(Revision, Option<KeyValue>), StoreError> {
        let state = self.shared.lock();
        Ok((state.current, state.map.get(key).cloned()))
    }

    async fn list(
        &self,
        prefix: &str,
        at: Option<Revision>,
        after: Option<&StoreKey>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (map, revision) = {
            let state = self.shared.lock();
            match at {
                Some(at) => {
                    state.check(at)?;
                    (state.map_at(at), at)
                }
                None => (state.map.clone(), state.current),
            }
        };
        let range = prefix_range(prefix, after);
        let mut items: Vec<KeyValue> = Vec::new();
        let mut more = false;
        for (_, kv) in map.range::<_, str>(range).take_while(|(k, _)| k.as_str().starts_with(prefix)) {
            if limit > 0 && items.len() == limit {
                more = true;
                break;
            }
            items.push(kv.clone());
        }
        Ok(Page { revision, items, more })
    }

    async fn commit(&self, write: Write) -> Result<Revision, StoreError> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        let have = state.map.get(&write.key);
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => have.is_none(),
            Expect::At(revision) => have.is_some_and(|kv| kv.revision == revision),
        };
        if !holds || (write.put.is_none() && have.is_none()) {
            return Err(StoreError::Lost(have.cloned()));
        }
        let deadline = write.put.is_some().then_some(write.ttl).flatten().map(|ttl| clock::now().mono + ttl);
        let event = state.apply(write.key.clone(), write.put);
        let revision = event.revision;
        if let Some(due) = deadline {
            if !state.expiring {
                start_expiry(&self.shared)?;
                state.expiring = true;
            }
            state.expiries.insert((due, write.key, revision));
            self.shared.bell.notify_all();
        }
        // Under the state's lock, so that events go out in revision order; publishing never waits.
        self.shared.hub.publish(vec![event], revision);
        Ok(revision)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        let state = self.shared.lock();
        state.check(after)?;
        let (live, since) = self.shared.hub.subscribe(prefix);
        Ok(Box::new(HubWatch::new(MemoryHistory(self.shared.clone()), live, after, since)))
    }

    async fn compact(&self, below: Revision) -> Result<(), StoreError> {
        let mut state = self.shared.lock();
        if below > state.current {
            return Err(StoreError::Future { asked: below, current: state.current });
        }
        state.compact(below);
        Ok(())
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.lock().current)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.close();
        Ok(())
    }
}

/// Starts the expiry thread, which ends when the store is closed or dropped.
fn start_expiry(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name("store-expiry".into())
        .spawn(move || shared.expire())
        .map(drop)
        .map_err(|e| StoreError::Unavailable(format!("no thread for expiring keys: {e}")))
}

struct MemoryHistory(Arc<Shared>);

#[async_trait]
impl History for MemoryHistory {
    async fn page(&self, prefix: &str, after: Revision, upto: Revision) -> Result<Vec<Event>, StoreError> {
        let state = self.0.lock();
        state.check(after)?;
        let first = state.log.partition_point(|e| e.revision <= after);
        let range = state.log.range(first..).take_while(|e| e.revision <= upto);
        Ok(range.filter(|e| e.key.as_str().starts_with(prefix)).take(PAGE).cloned().collect())
    }
}
