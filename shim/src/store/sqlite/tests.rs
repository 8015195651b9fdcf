//! The SQLite engine beyond the common suite: reopening, kills, power loss, locks, refused files, durability upkeep.

use super::*;
use crate::store::conformance::{self, delete, events, key, put};
use crate::store::properties;
use crate::store::{Class, Expect};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("store.db")
}

fn open_at(dir: &TempDir) -> SqliteStore {
    SqliteStore::open(&file(dir), SqliteOptions::default()).unwrap()
}

fn open_with(dir: &TempDir, options: SqliteOptions) -> SqliteStore {
    SqliteStore::open(&file(dir), options).unwrap()
}

fn fresh() -> (TempDir, Arc<dyn Store>) {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    (dir, Arc::new(store))
}

conformance::conformance!(fresh());

/// A store in a directory of its own.
struct Sqlite(TempDir, Option<Arc<SqliteStore>>);

impl Sqlite {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(open_at(&dir));
        Self(dir, Some(store))
    }
}

#[async_trait]
impl properties::Subject for Sqlite {
    fn store(&self) -> Arc<dyn Store> {
        self.1.clone().unwrap()
    }
    async fn reopen(&mut self, cleanly: bool) -> bool {
        let left = (!cleanly).then(|| copy(&self.0));
        // Dropping the last handle closes the file.
        self.1 = None;
        if let Some(left) = left {
            self.0 = left;
        }
        self.1 = Some(Arc::new(open_at(&self.0)));
        true
    }
}

properties::properties!(Sqlite::new());

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
async fn a_kill_loses_nothing_acknowledged_and_watches_resume() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let mut revisions = Vec::new();
    for i in 0..20 {
        let class = if i % 3 == 0 { Class::Ordinary } else { Class::Lazy };
        revisions.push(store.commit(Write { class, ..put(&format!("k{i:02}"), "1") }).await.unwrap());
    }
    let killed = copy(&dir);
    let again = open_at(&killed);
    assert_eq!(names(&again).await.len(), 20);
    let mut watch = again.watch("/registry/", revisions[4]).await.unwrap();
    let next = again.commit(put("next", "1")).await.unwrap();
    let seen: Vec<_> = events(&mut watch, 16).await.iter().map(|event| event.revision).collect();
    assert_eq!((&seen[..15], seen[15]), (&revisions[5..], next));
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
    let again = open_at(&at_cut);
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
    // A clean stop and start keeps the lost range lost, and jumps no further.
    again.close().await.unwrap();
    drop(again);
    let again = open_at(&at_cut);
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
    let again = open_at(&at_cut);
    assert!(again.current().await.unwrap() > last);
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_file() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    let path = dir.path().join("store.db");
    let Err(error) = SqliteStore::open(&path, SqliteOptions::default()) else { panic!("opened twice") };
    let pid = std::process::id();
    assert_eq!(error.to_string(), format!("the store {} is in use by process {pid}: stop it first", path.display()));
    drop(store);
    SqliteStore::open(&path, SqliteOptions::default()).unwrap();
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
    let spoil: [(&str, Spoil); 6] = [
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
        ("is damaged", |path| std::fs::File::options().write(true).open(path).unwrap().set_len(3 * 4096).unwrap()),
        ("is damaged (the file is empty)", |path| std::fs::write(path, "").unwrap()),
    ];
    for (want, spoil) in spoil {
        let dir = TempDir::new().unwrap();
        let store = open_at(&dir);
        store.commit(put("a", "1")).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let path = dir.path().join("store.db");
        spoil(&path);
        let Err(error) = SqliteStore::open(&path, SqliteOptions::default()) else { panic!("opened: {want}") };
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
async fn at_its_quota_the_store_refuses_puts_but_reads_deletes_and_frees_space() {
    let dir = TempDir::new().unwrap();
    let store = open_with(&dir, SqliteOptions { quota_bytes: 1 << 20, ..SqliteOptions::default() });
    let value = "x".repeat(20_000);
    let mut made = 0;
    let refusal = loop {
        match store.commit(put(&format!("k{made:03}"), &value)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    let StoreError::Full(text) = &refusal else { panic!("{refusal}") };
    assert!(text.contains("the quota is 1048576") && text.contains("--quota-backend-bytes"), "{text}");
    assert!((30..60).contains(&made), "{made} fit");
    assert!(matches!(store.commit(put("k000", &value)).await, Err(StoreError::Full(_))), "updates are puts, too");
    assert_eq!(names(&store).await.len(), made);
    for i in 0..10 {
        store.commit(delete(&format!("k{i:03}"))).await.unwrap();
    }
    store.commit(put("again", &value)).await.unwrap();
    // What it replaced over and over is history, which goes before anything is refused.
    for _ in 0..200 {
        store.commit(put("again", &value)).await.unwrap();
    }
    assert_eq!(names(&store).await.len(), made - 9);
}

#[tokio::test]
async fn history_is_kept_by_count_and_its_space_is_given_back() {
    let dir = TempDir::new().unwrap();
    let store = open_with(&dir, SqliteOptions { history_revisions: 1000, ..SqliteOptions::default() });
    let start = store.current().await.unwrap();
    let value = "x".repeat(2000);
    let update = |i: usize| store.commit(Write { class: Class::Lazy, ..put(&format!("k{}", i % 10), &value) });
    for round in 0..20 {
        futures::future::join_all((0..500).map(|i| update(round * 500 + i)))
            .await
            .into_iter()
            .for_each(|result| assert!(result.is_ok(), "{result:?}"));
    }
    assert!(matches!(store.watch("/registry/", start).await, Err(StoreError::Compacted { .. })));
    let current = store.current().await.unwrap();
    store.watch("/registry/", Revision(current.0 - 400)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let size = std::fs::metadata(file(&dir)).unwrap().len();
    assert!(size < 8 << 20, "{size} bytes for 10 keys and 1000 revisions of 2 kB");
}

#[tokio::test]
async fn history_is_kept_by_age() {
    for (history, gone) in [(Duration::ZERO, true), (Duration::from_secs(300), false)] {
        let dir = TempDir::new().unwrap();
        let store = open_with(&dir, SqliteOptions { history, ..SqliteOptions::default() });
        let first = store.commit(put("a", "1")).await.unwrap();
        store.commit(put("a", "2")).await.unwrap();
        // Between two requests the writer looks what is old by now: it notes the newest revision, then compacts to it.
        for _ in 0..3 {
            store.compact(Revision(1)).await.unwrap();
        }
        let watch = store.watch("/registry/", first).await;
        assert_eq!(matches!(watch, Err(StoreError::Compacted { .. })), gone, "{history:?}");
        assert_eq!(names(&store).await, ["a"]);
    }
}

#[tokio::test]
async fn a_lost_race_does_not_pass_for_the_sync_of_a_lazy_write() {
    let dir = TempDir::new().unwrap();
    let store = open_at(&dir);
    store.commit(put("a", "1")).await.unwrap();
    let synced = || {
        let mut registry = Registry::default();
        store.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find(|line| line.starts_with("etcd_disk_wal_fsync_duration_seconds_count")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = synced();
    store.commit(Write { class: Class::Lazy, ..put("b", "1") }).await.unwrap();
    let lost = Write { expect: Expect::Absent, ..put("a", "2") };
    assert!(matches!(store.commit(lost).await, Err(StoreError::Lost(Some(_)))));
    assert_eq!(synced(), before, "neither was synced");
    store.commit(put("a", "2")).await.unwrap();
    assert_eq!(synced(), before + 1);
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
