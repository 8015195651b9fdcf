//! Shortage in data: what is measured (signals), what the node may run short of, and why a pod has to leave it.

use crate::model::stats::NodeUse;
use crate::units::Bytes;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// What an eviction threshold speaks of (`pkg/kubelet/eviction/api`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Memory,
    /// Memory of the pods' cgroup, below what the node may give them.
    AllocatableMemory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    ContainerFs,
    ContainerFsInodes,
    Pids,
}

/// What a pod is evicted to get back: the name that events and messages use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Memory,
    EphemeralStorage,
    Inodes,
    Pids,
}

/// A condition of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    Memory,
    Disk,
    Pid,
}

impl Signal {
    pub const ALL: [Self; 9] = [
        Self::Memory,
        Self::AllocatableMemory,
        Self::NodeFs,
        Self::NodeFsInodes,
        Self::ImageFs,
        Self::ImageFsInodes,
        Self::ContainerFs,
        Self::ContainerFsInodes,
        Self::Pids,
    ];

    /// As configurations name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::AllocatableMemory => "allocatableMemory.available",
            Self::NodeFs => "nodefs.available",
            Self::NodeFsInodes => "nodefs.inodesFree",
            Self::ImageFs => "imagefs.available",
            Self::ImageFsInodes => "imagefs.inodesFree",
            Self::ContainerFs => "containerfs.available",
            Self::ContainerFsInodes => "containerfs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    pub fn resource(self) -> Resource {
        match self {
            Self::Memory | Self::AllocatableMemory => Resource::Memory,
            Self::NodeFs | Self::ImageFs | Self::ContainerFs => Resource::EphemeralStorage,
            Self::NodeFsInodes | Self::ImageFsInodes | Self::ContainerFsInodes => Resource::Inodes,
            Self::Pids => Resource::Pids,
        }
    }

    pub fn shortage(self) -> Shortage {
        match self.resource() {
            Resource::Memory => Shortage::Memory,
            Resource::EphemeralStorage | Resource::Inodes => Shortage::Disk,
            Resource::Pids => Shortage::Pid,
        }
    }

    /// An amount as the kubelet prints it: sizes with binary suffixes, numbers of things with decimal ones.
    pub fn print(self, amount: u64) -> String {
        let binary = matches!(self.resource(), Resource::Memory | Resource::EphemeralStorage);
        Bytes(i64::try_from(amount).unwrap_or(i64::MAX)).quantity(binary).0
    }
}

impl Resource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Shortage {
    /// The type of the node's condition.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        })
    }
}

/// What keeps the node from taking pods as usual; others than the node's own actor write it, each its part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distress {
    pub short: BTreeSet<Shortage>,
    /// The machine is about to be switched off.
    pub shutting_down: bool,
}

/// A share or an amount, as a threshold is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Amount {
    Quantity(Quantity),
    /// 0.0 to 1.0, in the 32 bits in which the kubelet keeps it: the digits are the same.
    Share(f32),
}

impl Amount {
    /// `100Mi` or `10%`; `None` for what is neither.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f32>().ok().map(|percent| Self::Share(percent / 100.0)),
            None => {
                let quantity = Quantity(text.to_owned());
                Bytes::parse(&quantity).is_ok().then_some(Self::Quantity(quantity))
            }
        }
    }

    /// Of that capacity.
    pub fn of(&self, capacity: u64) -> u64 {
        match self {
            Self::Quantity(quantity) => Bytes::parse(quantity).map_or(0, |bytes| bytes.0.max(0).unsigned_abs()),
            Self::Share(share) => (capacity as f64 * f64::from(*share)) as u64,
        }
    }
}

/// Below `least` of a signal, pods are evicted.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub least: Amount,
    /// How long it must last before pods go; zero for a hard one.
    pub grace: Duration,
    pub hard: bool,
    /// Once met it counts as met until there is this much more than `least`.
    pub reclaim: Option<Amount>,
}

/// One reading of a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub available: u64,
    pub capacity: u64,
}

/// What was read; a signal that could not be read is not there and meets no threshold.
pub type Readings = BTreeMap<Signal, Reading>;

/// The signals that figures of the node make up. `pods`: working set and limit of the pods' cgroup.
pub fn readings(node: &NodeUse, pods: Option<Reading>) -> Readings {
    let mut readings = Readings::new();
    let mut put = |signal, available: u64, capacity: u64| {
        // Some file systems have no fixed number of inodes and say 0; nothing has a capacity of nothing.
        if capacity > 0 {
            readings.insert(signal, Reading { available: available.min(capacity), capacity });
        }
    };
    put(Signal::Memory, node.memory_available(), node.memory_capacity);
    put(Signal::Pids, node.max_pids.saturating_sub(node.current_pids), node.max_pids);
    for (bytes, inodes, fs) in [
        (Signal::NodeFs, Signal::NodeFsInodes, Some(node.nodefs)),
        (Signal::ImageFs, Signal::ImageFsInodes, node.imagefs),
        (Signal::ContainerFs, Signal::ContainerFsInodes, node.containerfs),
    ] {
        if let Some(fs) = fs {
            put(bytes, fs.available, fs.capacity);
            put(inodes, fs.inodes_free, fs.inodes);
        }
    }
    if let Some(pods) = pods {
        put(Signal::AllocatableMemory, pods.available, pods.capacity);
    }
    readings
}

/// Why a pod has to leave its node: it fails with this reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// `status.reason`.
    pub reason: &'static str,
    /// `status.message`.
    pub message: String,
    /// What its containers get to end.
    pub grace: Duration,
    /// Whether the pod shows `DisruptionTarget`: not where it broke a limit of its own.
    pub disrupted: bool,
    /// Whether an event tells of it.
    pub told: bool,
    /// Annotations of that event.
    pub annotations: BTreeMap<String, String>,
}

/// `status.reason` of a pod that gave way.
pub const EVICTED: &str = "Evicted";
/// `status.reason` of a pod that made room for a critical one.
pub const PREEMPTING: &str = "Preempting";
/// An evicted pod gets this (`immediateEvictionGracePeriodSeconds`).
pub const IMMEDIATE_GRACE: Duration = Duration::from_secs(1);

impl Removal {
    /// What the condition `DisruptionTarget` says.
    pub fn disruption(&self) -> &str {
        match self.reason {
            PREEMPTING => "Pod was preempted by Kubelet to accommodate a critical pod.",
            _ => &self.message,
        }
    }

    /// It makes room for a pod that the node must have; `grace` is its own.
    pub fn preempted(grace: Duration) -> Self {
        let message = "Preempted in order to admit critical pod".to_owned();
        Self { reason: PREEMPTING, message, grace, disrupted: true, told: true, annotations: BTreeMap::new() }
    }

    /// It used more of the disk than it may.
    pub fn over_limit(message: String) -> Self {
        let (grace, annotations) = (IMMEDIATE_GRACE, BTreeMap::new());
        Self { reason: EVICTED, message, grace, disrupted: false, told: true, annotations }
    }
}
