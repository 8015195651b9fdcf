//! The store: trait, engines and the watch cache above them (DESIGN decisions 3 and 5).

pub mod cache;
#[cfg(test)]
mod conformance;
pub mod copy;
pub mod etcd;
mod hub;
pub mod key;
pub mod measured;
pub mod memory;
#[cfg(test)]
mod properties;
pub mod sqlite;
pub mod translated;

use crate::revision::Revision;
use async_trait::async_trait;
use bytes::Bytes;
use key::StoreKey;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// What must hold of the key for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Absent,
    At(Revision),
    Any,
}

/// How durable a write is when it is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// fsynced before the acknowledgement.
    Ordinary,
    /// Written to the log before the acknowledgement, fsynced within 5 s: Events, and Leases in `kube-node-lease`.
    Lazy,
}

/// One write of one key; `put: None` deletes.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: StoreKey,
    pub expect: Expect,
    pub put: Option<Bytes>,
    /// The key disappears this long after the write.
    pub ttl: Option<Duration>,
    pub class: Class,
}

/// A key's value with the revision that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    pub key: StoreKey,
    pub revision: Revision,
    pub value: Bytes,
}

/// A change of one key. `put: None` is a deletion; `previous` is the value before it, when there was one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub key: StoreKey,
    pub revision: Revision,
    pub put: Option<Bytes>,
    pub previous: Option<KeyValue>,
}

/// A message of a watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Watched {
    /// All events of one revision, or of several, in revision order.
    Events(Vec<Event>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

/// A page of a list, consistent at `revision`.
#[derive(Clone, Debug)]
pub struct Page {
    pub revision: Revision,
    pub items: Vec<KeyValue>,
    /// More keys follow the last item.
    pub more: bool,
}

/// What a caller of the store can branch on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `expect` did not hold; the key's current entry, if it has one.
    #[error("the key was changed by another writer")]
    Lost(Option<KeyValue>),
    /// The revision asked for has been compacted away.
    #[error("the revision has been compacted; the oldest kept is {oldest}")]
    Compacted { oldest: Revision },
    /// A revision from the future was asked for.
    #[error("revision {asked} is ahead of the store's {current}")]
    Future { asked: Revision, current: Revision },
    #[error("the store is full: {0}")]
    Full(String),
    /// The value is larger than the engine takes; the engine's own words.
    #[error("{0}")]
    TooLarge(String),
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// A watch: ends (None) or errs when it can no longer be gap-free.
#[async_trait]
pub trait WatchStream: Send {
    async fn next(&mut self) -> Option<Result<Watched, StoreError>>;
}

/// Six verbs over ordered keys (DESIGN decision 5); each engine passes `conformance`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn get(&self, key: &StoreKey) -> Result<(Revision, Option<KeyValue>), StoreError>;
    /// Keys that start with `prefix`, in order, after `after` (exclusive), at most `limit` (0: all), at `at` or latest.
    async fn list(
        &self,
        prefix: &str,
        at: Option<Revision>,
        after: Option<&StoreKey>,
        limit: usize,
    ) -> Result<Page, StoreError>;
    /// Returns the revision of the write once it is as durable as its class says.
    async fn commit(&self, write: Write) -> Result<Revision, StoreError>;
    /// Every event with a revision above `after` whose key starts with `prefix`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn WatchStream>, StoreError>;
    async fn compact(&self, below: Revision) -> Result<(), StoreError>;
    /// The newest revision (linearizable).
    async fn current(&self) -> Result<Revision, StoreError>;
    /// Makes everything acknowledged durable and releases files; no calls follow.
    async fn close(&self) -> Result<(), StoreError>;
    /// Where `at` is a revision that an unclean end may have lost (it may have been seen, but its write is gone): the first
    /// one after that range. Nothing can be listed at or watched from such a revision.
    fn lost(&self, _at: Revision) -> Option<Revision> {
        None
    }
    /// Adds the engine's own metrics, under etcd's names where they exist.
    fn register(&self, _registry: &mut Registry) {}
}
