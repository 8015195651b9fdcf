//! Puts a set of files into a directory at once: a new timestamped directory behind the link `..data`, as apimachinery's
//! `AtomicWriter` does, so that a reader sees the old set or the new one.

use super::layout::is_below;
use super::ownership;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// A file of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Projection {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, where not root (tokens of a pod that runs as one user).
    pub uid: Option<u32>,
}

/// Files by path relative to the volume.
pub(super) type Payload = BTreeMap<String, Projection>;

const DATA: &str = "..data";
const NEXT_DATA: &str = "..data_tmp";

/// Does it hold a set that was written before?
pub(super) fn is_written(dir: &Path) -> bool {
    dir.join(DATA).is_dir()
}

/// Writes `payload` into `dir`; does nothing when it is there already. Any crash is repaired by the next call.
pub(super) fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>, now: Timestamp) -> io::Result<()> {
    for path in payload.keys() {
        check(path)?;
    }
    let data = dir.join(DATA);
    let old = match fs::read_link(&data) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let current = old.as_ref().map(|old| read_set(&dir.join(old))).transpose()?;
    let wanted: BTreeSet<&Path> = payload.keys().map(Path::new).collect();
    let unchanged = current.as_ref().is_some_and(|current| {
        current.len() == payload.len()
            && payload.iter().all(|(path, file)| current.get(Path::new(path)).is_some_and(|data| *data == file.data))
    });
    if unchanged {
        return link_visible(dir, &wanted);
    }
    let next = new_directory(dir, now)?;
    let next_path = dir.join(&next);
    for (path, file) in payload {
        write_file(&next_path, Path::new(path), file)?;
    }
    if let Some(gid) = fs_group {
        // The whole volume: at first its own directory is new as well.
        ownership::give_to_group(dir, gid, true)?;
    }
    remove_if_there(&dir.join(NEXT_DATA))?;
    symlink(&next, dir.join(NEXT_DATA))?;
    fs::rename(dir.join(NEXT_DATA), &data)?;
    link_visible(dir, &wanted)?;
    remove_stale(dir, &next, &wanted)
}

/// Paths come from the API: they stay below the volume and do not touch our own `..` names.
fn check(path: &str) -> io::Result<()> {
    let invalid = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {why}: {path}")));
    if path.is_empty() {
        return invalid("must not be empty");
    }
    if path.len() > 4096 {
        return invalid("must be less than or equal to 4096 characters");
    }
    if !is_below(Path::new(path)) {
        return invalid("must be a relative path without '..'");
    }
    if path.starts_with("..") {
        return invalid("must not start with '..'");
    }
    if path.split('/').any(|part| part.len() > 255) {
        return invalid("file name components must be less than or equal to 255 characters");
    }
    Ok(())
}

/// `..2006_01_02_15_04_05.<random>`, mode 0755.
fn new_directory(dir: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S");
    let name = PathBuf::from(format!("{stamp}.{}", rand::random::<u32>()));
    fs::create_dir(dir.join(&name))?;
    fs::set_permissions(dir.join(&name), fs::Permissions::from_mode(0o755))?;
    Ok(name)
}

fn write_file(base: &Path, path: &Path, file: &Projection) -> io::Result<()> {
    let mut parent = base.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        if !parent.is_dir() {
            fs::create_dir(&parent)?;
            fs::set_permissions(&parent, fs::Permissions::from_mode(0o755))?;
        }
    }
    let whole = base.join(path);
    fs::write(&whole, &file.data)?;
    fs::set_permissions(&whole, fs::Permissions::from_mode(file.mode))?;
    if let Some(uid) = file.uid {
        chown(&whole, Some(uid), None)?;
    }
    Ok(())
}

/// The files below a directory, with their content.
fn read_set(base: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut set = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let entries = match fs::read_dir(base.join(&relative)) {
            // The link outlived its directory (a crash): as good as empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else {
                set.insert(path, fs::read(entry.path())?);
            }
        }
    }
    Ok(set)
}

fn first_part(path: &Path) -> Option<&Path> {
    path.components().find_map(|part| match part {
        Component::Normal(name) => Some(Path::new(name)),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    })
}

/// `<first part> -> ..data/<first part>` for every path of the set.
fn link_visible(dir: &Path, wanted: &BTreeSet<&Path>) -> io::Result<()> {
    for name in wanted.iter().filter_map(|path| first_part(path)).collect::<BTreeSet<_>>() {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Links of files that are no longer in the set, and timestamped directories that nothing points to.
fn remove_stale(dir: &Path, next: &Path, wanted: &BTreeSet<&Path>) -> io::Result<()> {
    let visible: BTreeSet<&Path> = wanted.iter().filter_map(|path| first_part(path)).collect();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let kind = entry.file_type()?;
        let ours = name.as_os_str().as_encoded_bytes().starts_with(b"..");
        if ours && kind.is_dir() && name != next {
            fs::remove_dir_all(entry.path())?;
        } else if !ours && kind.is_symlink() && !visible.contains(name.as_path()) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| Projection { data: text.into(), mode: 0o640, uid: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    /// Every visible name with its link and content, hidden timestamps as `N`.
    fn tree(dir: &Path) -> Vec<String> {
        let mut lines: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                match fs::read_link(entry.path()) {
                    Ok(to) if name == DATA => format!("{name} -> {}", if to.starts_with("..") { "?" } else { "N" }),
                    Ok(to) => format!("{name} -> {}", to.display()),
                    Err(_) => "N/".to_owned(),
                }
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_set_is_swapped_as_a_whole_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("sub/dir/x", "2")]), None, now).unwrap();
        assert_eq!(tree(dir.path()), ["..data -> N", "N/", "a -> ..data/a", "sub -> ..data/sub"]);
        let first = fs::read_link(dir.path().join(DATA)).unwrap();
        assert!(first.to_str().unwrap().starts_with("..2026_01_02_03_04_05."));
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(dir.path().join("sub/dir")).unwrap().permissions().mode() & 0o7777, 0o755);

        write(dir.path(), &payload(&[("a", "1"), ("sub/dir/x", "2")]), None, now).unwrap();
        assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), first, "the same set is not written again");

        // What a crash leaves: a half-made directory and a link that was not yet renamed.
        fs::create_dir(dir.path().join("..2025_half")).unwrap();
        symlink("..2025_half", dir.path().join(NEXT_DATA)).unwrap();
        write(dir.path(), &payload(&[("b", "3")]), None, now).unwrap();
        assert_eq!(tree(dir.path()), ["..data -> N", "N/", "b -> ..data/b"]);
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "3");
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["/etc/passwd", "../x", "a/../../x", "..data", "..x/y", ""] {
            let error = write(dir.path(), &payload(&[(path, "1")]), None, Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
        assert!(tree(dir.path()).is_empty());
    }
}
