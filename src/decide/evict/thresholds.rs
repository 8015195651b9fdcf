//! Thresholds from a configuration, which of them are crossed, and what the node is short of.

use crate::model::eviction::{Amount, Readings, Shortage, Signal, Threshold};
use crate::model::stats::MemoryUse;
use node_config::kubelet::KubeletConfiguration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// The thresholds of a configuration, in the order in which the kubelet makes them.
pub fn configured(config: &KubeletConfiguration) -> Vec<Threshold> {
    let reclaim = |signal| amount(&config.eviction_minimum_reclaim, signal).and_then(Amount::parse);
    let none = BTreeMap::new();
    let hard = config.eviction_hard.as_ref().unwrap_or(&none);
    let grace = |signal: Signal| {
        let period = amount(&config.eviction_soft_grace_period, signal)?.parse::<node_config::duration::Duration>();
        period.ok().map(node_config::duration::Duration::to_std)
    };
    let mut thresholds = Vec::new();
    for signal in Signal::ALL {
        // Zero (and 100%, as the kubelet reads it) switches a threshold off.
        let given = amount(hard, signal).filter(|text| !matches!(*text, "0%" | "100%")).and_then(Amount::parse);
        if let Some(least) = given {
            thresholds.push(Threshold { signal, least, grace: Duration::ZERO, hard: true, reclaim: reclaim(signal) });
        }
    }
    for signal in Signal::ALL {
        let given = amount(&config.eviction_soft, signal).filter(|text| !matches!(*text, "0%" | "100%"));
        if let (Some(least), Some(grace)) = (given.and_then(Amount::parse), grace(signal)) {
            thresholds.push(Threshold { signal, least, grace, hard: false, reclaim: reclaim(signal) });
        }
    }
    // The pods' own cgroup has the same reserve, where it is enforced.
    let enforced = config.enforce_node_allocatable.iter().flatten().any(|level| level == "pods");
    let memory = thresholds.iter().find(|known| known.hard && known.signal == Signal::Memory);
    if let Some(memory) = memory.filter(|_| enforced) {
        thresholds.push(Threshold { signal: Signal::AllocatableMemory, ..memory.clone() });
    }
    thresholds
}

fn amount(map: &BTreeMap<String, String>, signal: Signal) -> Option<&str> {
    map.get(signal.name()).map(String::as_str)
}

/// What one look at the node came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What the node is short of, or was a short while ago.
    pub short: BTreeSet<Shortage>,
    /// Thresholds whose grace is over, the most urgent first: pods have to go.
    pub crossed: Vec<Threshold>,
}

/// Remembers from look to look what was crossed since when.
#[derive(Clone, Debug)]
pub struct Watcher {
    thresholds: Vec<Threshold>,
    /// `evictionPressureTransitionPeriod`: shortage lasts that long after it was last seen.
    transition: Duration,
    /// By index into `thresholds`.
    crossed_since: BTreeMap<usize, Instant>,
    /// Whose grace was over at the last look: they count as crossed until the minimum is reclaimed too.
    unresolved: BTreeSet<usize>,
    short_seen: BTreeMap<Shortage, Instant>,
}

impl Watcher {
    pub fn new(thresholds: Vec<Threshold>, transition: Duration) -> Self {
        Self {
            thresholds,
            transition,
            crossed_since: BTreeMap::new(),
            unresolved: BTreeSet::new(),
            short_seen: BTreeMap::new(),
        }
    }

    /// Takes one look into account.
    pub fn look(&mut self, readings: &Readings, now: Instant) -> Verdict {
        let crossed: BTreeSet<usize> = (0..self.thresholds.len())
            .filter(|&index| is_crossed(&self.thresholds[index], readings, self.unresolved.contains(&index)))
            .collect();
        self.crossed_since.retain(|index, _| crossed.contains(index));
        for &index in &crossed {
            self.crossed_since.entry(index).or_insert(now);
            self.short_seen.insert(self.thresholds[index].signal.shortage(), now);
        }
        self.short_seen.retain(|_, seen| *seen == now || now - *seen < self.transition);
        let due = |index: &usize| now - self.crossed_since[index] >= self.thresholds[*index].grace;
        self.unresolved = crossed.into_iter().filter(due).collect();
        let mut list: Vec<Threshold> = self.unresolved.iter().map(|&index| self.thresholds[index].clone()).collect();
        // Memory first: without it nothing else can be done.
        list.sort_by_key(|threshold| threshold.signal.shortage() != Shortage::Memory);
        Verdict { short: self.short_seen.keys().copied().collect(), crossed: list }
    }

    /// Is there enough of everything, the minimum to reclaim included, once the node has helped itself?
    pub fn has_recovered(&self, readings: &Readings) -> bool {
        !self.thresholds.iter().any(|threshold| is_crossed(threshold, readings, true))
    }

    /// Where the use of memory has to be for the thresholds of `signal` to be crossed: the kernel tells of that. Page
    /// cache that could go at once counts for the kernel and not for us.
    pub fn marks(&self, signal: Signal, used: &MemoryUse, readings: &Readings) -> Vec<u64> {
        let Some(reading) = readings.get(&signal) else { return Vec::new() };
        let cache = used.usage.saturating_sub(used.working_set);
        let capacity = reading.available.saturating_add(used.working_set);
        let mark = |threshold: &Threshold| capacity.saturating_sub(threshold.least.of(capacity)).saturating_add(cache);
        self.thresholds.iter().filter(|threshold| threshold.signal == signal).map(mark).collect()
    }
}

fn is_crossed(threshold: &Threshold, readings: &Readings, with_reclaim: bool) -> bool {
    let Some(reading) = readings.get(&threshold.signal) else { return false };
    let more = threshold.reclaim.as_ref().filter(|_| with_reclaim).map_or(0, |more| more.of(reading.capacity));
    reading.available < threshold.least.of(reading.capacity).saturating_add(more)
}

/// What the node can give up of its own before pods go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnReserves {
    pub dead_containers: bool,
    pub unused_images: bool,
}

/// Images and dead containers lie on `imagefs` where that is a file system of its own, else on the node's; writable layers
/// may lie apart from images too (`containerfs`).
pub fn own_reserves(signal: Signal, separate_images: bool, separate_layers: bool) -> OwnReserves {
    let (dead_containers, unused_images) = match signal {
        Signal::Memory | Signal::AllocatableMemory | Signal::Pids => (false, false),
        Signal::NodeFs | Signal::NodeFsInodes => (!separate_images || separate_layers, !separate_images),
        Signal::ImageFs | Signal::ImageFsInodes => (!separate_layers, true),
        Signal::ContainerFs | Signal::ContainerFsInodes => (true, !separate_layers),
    };
    OwnReserves { dead_containers, unused_images }
}

#[cfg(test)]
mod tests;
