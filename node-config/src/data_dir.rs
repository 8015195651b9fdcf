//! The data directory: its layout, its version, and the lock that gives it one owner.

use crate::files::{self, FileError};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Layout version that this release writes.
pub const VERSION: u32 = 1;

/// Where `skiff standalone` keeps everything unless told otherwise.
pub const DEFAULT_PATH: &str = "/var/lib/skiff";

const ENTRIES: [&str; 8] = ["version", "lock", "pki", "store", "containerd", "images", "run", "admin.kubeconfig"];

/// Why the data directory cannot be used; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{problem}: {}; give a writable directory with --data-dir, or run as root", problem.source)]
    Unusable { problem: FileError },
    #[error("data directory {} is in use by process {pid}; stop it, or give another --data-dir", path.display())]
    Locked { path: PathBuf, pid: String },
    #[error(
        "data directory {} has layout version {found}, this skiff knows {VERSION}; use the newer skiff that wrote it, or another --data-dir",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "data directory {} has no readable version ({found:?} in its file `version`); it was not written by skiff, or is damaged: give another --data-dir",
        path.display()
    )]
    Foreign { path: PathBuf, found: String },
}

impl From<FileError> for DataDirError {
    fn from(problem: FileError) -> Self {
        Self::Unusable { problem }
    }
}

/// Paths in a data directory; holding it does not need the lock (`skiff kubeconfig` reads beside a running skiff).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }
    /// Directory of the embedded store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }
    /// Root directory, configuration and log of our own containerd.
    pub fn containerd(&self) -> PathBuf {
        self.root.join("containerd")
    }
    /// Archives put here are imported.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
    /// Sockets, pid files, runtime state.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    pub fn containerd_socket(&self) -> PathBuf {
        self.run().join("containerd.sock")
    }
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }
}

/// An open data directory: ours until dropped (also by `kill -9`, the kernel releases the lock).
#[derive(Debug)]
pub struct DataDir {
    layout: Layout,
    _lock: Flock<File>,
}

impl DataDir {
    /// Makes or opens the directory: locks it, checks its version, completes its layout.
    pub fn open(root: &Path) -> Result<Self, DataDirError> {
        // Others pass through (containers with user namespaces reach their files), only we list.
        files::make_dir(root, 0o711)?;
        let root = &fs::canonicalize(root).map_err(FileError::on("open", root))?;
        let found = files::read_optional(&root.join("version"))?;
        if let Err(found) = known(found.as_deref()) {
            return Err(found.into_error(root));
        }
        if found.is_none() {
            refuse_foreign(root)?;
        }
        let lock = lock(root)?;
        if found.is_none() {
            files::write_atomic(&root.join("version"), format!("{VERSION}\n"), files::PUBLIC)?;
        }
        let layout = Layout::new(root);
        for (directory, mode) in [
            (layout.pki(), 0o700),
            (layout.store(), 0o700),
            (layout.containerd(), 0o711),
            (layout.images(), 0o755),
            (layout.run(), 0o711),
        ] {
            files::make_dir(&directory, mode)?;
        }
        Ok(Self { layout, _lock: lock })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// A version file that we cannot work with.
enum Unknown {
    Newer(u32),
    Unreadable(String),
}

impl Unknown {
    fn into_error(self, root: &Path) -> DataDirError {
        let path = root.to_owned();
        match self {
            Self::Newer(found) => DataDirError::Newer { path, found },
            Self::Unreadable(found) => DataDirError::Foreign { path, found },
        }
    }
}

/// Whether we know the layout with that version file (`None`: a new directory). Version 1 is the first: there is no
/// older one to migrate.
fn known(version: Option<&str>) -> Result<(), Unknown> {
    let Some(text) = version else { return Ok(()) };
    match text.trim().parse() {
        Ok(VERSION) => Ok(()),
        Ok(newer) if newer > VERSION => Err(Unknown::Newer(newer)),
        _ => Err(Unknown::Unreadable(text.trim().chars().take(40).collect())),
    }
}

/// A directory without version file must be empty but for what users may prepare (`images/`) or what a crash between
/// two steps of `open` leaves: nobody's home directory becomes a data directory by a slip of the hand.
fn refuse_foreign(root: &Path) -> Result<(), DataDirError> {
    for entry in fs::read_dir(root).map_err(FileError::on("list", root))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !ENTRIES.contains(&&*name) && name != "lost+found" && !name.starts_with(".tmp") {
            return Err(DataDirError::Foreign { path: root.to_owned(), found: String::new() });
        }
    }
    Ok(())
}

fn lock(root: &Path) -> Result<Flock<File>, DataDirError> {
    let path = root.join("lock");
    // Not truncated before it is ours: the owner's pid is in it.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(FileError::on("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let mut note = || {
                lock.set_len(0)?;
                lock.seek(SeekFrom::Start(0))?;
                writeln!(lock, "{}", std::process::id())
            };
            note().map_err(FileError::on("write", &path))?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "(unknown)".to_owned() } else { pid.trim().to_owned() };
            Err(DataDirError::Locked { path: root.to_owned(), pid })
        }
        Err((_, errno)) => Err(FileError::on("lock", &path)(errno.into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_gets_its_layout_and_version() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let data = DataDir::open(&root).unwrap();
        assert_eq!(fs::read_to_string(root.join("version")).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(root.join("lock")).unwrap(), format!("{}\n", std::process::id()));
        for path in [data.layout().pki(), data.layout().images(), data.layout().run()] {
            assert!(path.is_dir(), "{path:?}");
        }
        drop(data);
        DataDir::open(&root).unwrap();
    }

    #[test]
    fn a_second_owner_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    }

    #[test]
    fn other_versions_and_foreign_directories_are_refused_and_left_alone() {
        for (version, content, expected) in [
            (Some("2\n"), None, "has layout version 2, this skiff knows 1; use the newer skiff"),
            (Some("0\n"), None, "has no readable version (\"0\""),
            (Some("x"), None, "has no readable version (\"x\""),
            (None, Some("thesis.tex"), "was not written by skiff"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            if let Some(version) = version {
                fs::write(dir.path().join("version"), version).unwrap();
            }
            if let Some(content) = content {
                fs::write(dir.path().join(content), "").unwrap();
            }
            let error = DataDir::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written");
        }
    }

    #[test]
    fn archives_may_be_prepared_before_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn an_unwritable_directory_is_an_error_with_the_remedy() {
        let error = DataDir::open(Path::new("/proc/skiff")).unwrap_err().to_string();
        assert!(error.contains("cannot create /proc/skiff") && error.contains("--data-dir"), "{error}");
    }
}
