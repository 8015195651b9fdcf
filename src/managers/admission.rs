//! A pod that is being taken: each container's CPUs, memory and devices from NUMA nodes that the topology manager's
//! policy likes.

use super::{Managers, State};
use crate::decide::cpus;
use crate::decide::numa_memory::StaticMemory;
use crate::decide::topology::{Aligner, Hint, Hints, NumaMask, Scope};
use crate::metrics::catalog;
use crate::model::memory::Rejection;
use crate::model::resources::whole_cpus;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the containers placed so far get; nobody has it before `keep`, so that a pod that is refused leaves no trace.
/// One at a time: whoever takes pods (the pods actor) ends it before anything else changes the state.
#[derive(Debug)]
pub struct Admission {
    managers: Arc<Managers>,
    pod: Arc<Pod>,
    next: State,
    /// Where the pod as a whole is aligned.
    of_pod: Option<Hint>,
}

impl Managers {
    /// Begins to take a pod. `devices` tells where its devices could come from, of these nodes.
    pub fn begin(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        devices: impl FnOnce(&BTreeSet<u32>) -> Vec<Hints>,
    ) -> Result<Admission, Rejection> {
        let next = self.lock().clone();
        let of_pod = match &self.aligner {
            Some(aligner) if aligner.scope == Scope::Pod => {
                let cpus = self.cpus.as_ref().and_then(|cpus| cpus.pod_hints(&next.cpus, pod));
                let memory = self.memory.as_ref().and_then(|memory| memory.pod_hints(&next.memory, pod));
                Some(merge(aligner, cpus, memory, devices(&aligner.numbers()))?)
            }
            Some(_) | None => None,
        };
        Ok(Admission { managers: self.clone(), pod: pod.clone(), next, of_pod })
    }
}

impl Admission {
    /// Gives a container its CPUs and memory; returns the nodes that its devices are to come from. One that has its
    /// share keeps it.
    pub fn place(
        &mut self,
        container: &Container,
        devices: impl FnOnce(&BTreeSet<u32>) -> Vec<Hints>,
    ) -> Result<Option<NumaMask>, Rejection> {
        let Self { managers, pod, next, of_pod } = self;
        let Managers { cpus, memory, aligner, .. } = &**managers;
        let hint = match (aligner, *of_pod) {
            (_, Some(hint)) => Some(hint),
            (Some(aligner), None) => {
                let cpus = cpus.as_ref().and_then(|cpus| cpus.hints(&next.cpus, pod, container));
                let memory = memory.as_ref().and_then(|memory| memory.hints(&next.memory, pod, container));
                Some(merge(aligner, cpus, memory, devices(&aligner.numbers()))?)
            }
            (None, None) => None,
        };
        let affinity = hint.and_then(|hint| hint.affinity);
        if let Some(cpus) = cpus.as_ref().filter(|_| whole_cpus(pod, container) > 0) {
            catalog::CPU_PINNING.add_one();
            let whole_cores = cpus.options.full_cores_only;
            if let Err(refused) = cpus.allocate(&mut next.cpus, pod, container, affinity) {
                catalog::CPU_PINNING_ERRORS.add_one();
                if whole_cores {
                    catalog::NOT_ALIGNED.inc(["physical_cpu", "container"]);
                }
                return Err(refused.into());
            }
            if whole_cores {
                catalog::ALIGNED.inc(["physical_cpu", "container"]);
            }
        }
        if let Some(memory) = memory.as_ref().filter(|_| StaticMemory::gives_to(pod, container)) {
            catalog::MEMORY_PINNING.add_one();
            if let Err(error) = memory.allocate(&mut next.memory, pod, container, hint) {
                catalog::MEMORY_PINNING_ERRORS.add_one();
                return Err(cpus::unexpected(&error));
            }
        }
        if aligner.as_ref().is_some_and(|aligner| aligner.is_guaranteed() && aligner.scope == Scope::Container) {
            catalog::ALIGNED.inc(["numa_node", "container"]);
        }
        Ok(affinity)
    }

    /// The containers have what they were given from now on. Blocks: writes the checkpoints.
    pub fn keep(self) {
        let Self { managers, next, .. } = self;
        if managers.aligner.as_ref().is_some_and(|aligner| aligner.is_guaranteed() && aligner.scope == Scope::Pod) {
            catalog::ALIGNED.inc(["numa_node", "pod"]);
        }
        managers.change(|state| {
            *state = next;
            true
        });
    }
}

/// The best common hint of all resources.
fn merge(
    aligner: &Aligner,
    cpus: Hints,
    memory: Option<BTreeMap<String, Vec<Hint>>>,
    devices: Vec<Hints>,
) -> Result<Hint, Rejection> {
    let memory = memory.into_iter().flat_map(BTreeMap::into_values).map(Some);
    let all: Vec<Hints> = std::iter::once(cpus).chain(memory).chain(devices).collect();
    let merged = aligner.merge(&all);
    if merged.is_err() && aligner.is_guaranteed() {
        let scope = match aligner.scope {
            Scope::Container => "container",
            Scope::Pod => "pod",
        };
        catalog::NOT_ALIGNED.inc(["numa_node", scope]);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::cpus::{CpuState, Options, StaticCpus};
    use crate::decide::topology::Alignment;
    use crate::model::cpuset::CpuSet;
    use crate::model::topology::{CpuPlace, NumaNode, Topology};
    use serde_json::json;
    use std::path::Path;
    use std::sync::Mutex;
    use tokio::sync::Notify;

    /// Two nodes of four CPUs each, 0-3 and 4-7; CPU 0 is the system's.
    fn managers(root: &Path, scope: Scope) -> Arc<Managers> {
        let place = |cpu: u32| CpuPlace { core: cpu, socket: cpu / 4, numa: cpu / 4, uncore: cpu / 4 };
        let topology = Topology {
            cpus: (0..8).map(|cpu| (cpu, place(cpu))).collect(),
            numa: (0..2).map(|node| (node, NumaNode::default())).collect(),
        };
        let cpus = StaticCpus { topology, reserved: "0".parse().unwrap(), options: Options::default() };
        let state = State { cpus: cpus.begin(CpuState::default()).unwrap(), ..State::default() };
        let nodes = vec![(0, vec![10, 20]), (1, vec![20, 10])];
        Arc::new(Managers {
            cpus: Some(cpus),
            memory: None,
            aligner: Some(Aligner { alignment: Alignment::SingleNumaNode, scope, closest: false, nodes }),
            lifts_quotas: true,
            root: root.to_owned(),
            changing: Mutex::default(),
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    fn pod(cpus: &[&str]) -> Arc<Pod> {
        let container = |(at, cpu): (usize, &&str)| {
            let amounts = json!({"cpu": cpu, "memory": "1Mi"});
            json!({"name": format!("c{at}"), "resources": {"requests": amounts, "limits": amounts}})
        };
        let containers: Vec<_> = cpus.iter().enumerate().map(container).collect();
        Arc::new(serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}})).unwrap())
    }

    /// Devices of the first container lie on these nodes, those of others on any.
    fn take(managers: &Arc<Managers>, pod: &Arc<Pod>, devices: &[u32]) -> Result<Vec<Option<NumaMask>>, Rejection> {
        let hint = |node: &u32| Hint { affinity: Some(NumaMask::of([*node])), preferred: true };
        let near = || vec![Some(devices.iter().map(hint).collect::<Vec<_>>())];
        let mut admission = managers.begin(pod, |_| near())?;
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers).enumerate();
        let placed = containers
            .map(|(at, container)| admission.place(container, |_| if at == 0 { near() } else { Vec::new() }))
            .collect::<Result<_, _>>()?;
        admission.keep();
        Ok(placed)
    }

    #[test]
    fn cpus_and_devices_come_from_one_node_and_a_refused_pod_leaves_no_trace() {
        let node = |node: u32| Some(NumaMask::of([node]));
        let (container, whole) = (Scope::Container, Scope::Pod);
        for (scope, cpus, devices, nodes, own) in [
            (container, vec!["2"], vec![0, 1], Some(vec![node(0)]), "1-2"),
            (container, vec!["2"], vec![1], Some(vec![node(1)]), "4-5"),
            // Only the first wants devices of node 1.
            (container, vec!["2", "2"], vec![1], Some(vec![node(1), node(0)]), "1-2,4-5"),
            (whole, vec!["2", "2"], vec![1], Some(vec![node(1), node(1)]), "4-7"),
            (container, vec!["4", "1"], vec![0], None, ""),
            (container, vec!["1", "5"], vec![0], None, ""),
            (whole, vec!["2", "3"], vec![0, 1], None, ""),
            // A share of a CPU: the devices alone count.
            (container, vec!["1500m"], vec![1], Some(vec![node(1)]), ""),
        ] {
            let root = tempfile::tempdir().unwrap();
            let (managers, pod) = (managers(root.path(), scope), pod(&cpus));
            let taken = take(&managers, &pod, &devices);
            assert_eq!(taken.as_ref().ok(), nodes.as_ref(), "{scope:?} {cpus:?} {devices:?}");
            if let Err(rejection) = taken {
                assert_eq!(rejection.reason, "TopologyAffinityError");
            }
            assert_eq!(managers.allocatable_cpus().to_string(), "1-7");
            let owned = (0..cpus.len()).map(|at| managers.own_cpus("u", &format!("c{at}")));
            let owned = owned.fold(CpuSet::default(), |all, cpus| all.union(&cpus));
            assert_eq!(owned, managers.lock().cpus.owned());
            assert_eq!(owned.to_string(), own, "{scope:?} {cpus:?} {devices:?}");
            assert_eq!(root.path().join("cpu_manager_state").exists(), !own.is_empty());
        }
    }
}
