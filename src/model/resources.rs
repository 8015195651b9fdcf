//! Resources of a pod: what its containers ask for together, and what the node grants to each (in-place resize).

use super::qos::QosClass;
use crate::units::{Bytes, Millicores};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A resource list of the API.
pub type List = BTreeMap<String, Quantity>;

/// CPU (thousandths) and everything else (whole: bytes, pieces) by resource name. Zero is kept apart from absent.
pub type Amounts = BTreeMap<String, i64>;

/// An amount that cannot be read; the API server refuses such, a static pod may have one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: cannot parse quantity {value:?}")]
pub struct BadQuantity {
    pub name: String,
    pub value: String,
}

/// What a pod asks for (`resource.PodRequests`): all containers together, or the largest init container if more, and
/// the overhead of its runtime class. Resources of the pod as a whole replace the sums.
pub fn pod_requests(spec: &PodSpec, with_overhead: bool) -> Result<Amounts, BadQuantity> {
    pod_total(spec, with_overhead, |resources| resources.requests.as_ref())
}

/// As `pod_requests`, of limits. Overhead adds only to what is limited at all.
pub fn pod_limits(spec: &PodSpec, with_overhead: bool) -> Result<Amounts, BadQuantity> {
    let mut total = pod_total(spec, false, |resources| resources.limits.as_ref())?;
    if with_overhead && let Some(overhead) = &spec.overhead {
        for (name, amount) in amounts(overhead)? {
            if let Some(total) = total.get_mut(&name).filter(|total| **total != 0) {
                *total = total.saturating_add(amount);
            }
        }
    }
    Ok(total)
}

fn pod_total(
    spec: &PodSpec,
    with_overhead: bool,
    pick: impl Fn(&ResourceRequirements) -> Option<&List>,
) -> Result<Amounts, BadQuantity> {
    let of = |container: &Container| match container.resources.as_ref().and_then(&pick) {
        Some(list) => amounts(list),
        None => Ok(Amounts::new()),
    };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of(container)?);
    }
    // Sidecars run beside everything that starts after them.
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container)?;
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut peak, &now);
    }
    raise(&mut total, &peak);
    if let Some(list) = spec.resources.as_ref().and_then(&pick) {
        total.extend(amounts(list)?);
    }
    if with_overhead && let Some(overhead) = &spec.overhead {
        add(&mut total, &amounts(overhead)?);
    }
    Ok(total)
}

/// A list in numbers.
pub fn amounts(list: &List) -> Result<Amounts, BadQuantity> {
    list.iter()
        .map(|(name, quantity)| {
            let parsed = if name == "cpu" {
                Millicores::parse(quantity).map(|v| v.0)
            } else {
                Bytes::parse(quantity).map(|v| v.0)
            };
            let error = |_| BadQuantity { name: name.clone(), value: quantity.0.clone() };
            Ok((name.clone(), parsed.map_err(error)?))
        })
        .collect()
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let total = total.entry(name.clone()).or_default();
        *total = total.saturating_add(*amount);
    }
}

fn raise(total: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let total = total.entry(name.clone()).or_default();
        *total = (*total).max(*amount);
    }
}

/// How many CPUs a container of a Guaranteed pod asks for as wholes (`guaranteedCPUs`): the static CPU policy gives it
/// these alone. Resources of the pod as a whole are shared among its containers, so none has its own.
pub fn whole_cpus(pod: &Pod, container: &Container) -> usize {
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let is_set = pod_level.is_some_and(|resources| resources.requests.is_some() || resources.limits.is_some());
    if is_set || QosClass::of(pod) != QosClass::Guaranteed {
        return 0;
    }
    let resources = container.resources.as_ref();
    let cpu = |list: Option<&List>| list.and_then(|list| list.get("cpu")).cloned();
    // The API server fills requests in from limits; a static pod has what its file says.
    let request = resources.and_then(|r| cpu(r.requests.as_ref()).or_else(|| cpu(r.limits.as_ref())));
    let millicores = request.and_then(|quantity| Millicores::parse(&quantity).ok()).map_or(0, |cpu| cpu.0);
    if millicores % 1000 != 0 { 0 } else { usize::try_from(millicores / 1000).unwrap_or(0) }
}

/// Does the static CPU policy give any container of the pod CPUs of its own?
pub fn has_whole_cpus(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.into_iter().any(|container| whole_cpus(pod, container) > 0)
}

/// Is every container of the pod limited in this resource (or the pod as a whole)? Only then is its cgroup.
pub fn all_limited(spec: &PodSpec, name: &str) -> bool {
    let limits = |resources: Option<&ResourceRequirements>| -> Option<Quantity> {
        resources?.limits.as_ref()?.get(name).cloned()
    };
    let in_pod = limits(spec.resources.as_ref()).is_some();
    let limited = |container: &Container| limits(container.resources.as_ref()).is_some_and(|q| q.0 != "0");
    in_pod || spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(limited)
}

/// Sums as the API shows them: in the form (`Mi` or `M`) of the first that the pod's spec writes.
pub fn quantities(amounts: &Amounts, spec: &PodSpec) -> List {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<&ResourceRequirements> =
        spec.resources.iter().chain(containers.filter_map(|c| c.resources.as_ref())).collect();
    let is_binary = |name: &str| {
        let lists = all.iter().flat_map(|resources| resources.requests.iter().chain(&resources.limits));
        let first =
            lists.filter_map(|list| list.get(name)).chain(spec.overhead.iter().filter_map(|list| list.get(name)));
        first.into_iter().find(|quantity| quantity.0 != "0").is_none_or(|quantity| quantity.0.ends_with('i'))
    };
    let show = |(name, amount): (&String, &i64)| {
        let quantity = match name.as_str() {
            "cpu" => Millicores(*amount).quantity(),
            _ => Bytes(*amount).quantity(is_binary(name)),
        };
        (name.clone(), quantity)
    };
    amounts.iter().map(show).collect()
}

/// The resources of each container (and of the pod) that the node has granted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// What the spec asks for.
    pub fn of(spec: &PodSpec) -> Self {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let resources = |c: &Container| (c.name.clone(), c.resources.clone().unwrap_or_default());
        Self { pod: spec.resources.clone(), containers: containers.map(resources).collect() }
    }

    /// Does the spec ask for another amount of `cpu` or `memory` for a container that can be resized while it runs?
    pub fn changes(&self, spec: &PodSpec, resource: &str) -> bool {
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let empty = ResourceRequirements::default();
        sidecars.chain(&spec.containers).any(|container| {
            let granted = self.containers.get(&container.name).unwrap_or(&empty);
            differing(granted, container.resources.as_ref().unwrap_or(&empty)).contains(&resource)
        })
    }

    /// What the status says was granted, where it differs from the spec: after a restart of the agent a change that was
    /// pending is pending still.
    pub fn shown(spec: &PodSpec, status: &PodStatus) -> Self {
        let mut allocation = Self::of(spec);
        let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for shown in statuses {
            let (Some(granted), Some(resources)) = (allocation.containers.get_mut(&shown.name), &shown.resources)
            else {
                continue;
            };
            granted.requests = shown.allocated_resources.clone();
            granted.limits = resources.limits.clone();
        }
        if let (Some(pod), Some(resources)) = (&mut allocation.pod, &status.resources) {
            pod.requests = status.allocated_resources.clone();
            pod.limits = resources.limits.clone();
        }
        allocation
    }

    /// The pod with these resources; the same pod where it has them already.
    pub fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if pod.spec.as_ref().is_none_or(|spec| Self::of(spec) == *self) {
            return pod.clone();
        }
        let mut changed = Pod::clone(pod);
        if let Some(spec) = &mut changed.spec {
            spec.resources = self.pod.clone();
            for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                container.resources = self.containers.get(&container.name).cloned();
            }
        }
        Arc::new(changed)
    }
}

/// Are CPU and memory the same? Only these can change while a container runs.
pub fn same_cpu_and_memory(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    differing(a, b).is_empty()
}

/// Which of CPU and memory differ between two.
pub fn differing(a: &ResourceRequirements, b: &ResourceRequirements) -> Vec<&'static str> {
    fn get<'a>(list: Option<&'a List>, name: &str) -> Option<&'a Quantity> {
        list.and_then(|list| list.get(name))
    }
    let differs = |name: &&str| {
        get(a.requests.as_ref(), name) != get(b.requests.as_ref(), name)
            || get(a.limits.as_ref(), name) != get(b.limits.as_ref(), name)
    };
    ["cpu", "memory"].into_iter().filter(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn requests(value: serde_json::Value) -> String {
        let spec = spec(value);
        let list = quantities(&pod_requests(&spec, true).unwrap(), &spec);
        list.iter().map(|(name, quantity)| format!("{name}={} ", quantity.0)).collect::<String>().trim_end().to_owned()
    }

    #[test]
    fn sums_keep_the_form_that_the_spec_writes() {
        let ask =
            |cpu: &str, memory: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
        assert_eq!(requests(json!({"containers": [ask("100m", "64Mi")]})), "cpu=100m memory=64Mi");
        assert_eq!(requests(json!({"containers": [ask("500m", "512Mi"), ask("1500m", "512Mi")]})), "cpu=2 memory=1Gi");
        assert_eq!(requests(json!({"containers": [ask("1", "100M"), ask("250m", "1G")]})), "cpu=1250m memory=1100M");
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        assert_eq!(
            requests(
                json!({"containers": [ask("1", "1Gi")], "initContainers": [sidecar], "overhead": {"cpu": "250m"}})
            ),
            "cpu=2250m memory=1Gi"
        );
        assert_eq!(requests(json!({"containers": [{"name": "c"}]})), "");
    }

    #[test]
    fn a_granted_allocation_replaces_what_the_spec_asks_and_leaves_equal_pods_alone() {
        let pod = |cpu: &str| {
            let value = json!({"metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}, {"name": "d"}]}});
            Arc::new(serde_json::from_value::<Pod>(value).unwrap())
        };
        let (old, new) = (pod("1"), pod("2"));
        let granted = Allocation::of(old.spec.as_ref().unwrap());
        assert!(Arc::ptr_eq(&granted.apply(&old), &old));
        let applied = granted.apply(&new);
        assert_eq!(Allocation::of(applied.spec.as_ref().unwrap()), granted);
    }

    #[test]
    fn after_a_restart_the_status_tells_what_was_granted() {
        let spec = spec(
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4"}}}]}),
        );
        let status = serde_json::from_value(json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "",
            "ready": true, "restartCount": 0, "allocatedResources": {"cpu": "1"},
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}}]}))
        .unwrap();
        let granted = Allocation::shown(&spec, &status);
        let resources = &granted.containers["c"];
        assert_eq!(resources.requests.as_ref().unwrap()["cpu"].0, "1");
        assert_eq!(resources.limits.as_ref().unwrap()["cpu"].0, "3");
    }

    #[test]
    fn only_cpu_and_memory_count_as_changed() {
        let of = |value: serde_json::Value| serde_json::from_value::<ResourceRequirements>(value).unwrap();
        let base = of(json!({"requests": {"cpu": "1", "memory": "1Gi"}}));
        for (other, expected) in [
            (json!({"requests": {"cpu": "1", "memory": "1Gi"}}), vec![]),
            (json!({"requests": {"cpu": "2", "memory": "1Gi"}}), vec!["cpu"]),
            (json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}), vec!["memory"]),
            (json!({"requests": {"cpu": "1", "memory": "1Gi", "x/y": "1"}}), vec![]),
        ] {
            assert_eq!(differing(&base, &of(other)), expected);
        }
    }
}
