//! `kill -9` at random moments: every acknowledged write is there once, revisions grow, watches go on without a gap.

use crate::child::{self, COUNTER, Running};
use crate::line::Line;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use skiff_shim::revision::Revision;
use skiff_shim::store::sqlite::tools;
use skiff_shim::store::{Event, Store, Watched};
use std::collections::{BTreeMap, HashSet};

const WATCHES: usize = 4;

/// What one watch was told, over all children.
#[derive(Default)]
struct Seen {
    events: Vec<(u64, String)>,
    /// Where it resumes: its last event, or a later revision that it was told to have passed.
    after: u64,
}

/// All that the children told.
struct Told {
    written: BTreeMap<String, u64>,
    counted: BTreeMap<u64, u64>,
    watches: Vec<Seen>,
}

pub fn run(rounds: u32, seed: u64) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut told = Told { written: BTreeMap::new(), counted: BTreeMap::new(), watches: Vec::new() };
    let mut newest = 0;
    for round in 0..rounds {
        let resume: Vec<u64> = told.watches.iter().map(|watch| watch.after).collect();
        let running = Running::start(dir.path(), round, &resume, &[]);
        let Some(Line::Ready(at)) = running.next() else { panic!("round {round}: the store did not open") };
        assert!(at >= newest, "round {round}: revisions went back from {newest} to {at}");
        if told.watches.is_empty() {
            // From the second child on they are there; the first one's changes they read as history.
            told.watches = (0..WATCHES).map(|_| Seen { events: Vec::new(), after: at }).collect();
        }
        // From the first moments on to some thousand changes, each of which every watch tells of.
        for line in running.kill_after(random.random_range(0..4000)) {
            told.hear(line, round);
        }
        newest = told.written.values().chain(told.counted.values()).copied().max().unwrap_or(at).max(at);
    }
    told.judge(dir.path(), newest)
}

impl Told {
    fn hear(&mut self, line: Line, round: u32) {
        match line {
            Line::Wrote { revision, key, .. } => {
                assert_eq!(self.written.insert(key, revision), None, "round {round}: acknowledged twice");
            }
            Line::Counted { revision, to } => {
                assert_eq!(self.counted.insert(to, revision), None, "round {round}: two increments to {to}");
            }
            Line::Saw { watch, revision, key } => {
                let seen = &mut self.watches[watch];
                assert!(revision > seen.after, "round {round}: watch {watch} got {revision} after {}", seen.after);
                seen.after = revision;
                seen.events.push((revision, key));
            }
            Line::Passed { watch, revision } => {
                let seen = &mut self.watches[watch];
                assert!(revision >= seen.after, "round {round}: watch {watch} passed {revision} after {}", seen.after);
                seen.after = revision;
            }
            Line::Refused { watch } => {
                panic!("round {round}: watch {watch} was refused at {}", self.watches[watch].after)
            }
            Line::Failed(why) => panic!("round {round}: {why}"),
            Line::Ready(_) => panic!("round {round}: ready twice"),
        }
    }

    fn judge(mut self, dir: &std::path::Path, newest: u64) -> String {
        let revisions: HashSet<u64> = self.written.values().chain(self.counted.values()).copied().collect();
        assert_eq!(revisions.len(), self.written.len() + self.counted.len(), "a revision was given twice");
        let store = child::open(dir);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let current = store.current().await.unwrap();
            assert!(current.0 >= newest);
            let page = store.list("/registry/", None, None, 0).await.unwrap();
            let there: BTreeMap<&str, u64> = page.items.iter().map(|kv| (kv.key.name(), kv.revision.0)).collect();
            for (key, revision) in &self.written {
                assert_eq!(there.get(&**key), Some(revision), "{key} was acknowledged at {revision}");
            }
            let counter = store.get(&child::key(COUNTER)).await.unwrap().1.map_or(0, |kv| child::number(&kv.value));
            assert!(self.counted.keys().max().is_none_or(|max| *max <= counter), "increments were lost");
            for seen in &mut self.watches {
                finish(&store, seen, current).await;
            }
        });
        let whole = &self.watches[0].events;
        for (number, seen) in self.watches.iter().enumerate() {
            assert_eq!(seen.events.len(), whole.len(), "watch {number} has another history than watch 0");
            assert!(seen.events == *whole, "watch {number} has another history than watch 0");
        }
        let history: HashSet<u64> = whole.iter().map(|(revision, _)| *revision).collect();
        assert!(revisions.is_subset(&history), "the watches missed an acknowledged change");
        drop(store);
        assert_eq!(tools::check(&dir.join(child::FILE)).unwrap(), Vec::<String>::new());
        format!(
            "{} writes and {} increments acknowledged, {} changes seen by each of {WATCHES} watches; none lost or doubled",
            self.written.len(),
            self.counted.len(),
            whole.len(),
        )
    }
}

/// Resumes a watch once more, until it has seen everything up to `current`.
async fn finish(store: &dyn Store, seen: &mut Seen, current: Revision) {
    let mut watch = store.watch("/registry/", Revision(seen.after)).await.unwrap();
    while seen.after < current.0 {
        match watch.next().await.unwrap().unwrap() {
            Watched::Events(events) => {
                for Event { key, revision, .. } in events {
                    assert!(revision.0 > seen.after);
                    seen.after = revision.0;
                    seen.events.push((revision.0, key.name().to_owned()));
                }
            }
            Watched::Progress(revision) => seen.after = seen.after.max(revision.0),
        }
    }
}
