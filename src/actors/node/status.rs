//! NodeStatus from facts, and the patch from one status to the next. Pure.

use crate::disk::DiskUsage;
use crate::model::devices::Advertised;
use crate::model::eviction::{Amount, Distress, Shortage};
use crate::model::node::Machine;
use crate::runtime::{ImageInfo, RuntimeInfo};
use crate::units::{Bytes, Millicores};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use node_config::agent::AgentConfig;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The kubelet that we stand in for.
pub const KUBELET_VERSION: &str = "v1.36.2";
/// `MaxNamesPerImageInNodeStatus`.
const MAX_IMAGE_NAMES: usize = 5;
/// What of `status.declaredFeatures` this agent does.
const DECLARED_FEATURES: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// Everything a status is made from.
pub(super) struct Inputs<'a> {
    pub config: &'a AgentConfig,
    pub machine: &'a Machine,
    pub disk: DiskUsage,
    pub ips: &'a [IpAddr],
    /// `Err`: the runtime does not answer.
    pub runtime: Result<&'a RuntimeInfo, &'a str>,
    pub images: &'a [ImageInfo],
    pub distress: &'a Distress,
    pub volumes_in_use: &'a BTreeSet<String>,
    pub devices: &'a Advertised,
    /// Extended resources that the API has of an earlier making of this node: none of them is known to be there.
    pub outdated: &'a BTreeSet<String>,
    /// The status as the API has it: transition times and others' resources are kept.
    pub last: Option<&'a NodeStatus>,
    pub now: Timestamp,
}

pub(super) fn build(inputs: &Inputs<'_>) -> NodeStatus {
    let (capacity, allocatable) = resources(inputs);
    let runtime = inputs.runtime.ok();
    NodeStatus {
        addresses: Some(addresses(inputs)),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(inputs)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(inputs.config.port) }),
        }),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
        features: runtime
            .map(|info| NodeFeatures { supplemental_groups_policy: Some(info.supplemental_groups_policy) }),
        images: Some(images(inputs.images, inputs.config.kubelet.node_status_max_images)),
        node_info: Some(node_info(inputs)),
        runtime_handlers: runtime.filter(|info| !info.handlers.is_empty()).map(handlers),
        volumes_in_use: volumes_in_use(inputs),
        ..Default::default()
    }
}

/// An empty list takes back what was shown.
fn volumes_in_use(inputs: &Inputs<'_>) -> Option<Vec<String>> {
    let shown = inputs.last.is_some_and(|last| last.volumes_in_use.as_ref().is_some_and(|shown| !shown.is_empty()));
    (shown || !inputs.volumes_in_use.is_empty()).then(|| inputs.volumes_in_use.iter().cloned().collect())
}

fn addresses(inputs: &Inputs<'_>) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let ips = inputs.ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    ips.chain([address("Hostname", inputs.config.node_name.clone())]).collect()
}

fn node_info(inputs: &Inputs<'_>) -> NodeSystemInfo {
    let machine = inputs.machine;
    let last = inputs.last.and_then(|status| status.node_info.as_ref());
    NodeSystemInfo {
        architecture: machine.architecture.into(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: match inputs.runtime {
            Ok(info) => format!("{}://{}", info.name, info.version),
            Err(_) => last.map(|info| info.container_runtime_version.clone()).unwrap_or_default(),
        },
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        swap: (machine.swap_bytes > 0).then(|| NodeSwapStatus { capacity: i64::try_from(machine.swap_bytes).ok() }),
        system_uuid: machine.system_uuid.clone(),
    }
}

fn handlers(info: &RuntimeInfo) -> Vec<NodeRuntimeHandler> {
    let handlers = info.handlers.iter().map(|(name, (read_only, user_namespaces))| NodeRuntimeHandler {
        name: Some(name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(*read_only),
            user_namespaces: Some(*user_namespaces),
        }),
    });
    handlers.collect()
}

/// The largest images, each with its digests and tags; `most`: how many, and all where that is negative.
fn images(images: &[ImageInfo], most: Option<i32>) -> Vec<ContainerImage> {
    let mut images: Vec<&ImageInfo> = images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let entry = |image: &ImageInfo| ContainerImage {
        names: Some(image.digests.iter().chain(&image.tags).take(MAX_IMAGE_NAMES).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    images
        .into_iter()
        .take(most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)))
        .map(entry)
        .collect()
}

/// Capacity, and what of it pods may have.
pub(super) fn resources(inputs: &Inputs<'_>) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let (machine, config) = (inputs.machine, inputs.config);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let huge_total = machine.huge_pages.iter().map(|(size, pages)| size * pages).sum::<u64>();
    let disk = signed(inputs.disk.capacity);
    let memory = signed(machine.memory_bytes);
    let reserved = |name: &str, parse: fn(&Quantity) -> i64| {
        let value = |map: &BTreeMap<String, String>| map.get(name).map_or(0, |text| parse(&Quantity(text.clone())));
        value(&config.kube_reserved) + value(&config.system_reserved)
    };
    let bytes = |quantity: &Quantity| Bytes::parse(quantity).map_or(0, |bytes| bytes.0);
    let millis = |quantity: &Quantity| Millicores::parse(quantity).map_or(0, |cpu| cpu.0);
    let cpu = i64::from(machine.cpus) * 1000;
    let pods = Quantity(pods(config, machine.cpus).to_string());
    let memory_threshold = threshold(config, "memory.available", memory);
    let disk_threshold = threshold(config, "nodefs.available", disk);

    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), cpu_quantity(cpu)),
        ("memory".to_owned(), bytes_quantity(memory)),
        ("ephemeral-storage".to_owned(), bytes_quantity(disk)),
        ("pods".to_owned(), pods.clone()),
    ]);
    let mut allocatable = BTreeMap::from([
        ("cpu".to_owned(), cpu_quantity((cpu - reserved("cpu", millis)).max(0))),
        (
            "memory".to_owned(),
            bytes_quantity((memory - reserved("memory", bytes) - memory_threshold - signed(huge_total)).max(0)),
        ),
        (
            "ephemeral-storage".to_owned(),
            // As the kubelet computes it: whole bytes.
            Quantity((disk - reserved("ephemeral-storage", bytes) - disk_threshold).max(0).to_string()),
        ),
        ("pods".to_owned(), pods),
    ]);
    for (size, pages) in &machine.huge_pages {
        let name = format!("hugepages-{}", bytes_quantity(signed(*size)).0);
        let quantity = bytes_quantity(signed(size * pages));
        capacity.insert(name.clone(), quantity.clone());
        allocatable.insert(name, quantity);
    }
    // Extended resources that others advertised for the node: all of them can be had.
    for (name, quantity) in inputs.last.iter().flat_map(|status| status.capacity.iter().flatten()) {
        if name.contains('/') {
            let none = || Quantity("0".to_owned());
            let quantity = if inputs.outdated.contains(name) { none() } else { quantity.clone() };
            capacity.insert(name.clone(), quantity.clone());
            allocatable.insert(name.clone(), quantity);
        }
    }
    for (list, counts) in [(&mut capacity, &inputs.devices.capacity), (&mut allocatable, &inputs.devices.allocatable)] {
        list.extend(counts.iter().map(|(name, count)| (name.clone(), Quantity(count.to_string()))));
    }
    (capacity, allocatable)
}

/// `maxPods`, or what `podsPerCore` makes of the cores where that is less.
fn pods(config: &AgentConfig, cpus: u32) -> u32 {
    match u32::try_from(config.kubelet.pods_per_core) {
        Ok(each) if each > 0 => config.max_pods.min(each.saturating_mul(cpus)),
        _ => config.max_pods,
    }
}

/// An eviction threshold in bytes: a quantity, or a percentage of the capacity.
pub(super) fn threshold(config: &AgentConfig, signal: &str, capacity: i64) -> i64 {
    let capacity = u64::try_from(capacity).unwrap_or(0);
    let least = config.eviction_hard.get(signal).and_then(|text| Amount::parse(text));
    least.map_or(0, |least| i64::try_from(least.of(capacity)).unwrap_or(i64::MAX))
}

/// As `resource.Quantity` prints BinarySI: the largest suffix without a fraction.
fn bytes_quantity(bytes: i64) -> Quantity {
    let (mut value, mut suffix) = (bytes, "");
    for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
        if value == 0 || value % 1024 != 0 {
            break;
        }
        value /= 1024;
        suffix = next;
    }
    Quantity(format!("{value}{suffix}"))
}

fn cpu_quantity(millis: i64) -> Quantity {
    if millis % 1000 == 0 { Quantity((millis / 1000).to_string()) } else { Quantity(format!("{millis}m")) }
}

/// In the kubelet's order.
fn conditions(inputs: &Inputs<'_>) -> Vec<NodeCondition> {
    let [memory, disk, pid] =
        [Shortage::Memory, Shortage::Disk, Shortage::Pid].map(|what| inputs.distress.short.contains(&what));
    let pick = |bad: bool, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if bad { yes } else { no };
        (bad, reason.to_owned(), message.to_owned())
    };
    let ready = match not_ready(inputs.runtime, inputs.distress.shutting_down) {
        None => (true, "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
        Some(message) => (false, "KubeletNotReady".to_owned(), message),
    };
    let all = [
        (
            "MemoryPressure",
            pick(
                memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            pick(
                disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            pick(
                pid,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
        ),
        ("Ready", ready),
    ];
    let conditions = all.map(|(type_, (truth, reason, message))| {
        let status = if truth { "True" } else { "False" };
        let same = condition(inputs.last, type_).filter(|last| last.status == status);
        NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason),
            message: Some(message),
            last_heartbeat_time: Some(Time(inputs.now)),
            last_transition_time: same.and_then(|last| last.last_transition_time.clone()).or(Some(Time(inputs.now))),
        }
    });
    conditions.to_vec()
}

/// Why the node is not ready, in the kubelet's words.
fn not_ready(runtime: Result<&RuntimeInfo, &str>, shutting_down: bool) -> Option<String> {
    let mut problems: Vec<String> = match runtime {
        Err(_) => vec!["container runtime is down".to_owned()],
        Ok(info) => info.runtime_problem().into_iter().chain(info.network_problem()).collect(),
    };
    problems.extend(shutting_down.then(|| "node is shutting down".to_owned()));
    match problems.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

pub(super) fn condition<'a>(status: Option<&'a NodeStatus>, type_: &str) -> Option<&'a NodeCondition> {
    status?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

pub(super) fn is_true(status: &NodeStatus, type_: &str) -> bool {
    condition(Some(status), type_).is_some_and(|condition| condition.status == "True")
}

/// The strategic merge patch from what the API has to what is true, and whether more than heartbeats differs.
pub(super) struct Change {
    pub patch: Value,
    pub matters: bool,
}

/// Only fields that we own appear in the patch: others' conditions, resources and attached volumes survive.
pub(super) fn change(last: &NodeStatus, next: &NodeStatus) -> Result<Change, serde_json::Error> {
    let (last, next) = (serde_json::to_value(last)?, serde_json::to_value(next)?);
    let mut status = Map::new();
    let mut matters = false;
    for (field, value) in next.as_object().into_iter().flatten() {
        let old = &last[field];
        if field == "conditions" {
            matters |= without_heartbeats(value) != without_heartbeats(&ours(old, value));
            status.insert(field.clone(), value.clone());
        } else if old != value {
            matters = true;
            let value = match (field.as_str(), old, value) {
                // Merged by type otherwise, which cannot hold two addresses of one type.
                ("addresses", Value::Array(_), Value::Array(list)) => {
                    Value::Array([json!({"$patch": "replace"})].into_iter().chain(list.iter().cloned()).collect())
                }
                (_, _, value) => value.clone(),
            };
            status.insert(field.clone(), value);
        }
    }
    Ok(Change { patch: json!({ "status": status }), matters })
}

/// Of the old conditions, those whose type is among the new, in the new order.
fn ours(old: &Value, new: &Value) -> Value {
    let old = old.as_array().map(Vec::as_slice).unwrap_or_default();
    let find = |wanted: &Value| old.iter().find(|condition| condition["type"] == wanted["type"]).cloned();
    new.as_array().into_iter().flatten().filter_map(find).collect()
}

fn without_heartbeats(conditions: &Value) -> Vec<Value> {
    let strip = |condition: &Value| {
        let mut condition = condition.clone();
        if let Some(map) = condition.as_object_mut() {
            map.remove("lastHeartbeatTime");
        }
        condition
    };
    conditions.as_array().into_iter().flatten().map(strip).collect()
}

#[cfg(test)]
pub(super) mod tests;
