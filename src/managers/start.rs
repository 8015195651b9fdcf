//! Which managers a node has, from its configuration, the machine and the checkpoints; what cannot be is refused as the
//! kubelet refuses it.

use super::checkpoint::{self, CheckpointError, CpuCheckpoint, MemoryCheckpoint};
use super::{CPU_STATE, MEMORY_NONE, MEMORY_STATE, MEMORY_STATIC, Managers, NONE, STATIC, State, machine};
use crate::decide::cpus::{self, BadOption, BadState, StaticCpus};
use crate::decide::numa_memory::{BadMemoryState, Sizes, StaticMemory};
use crate::decide::topology::{Aligner, Alignment, Scope};
use crate::metrics::catalog;
use crate::model::cpuset::{BadCpuSet, CpuSet};
use crate::model::topology::Topology;
use crate::units::{Bytes, Millicores};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use node_config::agent::AgentConfig;
use node_config::kubelet::KubeletConfiguration;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// `defaultMaxAllowableNUMANodes`: with more the number of combinations explodes.
const MAX_NODES: usize = 8;

/// Why the node cannot start with this configuration, machine and state; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    #[error(
        "the machine's CPUs cannot be read from /sys: {0}; mount it, or set cpuManagerPolicy and topologyManagerPolicy to none"
    )]
    Machine(#[source] io::Error),
    #[error("reservedSystemCPUs: {0}")]
    Reserved(#[from] BadCpuSet),
    #[error("unable to reserve CPUs {missing}: the machine has {machine}; change reservedSystemCPUs")]
    NotThere { missing: CpuSet, machine: CpuSet },
    #[error(
        "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero; set \
         reservedSystemCPUs, systemReserved.cpu or kubeReserved.cpu"
    )]
    NothingReserved,
    #[error(
        "[cpumanager] unable to reserve the required amount of CPUs (size of {machine} did not equal {wanted}); lower \
         systemReserved.cpu and kubeReserved.cpu"
    )]
    TooMuchReserved { machine: CpuSet, wanted: usize },
    #[error("None policy: received unsupported options=map[{0}]; remove cpuManagerPolicyOptions")]
    UnusedOptions(String),
    #[error("cpuManagerPolicyOptions: {0}")]
    Option(#[from] BadOption),
    #[error("topologyManagerPolicyOptions: {0}")]
    TopologyOption(String),
    #[error(
        "unsupported on machines with more than {0} NUMA Nodes; set topologyManagerPolicyOptions.max-allowable-numa-nodes"
    )]
    TooManyNodes(usize),
    #[error(
        "could not restore state from checkpoint: {source}, please drain this node and delete the CPU manager checkpoint file \
         {path:?} before restarting Kubelet"
    )]
    Checkpoint { path: PathBuf, source: CheckpointError },
    #[error(
        "could not restore state from checkpoint: [memorymanager] {source}, please drain this node and delete the memory \
         manager checkpoint file {path:?} before restarting Kubelet"
    )]
    MemoryCheckpoint { path: PathBuf, source: CheckpointError },
    #[error("Invalid state, please drain node and remove policy state file {path:?}: {source}")]
    MemoryState { path: PathBuf, source: BadMemoryState },
    #[error("[memorymanager] you should specify the system reserved memory; set reservedMemory")]
    NoMemoryReserved,
    #[error(
        "the total amount {given:?} of type {kind:?} is not equal to the value {wanted:?} determined by Node Allocatable \
         feature; have reservedMemory add up to systemReserved, kubeReserved and evictionHard together"
    )]
    MemoryReserved { kind: String, given: String, wanted: String },
    #[error("reservedMemory: the machine has no NUMA node {0}")]
    NoSuchNode(i32),
    #[error("static policy invalid state, please drain node and remove policy state file {path:?}: {source}")]
    State { path: PathBuf, source: BadState },
}

impl Managers {
    /// As the configuration says; `None` where no policy wants anything. Blocks: reads `/sys` and the checkpoint.
    pub fn start(config: &AgentConfig) -> Result<Option<Arc<Self>>, ManagerError> {
        let kubelet = &config.kubelet;
        let path = config.root_dir.join(CPU_STATE);
        let is_static = kubelet.cpu_manager_policy == STATIC;
        let alignment = match kubelet.topology_manager_policy.as_str() {
            "best-effort" => Some(Alignment::BestEffort),
            "restricted" => Some(Alignment::Restricted),
            "single-numa-node" => Some(Alignment::SingleNumaNode),
            _ => None,
        };
        let memory_path = config.root_dir.join(MEMORY_STATE);
        let is_memory_static = kubelet.memory_manager_policy == MEMORY_STATIC;
        let failed = |source| ManagerError::Checkpoint { path: path.clone(), source };
        let kept = checkpoint::read::<CpuCheckpoint>(&path, if is_static { STATIC } else { NONE }).map_err(failed)?;
        let memory_failed = |source| ManagerError::MemoryCheckpoint { path: memory_path.clone(), source };
        let policy = if is_memory_static { MEMORY_STATIC } else { MEMORY_NONE };
        let memory_kept = checkpoint::read::<MemoryCheckpoint>(&memory_path, policy).map_err(memory_failed)?;
        let named: CpuSet = kubelet.reserved_system_cpus.parse()?;
        if !is_static && !kubelet.cpu_manager_policy_options.is_empty() {
            // As Go prints a map.
            let options = kubelet.cpu_manager_policy_options.iter().map(|(name, value)| format!("{name}:{value}"));
            return Err(ManagerError::UnusedOptions(options.collect::<Vec<_>>().join(" ")));
        }
        catalog::SHARED_CPUS.set(0.0);
        catalog::OWNED_CPUS.set(0.0);
        let any = is_static || is_memory_static || alignment.is_some();
        if !any && named.is_empty() {
            return Ok(None);
        }
        let topology = machine::read(Path::new("/sys/devices/system")).map_err(ManagerError::Machine)?;
        let missing = named.difference(&topology.all());
        if !missing.is_empty() {
            return Err(ManagerError::NotThere { missing, machine: topology.all() });
        }
        if !any {
            return Ok(None);
        }
        let aligner = alignment.map(|alignment| aligner(alignment, kubelet, &topology)).transpose()?;
        let (mut cpus, mut memory, mut state) = (None, None, State::default());
        if is_memory_static {
            let policy = StaticMemory::new(&topology, &reserved_memory(config, &topology)?);
            let kept = memory_kept.map(MemoryCheckpoint::state).unwrap_or_default();
            let failed = |source| ManagerError::MemoryState { path: memory_path.clone(), source };
            state.memory = policy.begin(kept).map_err(failed)?;
            memory = Some(policy);
        }
        if is_static {
            let kept = kept.map(|kept| kept.state()).transpose().map_err(|error| failed(error.into()))?;
            let policy = static_cpus(config, topology, &named, alignment)?;
            let failed = |source| ManagerError::State { path: path.clone(), source };
            state.cpus = policy.begin(kept.unwrap_or_default()).map_err(failed)?;
            cpus = Some(policy);
        }
        let (root, changed) = (config.root_dir.clone(), Notify::new());
        let lifts_quotas = kubelet.feature_gates.get("DisableCPUQuotaWithExclusiveCPUs").copied().unwrap_or(true);
        let (changing, begun) = (Mutex::default(), Mutex::default());
        let managers = Self { cpus, memory, aligner, lifts_quotas, root, changing, state: begun, changed };
        managers.change(|begun| {
            *begun = state;
            true
        });
        Ok(Some(Arc::new(managers)))
    }
}

/// `reservedMemory`, which must add up to what the node keeps of its memory anyway.
fn reserved_memory(config: &AgentConfig, topology: &Topology) -> Result<BTreeMap<u32, Sizes>, ManagerError> {
    let bytes = |text: &String| Bytes::parse(&Quantity(text.clone())).map_or(0, |bytes| bytes.0.max(0).unsigned_abs());
    let mut reserved: BTreeMap<u32, Sizes> = BTreeMap::new();
    let mut given = Sizes::new();
    for entry in &config.kubelet.reserved_memory {
        let node = u32::try_from(entry.numa_node).ok().filter(|node| topology.numa.contains_key(node));
        let node = node.ok_or(ManagerError::NoSuchNode(entry.numa_node))?;
        for (kind, amount) in &entry.limits {
            *reserved.entry(node).or_default().entry(kind.clone()).or_default() += bytes(amount);
            *given.entry(kind.clone()).or_default() += bytes(amount);
        }
    }
    let mut wanted = Sizes::new();
    for list in [&config.system_reserved, &config.kube_reserved] {
        for (kind, amount) in list.iter().filter(|(kind, _)| *kind == "memory" || kind.starts_with("hugepages-")) {
            *wanted.entry(kind.clone()).or_default() += bytes(amount);
        }
    }
    if let Some(threshold) = config.eviction_hard.get("memory.available") {
        let total: u64 = topology.numa.values().map(|node| node.memory_bytes).sum();
        let share = threshold.strip_suffix('%').and_then(|percent| percent.parse::<f32>().ok());
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let kept = share.map_or_else(|| bytes(threshold), |percent| (total as f64 * f64::from(percent) / 100.0) as u64);
        *wanted.entry("memory".to_owned()).or_default() += kept;
    }
    if given.get("memory").copied().unwrap_or(0) == 0 {
        return Err(ManagerError::NoMemoryReserved);
    }
    for kind in given.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
        let [given, wanted] = [&given, &wanted].map(|sizes| sizes.get(kind).copied().unwrap_or(0));
        if given != wanted {
            let show = |size: u64| Bytes(i64::try_from(size).unwrap_or(i64::MAX)).quantity(true).0;
            return Err(ManagerError::MemoryReserved { kind: kind.clone(), given: show(given), wanted: show(wanted) });
        }
    }
    Ok(reserved)
}

fn static_cpus(
    config: &AgentConfig,
    topology: Topology,
    named: &CpuSet,
    alignment: Option<Alignment>,
) -> Result<StaticCpus, ManagerError> {
    let kubelet = &config.kubelet;
    let alpha = ["CPUManagerPolicyAlphaOptions", "AllAlpha"];
    let alpha = alpha.iter().find_map(|gate| kubelet.feature_gates.get(*gate)).copied().unwrap_or(false);
    let options = cpus::Options::parse(&kubelet.cpu_manager_policy_options, alpha)?;
    options.check(&topology, alignment == Some(Alignment::SingleNumaNode))?;
    let cpu = |text: &String| Millicores::parse(&Quantity(text.clone())).map_or(0, |cpu| cpu.0);
    let amounts = [&config.system_reserved, &config.kube_reserved].map(|list| list.get("cpu").map_or(0, cpu));
    let wanted = usize::try_from(amounts.iter().sum::<i64>()).unwrap_or(0).div_ceil(1000);
    if wanted == 0 {
        return Err(ManagerError::NothingReserved);
    }
    let too_much = |machine| ManagerError::TooMuchReserved { machine, wanted };
    let reserved = match named.is_empty() {
        true => StaticCpus::reserve(&topology, wanted, options).map_err(|_| too_much(topology.all()))?,
        false => named.clone(),
    };
    Ok(StaticCpus { topology, reserved, options })
}

fn aligner(alignment: Alignment, kubelet: &KubeletConfiguration, topology: &Topology) -> Result<Aligner, ManagerError> {
    let (mut closest, mut most) = (false, MAX_NODES);
    for (name, value) in &kubelet.topology_manager_policy_options {
        let bad = || ManagerError::TopologyOption(format!("bad value for option {name:?}: {value:?}"));
        match name.as_str() {
            "prefer-closest-numa-nodes" => closest = cpus::truth(value).ok_or_else(bad)?,
            "max-allowable-numa-nodes" => {
                most = value.parse().map_err(|_| bad())?;
                if most < MAX_NODES {
                    let words = format!("the minimum value of {name:?} should not be less than {MAX_NODES}");
                    return Err(ManagerError::TopologyOption(words));
                }
            }
            _ => return Err(ManagerError::TopologyOption(format!("unknown Topology Manager Policy option: {name:?}"))),
        }
    }
    if topology.numa.len() > most {
        return Err(ManagerError::TooManyNodes(most));
    }
    let scope = if kubelet.topology_manager_scope == "pod" { Scope::Pod } else { Scope::Container };
    let nodes = topology.numa.iter().map(|(id, node)| (*id, node.distances.clone())).collect();
    Ok(Aligner { alignment, scope, closest, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    /// Starts with these fields in the configuration and this text in the checkpoint.
    fn start(fields: &[(&str, serde_json::Value)], kept: Option<&str>) -> Result<Option<Arc<Managers>>, String> {
        let root = tempfile::tempdir().unwrap();
        if let Some(kept) = kept {
            std::fs::write(root.path().join(CPU_STATE), kept).unwrap();
        }
        let mut kubelet = serde_json::to_value(KubeletConfiguration::defaulted()).unwrap();
        for (field, value) in fields {
            kubelet[*field] = value.clone();
        }
        let kubelet = serde_json::from_value(kubelet).unwrap();
        let config = AgentConfig { root_dir: root.path().into(), ..AgentConfig::resolve("n", "/k", kubelet) };
        let started = Managers::start(&config).map_err(|error| error.to_string());
        let written = root.path().join(CPU_STATE).exists();
        assert_eq!(written, kept.is_some() || matches!(started, Ok(Some(ref m)) if m.cpus.is_some()));
        started.map_err(|error| error.replace(&root.path().display().to_string(), "/root"))
    }

    #[test]
    fn with_no_policy_there_are_no_managers_and_no_files() {
        assert!(start(&[], None).unwrap().is_none());
        let none = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
        assert!(start(&[], Some(none)).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_is_refused_in_upstreams_words_with_the_remedy() {
        let policy = ("cpuManagerPolicy", "static".into());
        let reserved = ("systemReserved", serde_json::json!({"cpu": "100m"}));
        let none = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
        for (fields, kept, expected) in [
            (
                vec![policy.clone()],
                None,
                "the static policy requires systemreserved.cpu + kubereserved.cpu to be greater",
            ),
            (
                vec![policy.clone(), reserved.clone()],
                Some(none),
                "could not restore state from checkpoint: configured policy \"static\" differs from state checkpoint policy \"none\", \
                 please drain this node and delete the CPU manager checkpoint file \"/root/cpu_manager_state\" before restarting",
            ),
            (
                vec![],
                Some(r#"{"policyName":"static","defaultCpuSet":"0-1","checksum":1636926438}"#),
                "configured policy \"none\" differs from state checkpoint policy \"static\"",
            ),
            (
                vec![policy.clone(), reserved.clone()],
                Some(r#"{"policyName":"static","defaultCpuSet":"0-8000"}"#),
                "static policy invalid state, please drain node and remove policy state file \"/root/cpu_manager_state\": current set",
            ),
            (vec![("reservedSystemCPUs", "8000".into())], None, "unable to reserve CPUs 8000"),
            (
                vec![("cpuManagerPolicyOptions", serde_json::json!({"full-pcpus-only": "true"}))],
                None,
                "None policy: received unsupported options=map[full-pcpus-only:true]",
            ),
            (
                vec![policy.clone(), ("systemReserved", serde_json::json!({"cpu": "9000"}))],
                None,
                "unable to reserve the required amount of CPUs",
            ),
            (
                vec![policy, reserved, ("cpuManagerPolicyOptions", serde_json::json!({"fast": "true"}))],
                None,
                "unknown CPU Manager Policy option: \"fast\"",
            ),
        ] {
            let error = start(&fields, kept).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{error}\n{expected}");
        }
    }

    #[test]
    fn a_pod_is_refused_by_the_topology_managers_policy_and_leaves_no_trace() {
        let fields = [
            ("cpuManagerPolicy", "static".into()),
            ("topologyManagerPolicy", "single-numa-node".into()),
            ("reservedSystemCPUs", "0".into()),
        ];
        let managers = start(&fields, None).unwrap().unwrap();
        let resources = serde_json::json!({"cpu": "8000", "memory": "1Mi"});
        let container = serde_json::json!({"name": "c", "resources": {"requests": resources, "limits": resources}});
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": {"containers": [container]}}))
                .unwrap();
        let before = managers.pins(&pod, "c");
        let pod = Arc::new(pod);
        let mut admission = managers.begin(&pod, |_| Vec::new()).unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let rejection = admission.place(container, |_| Vec::new()).unwrap_err();
        assert_eq!(rejection.reason, "TopologyAffinityError");
        assert_eq!(rejection.message, "Resources cannot be allocated with Topology locality");
        assert_eq!(managers.pins(&pod, "c"), before);
    }
}
