//! The memory manager's static policy: from which NUMA nodes a guaranteed container's memory comes
//! (`pkg/kubelet/cm/memorymanager/policy_static.go`).

#[cfg(test)]
mod tests;

use super::topology::{Hint, NumaMask};
use crate::model::qos::QosClass;
use crate::model::resources::{List, amounts};
use crate::model::topology::Topology;
use crate::units::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes by kind: `memory`, `hugepages-2Mi`.
pub type Sizes = BTreeMap<String, u64>;

/// One kind of memory of one NUMA node, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    pub total: u64,
    pub system_reserved: u64,
    pub allocatable: u64,
    /// Given to containers.
    pub reserved: u64,
    pub free: u64,
}

/// A NUMA node: once memory is taken from several nodes together, they stay together while any of it is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub number_of_assignments: i64,
    pub memory_map: BTreeMap<String, Table>,
    pub cells: Vec<u32>,
}

/// Memory of one kind that a container has, from these nodes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    pub numa_affinity: Vec<u32>,
    #[serde(rename = "type")]
    pub kind: String,
    pub size: u64,
}

/// What is free and who has the rest; what the checkpoint keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    pub nodes: BTreeMap<u32, Node>,
    /// pod uid → container → blocks.
    pub own: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

/// A checkpoint that does not fit the machine or the configuration; upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMemoryState {
    #[error("[memorymanager] machine state can not be empty when it has memory assignments")]
    NoNodes,
    #[error(
        "[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses the NUMA that does not exist"
    )]
    NoSuchNode { pod: String, container: String },
    #[error(
        "[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses memory resource that does not exist"
    )]
    NoSuchKind { pod: String, container: String },
    #[error("[memorymanager] the expected machine state is different from the real one")]
    Differs,
}

/// Why no memory was given; upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMemory {
    #[error("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")]
    NoNodes,
    #[error("[memorymanager] failed to find the default preferred hint")]
    NotPreferred,
    #[error("[memorymanager] failed to find NUMA nodes to extend the current topology hint")]
    NotExtended,
    #[error("[memorymanager] failed to find the extended preferred hint")]
    ExtendedNotPreferred,
    #[error("[memorymanager] preferred hint violates NUMA node allocation")]
    Mixed,
}

/// The policy's fixed part: the nodes when nobody has anything.
#[derive(Clone, Debug)]
pub struct StaticMemory {
    empty: BTreeMap<u32, Node>,
}

impl StaticMemory {
    /// `reserved`: what the system keeps of each node.
    pub fn new(topology: &Topology, reserved: &BTreeMap<u32, Sizes>) -> Self {
        let node = |(id, node): (&u32, &crate::model::topology::NumaNode)| {
            let kept = |kind: &str| reserved.get(id).and_then(|sizes| sizes.get(kind)).copied().unwrap_or(0);
            let table = |kind: &str, total: u64, allocatable: u64| {
                let system_reserved = kept(kind);
                let allocatable = allocatable.saturating_sub(system_reserved);
                (kind.to_owned(), Table { total, system_reserved, allocatable, reserved: 0, free: allocatable })
            };
            let mut memory_map: BTreeMap<String, Table> = BTreeMap::new();
            for (page, total) in &node.huge_pages {
                let size = Bytes(i64::try_from(*page).unwrap_or(i64::MAX)).quantity(true);
                memory_map.extend([table(&format!("hugepages-{}", size.0), *total, *total)]);
            }
            let rest = node.memory_bytes.saturating_sub(node.huge_pages.values().sum());
            memory_map.extend([table("memory", node.memory_bytes, rest)]);
            (*id, Node { number_of_assignments: 0, memory_map, cells: vec![*id] })
        };
        Self { empty: topology.numa.iter().map(node).collect() }
    }

    /// The state to go on with: what was kept, if it fits the machine and what is reserved.
    pub fn begin(&self, kept: MemoryState) -> Result<MemoryState, BadMemoryState> {
        if kept.nodes.is_empty() {
            return match kept.own.is_empty() {
                true => Ok(MemoryState { nodes: self.empty.clone(), own: BTreeMap::new() }),
                false => Err(BadMemoryState::NoNodes),
            };
        }
        let mut expected = self.empty.clone();
        for (pod, containers) in &kept.own {
            for (container, blocks) in containers {
                let named = || (pod.clone(), container.clone());
                for block in blocks {
                    let nodes = block.numa_affinity.iter().map(|id| expected.get(id)).collect::<Option<Vec<_>>>();
                    let Some(nodes) = nodes else {
                        let (pod, container) = named();
                        return Err(BadMemoryState::NoSuchNode { pod, container });
                    };
                    if nodes.iter().any(|node| !node.memory_map.contains_key(&block.kind)) {
                        let (pod, container) = named();
                        return Err(BadMemoryState::NoSuchKind { pod, container });
                    }
                    take(&mut expected, block, block.size);
                }
            }
        }
        match equal(&kept.nodes, &expected) {
            true => Ok(kept),
            false => Err(BadMemoryState::Differs),
        }
    }

    /// Is this a container that has memory of its own?
    pub fn gives_to(pod: &Pod, container: &Container) -> bool {
        !requested(pod, container).is_empty()
    }

    /// Gives a container its memory, from the nodes that the topology manager found, if it did. One that has some keeps it.
    pub fn allocate(
        &self,
        state: &mut MemoryState,
        pod: &Pod,
        container: &Container,
        hint: Option<Hint>,
    ) -> Result<(), NoMemory> {
        let requested = requested(pod, container);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if requested.is_empty() || state.own.get(&uid).is_some_and(|own| own.contains_key(&container.name)) {
            return Ok(());
        }
        let init = endable_before(pod, &container.name);
        let hint = hint.unwrap_or(Hint { affinity: None, preferred: false });
        let mut best = match hint.affinity {
            Some(affinity) => (affinity, hint.preferred),
            None => {
                let found = best(state.hints(&uid, &init, &requested)).ok_or(NoMemory::NoNodes)?;
                if hint.preferred && !found.1 {
                    return Err(NoMemory::NotPreferred);
                }
                found
            }
        };
        if !state.satisfies(best.0, &requested, &uid, &init) {
            let wider = state.hints(&uid, &init, &requested).into_iter().filter(|(mask, _)| mask.has_all(best.0));
            let extended = self::best(wider.collect()).ok_or(NoMemory::NotExtended)?;
            if best.1 && !extended.1 {
                return Err(NoMemory::ExtendedNotPreferred);
            }
            best = extended;
        }
        if !state.is_allowed(best.0) {
            return Err(NoMemory::Mixed);
        }
        let affinity: Vec<u32> = best.0.nodes().into_iter().collect();
        let mut blocks = Vec::new();
        for (kind, size) in requested {
            let block = Block { numa_affinity: affinity.clone(), kind, size };
            let reused = state.reuse(&uid, &init, &block);
            take(&mut state.nodes, &block, size - reused);
            blocks.push(block);
        }
        state.own.entry(uid).or_default().insert(container.name.clone(), blocks);
        Ok(())
    }

    /// Where a container's memory could come from, by kind; `None`: it wants none of its own.
    pub fn hints(&self, state: &MemoryState, pod: &Pod, container: &Container) -> Option<BTreeMap<String, Vec<Hint>>> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let requested = requested(pod, container);
        if let Some(blocks) = state.own.get(uid).and_then(|own| own.get(&container.name)) {
            return Some(regenerated(blocks, &requested));
        }
        let init = endable_before(pod, &container.name);
        (!requested.is_empty()).then(|| by_kind(&requested, &state.hints(uid, &init, &requested)))
    }

    /// The same of a pod as a whole.
    pub fn pod_hints(&self, state: &MemoryState, pod: &Pod) -> Option<BTreeMap<String, Vec<Hint>>> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let requested = pod_requested(pod);
        if let Some(blocks) = state.own.get(uid).and_then(|own| own.values().next()) {
            return Some(regenerated(blocks, &requested));
        }
        (!requested.is_empty()).then(|| by_kind(&requested, &state.hints(uid, &[], &requested)))
    }
}

impl MemoryState {
    /// The nodes that a container's memory comes from.
    pub fn nodes_of(&self, uid: &str, container: &str) -> BTreeSet<u32> {
        let blocks = self.own.get(uid).and_then(|own| own.get(container)).into_iter().flatten();
        blocks.flat_map(|block| block.numa_affinity.iter().copied()).collect()
    }

    /// All that containers may have, by node and kind.
    pub fn allocatable(&self) -> Vec<Block> {
        let kinds =
            self.nodes.iter().flat_map(|(id, node)| node.memory_map.iter().map(|(kind, table)| (*id, kind, table)));
        let block = |(id, kind, table): (u32, &String, &Table)| Block {
            numa_affinity: vec![id],
            kind: kind.clone(),
            size: table.allocatable,
        };
        kinds.map(block).filter(|block| block.size > 0).collect()
    }

    /// Gives back what pods have that are not to be kept; whether there were any.
    pub fn release(&mut self, keep: impl Fn(&str) -> bool) -> bool {
        let before = self.own.len();
        let nodes = &mut self.nodes;
        self.own.retain(|uid, containers| {
            let kept = keep(uid);
            if !kept {
                containers.values().flatten().for_each(|block| give_back(nodes, block));
            }
            kept
        });
        self.own.len() != before
    }

    /// Choices of nodes that could hold this, and whether each is as small as one can be.
    fn hints(&self, uid: &str, init: &[String], requested: &Sizes) -> Vec<(NumaMask, bool)> {
        let all: BTreeSet<u32> = self.nodes.keys().copied().collect();
        let mut fewest = all.len();
        let mut fitting = Vec::new();
        for mask in NumaMask::choices(&all) {
            let allocatable = |(kind, size): (&String, &u64)| self.sum(mask, kind, |table| table.allocatable) >= *size;
            if !requested.iter().all(allocatable) {
                continue;
            }
            fewest = fewest.min(mask.nodes().len());
            if self.is_allowed(mask) && self.satisfies(mask, requested, uid, init) {
                fitting.push(mask);
            }
        }
        fitting.into_iter().map(|mask| (mask, mask.nodes().len() == fewest)).collect()
    }

    fn sum(&self, mask: NumaMask, kind: &str, of: impl Fn(&Table) -> u64) -> u64 {
        let nodes = self.nodes.iter().filter(|(id, _)| mask.has(**id));
        nodes.filter_map(|(_, node)| node.memory_map.get(kind)).map(of).sum()
    }

    fn satisfies(&self, mask: NumaMask, requested: &Sizes, uid: &str, init: &[String]) -> bool {
        let fits = |(kind, size): (&String, &u64)| {
            self.sum(mask, kind, |table| table.free) + self.reusable(uid, init, mask, kind) >= *size
        };
        requested.iter().all(fits)
    }

    /// A node serves containers alone, or together with the same other nodes; never both.
    fn is_allowed(&self, mask: NumaMask) -> bool {
        let together = |node: &Node| NumaMask::of(node.cells.iter().copied());
        let nodes = || self.nodes.iter().filter(|(id, _)| mask.has(**id)).map(|(_, node)| node);
        match mask.count() {
            1 => nodes().all(|node| node.cells.len() <= 1),
            _ => nodes().filter(|node| node.number_of_assignments > 0).all(|node| together(node) == mask),
        }
    }

    /// What init containers that have ended by then had from these nodes.
    fn reusable(&self, uid: &str, init: &[String], mask: NumaMask, kind: &str) -> u64 {
        let Some(own) = self.own.get(uid) else { return 0 };
        let blocks = init.iter().filter_map(|name| own.get(name)).flatten();
        let same = |block: &&Block| block.kind == kind && NumaMask::of(block.numa_affinity.iter().copied()) == mask;
        blocks.filter(same).map(|block| block.size).sum()
    }

    /// Takes over what those had: the sizes of all blocks together stay what the nodes gave.
    fn reuse(&mut self, uid: &str, init: &[String], wanted: &Block) -> u64 {
        let Some(own) = self.own.get_mut(uid) else { return 0 };
        let mut left = wanted.size;
        for name in init {
            for block in own.get_mut(name).into_iter().flatten() {
                if block.kind == wanted.kind && block.numa_affinity == wanted.numa_affinity {
                    let reused = left.min(block.size);
                    block.size -= reused;
                    left -= reused;
                }
            }
        }
        wanted.size - left
    }
}

fn take(nodes: &mut BTreeMap<u32, Node>, block: &Block, size: u64) {
    let mut left = size;
    for id in &block.numa_affinity {
        let Some(node) = nodes.get_mut(id) else { continue };
        node.number_of_assignments += 1;
        node.cells.clone_from(&block.numa_affinity);
        if let Some(table) = node.memory_map.get_mut(&block.kind) {
            let taken = left.min(table.free);
            table.free -= taken;
            table.reserved += taken;
            left -= taken;
        }
    }
}

fn give_back(nodes: &mut BTreeMap<u32, Node>, block: &Block) {
    let mut left = block.size;
    for id in &block.numa_affinity {
        let Some(node) = nodes.get_mut(id) else { continue };
        node.number_of_assignments -= 1;
        if node.number_of_assignments == 0 {
            node.cells = vec![*id];
        }
        if let Some(table) = node.memory_map.get_mut(&block.kind) {
            let returned = left.min(table.reserved);
            table.free += returned;
            table.reserved -= returned;
            left -= returned;
        }
    }
}

/// As upstream compares: within a group of nodes it is the sum that counts.
fn equal(kept: &BTreeMap<u32, Node>, expected: &BTreeMap<u32, Node>) -> bool {
    let group = |nodes: &BTreeMap<u32, Node>, node: &Node, kind: &str| {
        let tables = node.cells.iter().filter_map(|id| nodes.get(id)?.memory_map.get(kind));
        tables.fold((0, 0), |(free, reserved), table| (free + table.free, reserved + table.reserved))
    };
    let fixed = |table: &Table| (table.total, table.system_reserved, table.allocatable);
    let same = |(id, one): (&u32, &Node)| {
        expected.get(id).is_some_and(|other| {
            one.number_of_assignments == other.number_of_assignments
                && one.cells == other.cells
                && one.memory_map.len() == other.memory_map.len()
                && one.memory_map.iter().all(|(kind, table)| {
                    other.memory_map.get(kind).is_some_and(|known| fixed(known) == fixed(table))
                        && group(kept, one, kind) == group(expected, other, kind)
                })
        })
    };
    kept.len() == expected.len() && kept.iter().all(same)
}

/// The preferred one of the fewest nodes, the lowest first.
fn best(hints: Vec<(NumaMask, bool)>) -> Option<(NumaMask, bool)> {
    hints.into_iter().min_by_key(|(mask, preferred)| (!preferred, mask.count(), *mask))
}

/// Where no nodes hold it upstream has no hint at all: what fails then is the allocation.
fn by_kind(requested: &Sizes, masks: &[(NumaMask, bool)]) -> BTreeMap<String, Vec<Hint>> {
    let hints = || masks.iter().map(|(mask, preferred)| Hint { affinity: Some(*mask), preferred: *preferred });
    let kinds = requested.keys().filter(|_| !masks.is_empty());
    kinds.map(|kind| (kind.clone(), hints().collect())).collect()
}

/// Of what a container has already; one that asks for something else by now has no hint.
fn regenerated(blocks: &[Block], requested: &Sizes) -> BTreeMap<String, Vec<Hint>> {
    let same = blocks.len() == requested.len();
    let hint = |block: &Block| {
        let affinity = NumaMask::of(block.numa_affinity.iter().copied());
        (block.kind.clone(), if same { vec![Hint { affinity: Some(affinity), preferred: true }] } else { Vec::new() })
    };
    blocks.iter().map(hint).collect()
}

/// Init containers, other than sidecars, that come before this container.
fn endable_before(pod: &Pod, name: &str) -> Vec<String> {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let before = init.take_while(|container| container.name != name);
    before.filter(|c| c.restart_policy.as_deref() != Some("Always")).map(|c| c.name.clone()).collect()
}

/// Memory and huge pages that a container of a Guaranteed pod asks for.
fn requested(pod: &Pod, container: &Container) -> Sizes {
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let is_set = pod_level.is_some_and(|resources| resources.requests.is_some() || resources.limits.is_some());
    if is_set || QosClass::of(pod) != QosClass::Guaranteed {
        return Sizes::new();
    }
    let resources = container.resources.as_ref();
    let of = |list: Option<&List>| list.and_then(|list| amounts(list).ok()).unwrap_or_default();
    let mut asked = of(resources.and_then(|resources| resources.limits.as_ref()));
    asked.extend(of(resources.and_then(|resources| resources.requests.as_ref())));
    asked.retain(|kind, _| kind == "memory" || kind.starts_with("hugepages-"));
    asked.into_iter().map(|(kind, amount)| (kind, amount.max(0).unsigned_abs())).collect()
}

/// The most that a pod's containers have at a time.
fn pod_requested(pod: &Pod) -> Sizes {
    let add = |total: &mut Sizes, more: Sizes| {
        more.into_iter().for_each(|(kind, size)| *total.entry(kind).or_default() += size)
    };
    let (mut running, mut sidecars, mut peak) = (Sizes::new(), Sizes::new(), Sizes::new());
    for container in pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()) {
        let mut own = requested(pod, container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, own);
        } else {
            add(&mut own, sidecars.clone());
            own.into_iter().for_each(|(kind, size)| {
                let most = peak.entry(kind).or_default();
                *most = size.max(*most);
            });
        }
    }
    pod.spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .for_each(|container| add(&mut running, requested(pod, container)));
    add(&mut running, sidecars);
    peak.into_iter().for_each(|(kind, size)| {
        let most = running.entry(kind).or_default();
        *most = size.max(*most);
    });
    running
}
