//! emptyDir on disk or in memory, and the directories under configMap, secret, downwardAPI and projected volumes.

use super::layout::PodDir;
use super::{mounts, ownership};
use crate::units::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
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
    /// hugetlbfs with pages of that many bytes.
    HugePages(u64),
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
        Medium::HugePages(page) if !mounts::is_mount_point(path)? => mounts::mount_hugetlbfs(path, page)?,
        Medium::Memory(_) | Medium::HugePages(_) => {}
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
        Medium::Memory(_) | Medium::HugePages(_) => mounts::is_mount_point(path),
    }
}

/// The page size of `HugePages-2Mi`, or of plain `HugePages` the one size that the pod asks for
/// (`getPageSizeMountOptionFromPod`).
pub(super) fn page_size(pod: &Pod, medium: &str) -> Result<u64, String> {
    let parse = |text: &str| {
        let size = Bytes::parse(&Quantity(text.to_owned())).ok().filter(|size| size.0 > 0);
        size.map(|size| size.0.unsigned_abs()).ok_or_else(|| format!("medium {medium:?} names no page size"))
    };
    if let Some(size) = medium.strip_prefix("HugePages-") {
        return parse(size);
    }
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let lists = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    let mut sizes: Vec<&str> =
        lists.flat_map(|list| list.keys()).filter_map(|name| name.strip_prefix("hugepages-")).collect();
    sizes.sort_unstable();
    sizes.dedup();
    match sizes[..] {
        [size] => parse(size),
        [] => Err("hugePages storage requested, but there is no resource request for huge pages.".to_owned()),
        _ => Err("medium HugePages can be used only if container requests are for one page size".to_owned()),
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

    #[test]
    fn huge_pages_have_the_size_that_the_medium_names_or_the_pod_asks_for() {
        let pod = |requests: serde_json::Value| -> Pod {
            let containers = serde_json::json!([{"name": "a", "resources": {"requests": requests}}]);
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
        };
        let one = serde_json::json!({"hugepages-2Mi": "4Mi"});
        let two = serde_json::json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"});
        assert_eq!(page_size(&pod(one.clone()), "HugePages"), Ok(2 << 20));
        assert_eq!(page_size(&pod(two.clone()), "HugePages-1Gi"), Ok(1 << 30));
        assert!(page_size(&pod(two), "HugePages").unwrap_err().contains("one page size"));
        assert!(page_size(&pod(serde_json::json!({})), "HugePages").unwrap_err().contains("no resource request"));
        assert!(page_size(&pod(one), "HugePages-x").is_err());
    }
}
