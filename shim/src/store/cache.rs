//! The watch cache: one ordered persistent map per resource, immutable snapshots, a ring of recent events.

mod delivery;
mod entry;
mod feed;
mod objects;
mod pairs;
mod past;
mod queue;
mod ring;
mod watchers;

pub use delivery::{Change, Delivery, Shape};
pub use entry::{Entry, Indexer};
pub use objects::{Scope, Snapshot};
pub use pairs::Compact;
pub use past::{At, Past};
pub use queue::CacheWatch;

use super::key::StoreKey;
use super::{Store, StoreError};
use crate::revision::Revision;
use crate::selector::FieldSelector;
use objects::Objects;
use ring::Ring;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use watchers::Watchers;

/// How long a read waits for the cache to reach a revision (upstream's watch cache: 3 s).
const CATCH_UP_SECONDS: Duration = Duration::from_secs(3);
/// How long a read waits for the first load of a resource.
const LOAD_SECONDS: Duration = Duration::from_secs(10);
/// Keys read at once from the store.
const LOAD_PAGE: usize = 500;
/// Resources that may wait to be added: each waits for one list of the store, and its caller waits for it.
const ADDITIONS: usize = 64;

/// What the cache needs to know of a resource.
#[derive(Clone)]
pub struct CacheSpec {
    /// Storage prefix without `/registry/`, e.g. `pods`, `stable.example.com/crontabs`.
    pub prefix: Arc<str>,
    pub index: Indexer,
    /// The field by whose value lists and watches find their objects without looking at the others.
    pub indexed: Option<&'static str>,
}

type ByPrefix = Arc<RwLock<HashMap<Arc<str>, ResourceCache>>>;

/// A resource to be followed from now on, and who waits for it.
type Addition = (CacheSpec, oneshot::Sender<Result<ResourceCache, StoreError>>);

/// The caches of all resources, fed by one watch of the store; cheap to clone.
#[derive(Clone)]
pub struct Caches {
    by_prefix: ByPrefix,
    additions: mpsc::Sender<Addition>,
}

impl Caches {
    /// Loads the resources and follows the store until the returned task is dropped; `Store` failures are retried.
    pub fn start(store: Arc<dyn Store>, specs: Vec<CacheSpec>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let applied = Arc::new(watch::Sender::new(Revision(0)));
        let by_prefix = specs
            .into_iter()
            .map(|spec| (spec.prefix.clone(), ResourceCache::new(store.clone(), spec, applied.clone())))
            .collect();
        let (additions, added) = mpsc::channel(ADDITIONS);
        let caches = Self { by_prefix: Arc::new(RwLock::new(by_prefix)), additions };
        let feed = feed::Feed::new(store, caches.by_prefix.clone(), applied, "/registry/".to_owned());
        (caches, feed.run(added))
    }

    /// The cache of that storage prefix (`pods`, `services/specs`).
    pub fn of(&self, prefix: &str) -> Option<ResourceCache> {
        self.by_prefix.read().unwrap_or_else(PoisonError::into_inner).get(prefix).cloned()
    }

    /// Follows one more resource (a custom one); returns once it is loaded. One that is followed already is replaced:
    /// its watches end.
    ///
    /// # Errors
    /// When the store cannot be read, or not within 10 s.
    pub async fn add(&self, spec: CacheSpec) -> Result<ResourceCache, StoreError> {
        let (done, answer) = oneshot::channel();
        let stopped = || StoreError::Unavailable("the watch cache has stopped".into());
        let added = async {
            self.additions.send((spec, done)).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        match tokio::time::timeout(LOAD_SECONDS, added).await {
            Ok(added) => added,
            Err(_) => Err(StoreError::Unavailable("the watch cache is busy with the store".into())),
        }
    }

    /// Forgets a resource; its watches end.
    pub fn remove(&self, prefix: &str) {
        let removed = self.by_prefix.write().unwrap_or_else(PoisonError::into_inner).remove(prefix);
        if let Some(cache) = removed {
            cache.end();
        }
    }

    /// All caches, in no order.
    pub fn all(&self) -> Vec<ResourceCache> {
        self.by_prefix.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// What a cache counts, for `/metrics`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CacheStats {
    pub objects: usize,
    /// Changes that came from the store.
    pub received: u64,
    /// Changes put into watchers' queues.
    pub dispatched: u64,
    /// Watches ended because their client read too slowly.
    pub terminated: u64,
    pub watchers: usize,
    /// Changes kept for watches that resume.
    pub ring: usize,
    pub revision: Revision,
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

/// Invariant: `objects` is the resource at `revision`, and `ring` holds every change above its floor.
struct State {
    objects: Objects,
    revision: Revision,
    /// What was loaded holds everything up to here.
    since: Revision,
    ring: Ring,
    watchers: Watchers,
    received: u64,
    dispatched: u64,
    terminated: u64,
}

impl ResourceCache {
    fn new(store: Arc<dyn Store>, spec: CacheSpec, applied: Arc<watch::Sender<Revision>>) -> Self {
        let state = Mutex::new(State::new(Revision(0), &spec));
        Self { shared: Arc::new(Shared { store, spec, state, applied }) }
    }

    /// The part of this resource that a list or watch of those fields must look at; `namespace` is `None` for all.
    pub fn scope(&self, namespaced: bool, namespace: Option<&str>, fields: &FieldSelector) -> Scope {
        Scope::of(&self.shared.spec.prefix, namespaced, namespace, fields, self.shared.spec.indexed)
    }

    /// The storage prefix (`pods`, `services/specs`).
    pub fn prefix(&self) -> &str {
        &self.shared.spec.prefix
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
        if self.applied() >= revision.max(Revision(1)) {
            return Ok(self.snapshot());
        }
        // Another API server on the same store may have given out a revision that holds nothing for us: no event will
        // come of it. Asked for the newest, the store has its watch tell how far it is.
        let ask = async {
            drop(self.shared.store.current().await);
            std::future::pending().await
        };
        // Cancel-safe: both only read.
        tokio::select! {
            snapshot = self.caught_up(revision) => snapshot,
            never = ask => never,
        }
    }

    async fn caught_up(&self, revision: Revision) -> Result<Snapshot, StoreError> {
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
        match self.caught_up(current).await {
            Err(StoreError::Future { asked, current }) => Err(StoreError::Unavailable(format!(
                "the watch cache is at revision {current}, behind the store's {asked}"
            ))),
            other => other,
        }
    }

    /// The exact old revision (paged lists, `resourceVersionMatch=Exact`): from the ring where it reaches back so far,
    /// else it is to be read from the store.
    pub async fn exact(&self, revision: Revision) -> Result<At, StoreError> {
        self.at_least(revision).await?;
        if let Some(snapshot) = self.rewound(revision) {
            return Ok(At::Memory(snapshot));
        }
        Ok(At::Store(Past { store: self.shared.store.clone(), spec: self.shared.spec.clone(), revision }))
    }

    /// Every change of the scope with a revision above `after`; `Compacted` when the ring no longer reaches that far back.
    pub fn watch(&self, after: Revision, scope: Scope) -> Result<CacheWatch, StoreError> {
        self.check_lost(after)?;
        let mut guard = self.lock();
        let state = &mut *guard;
        let floor = state.ring.floor();
        if after < floor || self.applied() == Revision(0) {
            return Err(StoreError::Compacted { oldest: floor });
        }
        let concerns = |change: &&Arc<Change>| match (&scope, change.key()) {
            (_, None) => false,
            (Scope::Key(key), Some(changed)) => key == changed,
            (Scope::Prefix(prefix) | Scope::Field { prefix, .. }, Some(changed)) => {
                changed.as_str().starts_with(prefix.as_str())
            }
        };
        let backlog = state.ring.after(after).filter(concerns).cloned();
        let (sender, watch) = queue::channel(backlog, after, self.shared.applied.subscribe());
        state.watchers.add(scope, sender);
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

    pub fn stats(&self) -> CacheStats {
        let mut state = self.lock();
        CacheStats {
            objects: state.objects.map.len(),
            received: state.received,
            dispatched: state.dispatched,
            terminated: state.terminated,
            watchers: state.watchers.open(),
            ring: state.ring.len(),
            revision: state.revision,
        }
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
        Snapshot::new(applied.max(state.revision), state.objects.clone())
    }

    /// The objects at `revision` by undoing the ring's newer changes; `None` when the ring does not reach.
    fn rewound(&self, revision: Revision) -> Option<Snapshot> {
        let state = self.lock();
        if revision < state.ring.floor() {
            return None;
        }
        let mut objects = state.objects.clone();
        for change in state.ring.newest_first().take_while(|c| c.revision > revision) {
            match (&change.old, &change.new) {
                (Some(old), _) => drop(objects.insert(old.clone())),
                (None, Some(new)) => drop(objects.remove(&new.key)),
                (None, None) => {}
            }
        }
        Some(Snapshot::new(revision, objects))
    }

    /// Replaces everything after a (re)load: watchers cannot be continued without a gap, so they end.
    fn install(&self, mut state: State) {
        let mut old = self.lock();
        (state.received, state.dispatched, state.terminated) = (old.received, old.dispatched, old.terminated);
        *old = state;
    }

    /// Ends all watches: the resource is no longer served.
    fn end(&self) {
        self.lock().watchers = Watchers::default();
    }

    /// Applies the events of this resource from one store message.
    fn apply(&self, events: &[super::Event]) {
        let mut state = self.lock();
        events.iter().for_each(|event| state.apply(event, &self.shared.spec.index));
    }
}

impl State {
    /// Nothing, at that revision.
    fn new(revision: Revision, spec: &CacheSpec) -> Self {
        Self {
            objects: Objects::new(spec.indexed),
            revision,
            since: revision,
            ring: Ring::new(revision),
            watchers: Watchers::default(),
            received: 0,
            dispatched: 0,
            terminated: 0,
        }
    }

    fn apply(&mut self, event: &super::Event, index: &Indexer) {
        // A resource that was added beside the feed may have been read ahead of it.
        if event.revision <= self.since {
            return;
        }
        let new = event
            .put
            .as_ref()
            .and_then(|value| Entry::of(event.key.clone(), event.revision, value, index).map(Arc::new));
        let old = match &new {
            Some(entry) => self.objects.insert(entry.clone()),
            None => self.objects.remove(&event.key),
        };
        self.revision = event.revision;
        self.received += 1;
        if old.is_some() || new.is_some() {
            let change = Arc::new(Change { revision: event.revision, old, new });
            let done = self.watchers.dispatch(&change, &self.objects);
            self.dispatched += done.queued;
            self.terminated += done.overflowed;
            self.ring.push(change);
        }
    }
}

#[cfg(test)]
mod tests;
