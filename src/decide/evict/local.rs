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

/// Why the pod is evicted, if it is; volumes count first, then the pod, then its containers.
pub fn exceeds(spec: &PodSpec, used: &PodDisk) -> Option<String> {
    over_volume(spec, used).or_else(|| over_pod(spec, used)).or_else(|| over_container(spec, used))
}

fn over_volume(spec: &PodSpec, used: &PodDisk) -> Option<String> {
    spec.volumes.iter().flatten().find_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let used = used.volumes.get(&volume.name)?.fs.used;
        let over = above(used, limit);
        over.then(|| format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0))
    })
}

/// All that the pod uses, against what its containers are limited to together: where each of them is.
fn over_pod(spec: &PodSpec, used: &PodDisk) -> Option<String> {
    let limits: Option<Vec<&Quantity>> = spec.containers.iter().map(limit).collect();
    let limits = limits?;
    let total = limits.iter().filter_map(|quantity| Bytes::parse(quantity).ok()).map(|bytes| bytes.0).sum::<i64>();
    let starting = spec.init_containers.iter().flatten().filter_map(limit).filter_map(|q| Bytes::parse(q).ok());
    let total = starting.map(|bytes| bytes.0).max().unwrap_or(0).max(total);
    let sum = used.ephemeral().bytes;
    let text = Bytes(total).quantity(true).0;
    (total > 0 && sum > total.unsigned_abs())
        .then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "))
}

fn over_container(spec: &PodSpec, used: &PodDisk) -> Option<String> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find_map(|container| {
        let limit = limit(container)?;
        let over = above(used.container(&container.name)?, limit);
        over.then(|| format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, limit.0))
    })
}

fn limit(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(requests::EPHEMERAL_STORAGE)
}

fn above(used: u64, limit: &Quantity) -> bool {
    Bytes::parse(limit).is_ok_and(|limit| limit.0 >= 0 && used > limit.0.unsigned_abs())
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
        assert_eq!(exceeds(&spec, &used).as_deref(), expected);
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
        let half = json!({"containers": [limited("a", "1Mi"), {"name": "b"}]});
        check(half, &[("v", 1 << 30)], &[("a", 0), ("b", 1 << 30)], None);
    }
}
