//! How full file systems are, and how much of them a tree of files takes.

use crate::model::stats::{FsUse, TreeUse};
use nix::sys::statvfs::statvfs;
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `st_blocks` counts these, whatever the file system's own block size.
const BLOCK_BYTES: u64 = 512;

/// One file system; sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub capacity: u64,
    /// What processes without privilege may still write.
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The file system that `path` lies on.
pub fn usage(path: &Path) -> io::Result<DiskUsage> {
    let stat = statvfs(path)?;
    let unit = stat.fragment_size();
    Ok(DiskUsage {
        capacity: stat.blocks() * unit,
        available: stat.blocks_available() * unit,
        used: stat.blocks().saturating_sub(stat.blocks_free()) * unit,
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

impl From<DiskUsage> for FsUse {
    /// All that is used of it.
    fn from(disk: DiskUsage) -> Self {
        Self {
            capacity: disk.capacity,
            available: disk.available,
            used: disk.used,
            inodes: disk.inodes,
            inodes_free: disk.inodes_free,
            inodes_used: disk.inodes.saturating_sub(disk.inodes_free),
        }
    }
}

/// What a tree takes on the disk that it begins on, as `du -x` counts: links are not followed, a file with several names
/// counts once, other file systems mounted below do not count, and what vanishes meanwhile counts nothing.
pub fn tree(path: &Path) -> TreeUse {
    let Ok(root) = std::fs::symlink_metadata(path) else { return TreeUse::default() };
    let mut walk = Walk { device: root.dev(), several_names: BTreeSet::new(), sum: TreeUse::default() };
    walk.add(path, &root);
    walk.sum
}

struct Walk {
    device: u64,
    several_names: BTreeSet<u64>,
    sum: TreeUse,
}

impl Walk {
    fn add(&mut self, path: &Path, meta: &Metadata) {
        if meta.dev() != self.device || (meta.is_file() && meta.nlink() > 1 && !self.several_names.insert(meta.ino())) {
            return;
        }
        self.sum = self.sum + TreeUse { bytes: meta.blocks() * BLOCK_BYTES, inodes: 1 };
        if meta.is_dir() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                if let Ok(meta) = entry.metadata() {
                    self.add(&entry.path(), &meta);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_room_and_a_missing_path_is_an_error() {
        let root = usage(Path::new("/")).unwrap();
        assert!(root.capacity > 0 && root.available <= root.capacity);
        assert_eq!(usage(Path::new("/no/such/path")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tree_is_as_large_as_its_files_whatever_their_names_and_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(dir.path().join("sub/file"), dir.path().join("again")).unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let found = tree(dir.path());
        assert!((1 << 20..3 << 19).contains(&found.bytes), "{found:?}");
        assert_eq!(found.inodes, 4, "two folders, a file and a link");
        assert_eq!(tree(&dir.path().join("none")), TreeUse::default());
    }
}
