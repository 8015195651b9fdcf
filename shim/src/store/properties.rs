//! Random operations, compactions and reopenings, held against a plain model: what the six verbs mean, in one screen.

use super::key::StoreKey;
use super::{Class, Event, Expect, KeyValue, Store, StoreError, WatchStream, Watched, Write};
use crate::revision::Revision;
use async_trait::async_trait;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Sequences tried, unless PROPTEST_CASES says otherwise.
const CASES: u32 = 32;
/// Operations of the longest sequence.
const OPERATIONS: usize = 80;
/// Few keys, so that they meet; prefixes cut between and through them.
const KEYS: [&str; 6] =
    ["pods/a/x", "pods/a/y", "pods/aa/x", "minions/x", "services/specs/a/x", "services/endpoints/a/x"];
const PREFIXES: [&str; 5] =
    ["/registry/", "/registry/pods/", "/registry/pods/a/", "/registry/services/specs/", "/registry/none/"];

/// An engine, and how it ends and comes back.
#[async_trait]
pub(super) trait Subject {
    fn store(&self) -> Arc<dyn Store>;
    /// Ends the store, cleanly or as `kill -9` would, and opens what is left of it; false (and nothing done) for an engine
    /// that nothing is left of.
    async fn reopen(&mut self, cleanly: bool) -> bool;
}

/// Which of the revisions that were seen an operation is about, counted back from the newest; beyond all: one ahead.
type Back = prop::sample::Index;

#[derive(Clone, Debug)]
enum Op {
    Commit { key: usize, expect: Meant, put: Option<u8>, lazy: bool },
    List { prefix: usize, at: Option<Back>, page: usize },
    Watch { prefix: usize, after: Back },
    Compact { below: Back },
    Reopen { cleanly: bool },
}

/// An expectation relative to what is there.
#[derive(Clone, Copy, Debug)]
enum Meant {
    Absent,
    Current,
    Stale,
    Any,
}

fn op() -> impl Strategy<Value = Op> {
    let back = any::<Back>;
    let meant = prop::sample::select(vec![Meant::Absent, Meant::Current, Meant::Stale, Meant::Any, Meant::Any]);
    prop_oneof![
        10 => (0..KEYS.len(), meant, prop::option::weighted(0.7, any::<u8>()), any::<bool>())
            .prop_map(|(key, expect, put, lazy)| Op::Commit { key, expect, put, lazy }),
        4 => (0..PREFIXES.len(), prop::option::of(back()), 0..4_usize)
            .prop_map(|(prefix, at, page)| Op::List { prefix, at, page }),
        3 => (0..PREFIXES.len(), back()).prop_map(|(prefix, after)| Op::Watch { prefix, after }),
        1 => back().prop_map(|below| Op::Compact { below }),
        1 => any::<bool>().prop_map(|cleanly| Op::Reopen { cleanly }),
    ]
}

/// Everything that ever happened, and from where on the store must still know it.
struct Model {
    log: Vec<(Revision, StoreKey, Option<Bytes>)>,
    /// Every revision that a caller has seen, in order.
    seen: Vec<Revision>,
    oldest: Revision,
    /// Revisions skipped at an unclean end: exclusive bounds.
    gaps: Vec<(Revision, Revision)>,
}

impl Model {
    fn current(&self) -> Revision {
        *self.seen.last().expect("there is always one")
    }

    fn at(&self, revision: Revision) -> BTreeMap<StoreKey, KeyValue> {
        let mut map = BTreeMap::new();
        for (revision, key, put) in self.log.iter().take_while(|(r, ..)| *r <= revision) {
            match put {
                Some(value) => {
                    map.insert(key.clone(), KeyValue { key: key.clone(), revision: *revision, value: value.clone() })
                }
                None => map.remove(key),
            };
        }
        map
    }

    fn events(&self, prefix: &str, after: Revision) -> Vec<Event> {
        let mut map: BTreeMap<StoreKey, KeyValue> = BTreeMap::new();
        let mut events = Vec::new();
        for (revision, key, put) in &self.log {
            let previous = match put {
                Some(value) => {
                    map.insert(key.clone(), KeyValue { key: key.clone(), revision: *revision, value: value.clone() })
                }
                None => map.remove(key),
            };
            if *revision > after && key.as_str().starts_with(prefix) {
                events.push(Event { key: key.clone(), revision: *revision, put: put.clone(), previous });
            }
        }
        events
    }

    /// One of the seen revisions, one within a gap, or one ahead of all.
    fn pick(&self, back: Back) -> Revision {
        let mut all = self.seen.clone();
        all.extend(self.gaps.iter().map(|(below, above)| Revision(below.0.midpoint(above.0))));
        all.push(Revision(self.current().0 + 7));
        *back.get(&all)
    }

    /// Whether reading at `revision` must be refused, and how.
    fn refusal(&self, revision: Revision) -> Option<&'static str> {
        let lost = self.gaps.iter().any(|(below, above)| *below < revision && revision < *above);
        if revision < self.oldest || lost {
            Some("compacted")
        } else if revision > self.current() {
            Some("future")
        } else {
            None
        }
    }
}

fn name(error: &StoreError) -> &'static str {
    match error {
        StoreError::Compacted { .. } => "compacted",
        StoreError::Future { .. } => "future",
        StoreError::Lost(_)
        | StoreError::Full(_)
        | StoreError::TooLarge(_)
        | StoreError::Corrupt(_)
        | StoreError::Unavailable(_) => "other",
    }
}

fn key(index: usize) -> StoreKey {
    StoreKey::from_stored(&format!("/registry/{}", KEYS[index]))
}

/// Runs random sequences against stores that `make` makes; the shortest failing one is shown.
pub(super) fn hold<S: Subject>(make: impl AsyncFn() -> S) {
    hold_one_in(1, make);
}

/// The same for an engine whose sequences take longer: so many times fewer of them.
pub(super) fn hold_one_in<S: Subject>(fewer: u32, make: impl AsyncFn() -> S) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    let cases = cases.div_ceil(fewer);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runner.run(&vec(op(), 1..OPERATIONS), |ops| {
        runtime.block_on(async { Play::start(make().await).await.run(ops).await });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

struct Play<S> {
    subject: S,
    model: Model,
    /// A watch of everything that is resumed after each reopening, and how many changes it has told.
    live: Box<dyn WatchStream>,
    told: usize,
}

impl<S: Subject> Play<S> {
    async fn start(subject: S) -> Self {
        let first = subject.store().current().await.unwrap();
        let live = subject.store().watch("/registry/", first).await.unwrap();
        let model = Model { log: Vec::new(), seen: vec![first], oldest: first, gaps: Vec::new() };
        Self { subject, model, live, told: 0 }
    }

    async fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Commit { key, expect, put, lazy } => self.commit(key, expect, put, lazy).await,
                Op::List { prefix, at, page } => self.list(PREFIXES[prefix], at, page).await,
                Op::Watch { prefix, after } => self.watch(PREFIXES[prefix], after).await,
                Op::Compact { below } => self.compact(below).await,
                Op::Reopen { cleanly } => self.reopen(cleanly).await,
            }
        }
        self.catch_up().await;
        let now = self.model.at(self.model.current());
        for (index, name) in KEYS.iter().enumerate() {
            let got = self.subject.store().get(&key(index)).await.unwrap().1;
            assert_eq!(got.as_ref(), now.get(&key(index)), "get {name}");
        }
        self.subject.store().close().await.unwrap();
    }

    async fn commit(&mut self, index: usize, meant: Meant, put: Option<u8>, lazy: bool) {
        let key = key(index);
        let have = self.model.at(self.model.current()).remove(&key);
        let expect = match (meant, &have) {
            (Meant::Absent, _) => Expect::Absent,
            (Meant::Any, _) => Expect::Any,
            (Meant::Current, Some(kv)) => Expect::At(kv.revision),
            (Meant::Stale, Some(kv)) => Expect::At(Revision(kv.revision.0 - 1)),
            (Meant::Current | Meant::Stale, None) => Expect::At(self.model.current()),
        };
        let holds = match expect {
            Expect::Absent => have.is_none(),
            Expect::At(revision) => have.as_ref().is_some_and(|kv| kv.revision == revision),
            Expect::Any => true,
        } && (put.is_some() || have.is_some());
        let put = put.map(|byte| Bytes::from(vec![byte; 1 + usize::from(byte)]));
        let class = if lazy { Class::Lazy } else { Class::Ordinary };
        let write = Write { key: key.clone(), expect, put: put.clone(), ttl: None, class };
        match self.subject.store().commit(write).await {
            Ok(revision) => {
                assert!(holds, "{key} was written at {revision} against {expect:?}, having {have:?}");
                assert!(revision > self.model.current(), "{revision} is not new");
                self.model.log.push((revision, key, put));
                self.model.seen.push(revision);
            }
            Err(StoreError::Lost(current)) => {
                assert!(!holds, "{key} lost against nobody");
                assert_eq!(current, have);
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(self.subject.store().current().await.unwrap(), self.model.current());
    }

    async fn list(&self, prefix: &str, back: Option<Back>, limit: usize) {
        let store = self.subject.store();
        let at = back.map(|back| self.model.pick(back));
        let shown = at.unwrap_or(self.model.current());
        let wanted: Vec<KeyValue> =
            self.model.at(shown).into_values().filter(|kv| kv.key.as_str().starts_with(prefix)).collect();
        let (mut got, mut after) = (Vec::new(), None);
        loop {
            let page = match store.list(prefix, at, after.as_ref(), limit).await {
                Ok(page) => page,
                Err(error) => {
                    return assert_eq!(Some(name(&error)), self.model.refusal(shown), "list at {shown}: {error}");
                }
            };
            assert_eq!(self.model.refusal(shown), None, "listed at {shown}");
            assert_eq!(page.revision, shown);
            assert!(limit == 0 || page.items.len() <= limit);
            got.extend(page.items);
            after = got.last().map(|kv| kv.key.clone());
            assert_eq!(page.more, got.len() < wanted.len());
            if !page.more {
                break;
            }
        }
        assert_eq!(got, wanted, "{prefix} at {shown}");
    }

    async fn watch(&self, prefix: &str, back: Back) {
        let after = self.model.pick(back);
        let mut watch = match self.subject.store().watch(prefix, after).await {
            Ok(watch) => watch,
            Err(error) => return assert_eq!(Some(name(&error)), self.model.refusal(after), "watch after {after}"),
        };
        assert_eq!(self.model.refusal(after), None, "watched after {after}");
        let wanted = self.model.events(prefix, after);
        assert_eq!(read(&mut watch, wanted.len()).await, wanted, "{prefix} after {after}");
    }

    async fn compact(&mut self, back: Back) {
        // A watch that lags behind a compaction may end: this one shall not lag.
        self.catch_up().await;
        let below = self.model.pick(back);
        match self.subject.store().compact(below).await {
            Ok(()) => {
                assert!(below <= self.model.current());
                self.model.oldest = self.model.oldest.max(below);
            }
            Err(error) => assert_eq!((name(&error), below > self.model.current()), ("future", true), "{error}"),
        }
    }

    async fn reopen(&mut self, cleanly: bool) {
        self.catch_up().await;
        if !self.subject.reopen(cleanly).await {
            return;
        }
        let (before, now) = (self.model.current(), self.subject.store().current().await.unwrap());
        assert!(now >= before && (now == before || !cleanly), "{before}, then {now}");
        if now > before {
            self.model.seen.push(now);
        }
        if now.0 > before.0 + 1 {
            self.model.gaps.push((before, now));
        }
        // Where the watch had got to, if that is still kept.
        let last = self.model.log.last().map_or(self.model.seen[0], |(revision, ..)| *revision);
        let resume = if last < self.model.oldest { now } else { last };
        self.live = self.subject.store().watch("/registry/", resume).await.unwrap();
        // Nothing has happened since: it says so, and depends on no history from then on.
        if resume < now {
            let message =
                tokio::time::timeout(Duration::from_secs(10), self.live.next()).await.expect("progress in time");
            assert!(matches!(message, Some(Ok(Watched::Progress(at))) if at == now), "{message:?}");
        }
    }

    async fn catch_up(&mut self) {
        let all = self.model.events("/registry/", Revision(0));
        assert_eq!(read(&mut self.live, all.len() - self.told).await, all[self.told..], "the live watch");
        self.told = all.len();
    }
}

/// The next `n` events of a watch; progress may not run ahead of them.
async fn read(watch: &mut Box<dyn WatchStream>, n: usize) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    let mut passed = Revision(0);
    while seen.len() < n {
        let message = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event in time");
        match message.expect("the watch lives").expect("the watch is well") {
            Watched::Events(events) => {
                assert!(events.iter().all(|event| event.revision > passed), "{events:?} after {passed}");
                seen.extend(events);
            }
            Watched::Progress(revision) => passed = passed.max(revision),
        }
    }
    seen
}

/// The property test of an engine; `$subject` (which may await) makes a fresh `Subject`.
macro_rules! properties {
    ($subject:expr) => {
        #[test]
        fn random_operations_agree_with_a_plain_model() {
            $crate::store::properties::hold(async || $subject);
        }
    };
}
pub(super) use properties;

mod memory {
    use super::*;
    use crate::store::memory::MemoryStore;

    struct Memory(Arc<MemoryStore>);

    #[async_trait]
    impl Subject for Memory {
        fn store(&self) -> Arc<dyn Store> {
            self.0.clone()
        }
        async fn reopen(&mut self, _: bool) -> bool {
            false
        }
    }

    properties!(Memory(Arc::new(MemoryStore::new())));
}
