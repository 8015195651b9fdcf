//! The cache over the reference engine: visibility, snapshots, resumption, slow watchers.

use super::*;
use crate::store::memory::MemoryStore;
use crate::store::{Class, Expect, Write};
use bytes::Bytes;

fn spec(prefix: &'static str) -> CacheSpec {
    CacheSpec {
        prefix,
        index: Arc::new(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            (Default::default(), [("metadata.name".into(), name.into())].into())
        }),
    }
}

fn put(prefix: &str, name: &str, size: usize) -> Write {
    let value =
        format!(r#"{{"kind":"K","apiVersion":"v1","metadata":{{"name":"{name}"}},"data":"{}"}}"#, "x".repeat(size));
    Write {
        key: StoreKey::object(prefix, Some("d"), name),
        expect: Expect::Any,
        put: Some(Bytes::from(value)),
        ttl: None,
        class: Class::Ordinary,
    }
}

fn delete(prefix: &str, name: &str) -> Write {
    Write { put: None, ..put(prefix, name, 0) }
}

/// Runs `body` with caches of `pods` and `services/specs`, the feed beside it.
async fn with_caches<F: Future<Output = ()>>(body: impl FnOnce(Arc<dyn Store>, Caches) -> F) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    store.commit(put("pods", "zero", 0)).await.unwrap();
    let (caches, feed) = Caches::start(store.clone(), vec![spec("pods"), spec("services/specs")]);
    tokio::select! {
        () = feed => unreachable!("the feed runs until it is dropped"),
        () = body(store, caches) => {}
    }
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.range("/registry/", None).map(|e| e.key.name().to_owned()).collect()
}

#[tokio::test]
async fn a_write_is_in_the_next_consistent_snapshot_and_bears_its_revision() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let services = caches.of("services/specs").unwrap();
        let revision = store.commit(put("services/specs", "s", 0)).await.unwrap();
        let snapshot = services.consistent().await.unwrap();
        assert_eq!((names(&snapshot), snapshot.revision), (vec!["s".to_owned()], revision));
        let entry = snapshot.get(&StoreKey::object("services/specs", Some("d"), "s")).unwrap();
        let start =
            format!(r#"{{"kind":"K","apiVersion":"v1","metadata":{{"resourceVersion":"{revision}","name":"s"}}"#);
        assert!(entry.bytes.starts_with(start.as_bytes()));
        assert_eq!(entry.fields.get("metadata.name").map(|v| &**v), Some("s"));
        // The other resource has come as far, though nothing of it changed.
        let snapshot = pods.at_least(revision).await.unwrap();
        assert_eq!((names(&snapshot), snapshot.revision), (vec!["zero".to_owned()], revision));
        assert!(caches.of("secrets").is_none());
    })
    .await;
}

#[tokio::test]
async fn old_revisions_are_read_exactly_and_snapshots_do_not_move() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let first = pods.consistent().await.unwrap();
        let a = store.commit(put("pods", "a", 0)).await.unwrap();
        let b = store.commit(put("pods", "b", 0)).await.unwrap();
        store.commit(delete("pods", "zero")).await.unwrap();
        assert_eq!(names(&pods.consistent().await.unwrap()), ["a", "b"]);
        assert_eq!(names(&pods.exact(a).await.unwrap()), ["a", "zero"]);
        assert_eq!(names(&pods.exact(b).await.unwrap()), ["a", "b", "zero"]);
        assert_eq!(names(&first), ["zero"]);
        let after = StoreKey::object("pods", Some("d"), "a");
        let now = pods.latest().await.unwrap();
        assert_eq!(now.range("/registry/pods/d/", Some(&after)).count(), 1);
        assert_eq!(now.range("/registry/pods/other/", None).count(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_watch_resumes_from_the_ring_and_sees_old_and_new() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let start = pods.consistent().await.unwrap().revision;
        let a = store.commit(put("pods", "a", 0)).await.unwrap();
        pods.consistent().await.unwrap();
        let mut watch = pods.watch(start).unwrap();
        let b = store.commit(put("pods", "a", 1)).await.unwrap();
        let c = store.commit(delete("pods", "a")).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let Some(CacheEvent::Change(change)) = watch.next().await else { panic!("a change") };
            seen.push((change.revision, change.old.as_ref().map(|e| e.revision), change.new.is_some()));
        }
        assert_eq!(seen, [(a, None, true), (b, Some(a), true), (c, Some(b), false)]);
    })
    .await;
}

#[tokio::test]
async fn an_idle_watch_learns_of_progress() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let mut watch = pods.watch(pods.consistent().await.unwrap().revision).unwrap();
        assert_eq!(watch.progress(), None);
        let revision = store.commit(put("services/specs", "s", 0)).await.unwrap();
        pods.at_least(revision).await.unwrap();
        assert_eq!(watch.progress(), Some(revision));
        assert_eq!(watch.progress(), None);
        let revision = store.commit(put("services/specs", "t", 0)).await.unwrap();
        pods.at_least(revision).await.unwrap();
        tokio::time::pause();
        assert!(matches!(watch.next().await, Some(CacheEvent::Progress(r)) if r == revision));
    })
    .await;
}

#[tokio::test]
async fn a_slow_watcher_ends_and_holds_up_nobody() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let mut slow = pods.watch(pods.consistent().await.unwrap().revision).unwrap();
        for i in 0..20 {
            store.commit(put("pods", &format!("p{i}"), 1 << 20)).await.unwrap();
        }
        assert_eq!(pods.consistent().await.unwrap().map.len(), 21);
        let mut seen = 0;
        while let Some(event) = slow.next().await {
            seen += u32::from(matches!(event, CacheEvent::Change(_)));
        }
        assert!((1..20).contains(&seen), "{seen}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_from_the_future_is_refused_after_a_wait() {
    with_caches(async |_store, caches| {
        let pods = caches.of("pods").unwrap();
        let asked = Revision(1000);
        assert!(matches!(pods.at_least(asked).await, Err(StoreError::Future { asked: Revision(1000), .. })));
    })
    .await;
}

#[tokio::test]
async fn a_watch_resumes_across_a_restart_from_what_the_store_still_keeps() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let first = store.commit(put("pods", "zero", 0)).await.unwrap();
    let seen = store.commit(put("pods", "a", 0)).await.unwrap();
    let missed = store.commit(put("pods", "a", 1)).await.unwrap();
    let gone = store.commit(delete("pods", "zero")).await.unwrap();
    store.compact(seen).await.unwrap();
    let (caches, feed) = Caches::start(store.clone(), vec![spec("pods"), spec("services/specs")]);
    let body = async {
        let pods = caches.of("pods").unwrap();
        assert_eq!(names(&pods.latest().await.unwrap()), ["a"], "nobody sees the past that was loaded first");
        let mut watch = pods.watch(seen).unwrap();
        let live = store.commit(put("pods", "b", 0)).await.unwrap();
        let mut changes = Vec::new();
        for _ in 0..3 {
            let Some(CacheEvent::Change(change)) = watch.next().await else { panic!("a change") };
            changes.push((change.revision, change.old.as_ref().map(|e| e.revision), change.new.is_some()));
        }
        assert_eq!(changes, [(missed, Some(seen), true), (gone, Some(first), false), (live, None, true)]);
        assert!(matches!(pods.watch(first), Err(StoreError::Compacted { oldest }) if oldest == seen));
    };
    tokio::select! {
        () = feed => unreachable!("the feed runs until it is dropped"),
        () = body => {}
    }
}
