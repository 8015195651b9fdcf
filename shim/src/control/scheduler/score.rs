//! Which of the nodes that take a pod is best for it: a part of upstream's score plugins with their weights.

use super::filter::{self, Unfit, matches, tolerates};
use super::state::{Cluster, NodeState};
use super::view::{NodeView, Wish};
use std::sync::Arc;

/// A plugin's best score, and the weights of upstream's default profile.
const BEST: i64 = 100;
const TAINT_WEIGHT: i64 = 3;
const AFFINITY_WEIGHT: i64 = 2;
const LEAST_ALLOCATED_WEIGHT: i64 = 1;

/// What the plugins say of one node; higher is better but for `taints`.
struct Scores {
    name: Arc<str>,
    taints: i64,
    affinity: i64,
    least_allocated: i64,
}

/// The node for the pod: the best of those that take it, of equals the first by name.
pub(super) fn choose(wish: &Wish, cluster: &Cluster) -> Result<Arc<str>, Unfit> {
    let mut unfit = Unfit::new(wish);
    let mut fit = Vec::new();
    for (node, state) in cluster.nodes() {
        match filter::check(wish, node, state) {
            Ok(()) => fit.push((node, state)),
            Err(rejection) => unfit.add(rejection),
        }
    }
    // Usually there is one: nothing to compare.
    if let [(node, _)] = fit[..] {
        return Ok(node.name.clone());
    }
    let scores: Vec<Scores> = fit.into_iter().map(|(node, state)| score(wish, node, state)).collect();
    let most_taints = scores.iter().map(|s| s.taints).max().unwrap_or(0);
    let most_affinity = scores.iter().map(|s| s.affinity).max().unwrap_or(0);
    let total = |s: &Scores| {
        // Both are relative to the node that has most of it.
        let taints = BEST - if most_taints == 0 { 0 } else { s.taints * BEST / most_taints };
        let affinity = if most_affinity == 0 { 0 } else { s.affinity * BEST / most_affinity };
        taints * TAINT_WEIGHT + affinity * AFFINITY_WEIGHT + s.least_allocated * LEAST_ALLOCATED_WEIGHT
    };
    // `max_by_key` takes the last of equals, hence backwards.
    scores.iter().rev().max_by_key(|s| total(s)).map(|s| s.name.clone()).ok_or(unfit)
}

fn score(wish: &Wish, node: &NodeView, state: &NodeState) -> Scores {
    let discouraging = |t: &&k8s_openapi::api::core::v1::Taint| t.effect == "PreferNoSchedule";
    let taints = node.taints.iter().filter(discouraging).filter(|taint| !tolerates(&wish.tolerations, taint)).count();
    let preferred = wish.affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    let affinity = preferred.filter(|term| matches(&term.preference, node)).map(|term| i64::from(term.weight)).sum();
    Scores {
        name: node.name.clone(),
        taints: i64::try_from(taints).unwrap_or(i64::MAX),
        affinity,
        least_allocated: least_allocated(wish, node, state),
    }
}

/// How much of CPU and memory would be left, in percent, on average.
fn least_allocated(wish: &Wish, node: &NodeView, state: &NodeState) -> i64 {
    let (cpu, memory) = wish.usage.for_score;
    let amounts = [
        (node.allocatable.cpu_millis, state.used_for_score.0.saturating_add(cpu)),
        (node.allocatable.memory_bytes, state.used_for_score.1.saturating_add(memory)),
    ];
    // A node without the resource says nothing about it.
    let (mut sum, mut count) = (0, 0);
    for (whole, used) in amounts.into_iter().filter(|(whole, _)| *whole > 0) {
        let left = i128::from(whole.saturating_sub(used).max(0)) * i128::from(BEST) / i128::from(whole);
        // At most `BEST`.
        sum += i64::try_from(left).unwrap_or(BEST);
        count += 1;
    }
    if count == 0 { 0 } else { sum / count }
}
