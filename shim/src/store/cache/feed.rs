//! The one task that follows the store and feeds every resource's cache, in revision order.

use super::{Addition, ByPrefix, CacheSpec, Entry, LOAD_PAGE, ResourceCache, State};
use crate::revision::Revision;
use crate::store::key::StoreKey;
use crate::store::{Event, Store, StoreError, WatchStream, Watched};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Pause after a store failure, doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// How far back a load begins, so that watches resume across a restart of the server. In revisions: a hundred pods
/// that come and go at once make about a thousand; more would be felt in the time to ready.
const RESUMABLE_REVISIONS: u64 = 2048;

type States = HashMap<Arc<str>, State>;
type Specs = HashMap<Arc<str>, CacheSpec>;

pub(super) struct Feed {
    store: Arc<dyn Store>,
    caches: ByPrefix,
    applied: Arc<watch::Sender<Revision>>,
    /// What of the store is followed.
    prefix: String,
}

impl Feed {
    pub(super) fn new(
        store: Arc<dyn Store>,
        caches: ByPrefix,
        applied: Arc<watch::Sender<Revision>>,
        prefix: String,
    ) -> Self {
        Self { store, caches, applied, prefix }
    }

    pub(super) async fn run(self, mut added: mpsc::Receiver<Addition>) {
        let mut pause = RETRY_FIRST;
        loop {
            let before = *self.applied.borrow();
            if let Err(error) = self.follow(&mut added).await {
                tracing::warn!(%error, "the watch cache lost the store; trying again");
                if *self.applied.borrow() > before {
                    pause = RETRY_FIRST;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LONGEST);
            }
        }
    }

    /// Loads unless a watch can continue where the last one ended, then applies until the watch ends.
    async fn follow(&self, added: &mut mpsc::Receiver<Addition>) -> Result<(), StoreError> {
        let after = *self.applied.borrow();
        let mut watch = match after {
            Revision(0) => self.load().await?,
            after => match self.store.watch(&self.prefix, after).await {
                Err(StoreError::Compacted { .. }) => self.load().await?,
                other => other?,
            },
        };
        loop {
            let message = {
                let mut message = pin!(watch.next());
                loop {
                    // Cancel-safe: the watch is polled in place, and `recv` loses nothing.
                    tokio::select! {
                        biased;
                        Some(addition) = added.recv() => self.add(addition).await,
                        message = message.as_mut() => break message,
                    }
                }
            };
            match message {
                Some(Ok(Watched::Events(events))) => self.apply(&events),
                Some(Ok(Watched::Progress(revision))) => self.advance(revision),
                Some(Err(StoreError::Compacted { .. })) => watch = self.load().await?,
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        // Overflow: the next round reads what was missed from the store's log. A closed store ends here too.
        self.store.current().await.map(drop)
    }

    /// Loads one more resource, its past included. It may be ahead of the feed then: `State` leaves out what it has.
    async fn add(&self, (spec, done): Addition) {
        let specs = Specs::from([(spec.prefix.clone(), spec.clone())]);
        let loaded = self.read(&StoreKey::prefix(&spec.prefix, None), &specs).await;
        let added = loaded.map(|Loaded { states, .. }| {
            let cache = ResourceCache::new(self.store.clone(), spec, self.applied.clone());
            // One resource was read, and this is its state.
            states.into_values().for_each(|state| cache.install(state));
            let mut caches = self.caches.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(replaced) = caches.insert(cache.shared.spec.prefix.clone(), cache.clone()) {
                replaced.end();
            }
            cache
        });
        // Whoever asked may have given up: the resource is followed all the same.
        drop(done.send(added));
    }

    fn advance(&self, revision: Revision) {
        self.applied.send_if_modified(|applied| {
            let newer = revision > *applied;
            if newer {
                *applied = revision;
            }
            newer
        });
    }

    /// Hands each resource its events of this message at once, so that no snapshot lies within a revision.
    fn apply(&self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        if let [event] = events {
            if let Some(cache) = self.cache_of(&event.key) {
                cache.apply(events);
            }
        } else {
            let mut by_cache: HashMap<Arc<str>, (ResourceCache, Vec<Event>)> = HashMap::new();
            for event in events {
                if let Some(cache) = self.cache_of(&event.key) {
                    let prefix = cache.shared.spec.prefix.clone();
                    by_cache.entry(prefix).or_insert_with(|| (cache, Vec::new())).1.push(event.clone());
                }
            }
            // Resources are independent of one another: the order in which they get their share does not matter.
            by_cache.into_values().for_each(|(cache, events)| cache.apply(&events));
        }
        self.advance(last.revision);
    }

    fn cache_of(&self, key: &StoreKey) -> Option<ResourceCache> {
        let caches = self.caches.read().unwrap_or_else(PoisonError::into_inner);
        prefixes_of(key).find_map(|prefix| caches.get(prefix)).cloned()
    }

    /// Reads all resources anew; watchers of the caches end. Returns the watch that goes on from there.
    async fn load(&self) -> Result<Box<dyn WatchStream>, StoreError> {
        let specs: Specs = {
            let caches = self.caches.read().unwrap_or_else(PoisonError::into_inner);
            caches.iter().map(|(prefix, cache)| (prefix.clone(), cache.shared.spec.clone())).collect()
        };
        let Loaded { watch, states, reached } = self.read(&self.prefix, &specs).await?;
        {
            let caches = self.caches.read().unwrap_or_else(PoisonError::into_inner);
            for (prefix, state) in states {
                // One that was removed meanwhile needs no state.
                if let Some(cache) = caches.get(&prefix) {
                    cache.install(state);
                }
            }
        }
        self.advance(reached);
        Ok(watch)
    }

    /// Reads resources as they were a while ago and what has happened since, so that their rings reach back.
    async fn read(&self, prefix: &str, specs: &Specs) -> Result<Loaded, StoreError> {
        let current = self.store.current().await?;
        let mut from = Revision(current.0.saturating_sub(RESUMABLE_REVISIONS).max(1).min(current.0));
        let (watch, states) = loop {
            let begun = match self.store.watch(prefix, from).await {
                Ok(watch) => self.list(prefix, from, specs).await.map(|states| (watch, states)),
                Err(error) => Err(error),
            };
            match begun {
                // What is kept begins later, and may move on meanwhile; the present is always kept.
                Err(StoreError::Compacted { oldest }) if from < current => {
                    from = if oldest > from { oldest.min(current) } else { current };
                }
                other => break other?,
            }
        };
        replay(Loaded { watch, states, reached: from }, specs, current).await
    }

    /// Every resource as it was at `at`.
    async fn list(&self, prefix: &str, at: Revision, specs: &Specs) -> Result<States, StoreError> {
        let mut states: States = specs.iter().map(|(prefix, spec)| (prefix.clone(), State::new(at, spec))).collect();
        let mut after = None;
        loop {
            let page = self.store.list(prefix, Some(at), after.as_ref(), LOAD_PAGE).await?;
            for kv in &page.items {
                let Some(spec) = prefixes_of(&kv.key).find_map(|prefix| specs.get(prefix)) else { continue };
                if let (Some(state), Some(entry)) = (states.get_mut(&spec.prefix), Entry::read(kv, &spec.index)) {
                    state.objects.insert(Arc::new(entry));
                }
            }
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more || after.is_none() {
                return Ok(states);
            }
        }
    }
}

/// Resources as they are at `reached`, and the watch that goes on from there.
struct Loaded {
    watch: Box<dyn WatchStream>,
    states: States,
    reached: Revision,
}

/// Applies what happened up to `current`, out of sight.
async fn replay(mut loaded: Loaded, specs: &Specs, current: Revision) -> Result<Loaded, StoreError> {
    while loaded.reached < current {
        match loaded.watch.next().await {
            Some(Ok(Watched::Events(events))) => {
                for event in &events {
                    let Some(spec) = prefixes_of(&event.key).find_map(|prefix| specs.get(prefix)) else { continue };
                    if let Some(state) = loaded.states.get_mut(&spec.prefix) {
                        state.apply(event, &spec.index);
                    }
                }
                loaded.reached = events.last().map_or(loaded.reached, |event| event.revision);
            }
            Some(Ok(Watched::Progress(revision))) => loaded.reached = loaded.reached.max(revision),
            Some(Err(error)) => return Err(error),
            None => return Err(StoreError::Unavailable("the store's history ended early".into())),
        }
    }
    for state in loaded.states.values_mut() {
        state.since = loaded.reached;
        state.revision = loaded.reached;
    }
    Ok(loaded)
}

/// The storage prefixes that a key may be of: `/registry/services/specs/ns/name` is of `services/specs`,
/// `/registry/pods/ns/name` of `pods`.
fn prefixes_of(key: &StoreKey) -> impl Iterator<Item = &str> {
    let path = key.as_str().strip_prefix("/registry/").unwrap_or("");
    let first = path.find('/');
    let second = first.and_then(|first| path[first + 1..].find('/').map(|i| first + 1 + i));
    [second, first].into_iter().flatten().map(move |end| &path[..end])
}
