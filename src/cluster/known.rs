//! The pods of this node as files, one each: after a boot without an API server they run again from these.

use crate::ids::PodUid;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A folder of pods; cheap to clone. Blocks: to be used off the async threads.
#[derive(Clone, Debug)]
pub struct KnownPods {
    dir: PathBuf,
}

impl KnownPods {
    /// Below the agent's root directory.
    pub fn new(root_dir: &Path) -> Self {
        Self { dir: root_dir.join("known-pods") }
    }

    /// Replaces what is known of the pod. Not synced: after a power cut a pod that is lost here comes from the API.
    pub fn write(&self, pod: &Pod) -> io::Result<()> {
        let Some(path) = self.path(pod.metadata.uid.as_deref().unwrap_or_default()) else { return Ok(()) };
        std::fs::create_dir_all(&self.dir)?;
        // 0600: environments may hold what is nobody else's business.
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(&serde_json::to_vec(pod)?)?;
        file.persist(path)?;
        Ok(())
    }

    /// Already gone is fine.
    pub fn remove(&self, uid: &PodUid) -> io::Result<()> {
        let Some(path) = self.path(uid.as_str()) else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Forgets all but these.
    pub fn keep_only(&self, wanted: &BTreeSet<PodUid>) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            // One that is being written.
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let path = entry.path();
            let uid = path.file_stem().map(|stem| PodUid::new(stem.to_string_lossy()));
            if uid.is_none_or(|uid| !wanted.contains(&uid)) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Every pod that can be read; a file that cannot was cut off by a power failure.
    pub fn read(&self) -> io::Result<Vec<Pod>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut pods = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match serde_json::from_slice(&std::fs::read(&path)?) {
                Ok(pod) => pods.push(pod),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a known pod cannot be read"),
            }
        }
        Ok(pods)
    }

    /// `None` for a uid that is no file name.
    fn path(&self, uid: &str) -> Option<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (!uid.is_empty() && uid.bytes().all(plain)).then(|| self.dir.join(format!("{uid}.json")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_kept_replaced_and_removed_and_broken_files_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let known = KnownPods::new(root.path());
        assert!(known.read().unwrap().is_empty());
        let pod = |uid: &str, name: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"metadata": {"uid": uid, "name": name}})).unwrap()
        };
        for (uid, name) in [("u-1", "old"), ("u-1", "new"), ("u-2", "other"), ("../evil", "x"), ("", "y")] {
            known.write(&pod(uid, name)).unwrap();
        }
        std::fs::write(root.path().join("known-pods/u-3.json"), "{").unwrap();
        known.remove(&PodUid::new("u-2")).unwrap();
        known.remove(&PodUid::new("u-2")).unwrap();
        let names: Vec<_> = known.read().unwrap().into_iter().filter_map(|pod| pod.metadata.name).collect();
        assert_eq!(names, ["new"]);
        known.keep_only(&BTreeSet::from([PodUid::new("u-9")])).unwrap();
        assert!(known.read().unwrap().is_empty());
    }
}
