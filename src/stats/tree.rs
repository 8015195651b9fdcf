//! A mounted tree of cgroups, read file by file. Folders above the last cgroup looked at stay open for what lies beside
//! it: the walk from the root is most of what a small file costs, and a full node has a thousand of them.

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Room for the longest of the usual texts: they are read in one call.
const ROOM: usize = 16 * 1024;

/// The text of the file read last. It only grows: zeroing it for every file would cost more than some of them.
#[derive(Default)]
pub(super) struct Buffer(Vec<u8>);

/// One hierarchy (v1), or the only one (v2).
pub(super) struct Tree {
    root: PathBuf,
    /// Open folders by name, from the root (which has none) downwards.
    open: Vec<(String, OwnedFd)>,
    /// Of the file below the last folder, reused.
    path: PathBuf,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: Vec::new(), path: PathBuf::new() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What a file of a cgroup (`/kubepods/pod1`) says.
    pub(super) fn read<'a>(&mut self, group: &str, file: &str, buffer: &'a mut Buffer) -> io::Result<&'a str> {
        let (above, name) = group.trim_end_matches('/').rsplit_once('/').unwrap_or(("", "."));
        let mut folder = None;
        for (depth, name) in above.split('/').enumerate() {
            if self.open.get(depth).is_none_or(|(known, _)| known != name) {
                self.open.truncate(depth);
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
                let opened = match self.open.last() {
                    Some((_, folder)) => open(folder, Path::new(name), flags)?,
                    None => open(AT_FDCWD, &self.root, flags)?,
                };
                self.open.push((name.to_owned(), opened));
            }
            folder = self.open.get(depth);
        }
        self.path.clear();
        self.path.push(name);
        self.path.push(file);
        let opened = match folder {
            Some((_, folder)) => open(folder, &self.path, OFlag::O_RDONLY),
            // A split has at least one part.
            None => Err(ErrorKind::NotFound.into()),
        };
        buffer.fill(opened?.into())
    }

    /// The look is over: a folder that stayed open longer may be one that was removed and made again.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }
}

impl Buffer {
    /// The text of a file of `/proc` or `/sys`.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<&str> {
        self.fill(File::open(path)?)
    }

    fn fill(&mut self, mut file: File) -> io::Result<&str> {
        let mut length = 0;
        // Not `read_to_end`: it asks for the size first and reads in small steps, which doubles the system calls.
        loop {
            if self.0.len() - length < ROOM / 2 {
                self.0.resize(self.0.len() + ROOM, 0);
            }
            let read = file.read(&mut self.0[length..])?;
            // The kernel gives short texts whole.
            let whole = read == 0 || (length == 0 && read < 1024);
            length += read;
            if whole {
                break;
            }
        }
        std::str::from_utf8(&self.0[..length]).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }
}

/// The cgroup, or the file, is not there (any more).
pub(super) fn is_absent(error: &io::Error) -> bool {
    // ENODEV: the cgroup was removed between open and read. EOPNOTSUPP: a root cgroup, a controller without this figure,
    // or pressure that the kernel was told not to keep.
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || matches!(error.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::EOPNOTSUPP))
}

fn open(folder: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    Ok(openat(folder, path, flags | OFlag::O_CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_of_neighbours_and_of_all_depths_are_found_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let groups = ["/", "/a", "/a/b", "/a/b/c", "/a/b/d", "/a/x/c", "/e"];
        for group in groups {
            let folder = dir.path().join(group.trim_start_matches('/'));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("file"), group).unwrap();
        }
        let (mut tree, mut buffer) = (Tree::new(dir.path()), Buffer::default());
        for group in groups.iter().chain(groups.iter().rev()) {
            assert_eq!(tree.read(group, "file", &mut buffer).unwrap(), *group);
            let error = tree.read(&format!("{}/none/c", group.trim_end_matches('/')), "file", &mut buffer).unwrap_err();
            assert!(is_absent(&error), "{error}");
        }
    }

    #[test]
    fn what_is_made_again_is_found_in_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let (mut tree, mut buffer) = (Tree::new(dir.path()), Buffer::default());
        for text in ["old", "new"] {
            fs::create_dir_all(dir.path().join("a/b")).unwrap();
            fs::write(dir.path().join("a/b/file"), text).unwrap();
            assert_eq!(tree.read("/a/b", "file", &mut buffer).unwrap(), text);
            fs::remove_dir_all(dir.path().join("a")).unwrap();
            assert!(is_absent(&tree.read("/a/b", "file", &mut buffer).unwrap_err()));
            tree.close();
        }
    }

    #[test]
    fn a_long_text_is_read_whole_and_a_shorter_one_after_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut buffer = Buffer::default();
        for length in [100_000, ROOM, ROOM / 2, 1024, 3, 0] {
            let text = "x".repeat(length);
            fs::write(&path, &text).unwrap();
            assert!(buffer.read(&path).unwrap() == text, "{length}");
        }
    }
}
