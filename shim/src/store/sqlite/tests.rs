//! The SQLite engine beyond the common suite: reopening, kills, power loss, locks, refused files, durability upkeep.

use super::*;
use crate::store::conformance::{self, delete, events, key, put};
use crate::store::{Class, Expect};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const BOOT: &str = "boot-1";

fn open_at(dir: &TempDir) -> SqliteStore {
    SqliteStore::open_in_boot(&dir.path().join("store.db"), BOOT).unwrap()
}

fn fresh() -> (TempDir, Arc<dyn Store>) {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    (dir, Arc::new(store))
}

conformance::conformance!(fresh());

/// What a kill leaves behind: the files as they are while the store is open.
fn copy(dir: &TempDir) -> TempDir {
    let copy = TempDir::new().unwrap();
    for name in ["store.db", "store.db-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    copy
}

async fn names(store: &dyn Store) -> Vec<String> {
    let page = store.list("/registry/", None, None, 0).await.unwrap();
    page.items.iter().map(|kv| kv.key.name().to_owned()).collect()
}

#[tokio::test]
async fn everything_is_there_after_a_close_and_reopen() {
    for clean in [true, false] {
        let dir = TempDir::new().unwrap();
        let store = open_at(&dir);
        let a = store.commit(put("a", "1")).await.unwrap();
        store.commit(put("b", "1")).await.unwrap();
        let last = store.commit(delete("b")).await.unwrap();
        store.compact(last).await.unwrap();
        if clean {
            store.close().await.unwrap();
            assert!(matches!(store.commit(put("x", "1")).await, Err(StoreError::Unavailable(_))));
        }
        drop(store);
        let store = open_at(&dir);
        assert_eq!(names(&store).await, ["a"]);
        assert_eq!(store.get(&key("a")).await.unwrap().1.unwrap().revision, a);
        assert_eq!(store.current().await.unwrap(), last);
        assert!(store.commit(put("a", "2")).await.unwrap() > last);
        let mut watch = store.watch("/registry/", last).await.unwrap();
        assert_eq!(events(&mut watch, 1).await[0].previous.as_ref().map(|p| p.revision), Some(a));
    }
}

#[tokio::test]
async fn a_kill_loses_nothing_acknowledged_and_skips_no_revision() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let mut last = Revision(0);
    for i in 0..20 {
        let class = if i % 3 == 0 { Class::Ordinary } else { Class::Lazy };
        last = store.commit(Write { class, ..put(&format!("k{i:02}"), "1") }).await.unwrap();
    }
    let killed = copy(&dir);
    let again = open_at(&killed);
    assert_eq!(names(&again).await.len(), 20);
    assert_eq!(again.current().await.unwrap(), last);
    assert_eq!(again.commit(put("next", "1")).await.unwrap(), Revision(last.0 + 1));
}

#[tokio::test]
async fn after_a_power_loss_no_revision_is_used_twice_and_lost_ones_are_gone() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let durable = store.commit(put("durable", "1")).await.unwrap();
    let at_cut = copy(&dir);
    let mut lazy = durable;
    for i in 0..5 {
        lazy = store.commit(Write { class: Class::Lazy, ..put(&format!("lazy{i}"), "1") }).await.unwrap();
    }
    // The machine starts anew with what was on disk before the lazy writes.
    let again = SqliteStore::open_in_boot(&at_cut.path().join("store.db"), "boot-2").unwrap();
    assert_eq!(names(&again).await, ["durable"]);
    let current = again.current().await.unwrap();
    assert!(current > lazy);
    for lost in [Revision(durable.0 + 1), lazy, Revision(current.0 - 1)] {
        assert!(matches!(again.watch("/registry/", lost).await, Err(StoreError::Compacted { .. })), "{lost}");
        let listed = again.list("/registry/", Some(lost), None, 0).await;
        assert!(matches!(listed, Err(StoreError::Compacted { oldest }) if oldest == current), "{listed:?}");
    }
    let next = again.commit(put("next", "1")).await.unwrap();
    assert_eq!(next, Revision(current.0 + 1));
    let mut watch = again.watch("/registry/", durable).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision, next);
    // A clean stop and start in yet another boot keeps the lost range lost, and jumps no further.
    again.close().await.unwrap();
    drop(again);
    let again = SqliteStore::open_in_boot(&at_cut.path().join("store.db"), "boot-3").unwrap();
    assert_eq!(again.current().await.unwrap(), next);
    assert!(matches!(again.watch("/registry/", lazy).await, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn reservations_are_renewed_under_load() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let writes = (0..schema::RESERVE + 100)
        .map(|i| store.commit(Write { class: Class::Lazy, ..put(&format!("k{}", i % 10), "1") }));
    let revisions: Vec<_> = futures::future::join_all(writes).await.into_iter().map(Result::unwrap).collect();
    let last = revisions.into_iter().max().unwrap();
    let at_cut = copy(&dir);
    let again = SqliteStore::open_in_boot(&at_cut.path().join("store.db"), "boot-2").unwrap();
    assert!(again.current().await.unwrap() > last);
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_file() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let path = dir.path().join("store.db");
    let Err(error) = SqliteStore::open(&path) else { panic!("opened twice") };
    let pid = std::process::id();
    assert_eq!(error.to_string(), format!("the store {} is in use by process {pid}: stop it first", path.display()));
    drop(store);
    SqliteStore::open(&path).unwrap();
}

#[tokio::test]
async fn files_are_private() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    store.commit(put("a", "1")).await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused_with_the_remedy() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 4] = [
        ("written by a newer skiff (format 99, this one knows 1)", |path| {
            rusqlite::Connection::open(path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        }),
        ("another program's database", |path| {
            rusqlite::Connection::open(path).unwrap().pragma_update(None, "application_id", 7).unwrap();
        }),
        ("is damaged", |path| std::fs::write(path, "not a database, and long enough to tell".repeat(200)).unwrap()),
        ("is damaged", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[4096..].fill(0x5a);
            std::fs::write(path, bytes).unwrap();
        }),
    ];
    for (want, spoil) in spoil {
        let dir = TempDir::new().unwrap();
        let store = open_at(&dir);
        store.commit(put("a", "1")).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let path = dir.path().join("store.db");
        spoil(&path);
        let Err(error) = SqliteStore::open(&path) else { panic!("opened: {want}") };
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends_and_holds_up_no_writer() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let mut watch = store.watch("/registry/", store.current().await.unwrap()).await.unwrap();
    for i in 0..1100 {
        store.commit(Write { class: Class::Lazy, ..put("k", &i.to_string()) }).await.unwrap();
    }
    let mut seen = 0;
    while let Some(message) = watch.next().await {
        seen += usize::from(matches!(message.unwrap(), super::super::Watched::Events(_)));
    }
    assert_eq!(seen, 1024);
}

#[tokio::test]
async fn keys_that_expired_while_closed_are_deleted_at_open() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let ttl = Some(Duration::from_millis(1));
    let write = Write { ttl, expect: Expect::Absent, ..put("a", "1") };
    let revision = store.commit(write).await.unwrap();
    drop(store);
    let store = open_at(&dir);
    let mut watch = store.watch("/registry/", revision).await.unwrap();
    assert!(events(&mut watch, 1).await[0].put.is_none());
}

#[tokio::test]
async fn a_failed_transaction_leaves_a_gap_that_nobody_waits_for() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let a = store.commit(put("a", "1")).await.unwrap();
    let fault = "CREATE TRIGGER fault BEFORE INSERT ON log WHEN NEW.key LIKE '%/bad'
        BEGIN SELECT RAISE(ABORT, 'no'); END";
    rusqlite::Connection::open(dir.path().join("store.db")).unwrap().execute_batch(fault).unwrap();
    assert!(matches!(store.commit(put("bad", "1")).await, Err(StoreError::Unavailable(_))));
    let lost = Write { expect: Expect::Absent, ..put("a", "2") };
    assert!(matches!(store.commit(lost).await, Err(StoreError::Lost(Some(_)))));
    assert_eq!(store.current().await.unwrap(), a);
    let mut watch = store.watch("/registry/", a).await.unwrap();
    let next = store.commit(put("a", "2")).await.unwrap();
    assert!(next.0 > a.0 + 1);
    assert_eq!(events(&mut watch, 1).await[0].revision, next);
}
