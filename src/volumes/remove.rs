//! Removes what a pod leaves, and nothing that is mounted there: the kernel itself refuses to look across a mount, also
//! one that is made while files are being removed.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, ReadDir};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Folders that are open at once. Containers can nest them without end: deeper ones are moved to the top first.
const MAX_DEPTH: usize = 64;

/// A folder that is being emptied.
struct Level {
    name: OsString,
    folder: OwnedFd,
    entries: ReadDir,
}

impl Level {
    fn open(above: &OwnedFd, name: OsString) -> io::Result<Self> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
        let folder = match openat2(above, name.as_os_str(), how) {
            Err(Errno::EXDEV) => {
                let message = format!("{} is mounted", Path::new(&name).display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            folder => folder?,
        };
        let entries = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
        Ok(Self { name, folder, entries })
    }
}

/// Removes the folder and all that is in it; one that is not there is removed. Links are not followed.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a folder of its own"));
    };
    let parent = match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        parent => parent?,
    };
    // What was moved to the top may not be seen by who is reading it already.
    while empty(&parent, name)? {}
    Ok(())
}

/// Whether there is more to be done.
fn empty(parent: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let mut levels = match Level::open(parent, name.to_owned()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        top => vec![top?],
    };
    let mut moved = false;
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(false) };
        let Some(entry) = level.entries.next().transpose()? else {
            let done = levels.pop().map(|level| level.name).unwrap_or_default();
            let above = levels.last().map_or(parent, |level| &level.folder);
            match unlinkat(above, done.as_os_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::ENOTEMPTY) if levels.is_empty() && moved => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
            continue;
        };
        let name = entry.file_name();
        if !entry.file_type()?.is_dir() {
            match unlinkat(&level.folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno.into()),
            }
        }
        if depth < MAX_DEPTH {
            let next = Level::open(&level.folder, name)?;
            levels.push(next);
        } else {
            let up = format!(".removed-{:016x}", rand::random::<u64>());
            let (deep, top) = (&levels[depth - 1].folder, &levels[0].folder);
            renameat(deep, name.as_os_str(), top, up.as_str())?;
            moved = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::mounts;
    use std::os::unix::fs::symlink;

    #[test]
    fn everything_goes_however_deep_and_nothing_behind_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (top, outside) = (root.path().join("pod"), root.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        fs::create_dir(&top).unwrap();
        // Two arms, deeper than what is open at once.
        for arm in ["a", "b"] {
            let mut deep = top.join(arm);
            for _ in 0..3 * MAX_DEPTH {
                fs::create_dir(&deep).unwrap();
                fs::write(deep.join("file"), "x").unwrap();
                deep.push("d");
            }
        }
        symlink(&outside, top.join("link")).unwrap();
        remove_folder(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "x");
        remove_folder(&top).unwrap();
        remove_folder(&root.path().join("none/at/all")).unwrap();
    }

    #[test]
    fn what_is_mounted_below_stays_also_when_nobody_looked_for_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: bind mounts need root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        // Of the same file system, which its device number does not tell.
        let (data, target) = (root.path().join("data"), root.path().join("pod/volumes/v"));
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&target).unwrap();
        fs::write(data.join("kept"), "x").unwrap();
        mounts::bind(&data, &target).unwrap();
        let stuck = remove_folder(&root.path().join("pod")).unwrap_err();
        mounts::unmount(&target).unwrap();
        assert_eq!((stuck.kind(), stuck.to_string().as_str()), (io::ErrorKind::ResourceBusy, "v is mounted"));
        assert_eq!(fs::read_to_string(data.join("kept")).unwrap(), "x");
        remove_folder(&root.path().join("pod")).unwrap();
        assert!(!root.path().join("pod").exists());
    }
}
