//! The CPU, memory and topology managers: what `decide::{cpus, numa_memory, topology}` decides, kept in the kubelet's checkpoint files.
//! Where no policy asks for them there are none.

mod admission;
mod checkpoint;
mod machine;
mod start;

pub use admission::Admission;
pub use start::ManagerError;

use crate::decide::cpus::{CpuState, StaticCpus};
use crate::decide::numa_memory::{Block, MemoryState, StaticMemory};
use crate::decide::resize::Fixed;
use crate::decide::topology::Aligner;
use crate::metrics::catalog;
use crate::model::cpuset::CpuSet;
use crate::model::topology::Pins;
use checkpoint::{CpuCheckpoint, MemoryCheckpoint};
use k8s_openapi::api::core::v1::Pod;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Upstream's name of the CPU manager's checkpoint, in the root directory.
const CPU_STATE: &str = "cpu_manager_state";
/// The policies' names in checkpoints.
const NONE: &str = "none";
const STATIC: &str = "static";
/// The same of the memory manager.
const MEMORY_STATE: &str = "memory_manager_state";
const MEMORY_NONE: &str = "None";
const MEMORY_STATIC: &str = "Static";

/// The managers of a node that has any. Blocks on its checkpoint files where said so.
#[derive(Debug)]
pub struct Managers {
    cpus: Option<StaticCpus>,
    memory: Option<StaticMemory>,
    aligner: Option<Aligner>,
    lifts_quotas: bool,
    root: PathBuf,
    /// Held while the state is changed, over the writing of its checkpoints: they are written in the order of changes.
    changing: Mutex<()>,
    /// Held for moments: whoever only reads does not wait for the disk.
    state: Mutex<State>,
    /// Told when the shared pool has changed.
    pub changed: Notify,
}

/// Who has what.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    cpus: CpuState,
    memory: MemoryState,
}

impl Managers {
    /// Are resources of pods aligned at all?
    pub fn aligns(&self) -> bool {
        self.aligner.is_some()
    }

    /// Do containers that own CPUs run without a CFS quota (`DisableCPUQuotaWithExclusiveCPUs`)?
    pub fn lifts_quotas(&self) -> bool {
        self.cpus.is_some() && self.lifts_quotas
    }

    /// What a Guaranteed pod keeps as it is while it runs.
    pub fn fixed(&self) -> Fixed {
        Fixed { cpu: self.cpus.is_some(), memory: self.memory.is_some() }
    }

    /// CPUs that a container owns.
    pub fn own_cpus(&self, uid: &str, container: &str) -> CpuSet {
        self.lock().cpus.owned_by(uid, container).cloned().unwrap_or_default()
    }

    /// Memory that a container has from NUMA nodes.
    pub fn own_memory(&self, uid: &str, container: &str) -> Vec<Block> {
        let state = self.lock();
        state.memory.own.get(uid).and_then(|own| own.get(container)).cloned().unwrap_or_default()
    }

    /// CPUs that the static policy may give out.
    pub fn allocatable_cpus(&self) -> CpuSet {
        self.cpus.as_ref().map(StaticCpus::allocatable).unwrap_or_default()
    }

    /// Memory that the static policy may give out, of each node.
    pub fn allocatable_memory(&self) -> Vec<Block> {
        self.lock().memory.allocatable()
    }

    /// Takes back what pods have that are not to be kept. Blocks where there are such: writes the checkpoint.
    pub fn keep_only(&self, keep: impl Fn(&str) -> bool) {
        self.change(|next| {
            let cpus = next.cpus.release(&keep);
            next.memory.release(&keep) || cpus
        });
    }

    /// Where a container may run.
    pub fn pins(&self, pod: &Pod, container: &str) -> Pins {
        let state = self.lock();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let nodes: CpuSet = state.memory.nodes_of(uid, container).into_iter().collect();
        // Empty where that manager has no policy.
        Pins { cpus: state.cpus.of(uid, container).to_string(), memory_nodes: nodes.to_string() }
    }

    /// Changes the state, if `change` says that it did. Blocks: writes the checkpoints.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.lock().clone();
        let mut next = before.clone();
        if change(&mut next) {
            self.replace(&before, next);
        }
    }

    /// As upstream, an assignment that could not be written down holds until the next start.
    fn replace(&self, state: &State, next: State) {
        let store = |name: &str, written: io::Result<()>| {
            if let Err(error) = written {
                tracing::error!(path = %self.root.join(name).display(), %error, "Failed to store state to checkpoint");
            }
        };
        if self.cpus.is_some() && state.cpus != next.cpus {
            let checkpoint = CpuCheckpoint::of(STATIC, &next.cpus);
            store(CPU_STATE, checkpoint::write(&self.root.join(CPU_STATE), &checkpoint));
        }
        if let Some(cpus) = &self.cpus {
            catalog::SHARED_CPUS.set(cpus.shared_millicores(&next.cpus));
            let owned = next.cpus.owned();
            catalog::OWNED_CPUS.set(owned.len() as f64);
            for node in cpus.topology.cpu_nodes() {
                let in_node = cpus.topology.cpus_where(|place| place.numa == node).intersection(&owned);
                catalog::OWNED_CPUS_OF_NODES.set_for([node.to_string()], in_node.len() as f64);
            }
        }
        if self.memory.is_some() && state.memory != next.memory {
            let checkpoint = MemoryCheckpoint::of(MEMORY_STATIC, &next.memory);
            store(MEMORY_STATE, checkpoint::write(&self.root.join(MEMORY_STATE), &checkpoint));
        }
        let moved = state.cpus.shared != next.cpus.shared;
        *self.lock() = next;
        if moved {
            self.changed.notify_one();
        }
    }

    // A poisoned lock still holds a whole state: it is only ever replaced.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
