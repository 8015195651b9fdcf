//! What the node, its pods and their containers use: the figures that eviction, `/stats/summary` and the metrics share.

use crate::ids::{ContainerId, ContainerName, PodKey, PodUid};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Figures of one cgroup. Sizes in bytes; counters since the cgroup was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupUse {
    /// When the files were read.
    pub at: Timestamp,
    pub cpu: CpuUse,
    pub memory: MemoryUse,
    pub pids: PidUse,
    /// By block device.
    pub io: BTreeMap<Device, IoUse>,
    pub spec: CgroupSpec,
    pub pressure: PressureUse,
}

/// Pressure stall information; none where the kernel keeps none (cgroup v1, `psi=0`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureUse {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

/// How long tasks waited for one resource: some of them, and all at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

/// Microseconds since the cgroup was made, and percent of the last 10, 60 and 300 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    pub total: u64,
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// CPU time, in nanoseconds unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    pub total: u64,
    /// Nanocores of late: since the last reading that is some seconds old, at first since the start.
    pub rate: u64,
    pub user: u64,
    pub system: u64,
    /// CFS periods, those in which the quota was used up, and the time then waited.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

/// Memory; the names are cadvisor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub usage: u64,
    /// Usage without the page cache that has not been used of late: what eviction counts.
    pub working_set: u64,
    pub max_usage: u64,
    pub rss: u64,
    pub cache: u64,
    pub swap: u64,
    pub mapped_file: u64,
    /// Times the limit was hit.
    pub failures: u64,
    pub oom_kills: u64,
    /// The cgroup alone, and with all below it.
    pub page_faults: Faults,
    pub tree_page_faults: Faults,
}

/// Page faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub all: u64,
    pub major: u64,
}

/// Processes and threads; 0 for what is unlimited or was not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidUse {
    pub processes: u64,
    pub threads: u64,
    pub threads_max: u64,
    pub files: u64,
    pub sockets: u64,
}

/// A block device's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// Traffic of one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoUse {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Limits of a cgroup; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupSpec {
    pub cpu_shares: u64,
    /// Microseconds.
    pub cpu_quota: u64,
    pub cpu_period: u64,
    pub memory_limit: u64,
    pub memory_reservation: u64,
    pub swap_limit: u64,
}

/// Traffic of one network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceUse {
    pub name: String,
    pub receive: Traffic,
    pub transmit: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// A file system as a whole, and what of it the thing in question uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUse {
    pub capacity: u64,
    /// What processes without privilege may still write.
    pub available: u64,
    pub used: u64,
    /// Some file systems have no fixed number of inodes and say 0.
    pub inodes: u64,
    pub inodes_free: u64,
    pub inodes_used: u64,
}

/// What a tree of files takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUse {
    pub bytes: u64,
    pub inodes: u64,
}

impl std::ops::Add for TreeUse {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

impl std::iter::Sum for TreeUse {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| sum + one)
    }
}

/// The node. What eviction signals are made of: `memory.available` = `memory_capacity` - `root.memory.working_set`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeUse {
    /// The root cgroup: everything that runs on the machine.
    pub root: CgroupUse,
    pub memory_capacity: u64,
    pub swap_capacity: u64,
    /// The agent's root directory.
    pub nodefs: FsUse,
    /// Where the runtime keeps images, and where it keeps writable layers; `None` while it does not say.
    pub imagefs: Option<FsUse>,
    pub containerfs: Option<FsUse>,
    /// `kernel.pid_max` and the tasks there are.
    pub max_pids: u64,
    pub current_pids: u64,
}

impl NodeUse {
    /// `memory.available`.
    pub fn memory_available(&self) -> u64 {
        self.memory_capacity.saturating_sub(self.root.memory.working_set)
    }
}

/// One pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodUse {
    pub uid: PodUid,
    pub key: PodKey,
    /// The pod's cgroup; `None` while it has none.
    pub cgroup: Option<CgroupUse>,
    /// Containers that run.
    pub containers: Vec<ContainerUse>,
    /// Interfaces of the pod's own network namespace; none with host network.
    pub network: Vec<InterfaceUse>,
    pub disk: Option<PodDisk>,
}

/// One running container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerUse {
    pub name: ContainerName,
    pub id: ContainerId,
    pub started_at: Timestamp,
    pub cgroup: Option<CgroupUse>,
}

/// What a pod keeps on the node's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDisk {
    /// Log files and writable layer, by container.
    pub logs: BTreeMap<ContainerName, TreeUse>,
    pub layers: BTreeMap<ContainerName, TreeUse>,
    /// Volumes by name; `local`: counted as ephemeral storage.
    pub volumes: BTreeMap<String, VolumeUse>,
    /// Files of the pod itself (hosts file, termination messages).
    pub own: TreeUse,
}

/// One volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeUse {
    pub fs: FsUse,
    /// On the node's disk (`emptyDir` without a medium, content volumes): it is ephemeral storage.
    pub local: bool,
    /// Name of the claim behind it.
    pub claim: Option<String>,
    /// Its driver finds something wrong with it; `None`: nobody looked.
    pub abnormal: Option<bool>,
}

impl PodDisk {
    /// Bytes that a container's writable layer and logs take; `None`: it has neither.
    pub fn container(&self, name: &str) -> Option<u64> {
        let name = ContainerName::new(name);
        let (layer, logs) = (self.layers.get(&name), self.logs.get(&name));
        (layer.is_some() || logs.is_some()).then(|| layer.into_iter().chain(logs).map(|tree| tree.bytes).sum())
    }

    /// Bytes that a container's logs take; `None`: it has none.
    pub fn logs_of(&self, name: &str) -> Option<u64> {
        self.logs.get(&ContainerName::new(name)).map(|tree| tree.bytes)
    }

    /// `ephemeral-storage` as the kubelet counts it: layers, logs, local volumes and the pod's own files.
    pub fn ephemeral(&self) -> TreeUse {
        let volumes = self.volumes.values().filter(|volume| volume.local);
        let volumes = volumes.map(|volume| TreeUse { bytes: volume.fs.used, inodes: volume.fs.inodes_used });
        let files = self.logs.values().chain(self.layers.values()).copied();
        files.chain(volumes).sum::<TreeUse>() + self.own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_remote_volumes_are_not_ephemeral_storage() {
        let tree = |bytes| TreeUse { bytes, inodes: 1 };
        let volume = |local, used| VolumeUse {
            local,
            fs: FsUse { used, inodes_used: 1, ..Default::default() },
            ..VolumeUse::default()
        };
        let disk = PodDisk {
            logs: [(ContainerName::new("c"), tree(1))].into(),
            layers: [(ContainerName::new("c"), tree(10))].into(),
            volumes: [("local".to_owned(), volume(true, 100)), ("memory".to_owned(), volume(false, 1 << 30))].into(),
            own: tree(1000),
        };
        assert_eq!(disk.ephemeral(), TreeUse { bytes: 1111, inodes: 4 });
    }

    #[test]
    fn available_memory_is_what_the_working_set_leaves() {
        let mut node = NodeUse { memory_capacity: 100, ..Default::default() };
        node.root.memory.working_set = 30;
        assert_eq!(node.memory_available(), 70);
        node.root.memory.working_set = 130;
        assert_eq!(node.memory_available(), 0);
    }
}
