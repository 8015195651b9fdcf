//! Power cuts and disks that fail: a preloaded library keeps what was synced of each file; what else is left is chance.

use crate::child::{self, COUNTER, Running};
use crate::line::Line;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use skiff_shim::revision::Revision;
use skiff_shim::store::sqlite::tools;
use skiff_shim::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// An acknowledged write.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    revision: u64,
    durable: bool,
}

pub fn cut(rounds: u32, seed: u64) -> String {
    let home = tempfile::tempdir().unwrap();
    let library = build(home.path());
    let mut random = StdRng::seed_from_u64(seed);
    let mut written: BTreeMap<String, Acknowledged> = BTreeMap::new();
    let (mut newest, mut counted, mut lost) = (0, 0, 0);
    let mut disk = tempfile::tempdir().unwrap();
    for round in 0..rounds {
        let synced = tempfile::tempdir().unwrap();
        // What the last cut left is on the disk.
        copy_files(disk.path(), synced.path());
        let running = Running::start(disk.path(), round, &[], &environment(&library, disk.path(), synced.path()));
        let Some(Line::Ready(at)) = running.next() else { panic!("round {round}: the store did not open") };
        assert!(at >= newest, "round {round}: {at} may have been used before, {newest} was");
        for line in running.kill_after(random.random_range(0..600)) {
            match line {
                Line::Wrote { revision, key, durable } => {
                    newest = newest.max(revision);
                    written.insert(key, Acknowledged { revision, durable });
                }
                Line::Counted { revision, to } => {
                    newest = newest.max(revision);
                    counted = counted.max(to);
                }
                other => panic!("round {round}: {other}"),
            }
        }
        // A third of the disks have nothing but what was synced, the others random sectors of what was written since.
        let survival = if random.random_ratio(1, 3) { 0.0 } else { random.random_range(0.0..1.0) };
        let left = tempfile::tempdir().unwrap();
        assemble(disk.path(), synced.path(), left.path(), survival, &mut random);
        lost += judge(left.path(), &mut written, newest, counted, round);
        disk = left;
    }
    let durable = written.values().filter(|a| a.durable).count();
    format!(
        "{durable} ordinary writes acknowledged, none lost; {lost} lazy ones lost, their revisions refused and not used again"
    )
}

/// Opens a copy of what is left of the disk; forgets lazy writes that are gone, and tells how many.
fn judge(left: &Path, written: &mut BTreeMap<String, Acknowledged>, newest: u64, counted: u64, round: u32) -> usize {
    let copy = tempfile::tempdir().unwrap();
    copy_files(left, copy.path());
    let store = child::open(copy.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lost = runtime.block_on(async {
        let page = store.list("/registry/", None, None, 0).await.unwrap();
        let there: BTreeMap<&str, u64> = page.items.iter().map(|kv| (kv.key.name(), kv.revision.0)).collect();
        let mut lost = Vec::new();
        for (key, acknowledged) in written.iter() {
            match there.get(&**key) {
                Some(revision) => assert_eq!(*revision, acknowledged.revision, "round {round}: {key}"),
                None => {
                    assert!(
                        !acknowledged.durable,
                        "round {round}: {key} is lost, though acknowledged: {acknowledged:?}"
                    );
                    lost.push((key.clone(), acknowledged.revision));
                }
            }
        }
        for (key, revision) in &lost {
            let watch = store.watch("/registry/", Revision(*revision)).await;
            assert!(
                matches!(watch, Err(StoreError::Compacted { .. })),
                "round {round}: {key} at {revision} can be resumed"
            );
        }
        let counter = store.get(&child::key(COUNTER)).await.unwrap().1.map_or(0, |kv| child::number(&kv.value));
        assert!(counter >= counted, "round {round}: increments were lost: {counter} of {counted}");
        assert!(store.current().await.unwrap().0 >= newest, "round {round}: revisions up to {newest} were used");
        lost
    });
    drop(store);
    assert_eq!(tools::check(&copy.path().join(child::FILE)).unwrap(), Vec::<String>::new(), "round {round}");
    for (key, _) in &lost {
        written.remove(key);
    }
    lost.len()
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What the disk holds after the cut: of each file what was synced, and each later sector with that probability.
fn assemble(written: &Path, synced: &Path, left: &Path, survival: f64, random: &mut impl Rng) {
    for entry in fs::read_dir(synced).unwrap() {
        let name = entry.unwrap().file_name();
        // A copy that was under way belonged to a sync that never returned.
        if Path::new(&name).extension().is_some_and(|end| end == "part") {
            continue;
        }
        let mut bytes = fs::read(synced.join(&name)).unwrap();
        let now = fs::read(written.join(&name)).unwrap_or_default();
        for (index, sector) in now.chunks(SECTOR).enumerate() {
            let at = index * SECTOR;
            if survival > 0.0 && bytes.get(at..at + sector.len()) != Some(sector) && random.random_bool(survival) {
                bytes.resize(bytes.len().max(at + sector.len()), 0);
                bytes[at..at + sector.len()].copy_from_slice(sector);
            }
        }
        fs::write(left.join(&name), bytes).unwrap();
    }
}

/// A disk whose syncs fail from some moment on: writes are refused, and nothing acknowledged is lost.
pub fn fail() -> String {
    let home = tempfile::tempdir().unwrap();
    let library = build(home.path());
    let mut acknowledged = 0;
    for (round, syncs) in [25, 40, 80].into_iter().enumerate() {
        let (disk, synced, left) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut environment = environment(&library, disk.path(), synced.path());
        environment.push(("POWERCUT_EIO", PathBuf::from(syncs.to_string())));
        let running = Running::start(disk.path(), 0, &[], &environment);
        let mut written = BTreeMap::new();
        let (mut newest, mut counted, mut refused) = (0, 0, 0);
        // Every writer ends with the failure.
        while refused < child::WRITERS {
            match running.next().expect("the child lives on") {
                Line::Wrote { revision, key, durable } => {
                    newest = newest.max(revision);
                    written.insert(key, Acknowledged { revision, durable });
                }
                Line::Counted { revision, to } => {
                    newest = newest.max(revision);
                    counted = counted.max(to);
                }
                Line::Failed(why) => {
                    assert!(why.contains("the disk failed to sync a write"), "{why}");
                    refused += 1;
                }
                Line::Ready(_) => {}
                other => panic!("{other}"),
            }
        }
        running.kill_after(0);
        assemble(disk.path(), synced.path(), left.path(), 0.0, &mut StdRng::seed_from_u64(0));
        acknowledged += written.len();
        judge(left.path(), &mut written, newest, counted, u32::try_from(round).unwrap());
    }
    format!("{acknowledged} writes acknowledged before it failed, no ordinary one lost; all later ones refused")
}

/// Lazy writes that nothing follows are on the disk 5 s later, too.
pub fn idle() -> String {
    const WRITES: usize = 20;
    const PROMISE: Duration = Duration::from_secs(5);
    let home = tempfile::tempdir().unwrap();
    let library = build(home.path());
    let (disk, synced) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut environment = environment(&library, disk.path(), synced.path());
    environment.push((child::IDLE, PathBuf::from(WRITES.to_string())));
    let running = Running::start(disk.path(), 0, &[], &environment);
    let is_write = |line: &Line| matches!(line, Line::Wrote { .. });
    let written = std::iter::from_fn(|| running.next()).filter(is_write).take(WRITES).count();
    let at_once = durable(disk.path(), synced.path());
    std::thread::sleep(PROMISE);
    let later = durable(disk.path(), synced.path());
    running.kill_after(0);
    assert_eq!((written, later), (WRITES, WRITES));
    format!(
        "{WRITES} lazy writes with nothing after them: {at_once} on the disk at once, all of them {PROMISE:?} later"
    )
}

/// Keys that the disk would hold if the power went now.
fn durable(disk: &Path, synced: &Path) -> usize {
    let left = tempfile::tempdir().unwrap();
    assemble(disk, synced, left.path(), 0.0, &mut StdRng::seed_from_u64(0));
    let store = child::open(left.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(store.list("/registry/", None, None, 0)).unwrap().items.len()
}

fn environment(library: &Path, disk: &Path, synced: &Path) -> Vec<(&'static str, PathBuf)> {
    let real = |path: &Path| fs::canonicalize(path).unwrap();
    vec![("LD_PRELOAD", library.to_owned()), ("POWERCUT_FROM", real(disk)), ("POWERCUT_TO", real(synced))]
}

/// Compiles the library; the C compiler is there, since SQLite was built with it.
fn build(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/powercut.c");
    let library = dir.join("powercut.so");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library).arg(source).status();
    assert!(status.expect("cc").success(), "powercut.c does not compile");
    library
}
