//! On which NUMA nodes a container's devices could lie, for who places them together with CPUs and memory
//! (`pkg/kubelet/cm/devicemanager/topology_hints.go`).

use super::offer::is_close;
use super::{Book, Grant, Ids};
use crate::decide::topology::{Hint, Hints, NumaMask};
use crate::ids::PodUid;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::{BTreeMap, BTreeSet};

/// Devices that a hint may count on.
struct Pool {
    free: Ids,
    /// Must be among those that are taken: the container has them already.
    reusable: Ids,
}

impl Book {
    /// Hints for each resource that the container wants, among the machine's `nodes`.
    pub fn hints(&self, pod: &Pod, uid: &PodUid, container: &Container, nodes: &BTreeSet<u32>) -> Vec<Hints> {
        let of = |(resource, count): (String, usize)| {
            let held = self.held(uid, &container.name).and_then(|held| held.get(&resource)).map(Grant::ids);
            let pool = || Pool { free: self.free(&resource), reusable: self.reusable(pod, uid, &resource) };
            self.hints_from(&resource, count, held, pool, nodes)
        };
        self.wants(container).into_iter().map(of).collect()
    }

    /// The same of a pod as a whole.
    pub fn pod_hints(&self, pod: &Pod, uid: &PodUid, nodes: &BTreeSet<u32>) -> Vec<Hints> {
        let of = |(resource, count): (String, usize)| {
            let held = self.grants.get(uid).into_iter().flat_map(BTreeMap::values);
            let held: Ids = held.filter_map(|held| held.get(&resource)).flat_map(Grant::ids).collect();
            let pool = || Pool { free: self.free(&resource), reusable: Ids::new() };
            self.hints_from(&resource, count, Some(held).filter(|held| !held.is_empty()), pool, nodes)
        };
        self.pod_wants(pod).into_iter().map(of).collect()
    }

    /// The most that a pod's containers hold at a time (`getPodDeviceRequest`).
    fn pod_wants(&self, pod: &Pod) -> BTreeMap<String, usize> {
        let Some(spec) = &pod.spec else { return BTreeMap::new() };
        let (mut peak, mut sidecars, mut running) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for container in spec.init_containers.iter().flatten() {
            for (resource, count) in self.wants(container) {
                let beside = sidecars.entry(resource.clone()).or_insert(0);
                let now = *beside + count;
                if container.restart_policy.as_deref() == Some("Always") {
                    *beside = now;
                }
                let peak = peak.entry(resource).or_insert(0);
                *peak = now.max(*peak);
            }
        }
        for (resource, count) in spec.containers.iter().flat_map(|container| self.wants(container)) {
            *running.entry(resource).or_insert(0) += count;
        }
        for (resource, count) in running {
            let count = count + sidecars.get(&resource).copied().unwrap_or(0);
            let peak = peak.entry(resource).or_insert(0);
            *peak = count.max(*peak);
        }
        peak
    }

    /// No preference where the resource's devices are close to no node; no possibility where there are too few. Who
    /// holds some gets hints for the same again.
    fn hints_from(
        &self,
        resource: &str,
        count: usize,
        held: Option<Ids>,
        pool: impl FnOnce() -> Pool,
        nodes: &BTreeSet<u32>,
    ) -> Hints {
        let devices = &self.resources.get(resource)?.devices;
        if devices.values().all(|device| device.nodes.is_empty()) {
            return None;
        }
        let Pool { free, reusable } = match held {
            Some(held) if held.len() == count => Pool { free: held, reusable: Ids::new() },
            Some(_) => return Some(Vec::new()),
            None => pool(),
        };
        if free.union(&reusable).count() < count {
            return Some(Vec::new());
        }
        let close = |id: &str, mask: NumaMask| devices.get(id).is_some_and(|device| is_close(device, mask));
        let placed: Vec<&String> =
            reusable.iter().filter(|id| devices.get(*id).is_some_and(|device| !device.nodes.is_empty())).collect();
        let mut fewest = nodes.len();
        let mut fitting = Vec::new();
        for mask in NumaMask::choices(nodes) {
            let size = mask.nodes().len();
            if devices.keys().filter(|id| close(id, mask)).count() >= count {
                fewest = fewest.min(size);
            }
            let near = placed.len() + free.iter().filter(|id| close(id, mask)).count();
            if placed.iter().all(|id| close(id, mask)) && near >= count {
                fitting.push((mask, size));
            }
        }
        let hint = |(mask, size)| Hint { affinity: Some(mask), preferred: size == fewest };
        Some(fitting.into_iter().map(hint).collect())
    }
}
