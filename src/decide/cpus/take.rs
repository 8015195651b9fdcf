//! Which of the free CPUs a container gets: packed into as few sockets, NUMA nodes and cores as can be, or spread evenly
//! over NUMA nodes (`cpu_assignment.go`).

use crate::model::cpuset::CpuSet;
use crate::model::topology::{CpuPlace, Topology};
use std::collections::{BTreeMap, BTreeSet};

/// Fewer CPUs are free than are asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not enough cpus available to satisfy request: requested={requested}, available={available}")]
pub struct NotEnough {
    pub requested: usize,
    pub available: usize,
}

/// How CPUs are packed; by default whole cores first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// Whole last-level caches before whole cores.
    pub by_uncore: bool,
    /// In the order of their numbers within a socket, which on most machines is one thread of each core first.
    pub across_cores: bool,
}

/// A kind of group that CPUs belong to.
type Group = fn(&CpuPlace) -> u32;

const CORE: Group = |place| place.core;
const SOCKET: Group = |place| place.socket;
const NUMA: Group = |place| place.numa;
const UNCORE: Group = |place| place.uncore;

/// What is taken so far.
struct Taking<'a> {
    topology: &'a Topology,
    free: CpuSet,
    needed: usize,
    result: CpuSet,
    /// From the largest group to the smallest: NUMA nodes before sockets, unless a socket has several of them.
    levels: [Group; 2],
}

impl<'a> Taking<'a> {
    fn new(topology: &'a Topology, free: &CpuSet, needed: usize) -> Self {
        let numa_first = topology.sockets() >= topology.cpu_nodes().len();
        let levels = if numa_first { [NUMA, SOCKET] } else { [SOCKET, NUMA] };
        let free = free.intersection(&topology.all());
        Self { topology, free, needed, result: CpuSet::default(), levels }
    }

    fn take(&mut self, cpus: &CpuSet) {
        self.result = self.result.union(cpus);
        self.free = self.free.difference(cpus);
        self.needed = self.needed.saturating_sub(cpus.len());
    }

    fn place(&self, cpu: u32) -> Option<&CpuPlace> {
        self.topology.cpus.get(&cpu)
    }

    /// Free CPUs by group, among those that `within` names.
    fn groups(&self, group: Group, within: impl Fn(&CpuPlace) -> bool) -> Vec<(u32, CpuSet)> {
        let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for cpu in self.free.iter() {
            if let Some(place) = self.place(cpu).filter(|place| within(place)) {
                groups.entry(group(place)).or_default().push(cpu);
            }
        }
        let mut groups: Vec<_> = groups.into_iter().map(|(id, cpus)| (id, cpus.into_iter().collect())).collect();
        // Those with the fewest free CPUs first: what is broken already is filled up.
        groups.sort_by_key(|(id, cpus): &(u32, CpuSet)| (cpus.len(), *id));
        groups
    }

    /// Groups of a lower kind, in the order of the two levels above them.
    fn sorted(&self, group: Group) -> Vec<(u32, CpuSet)> {
        let [first, second] = self.levels;
        let mut sorted: Vec<(u32, CpuSet)> = Vec::new();
        for (outer, _) in self.groups(first, |_| true) {
            for (inner, _) in self.groups(second, |place| first(place) == outer) {
                sorted.extend(self.groups(group, |place| first(place) == outer && second(place) == inner));
            }
        }
        let mut seen = BTreeSet::new();
        sorted.retain(|(id, _)| seen.insert(*id));
        sorted
    }

    fn whole(&self, group: Group, id: u32) -> CpuSet {
        self.topology.cpus_where(|place| group(place) == id)
    }

    /// Takes groups that are free as a whole, as long as that many CPUs are needed.
    fn take_whole(&mut self, group: Group, candidates: Vec<(u32, CpuSet)>) {
        for (id, free) in candidates {
            let whole = self.whole(group, id);
            if free == whole && self.needed >= whole.len() {
                self.take(&whole);
            }
        }
    }

    /// Whole last-level caches, then a part of one that holds all the rest.
    fn take_uncore(&mut self) {
        let caches = self.sorted(UNCORE);
        if self.needed >= self.topology.cpus_per_uncore() {
            self.take_whole(UNCORE, caches.clone());
        }
        let per_core = self.topology.cpus_per_core().max(1);
        for (id, _) in caches {
            if self.needed == 0 {
                return;
            }
            let mut cores = self.groups(CORE, |place| place.uncore == id);
            cores.sort_by_key(|(core, _)| *core);
            let cores = cores.into_iter().take(self.needed.div_ceil(per_core));
            let mut cpus: Vec<u32> = cores.flat_map(|(_, cpus)| cpus.iter().collect::<Vec<_>>()).collect();
            if per_core > 1 && !self.needed.is_multiple_of(2) && cpus.len() > self.needed {
                // An odd number needs only one thread of the last core.
                cpus.sort_unstable();
                cpus.pop();
            }
            if cpus.len() == self.needed {
                self.take(&cpus.into_iter().collect());
            }
        }
    }

    /// Threads by their numbers, first of sockets that are in use already.
    fn take_across_cores(&mut self) {
        for (socket, _) in self.sorted(SOCKET) {
            let cpus: Vec<u32> = self.whole(SOCKET, socket).intersection(&self.free).iter().take(self.needed).collect();
            self.take(&cpus.into_iter().collect());
        }
    }

    /// Single threads, first of cores that are in use already.
    fn take_rest(&mut self) {
        for (_, cpus) in self.sorted(CORE) {
            for cpu in cpus.iter().take(self.needed).collect::<Vec<_>>() {
                self.take(&CpuSet::from_iter([cpu]));
            }
        }
    }
}

/// `takeByTopologyNUMAPacked`: whole NUMA nodes and sockets, whole caches if asked, whole cores, then threads.
pub fn packed(topology: &Topology, free: &CpuSet, count: usize, packing: Packing) -> Result<CpuSet, NotEnough> {
    let mut taking = Taking::new(topology, free, count);
    if count > taking.free.len() {
        return Err(NotEnough { requested: count, available: taking.free.len() });
    }
    for level in taking.levels {
        let candidates = taking.groups(level, |_| true);
        taking.take_whole(level, candidates);
    }
    if packing.by_uncore && taking.needed > 0 {
        taking.take_uncore();
    }
    if packing.across_cores {
        taking.take_across_cores();
    } else {
        let cores = taking.sorted(CORE);
        taking.take_whole(CORE, cores);
        taking.take_rest();
    }
    Ok(taking.result)
}

/// `takeByTopologyNUMADistributed`: evenly over as few NUMA nodes as can hold them, in groups of `group` CPUs; packed
/// where that cannot be.
pub fn distributed(
    topology: &Topology,
    free: &CpuSet,
    count: usize,
    group: usize,
    packing: Packing,
) -> Result<CpuSet, NotEnough> {
    let mut taking = Taking::new(topology, free, count);
    if count > taking.free.len() || !count.is_multiple_of(group) || count == 0 {
        return packed(topology, free, count, packing);
    }
    let nodes: Vec<(u32, usize)> =
        taking.groups(NUMA, |_| true).into_iter().map(|(id, cpus)| (id, cpus.len())).collect();
    let all_nodes = topology.cpu_nodes().len().max(1);
    let groups_per_node = (topology.cpus.len() / all_nodes / group).max(1);
    let fewest = (count / group).div_ceil(groups_per_node);
    for size in fewest..=nodes.len().min(count / group) {
        let Some((chosen, extra)) = balanced(&nodes, size, count, group) else { continue };
        let share = count / size / group * group;
        let shares = chosen.into_iter().map(|node| (node, share)).chain(extra.into_iter().map(|node| (node, group)));
        for (node, share) in shares {
            let in_node = taking.topology.cpus_where(|place| place.numa == node).intersection(&taking.free);
            let cpus = packed(topology, &in_node, share, packing)?;
            taking.take(&cpus);
        }
        return Ok(taking.result);
    }
    packed(topology, free, count, packing)
}

/// The `size` nodes, and those of them that give one group more, which leave the machine most evenly loaded.
fn balanced(nodes: &[(u32, usize)], size: usize, count: usize, group: usize) -> Option<(Vec<u32>, Vec<u32>)> {
    let share = count / size / group * group;
    let extra_groups = (count - share * size) / group;
    let mut best: Option<(u64, Vec<u32>, Vec<u32>)> = None;
    for chosen in combinations(nodes, size) {
        let groups: usize = chosen.iter().map(|(_, free)| free / group).sum();
        if groups * group < count || chosen.iter().any(|(_, free)| *free < share) {
            continue;
        }
        let rest: Vec<_> = chosen.iter().filter(|(_, free)| free - share >= group).copied().collect();
        for extra in combinations(&rest, extra_groups) {
            let given = |id: &u32| {
                let of =
                    |list: &[(u32, usize)], amount| if list.iter().any(|(node, _)| node == id) { amount } else { 0 };
                of(&chosen, share) + of(&extra, group)
            };
            let left: Vec<usize> = nodes.iter().map(|(id, free)| free - given(id)).collect();
            let score = deviation(&left);
            if best.as_ref().is_none_or(|(least, ..)| score < *least) {
                let ids = |list: &[(u32, usize)]| list.iter().map(|(id, _)| *id).collect();
                best = Some((score, ids(&chosen), ids(&extra)));
            }
        }
    }
    best.map(|(_, chosen, extra)| (chosen, extra))
}

/// The standard deviation in thousandths.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn deviation(values: &[usize]) -> u64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<usize>() as f64 / count;
    let variance = values.iter().map(|value| (*value as f64 - mean).powi(2)).sum::<f64>() / count;
    (variance.sqrt() * 1000.0).round() as u64
}

/// All choices of `size` of the items, in order.
pub(in crate::decide) fn combinations<T: Copy>(items: &[T], size: usize) -> Vec<Vec<T>> {
    let Some(rest) = items.len().checked_sub(size) else { return Vec::new() };
    if size == 0 {
        return vec![Vec::new()];
    }
    let starts = 0..=rest;
    let with = |start: usize| {
        let tails = combinations(&items[start + 1..], size - 1).into_iter();
        tails.map(move |tail| std::iter::once(items[start]).chain(tail).collect::<Vec<T>>())
    };
    starts.flat_map(with).collect()
}
