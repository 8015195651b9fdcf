//! Where a pod's things lie under the root directory, as the kubelet lays them out; names from the API are checked here.

use crate::ids::PodUid;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// `<root-dir>/pods/<uid>` and what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodDir(PathBuf);

impl PodDir {
    /// `None` for a uid that is no single file name: it could lead out of the root directory.
    pub(super) fn new(root_dir: &Path, uid: &PodUid) -> Option<Self> {
        is_file_name(uid.as_str()).then(|| Self(root_dir.join("pods").join(uid.as_str())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The pod's, which is the folder's name.
    pub(super) fn uid(&self) -> &OsStr {
        self.0.file_name().unwrap_or_default()
    }

    /// `plugin` as `kubernetes.io~configmap`.
    pub(super) fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.0.join("volumes").join(plugin).join(name)
    }

    /// What a plugin keeps of a volume for itself.
    pub(super) fn plugin(&self, plugin: &str, name: &str) -> PathBuf {
        self.0.join("plugins").join(plugin).join(name)
    }

    /// The marker that an emptyDir (or the one under a content volume, `wrapped_<name>`) was set up.
    pub(super) fn ready_marker(&self, name: &str) -> PathBuf {
        self.plugin("kubernetes.io~empty-dir", name).join("ready")
    }

    pub(super) fn container(&self, name: &str) -> PathBuf {
        self.0.join("containers").join(name)
    }

    pub(super) fn etc_hosts(&self) -> PathBuf {
        self.0.join("etc-hosts")
    }

    /// Where parts of volumes are bound for containers.
    pub(super) fn sub_paths(&self) -> PathBuf {
        self.0.join("volume-subpaths")
    }

    /// Where the `index`th volumeMount of a container has its subPath bound.
    pub(super) fn sub_path(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.sub_paths().join(volume).join(container).join(index.to_string())
    }
}

/// One name, no way up, down or elsewhere.
pub(super) fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains('\0')
}

/// A path below a directory that stays below it: relative, without `..`.
pub(super) fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_names_become_directories() {
        for (name, good) in [
            ("a", true),
            ("a.b-c", true),
            ("..", false),
            (".", false),
            ("", false),
            ("a/b", false),
            ("/a", false),
            ("a/", false),
        ] {
            assert_eq!(is_file_name(name), good, "{name:?}");
        }
        for (path, good) in [("a/b", true), ("./a", true), ("a/../b", false), ("/a", false), ("..a/b", true)] {
            assert_eq!(is_below(Path::new(path)), good, "{path:?}");
        }
    }
}
