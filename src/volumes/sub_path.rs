//! subPath: a path inside a volume, resolved without ever leaving it, and bound where the runtime can mount it from.

use super::mounts;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Makes the directories of `sub_path` below `volume` where they are missing, with the volume's own mode.
pub(super) fn make(volume: &Path, sub_path: &Path) -> io::Result<()> {
    let root = open_root(volume)?;
    match open_below(&root, sub_path) {
        Ok(_) => return Ok(()),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mode = Mode::from_bits_truncate(fstat(&root)?.st_mode & 0o7777);
    let mut parent = root.try_clone()?;
    let mut walked = PathBuf::new();
    for part in sub_path.components().filter(|part| matches!(part, Component::Normal(_))) {
        walked.push(part);
        parent = match open_below(&root, &walked) {
            Ok(next) => next,
            Err(Errno::ENOENT) => {
                match mkdirat(&parent, part.as_os_str(), mode) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                // Of the directory just made, never of what a link in its place would name.
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
                let made = openat2(&parent, part.as_os_str(), how)?;
                fchmod(&made, mode)?;
                made
            }
            Err(errno) => return Err(errno.into()),
        };
    }
    Ok(())
}

/// Binds `sub_path` of `volume` onto `target`; a target that shows the same file already is left, another is replaced.
pub(super) fn bind(volume: &Path, sub_path: &Path, target: &Path) -> io::Result<()> {
    let root = open_root(volume)?;
    let source = open_below(&root, &without_links(volume, sub_path))?;
    let wanted = fstat(&source)?;
    let is_dir = wanted.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if target.exists() && mounts::is_mount_point(target)? {
        let shown = fstat(&open_root(target)?)?;
        if (shown.st_dev, shown.st_ino) == (wanted.st_dev, wanted.st_ino) {
            return Ok(());
        }
        mounts::unmount(target)?;
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == is_dir => {}
        Ok(meta) if meta.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    match (target.exists(), is_dir) {
        (true, _) => {}
        (false, true) => fs::create_dir(target)?,
        (false, false) => drop(fs::File::create(target)?),
    }
    // By descriptor: the path could be exchanged between check and mount.
    mounts::bind(&PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd())), target)
}

/// The same path without links, which may name the volume's own folder in full; where that leads out of the volume, or to
/// nothing, the path as it is.
fn without_links(volume: &Path, sub_path: &Path) -> PathBuf {
    let found = volume.canonicalize().and_then(|volume| {
        let found = volume.join(sub_path).canonicalize()?;
        Ok(found.strip_prefix(volume).map_or_else(|_| sub_path.to_owned(), Path::to_owned))
    });
    found.unwrap_or_else(|_| sub_path.to_owned())
}

pub(super) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Links are followed while they stay below `root` (the files of a configMap are links); the kernel enforces it.
fn open_below(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// Replaces `$(NAME)` by the container's variables as `expansion.Expand` does; a name without a value is an error here.
pub(super) fn expand(expression: &str, env: &[(String, String)]) -> Result<String, String> {
    let mut out = String::new();
    let mut missing = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = rest.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            match env.iter().rev().find(|(known, value)| known == name && !value.is_empty()) {
                Some((_, value)) => out.push_str(value),
                None => drop(missing.insert(name)),
            }
            rest = tail;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    let missing: Vec<_> = missing.into_iter().collect();
    if missing.is_empty() { Ok(out) } else { Err(format!("missing value for {}", missing.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn variables_expand_and_unknown_ones_fail() {
        let env =
            [("POD".to_owned(), "p".to_owned()), ("K".to_owned(), "z".to_owned()), ("EMPTY".to_owned(), String::new())];
        for (text, want) in [
            ("logs/$(POD)-$(K)", Ok("logs/p-z")),
            ("$$(POD)", Ok("$(POD)")),
            ("a$b", Ok("a$b")),
            ("$(POD", Ok("$(POD")),
            ("$(NO)", Err("missing value for NO")),
            ("$(ZZ)$(EMPTY)$(ZZ)", Err("missing value for EMPTY, ZZ")),
        ] {
            assert_eq!(expand(text, &env).as_deref().map_err(String::as_str), want);
        }
    }

    #[test]
    fn directories_are_made_below_the_volume_and_never_through_a_link_out() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        make(&volume, Path::new("one/two")).unwrap();
        assert_eq!(fs::metadata(volume.join("one/two")).unwrap().permissions().mode() & 0o7777, 0o777);
        symlink(&outside, volume.join("abs")).unwrap();
        symlink("../outside", volume.join("up")).unwrap();
        symlink("one", volume.join("within")).unwrap();
        for path in ["abs/x", "up/x", "../outside/x", "abs", "up"] {
            assert!(make(&volume, Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        make(&volume, Path::new("within/three")).unwrap();
        assert!(volume.join("one/three").is_dir());
    }

    #[test]
    fn a_link_that_names_the_volumes_own_folder_in_full_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("releases/1")).unwrap();
        symlink(volume.join("releases/1"), volume.join("current")).unwrap();
        symlink(dir.path(), volume.join("out")).unwrap();
        let root = open_root(&volume).unwrap();
        for (path, followed) in [("current", "releases/1"), ("out", "out"), ("none", "none"), ("releases", "releases")]
        {
            assert_eq!(without_links(&volume, Path::new(path)), Path::new(followed));
        }
        assert!(open_below(&root, &without_links(&volume, Path::new("current"))).is_ok());
        assert!(open_below(&root, &without_links(&volume, Path::new("out"))).is_err());
    }
}
