//! Requests and limits → CRI resources (`kuberuntime_container_linux.go`, `cm/helpers_linux.go`, `qos/policy.go`).

use super::TranslateError;
use crate::decide::evict::is_critical;
use crate::model::qos::QosClass;
use crate::model::resources::{Amounts, List, amounts, has_whole_cpus, pod_limits, pod_requests, whole_cpus};
use crate::runtime::facts::{HostFacts, size_name};
use crate::units::{Bytes, Millicores};
use k8s_cri::v1 as pb;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// CFS period, microseconds (kubelet `QuotaPeriod`), where `cpuCFSQuotaPeriod` says no other.
pub const CPU_PERIOD_MICROSECONDS: i64 = 100_000;
/// The smallest quota the kernel takes, microseconds.
const MIN_QUOTA_MICROSECONDS: i64 = 1000;
/// A quota that is none.
const UNLIMITED: i64 = -1;
/// Kernel bounds of `cpu.shares`.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// `oom_score_adj` of Guaranteed and node-critical pods, and of BestEffort ones (kubelet `qos/policy.go`).
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// `SystemCriticalPriority`: pods at or above it are critical.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// `cpu.shares` for a request: 1024 for a core, at least 2.
pub fn cpu_shares(cpu: Millicores) -> i64 {
    (cpu.0.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota in microseconds for a limit, in each period (microseconds too); 0 is no limit.
pub fn cpu_quota(cpu: Millicores, period: i64) -> i64 {
    if cpu.0 == 0 { 0 } else { (cpu.0.saturating_mul(period) / 1000).max(MIN_QUOTA_MICROSECONDS) }
}

/// Resources of the sandbox as a whole, without overhead.
pub(super) fn sandbox(
    pod: &Pod,
    spec: &PodSpec,
    facts: &HostFacts,
) -> Result<pb::LinuxContainerResources, TranslateError> {
    let requests = pod_requests(spec, false)?;
    let limits = pod_limits(spec, false)?;
    let limit = |name: &str| limits.get(name).copied().unwrap_or_default();
    let mut linux = linux(requests.get("cpu").copied(), limit("cpu"), limit("memory"), facts);
    lift_quota(&mut linux, facts, || has_whole_cpus(pod));
    Ok(linux)
}

pub(super) fn overhead(spec: &PodSpec, facts: &HostFacts) -> Result<pb::LinuxContainerResources, TranslateError> {
    let Some(overhead) = &spec.overhead else { return Ok(pb::LinuxContainerResources::default()) };
    let overhead = amounts(overhead)?;
    let of = |name: &str| overhead.get(name).copied();
    Ok(linux(of("cpu"), of("cpu").unwrap_or_default(), of("memory").unwrap_or_default(), facts))
}

pub(super) fn container(
    pod: &Pod,
    container: &Container,
    node_memory: i64,
    facts: &HostFacts,
) -> Result<pb::LinuxContainerResources, TranslateError> {
    let empty = ResourceRequirements::default();
    let resources = container.resources.as_ref().unwrap_or(&empty);
    let of = |list: &Option<List>| list.as_ref().map_or_else(|| Ok(Amounts::new()), amounts);
    let (requests, limits) = (of(&resources.requests)?, of(&resources.limits)?);
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let pod_limits = pod_level.map_or_else(|| Ok(Amounts::new()), |resources| of(&resources.limits))?;
    // A container without a limit of its own may use the pod's.
    let limit = |name: &str| match limits.get(name) {
        Some(&limit) if limit != 0 => limit,
        _ => pod_limits.get(name).copied().unwrap_or_default(),
    };
    let mut linux = linux(requests.get("cpu").copied(), limit("cpu"), limit("memory"), facts);
    lift_quota(&mut linux, facts, || whole_cpus(pod, container) > 0);
    linux.oom_score_adj = oom_score_adj(pod, container, node_memory)?;
    linux.hugepage_limits = huge_pages(&limits, facts);
    if facts.swap_controller {
        if facts.cgroup_v2 {
            let request = requests.get("memory").copied().unwrap_or_default();
            let swap = facts.limited_swap.filter(|_| may_swap(pod, request, limits.get("memory").copied()));
            let swap = swap.map_or(0, |swap| swap_share(request, node_memory, swap));
            linux.unified.insert("memory.swap.max".into(), swap.to_string());
        } else {
            // v1 counts memory and swap together.
            linux.memory_swap_limit_in_bytes = linux.memory_limit_in_bytes;
        }
    }
    Ok(linux)
}

/// Under `LimitedSwap` containers of burstable pods swap that ask for less memory than their limit, but for critical pods.
fn may_swap(pod: &Pod, request: i64, limit: Option<i64>) -> bool {
    QosClass::of(pod) == QosClass::Burstable
        && !is_critical(pod)
        && (request, limit.unwrap_or_default()) != (0, 0)
        && limit != Some(request)
}

/// Of the machine's swap the same part as the request is of its memory (`calcSwapForBurstablePods`).
fn swap_share(request: i64, node_memory: i64, swap: i64) -> i64 {
    if node_memory <= 0 || request > node_memory {
        return 0;
    }
    // In 128 bits: the product of two sizes in bytes.
    i64::try_from(i128::from(request) * i128::from(swap) / i128::from(node_memory)).unwrap_or(0)
}

fn linux(
    cpu_request: Option<i64>,
    cpu_limit: i64,
    memory_limit: i64,
    facts: &HostFacts,
) -> pb::LinuxContainerResources {
    let mut linux = pb::LinuxContainerResources {
        // Without a request the limit is one.
        cpu_shares: cpu_shares(Millicores(cpu_request.unwrap_or(cpu_limit))),
        memory_limit_in_bytes: memory_limit,
        ..Default::default()
    };
    if facts.cpu_cfs_quota {
        linux.cpu_period = facts.cpu_period;
        linux.cpu_quota = cpu_quota(Millicores(cpu_limit), facts.cpu_period);
    }
    if facts.cgroup_v2 && !facts.single_process_oom_kill {
        // The default on v2: a container dies as a whole.
        linux.unified.insert("memory.oom.group".into(), "1".into());
    }
    linux
}

/// Who owns CPUs is not throttled on them.
fn lift_quota(linux: &mut pb::LinuxContainerResources, facts: &HostFacts, owns_cpus: impl FnOnce() -> bool) {
    if facts.cpu_cfs_quota && facts.whole_cpus_are_owned && owns_cpus() {
        linux.cpu_quota = UNLIMITED;
    }
}

/// Every page size that the machine has is limited, to 0 unless asked for.
fn huge_pages(limits: &Amounts, facts: &HostFacts) -> Vec<pb::HugepageLimit> {
    let mut wanted: BTreeMap<String, u64> = facts.huge_page_sizes.iter().map(|size| (size.clone(), 0)).collect();
    for (name, &limit) in limits {
        let size = name.strip_prefix("hugepages-").map(|size| Bytes::parse(&Quantity(size.to_owned())));
        if let Some(Ok(Bytes(size))) = size {
            wanted.insert(size_name(size.unsigned_abs()), limit.unsigned_abs());
        }
    }
    wanted.into_iter().map(|(page_size, limit)| pb::HugepageLimit { page_size, limit }).collect()
}

/// Who dies first when the node is out of memory (`qos.GetContainerOOMScoreAdjust`).
pub(super) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> Result<i64, TranslateError> {
    let Some(spec) = &pod.spec else { return Ok(BEST_EFFORT_OOM_SCORE) };
    let critical = spec.priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY);
    if critical && spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return Ok(GUARANTEED_OOM_SCORE);
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => return Ok(GUARANTEED_OOM_SCORE),
        QosClass::BestEffort => return Ok(BEST_EFFORT_OOM_SCORE),
        QosClass::Burstable => {}
    }
    let memory = |container: &Container| -> Result<i64, TranslateError> {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        Ok(requests.map(amounts).transpose()?.and_then(|r| r.get("memory").copied()).unwrap_or_default())
    };
    // In 128 bits: 1000 × a request of many pebibytes.
    let score = |request: i64| 1000 - (1000 * i128::from(request) / i128::from(node_memory.max(1)));
    let mut request = memory(container)?;
    if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        // What the pod asks for beyond its containers is shared among them.
        let total = amounts(pod_level)?.get("memory").copied().unwrap_or_default();
        let containers: Vec<_> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
        let mut asked = 0i64;
        for container in &containers {
            asked = asked.saturating_add(memory(container)?);
        }
        if total > asked {
            request += (total - asked) / i64::try_from(containers.len().max(1)).unwrap_or(i64::MAX);
        }
    }
    let mut adjustment = score(request);
    if spec.init_containers.iter().flatten().any(|c| c.name == container.name)
        && container.restart_policy.as_deref() == Some("Always")
    {
        // A sidecar outlives the containers that it serves.
        let mut smallest = i64::MAX;
        for container in &spec.containers {
            smallest = smallest.min(memory(container)?);
        }
        adjustment = adjustment.min(score(smallest));
    }
    // Between Guaranteed pods that use all memory (3) and BestEffort ones.
    let floor = i128::from(1000 + GUARANTEED_OOM_SCORE);
    Ok(i64::try_from(adjustment.clamp(floor, i128::from(BEST_EFFORT_OOM_SCORE - 1))).unwrap_or(BEST_EFFORT_OOM_SCORE))
}
