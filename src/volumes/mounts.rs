//! The host's mount table: read, mount a tmpfs, unmount what lies below a directory.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Mount points, in the order in which they were mounted.
pub(super) fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The fifth field of each line of mountinfo, its octal escapes undone.
fn parse(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let fields = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    fields.map(|field| PathBuf::from(OsString::from_vec(unescape(field)))).collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(escaped) => {
                out.push(escaped);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// Whether something is mounted at exactly this path. What is mounted there is not looked at: a server that is gone would
/// keep whoever looks.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
        _ => path.canonicalize()?,
    };
    Ok(mount_points()?.contains(&path))
}

/// A tmpfs of at most `size` bytes (`None`: the kernel's half of memory), kept out of swap where the kernel can.
pub(super) fn mount_tmpfs(path: &Path, size: Option<u64>) -> io::Result<()> {
    let options = |noswap: bool| {
        let size = size.map(|bytes| format!("size={bytes}"));
        let noswap = noswap.then(|| "noswap".to_owned());
        size.into_iter().chain(noswap).collect::<Vec<_>>().join(",")
    };
    let attempt = |options: &str| mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options));
    match attempt(&options(true)) {
        // Linux before 6.4 does not know `noswap`.
        Err(Errno::EINVAL) => attempt(&options(false))?,
        outcome => outcome?,
    }
    Ok(())
}

/// The kernel's huge pages of one size as files.
pub(super) fn mount_hugetlbfs(path: &Path, page_bytes: u64) -> io::Result<()> {
    let options = format!("pagesize={page_bytes}");
    mount(Some("nodev"), path, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Binds what `source` is onto `target` (which exists and is of the same sort).
pub(super) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

pub(super) fn unmount(path: &Path) -> io::Result<()> {
    unmount_by(path, MntFlags::UMOUNT_NOFOLLOW)
}

/// The same of what holds no files, such as a device: also while somebody has it open.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    unmount_by(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
}

fn unmount_by(path: &Path, flags: MntFlags) -> io::Result<()> {
    match umount2(path, flags) {
        // Not mounted (any more) or not there: what was wanted.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Unmounts everything below `dir` (and `dir`), the latest mount first. The failing mount point comes with the error.
pub fn unmount_below(dir: &Path) -> Result<(), (PathBuf, io::Error)> {
    let own = |error| (dir.to_owned(), error);
    let dir = match dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        path => path.map_err(own)?,
    };
    let below = |points: Vec<PathBuf>| points.into_iter().filter(|point| point.starts_with(&dir)).collect::<Vec<_>>();
    for point in below(mount_points().map_err(own)?).into_iter().rev() {
        unmount(&point).map_err(|error| (point, error))?;
    }
    match below(mount_points().map_err(own)?).pop() {
        None => Ok(()),
        Some(point) => Err((point, io::Error::from(io::ErrorKind::ResourceBusy))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = b"36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw\n37 36 0:5 / /mnt/c\\134d rw - tmpfs tmpfs rw\n";
        assert_eq!(parse(text), [PathBuf::from("/mnt/a b"), PathBuf::from("/mnt/c\\d")]);
    }
}
