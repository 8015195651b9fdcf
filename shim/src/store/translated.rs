//! A store that other API servers write to as well: what they wrote is read through a codec, what we write is not.

use super::key::StoreKey;
use super::{Event, KeyValue, Page, Store, StoreError, WatchStream, Watched, Write};
use crate::revision::Revision;
use async_trait::async_trait;
use bytes::Bytes;
use prometheus_client::registry::Registry;

/// Gives a stored value as we would have written it; `None` where it is so already, or nobody can read it (the watch
/// cache then says so, and leaves it out).
pub type Codec = fn(&[u8]) -> Option<Bytes>;

/// The store behind a codec.
pub struct Translated<S> {
    inner: S,
    codec: Codec,
}

impl<S> Translated<S> {
    pub fn new(inner: S, codec: Codec) -> Self {
        Self { inner, codec }
    }
}

fn value(codec: Codec, value: &mut Bytes) {
    if let Some(read) = codec(value) {
        *value = read;
    }
}

fn event(codec: Codec, mut event: Event) -> Event {
    if let Some(put) = &mut event.put {
        value(codec, put);
    }
    if let Some(previous) = &mut event.previous {
        value(codec, &mut previous.value);
    }
    event
}

#[async_trait]
impl<S: Store> Store for Translated<S> {
    async fn get(&self, key: &StoreKey) -> Result<(Revision, Option<KeyValue>), StoreError> {
        let (at, mut have) = self.inner.get(key).await?;
        if let Some(kv) = &mut have {
            value(self.codec, &mut kv.value);
        }
        Ok((at, have))
    }

    async fn list(
        &self,
        prefix: &str,
        at: Option<Revision>,
        after: Option<&StoreKey>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut page = self.inner.list(prefix, at, after, limit).await?;
        for kv in &mut page.items {
            value(self.codec, &mut kv.value);
        }
        Ok(page)
    }

    async fn commit(&self, write: Write) -> Result<Revision, StoreError> {
        self.inner.commit(write).await.map_err(|error| match error {
            StoreError::Lost(Some(mut kv)) => {
                value(self.codec, &mut kv.value);
                StoreError::Lost(Some(kv))
            }
            other => other,
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn WatchStream>, StoreError> {
        let inner = self.inner.watch(prefix, after).await?;
        Ok(Box::new(TranslatedWatch { inner, codec: self.codec }))
    }

    async fn compact(&self, below: Revision) -> Result<(), StoreError> {
        self.inner.compact(below).await
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        self.inner.current().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }

    fn lost(&self, at: Revision) -> Option<Revision> {
        self.inner.lost(at)
    }

    fn register(&self, registry: &mut Registry) {
        self.inner.register(registry);
    }
}

struct TranslatedWatch {
    inner: Box<dyn WatchStream>,
    codec: Codec,
}

#[async_trait]
impl WatchStream for TranslatedWatch {
    async fn next(&mut self) -> Option<Result<Watched, StoreError>> {
        Some(match self.inner.next().await? {
            Ok(Watched::Events(events)) => {
                Ok(Watched::Events(events.into_iter().map(|one| event(self.codec, one)).collect()))
            }
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Expect;
    use crate::store::conformance::{delete, events, key, put, write};
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    /// Stands for any codec: foreign values begin with an `f`.
    fn codec(value: &[u8]) -> Option<Bytes> {
        value.strip_prefix(b"f").map(|rest| Bytes::from([b"own", rest].concat()))
    }

    #[tokio::test]
    async fn every_way_out_of_the_store_leads_through_the_codec() {
        let store: Arc<dyn Store> = Arc::new(Translated::new(MemoryStore::new(), codec));
        let start = store.current().await.unwrap();
        store.commit(put("a", "f1")).await.unwrap();
        assert_eq!(store.get(&key("a")).await.unwrap().1.unwrap().value, "own1");
        assert_eq!(store.list("/registry/", None, None, 0).await.unwrap().items[0].value, "own1");
        let lost = store.commit(write("a", Expect::Absent, Some("2"))).await;
        assert!(matches!(&lost, Err(StoreError::Lost(Some(kv))) if kv.value == "own1"), "{lost:?}");
        store.commit(put("a", "2")).await.unwrap();
        store.commit(delete("a")).await.unwrap();
        let mut watch = store.watch("/registry/", start).await.unwrap();
        let seen = events(&mut watch, 3).await;
        let show: Vec<_> = seen.into_iter().map(|e| (e.put, e.previous.map(|previous| previous.value))).collect();
        let text = Bytes::from_static;
        assert_eq!(
            show,
            [(Some(text(b"own1")), None), (Some(text(b"2")), Some(text(b"own1"))), (None, Some(text(b"2")))]
        );
    }
}
