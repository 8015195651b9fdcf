//! The CPU manager's static policy: which containers own CPUs, which ones those are, and who shares the rest
//! (`pkg/kubelet/cm/cpumanager/policy_static.go`).

pub mod take;
#[cfg(test)]
mod tests;

use self::take::{NotEnough, Packing};
use super::topology::{Hint, Hints, NumaMask};
use crate::model::cpuset::CpuSet;
use crate::model::memory::Rejection;
use crate::model::resources::whole_cpus;
use crate::model::topology::Topology;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeMap;

/// `cpuManagerPolicyOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub full_cores_only: bool,
    pub distribute_across_numa: bool,
    pub align_by_socket: bool,
    pub strict_reservation: bool,
    pub packing: Packing,
}

/// What cannot be: an option that is not there, or two that exclude one another. Upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    #[error("unknown CPU Manager Policy option: {0:?}")]
    Unknown(String),
    #[error("CPU Manager Policy Alpha-level Options not enabled, but option {0:?} provided")]
    Alpha(String),
    #[error("bad value for option {0:?}: strconv.ParseBool: parsing {1:?}: invalid syntax")]
    Value(String, String),
    #[error("static policy options {0} and {1} can not be used at the same time")]
    Together(&'static str, &'static str),
    // Spelt so.
    #[error("Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option")]
    SocketInNode,
    #[error("Align by socket is not compatible with hardware where number of sockets are more than number of NUMA")]
    SocketsBeyondNodes,
}

const FULL_CORES_ONLY: &str = "full-pcpus-only";
const DISTRIBUTE_ACROSS_CORES: &str = "distribute-cpus-across-cores";
const DISTRIBUTE_ACROSS_NUMA: &str = "distribute-cpus-across-numa";
const ALIGN_BY_SOCKET: &str = "align-by-socket";
const STRICT_RESERVATION: &str = "strict-cpu-reservation";
const ALIGN_UNCORE: &str = "prefer-align-cpus-by-uncorecache";

impl Options {
    /// `alpha`: the feature gate `CPUManagerPolicyAlphaOptions` is on.
    pub fn parse<'a>(
        options: impl IntoIterator<Item = (&'a String, &'a String)>,
        alpha: bool,
    ) -> Result<Self, BadOption> {
        let mut parsed = Self::default();
        for (name, value) in options {
            let field = match name.as_str() {
                FULL_CORES_ONLY => &mut parsed.full_cores_only,
                DISTRIBUTE_ACROSS_NUMA => &mut parsed.distribute_across_numa,
                ALIGN_BY_SOCKET | DISTRIBUTE_ACROSS_CORES if !alpha => return Err(BadOption::Alpha(name.clone())),
                ALIGN_BY_SOCKET => &mut parsed.align_by_socket,
                STRICT_RESERVATION => &mut parsed.strict_reservation,
                DISTRIBUTE_ACROSS_CORES => &mut parsed.packing.across_cores,
                ALIGN_UNCORE => &mut parsed.packing.by_uncore,
                _ => return Err(BadOption::Unknown(name.clone())),
            };
            *field = truth(value).ok_or_else(|| BadOption::Value(name.clone(), value.clone()))?;
        }
        let Packing { by_uncore, across_cores } = parsed.packing;
        for (one, other, both) in [
            (FULL_CORES_ONLY, DISTRIBUTE_ACROSS_CORES, parsed.full_cores_only && across_cores),
            (DISTRIBUTE_ACROSS_NUMA, DISTRIBUTE_ACROSS_CORES, parsed.distribute_across_numa && across_cores),
            (ALIGN_UNCORE, DISTRIBUTE_ACROSS_CORES, by_uncore && across_cores),
            (ALIGN_UNCORE, DISTRIBUTE_ACROSS_NUMA, by_uncore && parsed.distribute_across_numa),
        ] {
            if both {
                return Err(BadOption::Together(one, other));
            }
        }
        Ok(parsed)
    }

    fn take(self, topology: &Topology, free: &CpuSet, count: usize) -> Result<CpuSet, NotEnough> {
        let group = if self.full_cores_only { topology.cpus_per_core().max(1) } else { 1 };
        match self.distribute_across_numa {
            true => take::distributed(topology, free, count, group, self.packing),
            false => take::packed(topology, free, count, self.packing),
        }
    }

    /// What the machine and the topology manager's policy rule out.
    pub fn check(self, topology: &Topology, single_numa_node: bool) -> Result<(), BadOption> {
        match self.align_by_socket {
            true if single_numa_node => Err(BadOption::SocketInNode),
            true if topology.sockets() > topology.cpu_nodes().len() => Err(BadOption::SocketsBeyondNodes),
            true | false => Ok(()),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Who has which CPUs; what the checkpoint keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// The shared pool.
    pub shared: CpuSet,
    /// pod uid → container → its own CPUs.
    pub own: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// A checkpoint that does not fit the machine or the configuration; upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadState {
    #[error("default cpuset cannot be empty")]
    NoShared,
    #[error("some of strictly reserved cpus: \"{common}\" are present in defaultCpuSet: \"{shared}\"")]
    StrictlyReserved { common: CpuSet, shared: CpuSet },
    #[error("not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\"")]
    Reserved { reserved: CpuSet, shared: CpuSet },
    #[error("pod: {pod}, container: {container} cpuset: \"{cpus}\" overlaps with default cpuset \"{shared}\"")]
    Overlap { pod: String, container: String, cpus: CpuSet, shared: CpuSet },
    #[error("current set of available CPUs \"{machine}\" doesn't match with CPUs in state \"{state}\"")]
    Machine { machine: CpuSet, state: CpuSet },
}

/// Why no CPUs were given to a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("SMT Alignment Error: requested {requested} cpus not multiple cpus per core = {per_core}")]
    NotWholeCores { requested: usize, per_core: usize },
    #[error(
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = \
         {requested}, CPUs per core = {per_core}"
    )]
    NoWholeCores { available: usize, requested: usize, per_core: usize },
    #[error(transparent)]
    NotEnough(#[from] NotEnough),
}

impl From<Refused> for Rejection {
    fn from(error: Refused) -> Self {
        match error {
            Refused::NotWholeCores { .. } | Refused::NoWholeCores { .. } => {
                Self { reason: "SMTAlignmentError".into(), message: error.to_string() }
            }
            Refused::NotEnough(_) => unexpected(&error),
        }
    }
}

/// `UnexpectedAdmissionError`, as the kubelet wraps errors of its managers.
pub(crate) fn unexpected(error: &impl std::fmt::Display) -> Rejection {
    Rejection {
        reason: "UnexpectedAdmissionError".into(),
        message: format!("Allocate failed due to {error}, which is unexpected"),
    }
}

/// The policy's fixed part.
#[derive(Clone, Debug)]
pub struct StaticCpus {
    pub topology: Topology,
    /// Never given to one container alone.
    pub reserved: CpuSet,
    pub options: Options,
}

impl StaticCpus {
    /// The reserved CPUs where they are not named: whole cores of low numbers first.
    pub fn reserve(topology: &Topology, count: usize, options: Options) -> Result<CpuSet, NotEnough> {
        options.take(topology, &topology.all(), count)
    }

    /// CPUs that the policy hands out or shares.
    fn managed(&self) -> CpuSet {
        match self.options.strict_reservation {
            true => self.topology.all().difference(&self.reserved),
            false => self.topology.all(),
        }
    }

    /// The state to go on with: what was kept, if it fits; all shared where nothing was.
    pub fn begin(&self, kept: CpuState) -> Result<CpuState, BadState> {
        let managed = self.managed();
        let shared = &kept.shared;
        if shared.is_empty() {
            return match kept.own.is_empty() {
                true => Ok(CpuState { shared: managed, own: BTreeMap::new() }),
                false => Err(BadState::NoShared),
            };
        }
        let common = self.reserved.intersection(shared);
        if self.options.strict_reservation && !common.is_empty() {
            return Err(BadState::StrictlyReserved { common, shared: shared.clone() });
        }
        if !self.options.strict_reservation && common != self.reserved {
            return Err(BadState::Reserved { reserved: self.reserved.clone(), shared: shared.clone() });
        }
        let mut known = shared.clone();
        for (pod, containers) in &kept.own {
            for (container, cpus) in containers {
                if !cpus.is_disjoint(shared) {
                    return Err(BadState::Overlap {
                        pod: pod.clone(),
                        container: container.clone(),
                        cpus: cpus.clone(),
                        shared: shared.clone(),
                    });
                }
                known = known.union(cpus);
            }
        }
        match known == managed {
            true => Ok(kept),
            false => Err(BadState::Machine { machine: managed, state: known }),
        }
    }

    /// CPUs that some container may own.
    pub fn allocatable(&self) -> CpuSet {
        self.topology.all().difference(&self.reserved)
    }

    /// What is left to be owned, as the metric counts it.
    pub fn shared_millicores(&self, state: &CpuState) -> f64 {
        self.available(state).len() as f64 * 1000.0
    }

    fn available(&self, state: &CpuState) -> CpuSet {
        state.shared.difference(&self.reserved)
    }

    /// Free CPUs of cores that hold no reserved CPU.
    fn available_whole_cores(&self, state: &CpuState) -> CpuSet {
        let core = |cpu: u32| self.topology.cpus.get(&cpu).map(|place| place.core);
        let touched: Vec<_> = self.reserved.iter().filter_map(core).collect();
        self.available(state).iter().filter(|cpu| core(*cpu).is_none_or(|core| !touched.contains(&core))).collect()
    }

    /// Gives a container its CPUs, from these NUMA nodes as far as they have any. One that has some keeps them.
    pub fn allocate(
        &self,
        state: &mut CpuState,
        pod: &Pod,
        container: &Container,
        affinity: Option<NumaMask>,
    ) -> Result<(), Refused> {
        let requested = whole_cpus(pod, container);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if requested == 0 || state.own.get(uid).is_some_and(|own| own.contains_key(&container.name)) {
            return Ok(());
        }
        let reusable = self.reusable(state, pod, &container.name);
        if self.options.full_cores_only {
            let per_core = self.topology.cpus_per_core().max(1);
            if !requested.is_multiple_of(per_core) {
                return Err(Refused::NotWholeCores { requested, per_core });
            }
            let available = self.available_whole_cores(state).union(&reusable).len();
            if requested > available {
                return Err(Refused::NoWholeCores { available, requested, per_core });
            }
        }
        let free = match self.options.full_cores_only {
            true => self.available_whole_cores(state),
            false => self.available(state),
        };
        let free = free.union(&reusable);
        let aligned = match affinity {
            Some(mask) => {
                let aligned = self.in_nodes(mask).intersection(&free);
                self.options.take(&self.topology, &aligned, requested.min(aligned.len()))?
            }
            None => CpuSet::default(),
        };
        let rest = self.options.take(&self.topology, &free.difference(&aligned), requested - aligned.len())?;
        let cpus = aligned.union(&rest);
        state.shared = state.shared.difference(&cpus);
        state.own.entry(uid.to_owned()).or_default().insert(container.name.clone(), cpus);
        Ok(())
    }

    /// The CPUs of these nodes; of their whole sockets where the options say so.
    fn in_nodes(&self, mask: NumaMask) -> CpuSet {
        match self.options.align_by_socket {
            true => {
                let sockets = self.topology.sockets_of(&mask.nodes());
                self.topology.cpus_where(|place| sockets.contains(&place.socket))
            }
            false => self.topology.cpus_where(|place| mask.has(place.numa)),
        }
    }

    /// CPUs of the pod's init containers that ended before this one begins: each takes the place of those before.
    fn reusable(&self, state: &CpuState, pod: &Pod, name: &str) -> CpuSet {
        let (Some(spec), Some(own)) = (&pod.spec, state.own.get(pod.metadata.uid.as_deref().unwrap_or_default()))
        else {
            return CpuSet::default();
        };
        let mut reusable = CpuSet::default();
        for init in spec.init_containers.iter().flatten().take_while(|init| init.name != name) {
            let Some(cpus) = own.get(&init.name) else { continue };
            reusable = match init.restart_policy.as_deref() {
                // A sidecar runs on.
                Some("Always") => reusable.difference(cpus),
                Some(_) | None => reusable.union(cpus),
            };
        }
        for container in spec.containers.iter().take_while(|container| container.name != name) {
            if let Some(cpus) = own.get(&container.name) {
                reusable = reusable.difference(cpus);
            }
        }
        reusable
    }

    /// Where a container's CPUs could come from.
    pub fn hints(&self, state: &CpuState, pod: &Pod, container: &Container) -> Hints {
        let requested = whole_cpus(pod, container);
        if requested == 0 {
            return None;
        }
        let own = state.own.get(pod.metadata.uid.as_deref().unwrap_or_default());
        if let Some(cpus) = own.and_then(|own| own.get(&container.name)) {
            let same = cpus.len() == requested;
            return Some(if same { self.options_for(requested, cpus, &CpuSet::default()) } else { Vec::new() });
        }
        let reusable = self.reusable(state, pod, &container.name);
        Some(self.options_for(requested, &self.available(state), &reusable))
    }

    /// The same of a pod as a whole.
    pub fn pod_hints(&self, state: &CpuState, pod: &Pod) -> Hints {
        let spec = pod.spec.as_ref()?;
        let requested = pod_whole_cpus(pod);
        if requested == 0 {
            return None;
        }
        let own = state.own.get(pod.metadata.uid.as_deref().unwrap_or_default());
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            let all = spec.init_containers.iter().flatten().chain(&spec.containers);
            let cpus = all.filter_map(|c| own.get(&c.name)).fold(CpuSet::default(), |all, cpus| all.union(cpus));
            let same = cpus.len() == requested;
            return Some(if same { self.options_for(requested, &cpus, &CpuSet::default()) } else { Vec::new() });
        }
        Some(self.options_for(requested, &self.available(state), &CpuSet::default()))
    }

    fn options_for(&self, requested: usize, available: &CpuSet, reusable: &CpuSet) -> Vec<Hint> {
        let nodes = self.topology.cpu_nodes();
        let mut fewest = nodes.len();
        let mut fitting = Vec::new();
        for mask in NumaMask::choices(&nodes) {
            let in_mask = self.topology.cpus_where(|place| mask.has(place.numa));
            let size = mask.nodes().len();
            if in_mask.len() >= requested {
                fewest = fewest.min(size);
            }
            let free = available.union(reusable).intersection(&in_mask).len();
            if in_mask.contains_all(reusable) && free >= requested {
                fitting.push(mask);
            }
        }
        let hint = |mask: NumaMask| Hint { affinity: Some(mask), preferred: self.is_preferred(mask, fewest) };
        fitting.into_iter().map(hint).collect()
    }

    fn is_preferred(&self, mask: NumaMask, fewest: usize) -> bool {
        let per_socket = self.topology.cpu_nodes().len() / self.topology.sockets().max(1);
        let in_sockets = || self.topology.sockets_of(&mask.nodes()).len();
        let by_socket = self.options.align_by_socket && per_socket > 0;
        mask.nodes().len() == fewest || (by_socket && in_sockets() == fewest.div_ceil(per_socket))
    }
}

impl CpuState {
    /// The CPUs that a container may use: its own, or those that are shared.
    pub fn of(&self, uid: &str, container: &str) -> &CpuSet {
        self.owned_by(uid, container).unwrap_or(&self.shared)
    }

    /// Its own only.
    pub fn owned_by(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.own.get(uid)?.get(container)
    }

    /// All CPUs that somebody owns.
    pub fn owned(&self) -> CpuSet {
        self.own.values().flat_map(BTreeMap::values).fold(CpuSet::default(), |all, cpus| all.union(cpus))
    }

    /// Gives back what pods have that are not to be kept; whether there were any.
    pub fn release(&mut self, keep: impl Fn(&str) -> bool) -> bool {
        let before = self.own.len();
        let shared = &mut self.shared;
        self.own.retain(|uid, containers| {
            let kept = keep(uid);
            if !kept {
                *shared = containers.values().fold(shared.clone(), |all, cpus| all.union(cpus));
            }
            kept
        });
        self.own.len() != before
    }
}

/// The most that a pod's containers own at a time (`podGuaranteedCPUs`).
fn pod_whole_cpus(pod: &Pod) -> usize {
    let Some(spec) = &pod.spec else { return 0 };
    let (mut peak, mut sidecars) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        let own = whole_cpus(pod, container);
        match container.restart_policy.as_deref() {
            Some("Always") => sidecars += own,
            Some(_) | None => peak = peak.max(sidecars + own),
        }
    }
    let running: usize = spec.containers.iter().map(|container| whole_cpus(pod, container)).sum();
    peak.max(running + sidecars)
}
