//! Copies everything from one store to another, of whatever engines: every key as it was at one revision.

use super::key::{CLAIMS, StoreKey, resource_of};
use super::{Class, Expect, Store, StoreError, Write};
use crate::revision::Revision;
use futures::{StreamExt, TryStreamExt, stream};
use std::time::Duration;

/// Everything that Kubernetes keeps; what else lies in an etcd is not ours to copy.
pub const PREFIX: &str = "/registry/";
/// Keys read at once.
const PAGE: usize = 500;
/// Writes under way at once: they share syncs where the target commits in groups.
const WRITES: usize = 64;
/// How long copied events live on (`--event-ttl`'s default): what was left of their time the source does not tell.
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("reading the source: {0}; nothing of it was changed")]
    Source(#[source] StoreError),
    #[error("the source compacted revision {0} away during the copy: empty the target and start again")]
    Overtaken(Revision),
    #[error("writing {key} to the target: {source}; empty the target before another try")]
    Target {
        key: StoreKey,
        #[source]
        source: StoreError,
    },
    #[error("the target is not empty: it holds {0}; copy to an empty one")]
    NotEmpty(StoreKey),
}

/// What is done so far, of what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub keys: u64,
    pub bytes: u64,
    pub of_keys: u64,
    pub of_bytes: u64,
}

/// Copies every key under `/registry/` as it was at `at` to an empty store, and tells how far it got after each page.
/// The target gives the keys revisions of its own.
///
/// # Errors
/// When either store fails, the target holds keys already, or the source no longer keeps that revision.
pub async fn copy(
    from: &dyn Store,
    to: &dyn Store,
    at: Revision,
    mut told: impl FnMut(Progress),
) -> Result<Progress, CopyError> {
    let there = to.list(PREFIX, None, None, 1).await;
    let there = there.map_err(|source| CopyError::Target { key: StoreKey::from_stored(PREFIX), source })?;
    if let Some(kv) = there.items.into_iter().next() {
        return Err(CopyError::NotEmpty(kv.key));
    }
    let mut progress = Progress::default();
    pages(from, at, async |page| {
        progress.of_keys += page.len() as u64;
        progress.of_bytes += page.iter().map(weight).sum::<u64>();
        Ok(())
    })
    .await?;
    told(progress);
    pages(from, at, async |page| {
        let (keys, bytes) = (page.len() as u64, page.iter().map(weight).sum::<u64>());
        stream::iter(page)
            .map(|write| async move {
                let key = write.key.clone();
                to.commit(write).await.map_err(|source| CopyError::Target { key, source })
            })
            .buffer_unordered(WRITES)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        progress.keys += keys;
        progress.bytes += bytes;
        told(progress);
        Ok(())
    })
    .await?;
    Ok(progress)
}

fn weight(write: &Write) -> u64 {
    write.put.as_ref().map_or(0, |put| put.len() as u64)
}

/// Hands every page of the source at that revision on, as the writes that make it again.
async fn pages(
    from: &dyn Store,
    at: Revision,
    mut each: impl AsyncFnMut(Vec<Write>) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let mut after = None;
    loop {
        let page = from.list(PREFIX, Some(at), after.as_ref(), PAGE).await.map_err(|error| match error {
            StoreError::Compacted { .. } => CopyError::Overtaken(at),
            other => CopyError::Source(other),
        })?;
        after = page.items.last().map(|kv| kv.key.clone());
        // A claim is about a request that this server or another is at: the copy is about neither.
        let items = page.items.into_iter().filter(|kv| resource_of(kv.key.as_str()) != CLAIMS);
        let writes = items.map(|kv| Write {
            ttl: (resource_of(kv.key.as_str()) == "events").then_some(EVENT_TTL),
            key: kv.key,
            expect: Expect::Absent,
            put: Some(kv.value),
            class: Class::Ordinary,
        });
        each(writes.collect()).await?;
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{delete, put, write};
    use crate::store::memory::MemoryStore;

    async fn all(store: &dyn Store) -> Vec<(String, String)> {
        let page = store.list(PREFIX, None, None, 0).await.unwrap();
        page.items.iter().map(|kv| (kv.key.to_string(), String::from_utf8_lossy(&kv.value).into_owned())).collect()
    }

    #[tokio::test]
    async fn every_key_arrives_as_it_was_at_that_revision() {
        let (from, to) = (MemoryStore::new(), MemoryStore::new());
        for i in 0..1200 {
            from.commit(put(&format!("k{i:04}"), &i.to_string())).await.unwrap();
        }
        let foreign = Write { key: StoreKey::from_stored("compact_rev_key"), ..put("x", "1") };
        from.commit(foreign).await.unwrap();
        let claim = StoreKey::object(CLAIMS, Some("nodeports"), "30000");
        from.commit(Write { key: claim.clone(), ..put("x", "1") }).await.unwrap();
        let at = from.current().await.unwrap();
        let mut before = all(&from).await;
        before.retain(|(key, _)| key != claim.as_str());
        for change in [put("k0000", "changed"), delete("k0001"), put("late", "1")] {
            from.commit(change).await.unwrap();
        }
        let mut told = Vec::new();
        let done = copy(&from, &to, at, |progress| told.push(progress)).await.unwrap();
        assert_eq!(all(&to).await, before);
        assert_eq!((done.keys, done.of_keys, done.bytes), (1200, 1200, done.of_bytes));
        assert_eq!(told.iter().map(|p| p.keys).collect::<Vec<_>>(), [0, 500, 1000, 1200]);
        let again = copy(&from, &to, at, |_| {}).await;
        assert!(matches!(again, Err(CopyError::NotEmpty(_))), "{again:?}");
    }

    #[tokio::test]
    async fn a_compacted_source_is_no_source() {
        let (from, to) = (MemoryStore::new(), MemoryStore::new());
        let at = from.commit(put("a", "1")).await.unwrap();
        let last = from.commit(put("a", "2")).await.unwrap();
        from.compact(last).await.unwrap();
        assert!(matches!(copy(&from, &to, at, |_| {}).await, Err(CopyError::Overtaken(_))));
        assert!(all(&to).await.is_empty());
    }

    #[tokio::test]
    async fn events_expire_in_the_copy_too() {
        let (from, to) = (MemoryStore::new(), MemoryStore::new());
        let key = StoreKey::object("events", Some("d"), "e");
        let at = from.commit(Write { key: key.clone(), ..write("e", Expect::Any, Some("1")) }).await.unwrap();
        let seen = std::sync::Mutex::new(Vec::new());
        pages(&from, at, async |page| {
            seen.lock().unwrap().extend(page.iter().map(|w| (w.key.clone(), w.ttl)));
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(seen.into_inner().unwrap(), [(key, Some(EVENT_TTL))]);
        copy(&from, &to, at, |_| {}).await.unwrap();
    }
}
