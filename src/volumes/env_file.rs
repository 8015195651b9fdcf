//! Environment files (`fileKeyRef`): read from a volume that containers write, so trusting nothing in it.

use super::sub_path::open_root;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Upstream's limit for one file (KEP-3721).
const MAX_BYTES: u64 = 64 * 1024;

/// The text of a regular file below `volume`, which is the root of all links and of `..` (`securejoin`).
pub(super) fn read(volume: &Path, path: &str) -> io::Result<Option<String>> {
    let root = open_root(volume)?;
    // Without blocking: a container could have put a pipe there.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&root, path, how) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is not a regular file")));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{path:?} is larger than 64 KiB")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_below_the_volume_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir_all(volume.join("d")).unwrap();
        std::fs::write(volume.join("d/e.env"), "A='1'\n").unwrap();
        std::fs::write(dir.path().join("secret"), "S='1'\n").unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("d/e.env", volume.join("in")).unwrap();
        std::os::unix::fs::symlink("/d/e.env", volume.join("absolute")).unwrap();
        std::fs::write(volume.join("big"), vec![b'x'; 65 * 1024]).unwrap();
        for (path, wanted) in [
            ("d/e.env", Ok(Some("A='1'\n"))),
            ("in", Ok(Some("A='1'\n"))),
            ("none", Ok(None)),
            ("d/e.env/x", Ok(None)),
            ("absolute", Ok(Some("A='1'\n"))),
            ("out", Ok(None)),
            ("../secret", Ok(None)),
            ("../d/e.env", Ok(Some("A='1'\n"))),
            ("d", Err(())),
            ("big", Err(())),
        ] {
            assert_eq!(
                read(&volume, path).map_err(drop).as_ref().map(Option::as_deref),
                wanted.as_ref().copied(),
                "{path}"
            );
        }
    }
}
