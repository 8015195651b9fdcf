//! The lock beside a store file: one process opens it, and a second is told which.

use super::OpenError;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Held (flock) as long as the store is open; released by the kernel however the process ends.
pub(super) struct FileLock {
    file: File,
}

impl FileLock {
    pub(super) fn take(store: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: store.to_owned(), source };
        make_directory(store).map_err(io)?;
        let mut name = store.as_os_str().to_owned();
        name.push(".lock");
        let mut options = OpenOptions::new();
        // Not truncated at open: the holder's pid must stay readable.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(name).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(io)?;
                return Err(OpenError::Locked { path: store.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { file })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that was forked and has not become another program yet holds the file too.
        drop(self.file.unlock());
    }
}

/// Makes the store's directory where it is absent, durably.
fn make_directory(store: &Path) -> std::io::Result<()> {
    let Some(directory) = store.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match directory.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(above) => File::open(above)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_holder_whatever_a_fork_still_has_open() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = dir.path().join("store.db");
        let lock = FileLock::take(&store).unwrap();
        let forked = lock.file.try_clone().unwrap();
        assert!(matches!(FileLock::take(&store), Err(OpenError::Locked { .. })));
        drop(lock);
        FileLock::take(&store).unwrap();
        drop(forked);
    }
}
