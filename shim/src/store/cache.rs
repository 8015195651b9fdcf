//! The watch cache: one ordered persistent map per resource, immutable snapshots, a ring of recent events.

mod entry;
mod feed;
mod queue;

pub use entry::{Entry, Indexer};
pub use queue::CacheWatch;

use super::key::{StoreKey, prefix_range};
use super::{Store, StoreError};
use crate::revision::Revision;
use queue::Sender;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Recent changes kept per resource for watches that resume and lists at an old revision.
const RING_CHANGES: usize = 1000;
/// Bytes that the ring may pin (old objects; the new ones are in the map anyway).
const RING_BYTES: usize = 4 << 20;
/// How long a read waits for the cache to reach a revision (upstream's watch cache: 3 s).
const CATCH_UP_SECONDS: Duration = Duration::from_secs(3);
/// How long a read waits for the first load of a resource.
const LOAD_SECONDS: Duration = Duration::from_secs(10);
/// Keys read at once from the store.
const LOAD_PAGE: usize = 500;

/// What the cache needs to know of a resource.
#[derive(Clone)]
pub struct CacheSpec {
    /// Storage prefix without `/registry/`, e.g. `pods`.
    pub prefix: &'static str,
    pub index: Indexer,
}

/// An immutable, ordered view at a known revision.
#[derive(Clone)]
pub struct Snapshot {
    pub revision: Revision,
    pub map: imbl::OrdMap<StoreKey, Arc<Entry>>,
}

impl Snapshot {
    pub fn get(&self, key: &StoreKey) -> Option<&Arc<Entry>> {
        self.map.get(key)
    }
    /// Entries whose key starts with `prefix`, in key order, after `after` when given.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a StoreKey>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
        let range = self.map.range::<_, str>(prefix_range(prefix, after));
        Box::new(range.take_while(move |(k, _)| k.as_str().starts_with(prefix)).map(|(_, entry)| entry))
    }
}

/// One change as watchers see it.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: Revision,
    /// The object before, with its own (old) revision in `bytes`.
    pub old: Option<Arc<Entry>>,
    /// The object after; `None` is a deletion. On deletion frames the old object is sent with `revision`.
    pub new: Option<Arc<Entry>>,
}

impl Change {
    /// What the change keeps alive that nothing else need.
    fn weight(&self) -> usize {
        self.old.as_ref().map_or(0, |e| e.bytes.len()) + self.new.as_ref().map_or(0, |e| e.bytes.len())
    }
}

/// What a cache watcher receives.
#[derive(Clone, Debug)]
pub enum CacheEvent {
    Change(Arc<Change>),
    /// All changes up to here were delivered.
    Progress(Revision),
}

/// The caches of all resources, fed by one watch of the store; cheap to clone.
#[derive(Clone)]
pub struct Caches {
    by_prefix: Arc<HashMap<&'static str, ResourceCache>>,
}

impl Caches {
    /// Loads the resources and follows the store until the returned task is dropped; `Store` failures are retried.
    pub fn start(store: Arc<dyn Store>, specs: Vec<CacheSpec>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let applied = Arc::new(watch::Sender::new(Revision(0)));
        let by_prefix = specs
            .into_iter()
            .map(|spec| (spec.prefix, ResourceCache::new(store.clone(), spec, applied.clone())))
            .collect();
        let caches = Self { by_prefix: Arc::new(by_prefix) };
        let feed = feed::Feed::new(store, caches.by_prefix.clone(), applied, "/registry/".to_owned());
        (caches, feed.run())
    }

    /// The cache of that storage prefix (`pods`, `services/specs`).
    pub fn of(&self, prefix: &str) -> Option<ResourceCache> {
        self.by_prefix.get(prefix).cloned()
    }
}

/// The watch cache of one resource; cheap to clone.
#[derive(Clone)]
pub struct ResourceCache {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    spec: CacheSpec,
    state: Mutex<State>,
    /// Every cache of the feed has applied all events up to here; 0 before the first load.
    applied: Arc<watch::Sender<Revision>>,
}

/// Invariant: `map` is the resource at `revision`, and `ring` holds every change above `floor`.
struct State {
    map: imbl::OrdMap<StoreKey, Arc<Entry>>,
    revision: Revision,
    floor: Revision,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    watchers: Vec<Sender>,
}

impl ResourceCache {
    fn new(store: Arc<dyn Store>, spec: CacheSpec, applied: Arc<watch::Sender<Revision>>) -> Self {
        let state = Mutex::new(State::new(Revision(0)));
        Self { shared: Arc::new(Shared { store, spec, state, applied }) }
    }

    /// Loads one resource alone and follows the store until the returned task is dropped.
    pub fn start(store: Arc<dyn Store>, spec: CacheSpec) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let applied = Arc::new(watch::Sender::new(Revision(0)));
        let prefix = StoreKey::prefix(spec.prefix, None);
        let cache = Self::new(store.clone(), spec, applied.clone());
        let caches = Arc::new(HashMap::from([(cache.shared.spec.prefix, cache.clone())]));
        (cache, feed::Feed::new(store, caches, applied, prefix).run())
    }

    /// The newest snapshot, whatever its age (`resourceVersion=0`); waits only for the first load.
    pub async fn latest(&self) -> Result<Snapshot, StoreError> {
        if self.applied() == Revision(0) {
            self.wait_for(Revision(1), LOAD_SECONDS)
                .await
                .map_err(|()| StoreError::Unavailable(format!("{} is still being loaded", self.shared.spec.prefix)))?;
        }
        Ok(self.snapshot())
    }

    /// A snapshot not older than `revision`; waits up to 3 s, then `StoreError::Future`.
    pub async fn at_least(&self, revision: Revision) -> Result<Snapshot, StoreError> {
        self.check_lost(revision)?;
        if self.applied() < revision.max(Revision(1)) {
            self.latest().await?;
            self.wait_for(revision, CATCH_UP_SECONDS)
                .await
                .map_err(|()| StoreError::Future { asked: revision, current: self.applied() })?;
        }
        Ok(self.snapshot())
    }

    /// A snapshot that contains every write acknowledged before the call (asks the store for its current revision).
    pub async fn consistent(&self) -> Result<Snapshot, StoreError> {
        let current = self.shared.store.current().await?;
        match self.at_least(current).await {
            Err(StoreError::Future { asked, current }) => Err(StoreError::Unavailable(format!(
                "the watch cache is at revision {current}, behind the store's {asked}"
            ))),
            other => other,
        }
    }

    /// The exact old revision (paged lists, `resourceVersionMatch=Exact`): from the ring where it reaches back so far,
    /// else from the store.
    pub async fn exact(&self, revision: Revision) -> Result<Snapshot, StoreError> {
        self.at_least(revision).await?;
        if let Some(snapshot) = self.rewound(revision) {
            return Ok(snapshot);
        }
        let mut map = imbl::OrdMap::new();
        let prefix = StoreKey::prefix(self.shared.spec.prefix, None);
        let mut after = None;
        loop {
            let page = self.shared.store.list(&prefix, Some(revision), after.as_ref(), LOAD_PAGE).await?;
            for kv in &page.items {
                if let Some(entry) = Entry::read(kv, &self.shared.spec.index) {
                    map.insert(kv.key.clone(), Arc::new(entry));
                }
            }
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more || after.is_none() {
                return Ok(Snapshot { revision, map });
            }
        }
    }

    /// Every change with revision above `after`; `Compacted` when the ring no longer reaches that far back.
    pub fn watch(&self, after: Revision) -> Result<CacheWatch, StoreError> {
        self.check_lost(after)?;
        let mut state = self.lock();
        if after < state.floor || self.applied() == Revision(0) {
            return Err(StoreError::Compacted { oldest: state.floor });
        }
        let first = state.ring.partition_point(|c| c.revision <= after);
        let backlog = state.ring.range(first..).cloned().collect();
        let (sender, watch) = queue::channel(backlog, after, self.shared.applied.subscribe());
        state.watchers.retain(Sender::is_open);
        state.watchers.push(sender);
        Ok(watch)
    }

    /// Every cache of this feed has applied all events up to here.
    pub fn applied(&self) -> Revision {
        *self.shared.applied.borrow()
    }

    /// Who saw a write that a power cut took away must list anew, though all changes since are at hand.
    fn check_lost(&self, at: Revision) -> Result<(), StoreError> {
        self.shared.store.lost(at).map_or(Ok(()), |oldest| Err(StoreError::Compacted { oldest }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a bug in this file; the state's invariant is restored by the next load.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for(&self, revision: Revision, limit: Duration) -> Result<(), ()> {
        let mut applied = self.shared.applied.subscribe();
        let reached = applied.wait_for(|r| *r >= revision);
        match tokio::time::timeout(limit, reached).await {
            Ok(Ok(_)) => Ok(()),
            // The sender lives in `self`: only the timeout can happen.
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }

    fn snapshot(&self) -> Snapshot {
        // Read before the map: the map then holds at least everything up to it.
        let applied = self.applied();
        let state = self.lock();
        Snapshot { revision: applied.max(state.revision), map: state.map.clone() }
    }

    /// The map at `revision` by undoing the ring's newer changes; `None` when the ring does not reach.
    fn rewound(&self, revision: Revision) -> Option<Snapshot> {
        let state = self.lock();
        if revision < state.floor {
            return None;
        }
        let mut map = state.map.clone();
        for change in state.ring.iter().rev().take_while(|c| c.revision > revision) {
            match (&change.old, &change.new) {
                (Some(old), _) => drop(map.insert(old.key.clone(), old.clone())),
                (None, Some(new)) => drop(map.remove(new.key.as_str())),
                (None, None) => {}
            }
        }
        Some(Snapshot { revision, map })
    }

    /// Replaces everything after a (re)load: watchers cannot be continued without a gap, so they end.
    fn install(&self, state: State) {
        *self.lock() = state;
    }

    /// Applies the events of this resource from one store message.
    fn apply(&self, events: &[super::Event]) {
        let mut state = self.lock();
        events.iter().for_each(|event| state.apply(event, &self.shared.spec.index));
    }
}

impl State {
    /// Nothing, at that revision.
    fn new(revision: Revision) -> Self {
        Self {
            map: imbl::OrdMap::new(),
            revision,
            floor: revision,
            ring: VecDeque::new(),
            ring_bytes: 0,
            watchers: Vec::new(),
        }
    }

    fn apply(&mut self, event: &super::Event, index: &Indexer) {
        let new = event
            .put
            .as_ref()
            .and_then(|value| Entry::of(event.key.clone(), event.revision, value, index).map(Arc::new));
        let old = match &new {
            Some(entry) => self.map.insert(event.key.clone(), entry.clone()),
            None => self.map.remove(event.key.as_str()),
        };
        self.revision = event.revision;
        if old.is_some() || new.is_some() {
            self.push(Arc::new(Change { revision: event.revision, old, new }));
        }
    }

    fn push(&mut self, change: Arc<Change>) {
        // A watcher whose queue is full is dropped: it ends, and its client lists anew.
        self.watchers.retain(|w| w.send(&change));
        self.ring_bytes += change.weight();
        self.ring.push_back(change);
        while self.ring.len() > RING_CHANGES || (self.ring_bytes > RING_BYTES && self.ring.len() > 1) {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.weight();
            self.floor = oldest.revision;
            // Changes of one revision leave together: a watch above `floor` must see all of the next one.
            while self.ring.front().is_some_and(|c| c.revision == oldest.revision) {
                if let Some(same) = self.ring.pop_front() {
                    self.ring_bytes -= same.weight();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
