//! The one task that follows the store and feeds every resource's cache, in revision order.

use super::{Entry, LOAD_PAGE, ResourceCache};
use crate::revision::Revision;
use crate::store::key::StoreKey;
use crate::store::{Event, Store, StoreError, Watched};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause after a store failure, doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

type ByPrefix = Arc<HashMap<&'static str, ResourceCache>>;

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

    pub(super) async fn run(self) {
        let mut pause = RETRY_FIRST;
        loop {
            let before = *self.applied.borrow();
            if let Err(error) = self.follow().await {
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
    async fn follow(&self) -> Result<(), StoreError> {
        let mut after = *self.applied.borrow();
        if after == Revision(0) {
            after = self.load().await?;
        }
        let mut watch = match self.store.watch(&self.prefix, after).await {
            Err(StoreError::Compacted { .. }) => {
                after = self.load().await?;
                self.store.watch(&self.prefix, after).await?
            }
            other => other?,
        };
        while let Some(message) = watch.next().await {
            match message {
                Ok(Watched::Events(events)) => self.apply(&events),
                Ok(Watched::Progress(revision)) => self.advance(revision),
                Err(StoreError::Compacted { .. }) => {
                    self.load().await?;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        // Overflow: the next round reads what was missed from the store's log. A closed store ends here too.
        self.store.current().await.map(drop)
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
            let mut by_cache: HashMap<&str, (&ResourceCache, Vec<Event>)> = HashMap::new();
            for event in events {
                if let Some(cache) = self.cache_of(&event.key) {
                    by_cache.entry(cache.shared.spec.prefix).or_insert((cache, Vec::new())).1.push(event.clone());
                }
            }
            // Resources are independent of one another: the order in which they get their share does not matter.
            by_cache.into_values().for_each(|(cache, events)| cache.apply(&events));
        }
        self.advance(last.revision);
    }

    /// `/registry/services/specs/ns/name` is of `services/specs`, `/registry/pods/ns/name` of `pods`.
    fn cache_of(&self, key: &StoreKey) -> Option<&ResourceCache> {
        let path = key.as_str().strip_prefix("/registry/")?;
        let first = path.find('/')?;
        let second = path[first + 1..].find('/').map(|i| first + 1 + i);
        second.and_then(|end| self.caches.get(&path[..end])).or_else(|| self.caches.get(&path[..first]))
    }

    /// Reads everything at one revision; watchers of the caches end.
    async fn load(&self) -> Result<Revision, StoreError> {
        let mut maps: HashMap<&str, imbl::OrdMap<StoreKey, Arc<Entry>>> = HashMap::new();
        let (mut at, mut after) = (None, None);
        let revision = loop {
            let page = self.store.list(&self.prefix, at, after.as_ref(), LOAD_PAGE).await?;
            for kv in &page.items {
                let Some(cache) = self.cache_of(&kv.key) else { continue };
                let spec = &cache.shared.spec;
                if let Some(entry) = Entry::read(kv, &spec.index) {
                    maps.entry(spec.prefix).or_default().insert(kv.key.clone(), Arc::new(entry));
                }
            }
            at = Some(page.revision);
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more || after.is_none() {
                break page.revision;
            }
        };
        for (prefix, cache) in self.caches.iter() {
            cache.reset(maps.remove(prefix).unwrap_or_default(), revision);
        }
        self.advance(revision);
        Ok(revision)
    }
}
