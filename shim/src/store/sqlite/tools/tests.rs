//! The tools on real files: beside an open store, after it, and on damaged ones.

use super::*;
use crate::store::conformance::{delete, events, key, put};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Store, StoreError};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

async fn names(store: &SqliteStore) -> Vec<String> {
    let page = store.list("/registry/", None, None, 0).await.unwrap();
    page.items.iter().map(|kv| kv.key.name().to_owned()).collect()
}

/// A store with keys a and b (b updated once, c deleted), still open.
async fn filled(dir: &TempDir) -> (PathBuf, SqliteStore) {
    let path = dir.path().join("store.db");
    let store = open(&path);
    for write in [put("a", "1"), put("b", "1"), put("b", "22"), put("c", "1"), delete("c")] {
        store.commit(write).await.unwrap();
    }
    (path, store)
}

#[tokio::test]
async fn a_backup_beside_a_running_server_restores_to_what_was_there() {
    let dir = TempDir::new().unwrap();
    let (path, store) = filled(&dir).await;
    let copy = dir.path().join("backup.db");
    let at = store.current().await.unwrap();
    let made = backup(&path, &copy).unwrap();
    assert_eq!((made.revision, made.keys), (at, 2));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(backup(&path, &copy), Err(ToolError::Exists(_))));
    let later = store.commit(put("later", "1")).await.unwrap();
    let refused = restore(&copy, &path, 1000).unwrap_err();
    assert!(refused.to_string().contains(&format!("in use by process {}", std::process::id())), "{refused}");
    drop(store);

    let done = restore(&copy, &path, 1000).unwrap();
    assert!(done.keys == 2 && done.revision > later, "{done:?}");
    let store = open(&path);
    assert_eq!(names(&store).await, ["a", "b"]);
    assert_eq!(store.current().await.unwrap(), done.revision);
    // Who saw what the backup does not have lists anew; who stopped before goes on.
    assert!(matches!(store.watch("/registry/", later).await, Err(StoreError::Compacted { .. })));
    let mut watch = store.watch("/registry/", at).await.unwrap();
    let next = store.commit(put("next", "1")).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision, next);
    drop(store);
    // The replaced store is whole, and is not replaced in turn.
    let replaced = done.replaced.unwrap();
    assert_eq!(names(&open(&replaced)).await, ["a", "b", "later"]);
    assert_ne!(restore(&copy, &path, 1000).unwrap().replaced.unwrap(), replaced);
}

#[tokio::test]
async fn a_restore_on_a_new_machine_goes_on_far_above_the_backup() {
    let dir = TempDir::new().unwrap();
    let (path, store) = filled(&dir).await;
    let copy = dir.path().join("backup.db");
    let at = backup(&path, &copy).unwrap().revision;
    drop(store);
    let elsewhere = dir.path().join("new/store.db");
    let done = restore(&copy, &elsewhere, 1_000_000).unwrap();
    assert!(done.replaced.is_none() && done.revision.0 > at.0 + 1_000_000, "{done:?}");
    let store = open(&elsewhere);
    assert_eq!(store.get(&key("b")).await.unwrap().1.unwrap().value, "22".as_bytes());
    let between = Revision(at.0 + 500_000);
    assert!(matches!(store.watch("/registry/", between).await, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn a_damaged_store_is_replaced_and_kept_aside() {
    let dir = TempDir::new().unwrap();
    let (path, store) = filled(&dir).await;
    let copy = dir.path().join("backup.db");
    backup(&path, &copy).unwrap();
    drop(store);
    fs::write(&path, "not a database, and long enough to tell".repeat(200)).unwrap();
    let done = restore(&copy, &path, 10).unwrap();
    assert!(fs::read(done.replaced.unwrap()).unwrap().starts_with(b"not a database"));
    assert_eq!(names(&open(&path)).await, ["a", "b"]);
}

#[tokio::test]
async fn what_is_no_sound_backup_is_refused_and_nothing_changes() {
    let dir = TempDir::new().unwrap();
    let (path, store) = filled(&dir).await;
    let copy = dir.path().join("backup.db");
    backup(&path, &copy).unwrap();
    drop(store);
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 4] = [
        ("is damaged", |path| fs::write(path, "not a database, and long enough to tell".repeat(200)).unwrap()),
        ("keys without a value", |path| {
            let sql = "DELETE FROM log WHERE key LIKE '%/a'";
            Connection::open(path).unwrap().execute_batch(sql).unwrap();
        }),
        ("holds no store: it is empty", |path| fs::write(path, "").unwrap()),
        ("there is no store at", |path| fs::remove_file(path).unwrap()),
    ];
    for (want, spoil) in spoil {
        let bad = dir.path().join("bad.db");
        fs::copy(&copy, &bad).unwrap();
        spoil(&bad);
        let error = restore(&bad, &path, 10).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        assert_eq!(names(&open(&path)).await, ["a", "b"]);
        assert!(!dir.path().join("store.db.restoring").exists() && !dir.path().join("store.db.replaced").exists());
    }
}

#[tokio::test]
async fn check_is_silent_on_a_sound_store_and_names_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let (path, store) = filled(&dir).await;
    assert_eq!(check(&path).unwrap(), Vec::<String>::new());
    drop(store);
    assert_eq!(check(&path).unwrap(), Vec::<String>::new());
    for (sql, want) in [
        ("DELETE FROM log WHERE key LIKE '%/a'", "1 keys without a value"),
        ("UPDATE current SET revision = 3 WHERE key LIKE '%/b'", "1 keys that are not at their newest change"),
        ("DELETE FROM log WHERE revision = 3", "1 changes whose previous value is missing"),
        ("DELETE FROM current WHERE key LIKE '%/a'", "1 live values that no key leads to"),
        ("UPDATE meta SET value = 4 WHERE name = 'reserved'", "2 revisions above the reserved ones"),
    ] {
        let spoiled = dir.path().join("spoiled.db");
        fs::copy(&path, &spoiled).unwrap();
        Connection::open(&spoiled).unwrap().execute_batch(sql).unwrap();
        let found = check(&spoiled).unwrap();
        assert!(found.iter().any(|line| line == want), "{sql}: {found:?}");
    }
}

#[tokio::test]
async fn stats_count_keys_and_bytes_by_resource() {
    let dir = TempDir::new().unwrap();
    let (path, store) = filled(&dir).await;
    let counted = stats(&path).unwrap();
    assert_eq!((counted.keys, counted.bytes, counted.changes), (2, 3, 5));
    assert_eq!((counted.revision, counted.compacted), (store.current().await.unwrap(), Revision(1)));
    assert_eq!(counted.resources, BTreeMap::from([("pods".to_owned(), ResourceStats { keys: 2, bytes: 3 })]));
    assert!(counted.file_bytes + counted.log_bytes > 0);
    assert!(matches!(stats(&dir.path().join("none.db")), Err(ToolError::Missing(_))));
}

#[tokio::test]
async fn compaction_leaves_the_live_values_and_little_else() {
    let dir = TempDir::new().unwrap();
    let (path, store) = filled(&dir).await;
    let value = "x".repeat(10_000);
    for i in 0..300 {
        store.commit(put(&format!("k{}", i % 3), &value)).await.unwrap();
    }
    let last = store.current().await.unwrap();
    assert!(matches!(compact(&path), Err(ToolError::Open(OpenError::Locked { .. }))));
    drop(store);
    let done = compact(&path).unwrap();
    assert_eq!(done.revision, last);
    assert!(done.bytes_before > 3_000_000 && done.bytes_after < 200_000, "{done:?}");
    assert_eq!(check(&path).unwrap(), Vec::<String>::new());
    let store = open(&path);
    assert_eq!(names(&store).await, ["a", "b", "k0", "k1", "k2"]);
    assert_eq!(store.current().await.unwrap(), last);
}

#[tokio::test]
async fn a_store_that_takes_over_another_ones_clients_goes_on_above_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.db");
    let first = continue_above(&path, Revision(5_000_000)).unwrap();
    assert!(first > Revision(5_000_000));
    let store = open(&path);
    assert_eq!(store.current().await.unwrap(), first);
    assert!(matches!(store.watch("/registry/", Revision(4_000_000)).await, Err(StoreError::Compacted { .. })));
}
