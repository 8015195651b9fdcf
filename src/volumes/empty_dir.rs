//! emptyDir on disk or in memory, and the directories under configMap, secret, downwardAPI and projected volumes.

use super::layout::PodDir;
use super::{mounts, ownership};
use crate::units::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// What the directory is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Disk,
    /// tmpfs of at most that many bytes.
    Memory(Option<u64>),
}

/// Makes the directory; `marker` is its name among the pod's ready markers. What is ready is left as it is.
pub(super) fn set_up(pod: &PodDir, path: &Path, marker: &str, medium: Medium, fs_group: Option<u32>) -> io::Result<()> {
    let marker = pod.ready_marker(marker);
    if marker.exists() && is_there(path, medium)? {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o750).create(path.parent().unwrap_or(path))?;
    match DirBuilder::new().mode(0o777).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match medium {
        // Again explicitly: our umask does not count.
        Medium::Disk => fs::set_permissions(path, fs::Permissions::from_mode(0o777))?,
        Medium::Memory(size) if !mounts::is_mount_point(path)? => mounts::mount_tmpfs(path, size)?,
        Medium::Memory(_) => {}
    }
    if let Some(gid) = fs_group {
        ownership::give_to_group(path, gid, false)?;
    }
    DirBuilder::new().recursive(true).mode(0o750).create(marker.parent().unwrap_or(&marker))?;
    File::create(marker).map(drop)
}

fn is_there(path: &Path, medium: Medium) -> io::Result<bool> {
    if !path.is_dir() {
        return Ok(false);
    }
    match medium {
        Medium::Disk => Ok(true),
        Medium::Memory(_) => mounts::is_mount_point(path),
    }
}

/// Size of a memory volume: the least of the node's allocatable memory, the pod's memory limit and its own sizeLimit
/// (`calculateEmptyDirMemorySize`).
pub(super) fn memory_size(pod: &Pod, allocatable: Option<Bytes>, limit: Option<Bytes>) -> Option<u64> {
    let sizes = [allocatable, pod_memory_limit(pod), limit];
    sizes.into_iter().flatten().filter(|size| size.0 > 0).map(|size| size.0.unsigned_abs()).min()
}

/// The sum of the containers' limits, where each has one, or the largest of an init container's.
fn pod_memory_limit(pod: &Pod) -> Option<Bytes> {
    let spec = pod.spec.as_ref()?;
    let limit =
        |container: &Container| Bytes::parse(container.resources.as_ref()?.limits.as_ref()?.get("memory")?).ok();
    if let Some(Ok(whole)) = spec.resources.as_ref().and_then(|r| r.limits.as_ref()?.get("memory")).map(Bytes::parse) {
        return Some(whole);
    }
    let sum = spec.containers.iter().map(limit).try_fold(0i64, |sum, limit| Some(sum.saturating_add(limit?.0)))?;
    let init = spec.init_containers.iter().flatten().map(|c| limit(c).map_or(i64::MAX, |l| l.0)).max().unwrap_or(0);
    (init < i64::MAX).then(|| Bytes(sum.max(init)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_volumes_are_as_large_as_the_tightest_limit() {
        let pod = |containers: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
        };
        let limited = serde_json::json!([{"name": "a", "resources": {"limits": {"memory": "64Mi"}}}]);
        let half = serde_json::json!([{"name": "a", "resources": {"limits": {"memory": "64Mi"}}}, {"name": "b"}]);
        let (node, own) = (Some(Bytes(1 << 30)), Some(Bytes(1 << 20)));
        assert_eq!(memory_size(&pod(limited.clone()), node, None), Some(64 << 20));
        assert_eq!(memory_size(&pod(limited), node, own), Some(1 << 20));
        assert_eq!(memory_size(&pod(half), node, None), Some(1 << 30));
    }
}
