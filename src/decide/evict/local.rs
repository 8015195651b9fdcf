//! Local storage: which pod uses more of the node's disk than it may, and the kubelet's words for it
//! (`pkg/kubelet/eviction`, `localStorageEviction`).

use crate::decide::requests;
use crate::model::stats::PodDisk;
use crate::units::Bytes;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Does a pod have a limit that its use of the disk could exceed? Only then is it measured.
pub fn is_limited(spec: &PodSpec) -> bool {
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.empty_dir.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    volumes.into_iter().any(|source| source.size_limit.is_some()) || containers.into_iter().any(|c| limit(c).is_some())
}

/// A limit that a pod is above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// As `kubelet_evictions` counts it.
    pub signal: &'static str,
    pub message: String,
}

/// Why the pod is evicted, if it is; volumes count first, then the pod, then its containers. `separate_images`: layers do
/// not lie on the node's own file system, and only logs count against a container's limit.
pub fn exceeds(spec: &PodSpec, used: &PodDisk, separate_images: bool) -> Option<Excess> {
    let excess = |signal| move |message| Excess { signal, message };
    over_volume(spec, used)
        .map(excess("emptydirfs.limit"))
        .or_else(|| over_pod(spec, used).map(excess("ephemeralpodfs.limit")))
        .or_else(|| over_container(spec, used, separate_images).map(excess("ephemeralcontainerfs.limit")))
}

fn over_volume(spec: &PodSpec, used: &PodDisk) -> Option<String> {
    spec.volumes.iter().flatten().find_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let used = used.volumes.get(&volume.name)?.fs.used;
        let over = above(used, limit);
        over.then(|| format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0))
    })
}

/// All that the pod uses, against what those of its containers that are limited may use together.
fn over_pod(spec: &PodSpec, used: &PodDisk) -> Option<String> {
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(limit);
    // Where none is limited, the pod is not.
    containers.next()?;
    let total = requests::limits(spec).ephemeral_storage;
    let over = used.ephemeral().bytes > total.0.max(0).unsigned_abs();
    let text = total.quantity(true).0;
    over.then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "))
}

fn over_container(spec: &PodSpec, used: &PodDisk, separate_images: bool) -> Option<String> {
    spec.containers.iter().find_map(|container| {
        let limit = limit(container)?;
        let used = if separate_images { used.logs_of(&container.name) } else { used.container(&container.name) };
        let over = above(used?, limit);
        over.then(|| format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, limit.0))
    })
}

fn limit(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(requests::EPHEMERAL_STORAGE)
}

fn above(used: u64, limit: &Quantity) -> bool {
    // Zero is no limit here.
    Bytes::parse(limit).is_ok_and(|limit| limit.0 > 0 && used > limit.0.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ContainerName;
    use crate::model::stats::{FsUse, TreeUse, VolumeUse};
    use serde_json::{Value, json};

    fn check(spec: Value, volumes: &[(&str, u64)], containers: &[(&str, u64)], expected: Option<&str>) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let volume =
            |used: u64| VolumeUse { local: true, fs: FsUse { used, ..Default::default() }, ..VolumeUse::default() };
        let layer = |bytes: u64| TreeUse { bytes, inodes: 1 };
        let used = PodDisk {
            volumes: volumes.iter().map(|(name, bytes)| ((*name).to_owned(), volume(*bytes))).collect(),
            layers: containers.iter().map(|(name, bytes)| (ContainerName::new(*name), layer(*bytes))).collect(),
            ..Default::default()
        };
        assert_eq!(exceeds(&spec, &used, false).map(|excess| excess.message).as_deref(), expected);
        assert!(expected.is_none() || is_limited(&spec));
    }

    fn limited(name: &str, limit: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    }

    #[test]
    fn a_volume_larger_than_its_limit_costs_the_pod() {
        let spec = json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]});
        check(spec.clone(), &[("v", 1 << 20)], &[], None);
        check(spec, &[("v", (1 << 20) + 1)], &[], Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "));
        let free = json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]});
        check(free.clone(), &[("v", 1 << 40)], &[], None);
        assert!(!is_limited(&serde_json::from_value(free).unwrap()));
    }

    #[test]
    fn a_container_may_use_its_limit_and_the_pod_their_sum() {
        let two = json!({"containers": [limited("a", "1Mi"), limited("b", "2Mi")]});
        check(two.clone(), &[], &[("a", 1 << 20), ("b", 2 << 20)], None);
        check(
            two.clone(),
            &[],
            &[("a", (1 << 20) + 1), ("b", 0)],
            Some("Container a exceeded its local ephemeral storage limit \"1Mi\". "),
        );
        check(
            two,
            &[("v", 1 << 20)],
            &[("a", 1 << 20), ("b", 2 << 20)],
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "),
        );
        // What one may use all may, also where another has no limit of its own.
        let half = json!({"containers": [limited("a", "1Mi"), {"name": "b"}]});
        check(half.clone(), &[], &[("a", 0), ("b", 1 << 20)], None);
        check(
            half,
            &[],
            &[("a", 0), ("b", (1 << 20) + 1)],
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
        );
        let sidecar = |restart: Value| {
            let mut first = limited("s", "4Mi");
            first["restartPolicy"] = restart;
            json!({"containers": [limited("a", "1Mi")], "initContainers": [first]})
        };
        let message =
            |total| format!("Pod ephemeral local storage usage exceeds the total limit of containers {total}. ");
        check(sidecar(json!("Always")), &[("v", 5 << 20)], &[], None);
        check(sidecar(json!("Always")), &[("v", (5 << 20) + 1)], &[], Some(&message("5Mi")));
        check(sidecar(Value::Null), &[("v", (4 << 20) + 1)], &[], Some(&message("4Mi")));
        check(json!({"containers": [limited("a", "0")]}), &[], &[("a", 1)], Some(&message("0")));
    }

    #[test]
    fn layers_on_another_disk_count_for_the_pod_and_not_for_its_container() {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [limited("a", "1Mi"), limited("b", "9Mi")]})).unwrap();
        let tree = |bytes| [(ContainerName::new("a"), TreeUse { bytes, inodes: 1 })].into();
        let used = |layer, log| PodDisk { layers: tree(layer), logs: tree(log), ..Default::default() };
        let over = |used: &PodDisk, apart| exceeds(&spec, used, apart).map(|excess| excess.signal);
        assert_eq!(over(&used(2 << 20, 0), false), Some("ephemeralcontainerfs.limit"));
        assert_eq!(over(&used(2 << 20, 0), true), None);
        assert_eq!(over(&used(0, 2 << 20), true), Some("ephemeralcontainerfs.limit"));
        assert_eq!(over(&used(11 << 20, 0), true), Some("ephemeralpodfs.limit"));
    }
}
