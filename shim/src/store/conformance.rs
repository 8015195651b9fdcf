//! One suite that every engine passes: the meaning of the six verbs.

use super::key::StoreKey;
use super::{Class, Event, Expect, KeyValue, Store, StoreError, WatchStream, Watched, Write};
use crate::revision::Revision;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn key(name: &str) -> StoreKey {
    StoreKey::object("pods", Some("d"), name)
}

pub(super) fn write(name: &str, expect: Expect, value: Option<&str>) -> Write {
    Write {
        key: key(name),
        expect,
        put: value.map(|v| Bytes::copy_from_slice(v.as_bytes())),
        ttl: None,
        class: Class::Ordinary,
    }
}

pub(super) fn put(name: &str, value: &str) -> Write {
    write(name, Expect::Any, Some(value))
}

pub(super) fn delete(name: &str) -> Write {
    write(name, Expect::Any, None)
}

fn text(kv: &KeyValue) -> (String, String) {
    (kv.key.name().to_owned(), String::from_utf8(kv.value.to_vec()).unwrap())
}

fn pairs(items: &[KeyValue]) -> Vec<(String, String)> {
    items.iter().map(text).collect()
}

fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// The next `n` events; progress messages between them must not run ahead.
pub(super) async fn events(watch: &mut Box<dyn WatchStream>, n: usize) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    while seen.len() < n {
        let message = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event in time");
        match message.expect("the watch lives").expect("the watch is well") {
            Watched::Events(events) => seen.extend(events),
            Watched::Progress(_) => {}
        }
    }
    assert!(seen.is_sorted_by_key(|e| e.revision), "{seen:?}");
    seen
}

pub(super) async fn expectations_hold_or_return_the_current_entry(store: Arc<dyn Store>) {
    let first = store.commit(write("a", Expect::Absent, Some("1"))).await.unwrap();
    let Err(StoreError::Lost(Some(have))) = store.commit(write("a", Expect::Absent, Some("x"))).await else {
        panic!("created twice")
    };
    assert_eq!((have.revision, text(&have)), (first, ("a".to_owned(), "1".to_owned())));
    let second = store.commit(write("a", Expect::At(first), Some("2"))).await.unwrap();
    assert!(second > first);
    let Err(StoreError::Lost(Some(have))) = store.commit(write("a", Expect::At(first), None)).await else {
        panic!("deleted at an old revision")
    };
    assert_eq!((have.revision, text(&have).1), (second, "2".to_owned()));
    let third = store.commit(write("a", Expect::At(second), None)).await.unwrap();
    assert!(third > second);
    let (at, gone) = store.get(&key("a")).await.unwrap();
    assert!(at >= third && gone.is_none());
    for expect in [Expect::At(third), Expect::Any, Expect::Absent] {
        let put = write("a", expect, None);
        assert!(matches!(store.commit(put).await, Err(StoreError::Lost(None))), "{expect:?}");
    }
    let again = store.commit(write("a", Expect::Absent, Some("3"))).await.unwrap();
    assert!(again > third);
    assert_eq!(store.get(&key("a")).await.unwrap().1.unwrap().revision, again);
    assert!(store.current().await.unwrap() >= again);
}

pub(super) async fn pages_are_consistent_at_a_revision(store: Arc<dyn Store>) {
    for (name, value) in [("c", "1"), ("a", "1"), ("e", "1"), ("b", "1")] {
        store.commit(put(name, value)).await.unwrap();
    }
    let page = store.list("/registry/pods/d/", None, None, 2).await.unwrap();
    assert_eq!((pairs(&page.items), page.more), (own(&[("a", "1"), ("b", "1")]), true));
    let at = page.revision;
    store.commit(put("c", "2")).await.unwrap();
    store.commit(put("c", "3")).await.unwrap();
    store.commit(delete("e")).await.unwrap();
    store.commit(delete("a")).await.unwrap();
    store.commit(put("d", "2")).await.unwrap();
    store.commit(put("a", "2")).await.unwrap();
    let page = store.list("/registry/pods/d/", Some(at), Some(&key("b")), 2).await.unwrap();
    assert_eq!((pairs(&page.items), page.more, page.revision), (own(&[("c", "1"), ("e", "1")]), false, at));
    let page = store.list("/registry/pods/d/", Some(at), None, 0).await.unwrap();
    assert_eq!(pairs(&page.items), own(&[("a", "1"), ("b", "1"), ("c", "1"), ("e", "1")]));
    let page = store.list("/registry/pods/d/", None, None, 0).await.unwrap();
    assert_eq!(pairs(&page.items), own(&[("a", "2"), ("b", "1"), ("c", "3"), ("d", "2")]));
    let ahead = Revision(store.current().await.unwrap().0 + 100);
    assert!(matches!(store.list("/registry/", Some(ahead), None, 0).await, Err(StoreError::Future { .. })));
}

pub(super) async fn prefixes_are_isolated(store: Arc<dyn Store>) {
    let start = store.current().await.unwrap();
    let keys = [("pods", Some("d")), ("pods", Some("dd")), ("podtemplates", Some("d")), ("minions", None)];
    for (prefix, namespace) in keys {
        let write = Write { key: StoreKey::object(prefix, namespace, "x"), ..put("x", "1") };
        store.commit(write).await.unwrap();
    }
    for (prefix, n) in [("/registry/pods/d/", 1), ("/registry/pods/", 2), ("/registry/", 4), ("/registry/minions/", 1)]
    {
        assert_eq!(store.list(prefix, None, None, 0).await.unwrap().items.len(), n, "{prefix}");
        let mut watch = store.watch(prefix, start).await.unwrap();
        let seen = events(&mut watch, n).await;
        assert!(seen.len() == n && seen.iter().all(|e| e.key.as_str().starts_with(prefix)), "{prefix}: {seen:?}");
    }
}

pub(super) async fn a_watch_from_any_kept_revision_has_previous_values(store: Arc<dyn Store>) {
    let mut revisions = vec![store.current().await.unwrap()];
    let mut live = store.watch("/registry/pods/", revisions[0]).await.unwrap();
    for write in [put("a", "1"), put("a", "2"), put("b", "1"), delete("a"), put("a", "3")] {
        revisions.push(store.commit(write).await.unwrap());
    }
    let want = [
        ("a", Some("1"), None),
        ("a", Some("2"), Some(("1", 1))),
        ("b", Some("1"), None),
        ("a", None, Some(("2", 2))),
        ("a", Some("3"), None),
    ];
    let show = |e: &Event| {
        let value = |b: &Bytes| String::from_utf8(b.to_vec()).unwrap();
        let previous = e.previous.as_ref().map(|p| (value(&p.value), p.revision));
        (e.key.name().to_owned(), e.revision, e.put.as_ref().map(value), previous)
    };
    let expect: Vec<_> = want
        .iter()
        .zip(&revisions[1..])
        .map(|((name, value, previous), revision)| {
            let previous = previous.map(|(v, i): (&str, usize)| (v.to_owned(), revisions[i]));
            ((*name).to_owned(), *revision, value.map(str::to_owned), previous)
        })
        .collect();
    assert_eq!(events(&mut live, 5).await.iter().map(show).collect::<Vec<_>>(), expect);
    for from in 0..5 {
        let mut watch = store.watch("/registry/pods/", revisions[from]).await.unwrap();
        let seen: Vec<_> = events(&mut watch, 5 - from).await.iter().map(show).collect();
        assert_eq!(seen, expect[from..], "from {from}");
    }
    // History runs into live events without a gap or a repetition.
    let mut watch = store.watch("/registry/pods/", revisions[0]).await.unwrap();
    let next = store.commit(put("c", "1")).await.unwrap();
    let seen: Vec<_> = events(&mut watch, 6).await.iter().map(|e| e.revision).collect();
    assert_eq!((&seen[..5], seen[5]), (&revisions[1..], next));
}

pub(super) async fn an_idle_watch_makes_progress(store: Arc<dyn Store>) {
    let start = store.current().await.unwrap();
    let mut watch = store.watch("/registry/minions/", start).await.unwrap();
    let revision = store.commit(put("a", "1")).await.unwrap();
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        let Watched::Progress(at) = message else { panic!("not of this prefix: {message:?}") };
        if at >= revision {
            break;
        }
    }
}

pub(super) async fn compaction_keeps_what_is_newer(store: Arc<dyn Store>) {
    let a1 = store.commit(put("a", "1")).await.unwrap();
    let a2 = store.commit(put("a", "2")).await.unwrap();
    let b1 = store.commit(put("b", "1")).await.unwrap();
    let gone = store.commit(delete("b")).await.unwrap();
    let a3 = store.commit(put("a", "3")).await.unwrap();
    store.compact(b1).await.unwrap();
    for old in [a1, a2] {
        let listed = store.list("/registry/", Some(old), None, 0).await;
        assert!(matches!(listed, Err(StoreError::Compacted { oldest }) if oldest == b1), "{listed:?}");
        assert!(matches!(store.watch("/registry/", old).await, Err(StoreError::Compacted { .. })));
    }
    let page = store.list("/registry/", Some(b1), None, 0).await.unwrap();
    assert_eq!(pairs(&page.items), own(&[("a", "2"), ("b", "1")]));
    let mut watch = store.watch("/registry/", b1).await.unwrap();
    let seen = events(&mut watch, 2).await;
    assert_eq!((seen[0].revision, seen[1].revision), (gone, a3));
    assert_eq!(seen[0].previous.as_ref().map(text), Some(("b".to_owned(), "1".to_owned())));
    let current = store.current().await.unwrap();
    store.compact(current).await.unwrap();
    let page = store.list("/registry/", Some(current), None, 0).await.unwrap();
    assert_eq!(pairs(&page.items), own(&[("a", "3")]));
    assert!(store.commit(put("a", "4")).await.unwrap() > current);
    let ahead = Revision(store.current().await.unwrap().0 + 100);
    assert!(matches!(store.compact(ahead).await, Err(StoreError::Future { .. })));
}

pub(super) async fn a_key_disappears_when_its_time_is_up(store: Arc<dyn Store>) {
    let start = store.current().await.unwrap();
    let mut watch = store.watch("/registry/", start).await.unwrap();
    let ttl = Some(Duration::from_millis(20));
    store.commit(Write { ttl, ..put("renewed", "1") }).await.unwrap();
    let kept = store.commit(put("renewed", "2")).await.unwrap();
    store.commit(Write { ttl, class: Class::Lazy, ..put("short", "1") }).await.unwrap();
    let seen = events(&mut watch, 4).await;
    assert_eq!((seen[3].key.name(), seen[3].put.is_none()), ("short", true));
    assert!(seen[3].previous.is_some());
    assert!(store.get(&key("short")).await.unwrap().1.is_none());
    assert_eq!(store.get(&key("renewed")).await.unwrap().1.unwrap().revision, kept);
}

pub(super) async fn concurrent_commits_get_distinct_revisions_in_order(store: Arc<dyn Store>) {
    const WRITERS: usize = 16;
    const EACH: usize = 8;
    let start = store.current().await.unwrap();
    let mut watch = store.watch("/registry/", start).await.unwrap();
    let counter = async |writer: usize| {
        let mut revisions = Vec::new();
        // Every writer also increments one shared key, with retries: no increment may be lost.
        for i in 0..EACH {
            let class = if i % 2 == 0 { Class::Ordinary } else { Class::Lazy };
            let own = Write { class, ..put(&format!("w{writer}-{i}"), "x") };
            revisions.push(store.commit(own).await.unwrap());
            let mut have = store.get(&key("shared")).await.unwrap().1;
            loop {
                let (expect, n) = match &have {
                    None => (Expect::Absent, 0),
                    Some(kv) => (Expect::At(kv.revision), text(kv).1.parse::<usize>().unwrap()),
                };
                match store.commit(write("shared", expect, Some(&(n + 1).to_string()))).await {
                    Ok(revision) => break revisions.push(revision),
                    Err(StoreError::Lost(current)) => have = current,
                    Err(other) => panic!("{other}"),
                }
            }
        }
        revisions
    };
    let all = futures::future::join_all((0..WRITERS).map(counter)).await;
    assert!(all.iter().all(|r| r.is_sorted()));
    let mut revisions: Vec<_> = all.into_iter().flatten().collect();
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), WRITERS * EACH * 2);
    let shared = store.get(&key("shared")).await.unwrap().1.unwrap();
    assert_eq!(text(&shared).1, (WRITERS * EACH).to_string());
    let seen: Vec<_> = events(&mut watch, revisions.len()).await.iter().map(|e| e.revision).collect();
    assert_eq!(seen, revisions);
}

/// Makes a test of each of the suite's cases for an engine; `$open` yields a guard and the store.
macro_rules! conformance {
    ($open:expr) => {
        $crate::store::conformance::conformance!($open;
            expectations_hold_or_return_the_current_entry,
            pages_are_consistent_at_a_revision,
            prefixes_are_isolated,
            a_watch_from_any_kept_revision_has_previous_values,
            an_idle_watch_makes_progress,
            compaction_keeps_what_is_newer,
            a_key_disappears_when_its_time_is_up,
            concurrent_commits_get_distinct_revisions_in_order,
        );
    };
    ($open:expr; $($case:ident,)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (_guard, store) = $open;
                $crate::store::conformance::$case(store).await;
            }
        )*
    };
}
pub(super) use conformance;

mod memory {
    use std::sync::Arc;
    super::conformance!(((), Arc::new(crate::store::memory::MemoryStore::new())));
}
