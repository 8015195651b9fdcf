//! The embedded store on file systems that are full, or cannot be written: a clear error, no damage, and on it goes.

use bytes::Bytes;
use skiff_shim::store::key::StoreKey;
use skiff_shim::store::sqlite::{OpenError, SqliteOptions, SqliteStore, tools};
use skiff_shim::store::{Class, Expect, Store, StoreError, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A small file system of its own; unmounted when dropped.
struct Disk(TempDir);

impl Disk {
    /// `None`, aloud, where mounting is not allowed.
    fn mount(size: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let options = format!("size={size},mode=0700");
        if !mount(&["-t", "tmpfs", "-o", &options, "tmpfs", path(dir.path())]) {
            eprintln!("skipped: mounting a tmpfs needs root");
            return None;
        }
        Some(Self(dir))
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store/state.db")
    }

    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}"), path(self.0.path())]), "remount,{how}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount");
    }
}

fn mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).output().is_ok_and(|output| output.status.success())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn open(disk: &Disk) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(&disk.store(), SqliteOptions::default())
}

fn write(name: &str, value: Option<usize>) -> Write {
    let put = value.map(|bytes| Bytes::from("x".repeat(bytes)));
    Write {
        key: StoreKey::object("pods", Some("d"), name),
        expect: Expect::Any,
        put,
        ttl: None,
        class: Class::Ordinary,
    }
}

async fn count(store: &SqliteStore) -> usize {
    store.list("/registry/", None, None, 0).await.unwrap().items.len()
}

/// Writes until the disk is full; returns how many writes were acknowledged, and the refusal.
async fn fill(store: &SqliteStore) -> (usize, StoreError) {
    for made in 0.. {
        if let Err(error) = store.commit(write(&format!("k{made}"), Some(50_000))).await {
            return (made, error);
        }
    }
    unreachable!("a disk without end")
}

#[tokio::test]
async fn a_full_disk_in_mid_commit_loses_nothing_and_is_told() {
    let Some(disk) = Disk::mount("8m") else { return };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let store = open(&disk).unwrap();
    let start = store.current().await.unwrap();
    let (made, error) = fill(&store).await;
    assert!(matches!(&error, StoreError::Full(text) if text.contains("free disk space")), "{error}");
    assert!(made > 20, "{made} fit");
    // Reads and watches go on.
    assert_eq!(count(&store).await, made);
    store.watch("/registry/", start).await.unwrap();
    assert!(matches!(store.commit(write("more", Some(50_000))).await, Err(StoreError::Full(_))));
    // Space comes back, and so do writes.
    std::fs::remove_file(&ballast).unwrap();
    store.commit(write("again", Some(50_000))).await.unwrap();
    assert_eq!(count(&store).await, made + 1);
    drop(store);
    assert_eq!(tools::check(&disk.store()).unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_store_that_is_killed_on_a_full_disk_opens_again_when_there_is_space() {
    let Some(disk) = Disk::mount("4m") else { return };
    let store = open(&disk).unwrap();
    let (made, _) = fill(&store).await;
    // What a kill leaves: the files as they are now, on a bigger disk.
    let Some(bigger) = Disk::mount("16m") else { return };
    std::fs::create_dir(bigger.0.path().join("store")).unwrap();
    for name in ["state.db", "state.db-wal"] {
        let from = disk.store().with_file_name(name);
        std::fs::copy(from, bigger.store().with_file_name(name)).unwrap();
    }
    drop(store);
    let store = open(&bigger).unwrap();
    assert_eq!(count(&store).await, made);
    store.commit(write("again", Some(50_000))).await.unwrap();
}

#[tokio::test]
async fn a_read_only_file_system_is_refused_with_the_remedy() {
    let Some(disk) = Disk::mount("8m") else { return };
    let store = open(&disk).unwrap();
    store.commit(write("a", Some(10))).await.unwrap();
    drop(store);
    disk.remount("ro");
    let Err(error) = open(&disk) else { panic!("opened") };
    assert!(error.to_string().contains("check that its directory exists, is writable and has space"), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("Read-only file system"), "{cause}");
    disk.remount("rw");
    assert_eq!(count(&open(&disk).unwrap()).await, 1);
}

#[tokio::test]
async fn a_backup_to_a_full_disk_leaves_nothing_behind() {
    let Some(small) = Disk::mount("1m") else { return };
    let dir = TempDir::new().unwrap();
    let store = SqliteStore::open(&dir.path().join("state.db"), SqliteOptions::default()).unwrap();
    for n in 0..60 {
        store.commit(write(&format!("k{n}"), Some(50_000))).await.unwrap();
    }
    let error = tools::backup(&dir.path().join("state.db"), &small.0.path().join("backup.db")).unwrap_err();
    assert!(error.to_string().contains("backup.db"), "{error}");
    assert_eq!(std::fs::read_dir(small.0.path()).unwrap().count(), 0);
}
