//! Amounts of resources as the scheduler counts them, and what a pod asks for.

use crate::schema::quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// What a container without a request counts for when nodes are compared (upstream's util.DefaultMilliCPURequest and
/// DefaultMemoryRequest); never when it is decided whether a pod fits.
const UNREQUESTED_CPU_MILLIS: i64 = 100;
const UNREQUESTED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, Quantity>;

/// Amounts by resource. `pods` is no amount that pods request: see `NodeView::pods`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Resources {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    /// Huge pages, attachable volumes and extended resources.
    pub scalars: BTreeMap<Box<str>, i64>,
}

impl Resources {
    pub(super) fn of(list: Option<&List>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            resources.set(name, quantity);
        }
        resources
    }

    fn set(&mut self, name: &str, quantity: &Quantity) {
        match name {
            "cpu" => self.cpu_millis = millis(quantity),
            "memory" => self.memory_bytes = whole(quantity),
            "ephemeral-storage" => self.ephemeral_bytes = whole(quantity),
            name if is_scalar(name) => {
                self.scalars.insert(name.into(), whole(quantity));
            }
            // `pods`, and names that mean nothing to a scheduler.
            _ => {}
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
        self.scalars.retain(|_, amount| *amount != 0);
    }

    fn at_least(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.cpu_millis = with(self.cpu_millis, other.cpu_millis);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = with(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.scalars {
            let own = self.scalars.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }

    pub(super) fn scalar(&self, name: &str) -> i64 {
        self.scalars.get(name).copied().unwrap_or(0)
    }
}

fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

/// The API server admits no malformed quantity; one that another server let in counts as none.
fn whole(quantity: &Quantity) -> i64 {
    quantity::Quantity::parse(&quantity.0).map_or(0, |q| clamp(q.value()))
}

pub(super) fn millis(quantity: &Quantity) -> i64 {
    quantity::Quantity::parse(&quantity.0).map_or(0, |q| clamp(q.millis()))
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The `pods` of an allocatable list.
pub(super) fn pod_count(list: Option<&List>) -> i64 {
    list.and_then(|list| list.get("pods")).map_or(0, whole)
}

/// What the pod takes of a node: the larger of all that runs at once later and each moment of its start, and overhead.
pub(super) fn requests(spec: &PodSpec) -> Resources {
    total(spec, |container| Resources::of(container_requests(container)))
}

/// As `requests`, with containers that request no CPU or memory counted for a little: (milli-CPU, bytes).
pub(super) fn requests_for_score(spec: &PodSpec) -> (i64, i64) {
    let counted = total(spec, |container| {
        let list = container_requests(container);
        let has = |name| list.is_some_and(|list| list.contains_key(name));
        let mut resources = Resources::of(list);
        if !has("cpu") {
            resources.cpu_millis = UNREQUESTED_CPU_MILLIS;
        }
        if !has("memory") {
            resources.memory_bytes = UNREQUESTED_MEMORY_BYTES;
        }
        resources
    });
    (counted.cpu_millis, counted.memory_bytes)
}

fn container_requests(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.requests.as_ref()
}

/// Whether an init container is a sidecar: it goes on running beside the containers.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    let (mut sidecars, mut start) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if is_sidecar(container) {
            running.add(&own);
            sidecars.add(&own);
            start.at_least(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&own);
            start.at_least(&moment);
        }
    }
    running.at_least(&start);
    // Requests of the pod as a whole stand in for those of its containers.
    for (name, quantity) in spec.resources.iter().filter_map(|r| r.requests.as_ref()).flatten() {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            running.set(name, quantity);
        }
    }
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, expected: (i64, i64)) {
        let parsed: PodSpec = serde_json::from_value(spec.clone()).unwrap();
        let asked = requests(&parsed);
        assert_eq!((asked.cpu_millis, asked.memory_bytes), expected, "{spec}");
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_pod_asks_for_its_most_demanding_moment_and_its_overhead() {
        check(json!({"containers": [container("100m"), container("0.2")]}), (300, 0));
        check(
            json!({"containers": [container("100m")], "initContainers": [container("1"), container("2")]}),
            (2000, 0),
        );
        // Later init containers run beside earlier sidecars, and so do the containers.
        check(
            json!({"containers": [container("100m")], "initContainers": [container("1"), sidecar("500m"), container("1")]}),
            (1500, 0),
        );
        check(json!({"containers": [container("1")], "initContainers": [sidecar("500m")]}), (1500, 0));
        check(json!({"containers": [container("1")], "overhead": {"cpu": "10m", "memory": "1Ki"}}), (1010, 1024));
        // Requests of the pod as a whole.
        check(
            json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3", "memory": "2k"}}}),
            (3000, 2000),
        );
    }

    #[test]
    fn for_scores_containers_without_a_request_count_for_a_little() {
        let spec = json!({"containers": [container("1"), {"name": "d", "resources": {"requests": {"memory": "0"}}}]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(requests_for_score(&spec), (1100, UNREQUESTED_MEMORY_BYTES));
        assert_eq!(requests(&spec).memory_bytes, 0);
    }
}
