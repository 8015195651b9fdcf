//! The cache over the reference engine: visibility, snapshots, resumption, slow watchers.

use super::*;
use crate::store::memory::MemoryStore;
use crate::store::{Class, Expect, Write};
use bytes::Bytes;

fn spec(prefix: &str) -> CacheSpec {
    CacheSpec {
        prefix: prefix.into(),
        index: Arc::new(|object| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().into();
            let fields = [("metadata.name", &object["metadata"]["name"]), ("data", &object["data"])];
            (Default::default(), fields.map(|(field, value)| (field.into(), text(value))).into())
        }),
        indexed: Some("data"),
    }
}

fn scope(cache: &ResourceCache, namespace: Option<&str>, fields: &str) -> Scope {
    cache.scope(true, namespace, &FieldSelector::parse(fields).unwrap())
}

fn watch(cache: &ResourceCache, after: Revision) -> Result<CacheWatch, StoreError> {
    cache.watch(after, scope(cache, None, ""))
}

async fn next(watch: &mut CacheWatch) -> Arc<Change> {
    watch.next().await.expect("a change").change.clone()
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

async fn names_at(cache: &ResourceCache, revision: Revision) -> Vec<String> {
    match cache.exact(revision).await.unwrap() {
        At::Memory(snapshot) => names(&snapshot),
        At::Store(_) => panic!("the ring reaches back so far"),
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
        assert_eq!(entry.field("metadata.name"), Some("s"));
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
        assert_eq!(names_at(&pods, a).await, ["a", "zero"]);
        assert_eq!(names_at(&pods, b).await, ["a", "b", "zero"]);
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
        let mut watcher = watch(&pods, start).unwrap();
        let b = store.commit(put("pods", "a", 1)).await.unwrap();
        let c = store.commit(delete("pods", "a")).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let change = next(&mut watcher).await;
            seen.push((change.revision, change.old.as_ref().map(|e| e.revision), change.new.is_some()));
        }
        assert_eq!(seen, [(a, None, true), (b, Some(a), true), (c, Some(b), false)]);
    })
    .await;
}

#[tokio::test]
async fn an_idle_watch_can_ask_for_its_progress() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let start = pods.consistent().await.unwrap().revision;
        let mut watcher = watch(&pods, start).unwrap();
        assert_eq!(watcher.progress(), Some(start));
        let revision = store.commit(put("services/specs", "s", 0)).await.unwrap();
        pods.at_least(revision).await.unwrap();
        assert_eq!(watcher.progress(), Some(revision));
        let revision = store.commit(put("pods", "a", 0)).await.unwrap();
        pods.at_least(revision).await.unwrap();
        assert_eq!(watcher.progress(), None, "a change waits");
        assert_eq!(next(&mut watcher).await.revision, revision);
        assert_eq!(watcher.progress(), Some(revision));
    })
    .await;
}

#[tokio::test]
async fn a_slow_watcher_ends_and_holds_up_nobody() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let start = pods.consistent().await.unwrap().revision;
        let (mut slow, mut fast) = (watch(&pods, start).unwrap(), watch(&pods, start).unwrap());
        for i in 0..20 {
            let revision = store.commit(put("pods", &format!("p{i}"), 1 << 20)).await.unwrap();
            assert_eq!(next(&mut fast).await.revision, revision);
        }
        assert_eq!(pods.consistent().await.unwrap().map.len(), 21);
        assert!(slow.next().await.is_none(), "nothing is kept for a watcher that has ended");
        let stats = pods.stats();
        assert_eq!((stats.terminated, stats.watchers, stats.objects, stats.received), (1, 1, 21, 20));
    })
    .await;
}

#[tokio::test]
async fn a_watch_is_handed_only_what_may_concern_it() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let start = pods.consistent().await.unwrap().revision;
        let other = Write { key: StoreKey::object("pods", Some("e"), "a"), ..put("pods", "a", 0) };
        store.commit(put("pods", "a", 1)).await.unwrap();
        pods.consistent().await.unwrap();
        let scopes = [(None, ""), (Some("d"), ""), (Some("d"), "metadata.name=a"), (None, "data=x"), (None, "data=xx")];
        let mut watchers =
            scopes.map(|(namespace, fields)| pods.watch(start, scope(&pods, namespace, fields)).unwrap());
        for write in [put("pods", "a", 2), put("pods", "b", 1), other, delete("pods", "a")] {
            store.commit(write).await.unwrap();
        }
        let end = pods.consistent().await.unwrap().revision;
        let mut seen = Vec::new();
        for watcher in &mut watchers {
            let mut keys = String::new();
            while watcher.progress().is_none() {
                let change = next(watcher).await;
                keys.push_str(change.key().unwrap().name());
                keys.push_str(if change.new.is_some() { "" } else { "-" });
            }
            assert_eq!(watcher.progress(), Some(end));
            seen.push(keys);
        }
        // The first change came from the ring, which is not sorted by field: the selector does the rest.
        assert_eq!(seen, ["aabaa-", "aaba-", "aaa-", "aab", "aaa-"]);
    })
    .await;
}

#[tokio::test]
async fn the_watchers_of_a_change_share_its_frames() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let start = pods.consistent().await.unwrap().revision;
        let (mut one, mut two) = (watch(&pods, start).unwrap(), watch(&pods, start).unwrap());
        store.commit(put("pods", "a", 1)).await.unwrap();
        let (one, two) = (one.next().await.unwrap(), two.next().await.unwrap());
        let version = crate::gvr::GroupVersion { group: "", version: "v1" };
        let shape = Shape { version, meta: "", event: "ADDED", form: "json" };
        let make = || Ok::<_, StoreError>(Bytes::from(vec![1, 2, 3]));
        assert_eq!(one.frame(shape, make).unwrap().as_ptr(), two.frame(shape, make).unwrap().as_ptr());
    })
    .await;
}

#[tokio::test]
async fn a_resource_can_be_added_and_removed_while_others_are_followed() {
    with_caches(async |store, caches| {
        let early = store.commit(put("example.com/things", "before", 0)).await.unwrap();
        let missed = store.commit(put("example.com/things", "before", 1)).await.unwrap();
        assert!(caches.of("example.com/things").is_none());
        let things = caches.add(spec("example.com/things")).await.unwrap();
        assert_eq!(names(&things.consistent().await.unwrap()), ["before"]);
        let mut watcher = watch(&caches.of("example.com/things").unwrap(), early).unwrap();
        assert_eq!(next(&mut watcher).await.revision, missed, "watches resume from before it was added");
        let revision = store.commit(put("example.com/things", "after", 0)).await.unwrap();
        assert_eq!(next(&mut watcher).await.revision, revision);
        assert_eq!(names(&things.consistent().await.unwrap()), ["after", "before"]);
        caches.remove("example.com/things");
        assert!(watcher.next().await.is_none());
        assert!(caches.of("example.com/things").is_none());
    })
    .await;
}

#[tokio::test]
async fn what_the_ring_has_forgotten_is_read_from_the_store() {
    with_caches(async |store, caches| {
        let pods = caches.of("pods").unwrap();
        let first = store.commit(put("pods", "first", 0)).await.unwrap();
        for n in 0..1200 {
            store.commit(put("pods", &format!("p{}", n % 7), 0)).await.unwrap();
        }
        pods.consistent().await.unwrap();
        let At::Store(past) = pods.exact(first).await.unwrap() else { panic!("the ring is shorter") };
        let mut names = Vec::new();
        let take = |entry: Arc<Entry>| {
            names.push(entry.key.name().to_owned());
            true
        };
        past.read("/registry/pods/d/", None, take).await.unwrap();
        assert_eq!(names, ["first", "zero"]);
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
        let mut watcher = watch(&pods, seen).unwrap();
        let live = store.commit(put("pods", "b", 0)).await.unwrap();
        let mut changes = Vec::new();
        for _ in 0..3 {
            let change = next(&mut watcher).await;
            changes.push((change.revision, change.old.as_ref().map(|e| e.revision), change.new.is_some()));
        }
        assert_eq!(changes, [(missed, Some(seen), true), (gone, Some(first), false), (live, None, true)]);
        assert!(matches!(watch(&pods, first), Err(StoreError::Compacted { oldest }) if oldest == seen));
    };
    tokio::select! {
        () = feed => unreachable!("the feed runs until it is dropped"),
        () = body => {}
    }
}
