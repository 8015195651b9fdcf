//! What hangs together in the machine: CPUs in cores, cores in sockets, both in NUMA nodes; memory of NUMA nodes.

use super::cpuset::CpuSet;
use std::collections::{BTreeMap, BTreeSet};

/// Where one logical CPU sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuPlace {
    /// The lowest CPU of its core: unique in the machine, unlike the kernel's `core_id`.
    pub core: u32,
    pub socket: u32,
    pub numa: u32,
    /// Its last-level cache; the socket where the kernel names none.
    pub uncore: u32,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    pub memory_bytes: u64,
    /// Page size in bytes → bytes in pages of that size.
    pub huge_pages: BTreeMap<u64, u64>,
    /// To each node, in the order of their numbers (ACPI SLIT: 10 is local).
    pub distances: Vec<u32>,
}

/// The machine's layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub cpus: BTreeMap<u32, CpuPlace>,
    pub numa: BTreeMap<u32, NumaNode>,
}

impl Topology {
    pub fn all(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }

    fn count(&self, of: impl Fn(&CpuPlace) -> u32) -> usize {
        self.cpus.values().map(of).collect::<BTreeSet<_>>().len()
    }

    pub fn sockets(&self) -> usize {
        self.count(|place| place.socket)
    }

    /// NUMA nodes that have CPUs.
    pub fn cpu_nodes(&self) -> BTreeSet<u32> {
        self.cpus.values().map(|place| place.numa).collect()
    }

    /// Threads of a core (`CPUsPerCore`).
    pub fn cpus_per_core(&self) -> usize {
        self.cpus.len() / self.count(|place| place.core).max(1)
    }

    /// CPUs that share a last-level cache.
    pub fn cpus_per_uncore(&self) -> usize {
        self.cpus.len() / self.count(|place| place.uncore).max(1)
    }

    /// The CPUs of which this holds.
    pub fn cpus_where(&self, holds: impl Fn(&CpuPlace) -> bool) -> CpuSet {
        self.cpus.iter().filter(|(_, place)| holds(place)).map(|(cpu, _)| *cpu).collect()
    }

    /// The sockets that these NUMA nodes lie in.
    pub fn sockets_of(&self, nodes: &BTreeSet<u32>) -> BTreeSet<u32> {
        self.cpus.values().filter(|place| nodes.contains(&place.numa)).map(|place| place.socket).collect()
    }
}

/// Where a container may run: lists of CPUs and of NUMA nodes for its memory; empty: as the runtime has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    pub cpus: String,
    pub memory_nodes: String,
}
