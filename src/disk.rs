//! How full file systems are.

use nix::sys::statvfs::statvfs;
use std::io;
use std::path::Path;

/// One file system; sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub capacity: u64,
    /// What processes without privilege may still write.
    pub available: u64,
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
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
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
}
