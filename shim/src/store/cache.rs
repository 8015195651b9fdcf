//! The watch cache: one ordered persistent map per resource, immutable snapshots, a ring of recent events.

use super::key::StoreKey;
use super::{Store, StoreError};
use crate::revision::Revision;
use crate::selector::Pairs;
use bytes::Bytes;
use std::sync::Arc;

/// One object as the cache holds it: bytes ready for the wire, `resourceVersion` spliced in.
#[derive(Debug)]
pub struct Entry {
    pub key: StoreKey,
    pub revision: Revision,
    /// Canonical JSON: `{"kind":K,"apiVersion":V,"metadata":{"resourceVersion":"N",…},…}`.
    pub bytes: Bytes,
    /// Offset just after `{"kind":…,"apiVersion":…,`: a LIST item is `{` + bytes[body..] for built-ins.
    pub body: usize,
    pub labels: Pairs,
    pub fields: Pairs,
}

/// Reads labels and selectable fields off a canonical object as it enters the cache.
pub type Indexer = fn(&serde_json::Value) -> (Pairs, Pairs);

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
        _prefix: &'a str,
        _after: Option<&StoreKey>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        todo!("S1")
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

/// What a cache watcher receives.
#[derive(Clone, Debug)]
pub enum CacheEvent {
    Change(Arc<Change>),
    /// All changes up to here were delivered.
    Progress(Revision),
}

/// The watch cache of one resource; cheap to clone.
#[derive(Clone)]
pub struct ResourceCache {
    // S1's
}

impl ResourceCache {
    /// Loads the resource and follows the store until the returned task ends; `Store` failures are retried inside.
    pub fn start(_store: Arc<dyn Store>, _spec: CacheSpec) -> (Self, impl Future<Output = ()> + Send + 'static) {
        (todo!("S1"), async {})
    }
    /// The newest snapshot, whatever its age (`resourceVersion=0`); waits only for the first load.
    pub async fn latest(&self) -> Result<Snapshot, StoreError> {
        todo!("S1")
    }
    /// A snapshot not older than `revision`; waits up to 3 s, then `StoreError::Future`.
    pub async fn at_least(&self, _revision: Revision) -> Result<Snapshot, StoreError> {
        todo!("S1")
    }
    /// A snapshot that contains every write acknowledged before the call (asks the store for its current revision).
    pub async fn consistent(&self) -> Result<Snapshot, StoreError> {
        todo!("S1")
    }
    /// The exact old revision, from the store (paged lists, `resourceVersionMatch=Exact`).
    pub async fn exact(&self, _revision: Revision) -> Result<Snapshot, StoreError> {
        todo!("S1")
    }
    /// Every change with revision above `after`; `Compacted` when the ring no longer reaches that far back.
    pub fn watch(&self, _after: Revision) -> Result<CacheWatch, StoreError> {
        todo!("S1")
    }
}

/// One watcher's bounded queue. `None` means it was too slow (or the cache restarted): the client gets a 410.
pub struct CacheWatch {
    // S1's
}

impl CacheWatch {
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<CacheEvent> {
        todo!("S1")
    }
}
