//! Which NUMA nodes a container's resources come from: hints of the providers (CPUs, memory, devices) are merged, and
//! the topology manager's policy says whether the result will do.

use super::cpus::take::combinations;
use crate::model::memory::Rejection;
use std::collections::BTreeSet;

/// A set of NUMA nodes; their numbers are below 64 (`bitmask.BitMask`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NumaMask(u64);

impl NumaMask {
    pub fn of(nodes: impl IntoIterator<Item = u32>) -> Self {
        Self(nodes.into_iter().filter(|node| *node < u64::BITS).fold(0, |mask, node| mask | 1 << node))
    }

    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub fn has(self, node: u32) -> bool {
        node < u64::BITS && self.0 & 1 << node != 0
    }

    pub fn has_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn nodes(self) -> BTreeSet<u32> {
        (0..u64::BITS).filter(|node| self.has(*node)).collect()
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Fewer nodes, or as many of lower numbers.
    fn is_narrower_than(self, other: Self) -> bool {
        (self.count(), self.0) < (other.count(), other.0)
    }

    /// Every non-empty choice of these nodes, the smallest first.
    pub fn choices(nodes: &BTreeSet<u32>) -> Vec<Self> {
        let nodes: Vec<u32> = nodes.iter().copied().collect();
        (1..=nodes.len()).flat_map(|size| combinations(&nodes, size)).map(Self::of).collect()
    }
}

/// Where a provider could take a resource from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// `None`: from anywhere.
    pub affinity: Option<NumaMask>,
    /// As good as it gets for this request.
    pub preferred: bool,
}

/// What one provider says of one resource: `None` has no preference, an empty list no possibility.
pub type Hints = Option<Vec<Hint>>;

/// `topologyManagerPolicy`, where it is not none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    BestEffort,
    Restricted,
    SingleNumaNode,
}

/// `topologyManagerScope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Container,
    Pod,
}

/// The topology manager's rules and the machine's nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Aligner {
    pub alignment: Alignment,
    pub scope: Scope,
    /// `prefer-closest-numa-nodes`: of equally many nodes those that lie nearest to one another.
    pub closest: bool,
    /// Number of each node and its distances to all of them, in that order.
    pub nodes: Vec<(u32, Vec<u32>)>,
}

/// `TopologyAffinityError`.
pub fn affinity_error() -> Rejection {
    Rejection {
        reason: "TopologyAffinityError".into(),
        message: "Resources cannot be allocated with Topology locality".to_owned(),
    }
}

impl Aligner {
    /// Numbers of the machine's nodes.
    pub fn numbers(&self) -> BTreeSet<u32> {
        self.nodes.iter().map(|(node, _)| *node).collect()
    }

    /// Does the policy take nothing that is not of one node (`IsAlignmentGuaranteed`)?
    pub fn is_guaranteed(&self) -> bool {
        self.alignment == Alignment::SingleNumaNode
    }

    /// The best common hint of all providers; an error where the policy refuses it.
    pub fn merge(&self, hints: &[Hints]) -> Result<Hint, Rejection> {
        let lists: Vec<Vec<Hint>> = hints.iter().map(|hints| self.usable(hints)).collect();
        let all = NumaMask::of(self.nodes.iter().map(|(node, _)| *node));
        let fallback = Hint { affinity: Some(all), preferred: false };
        let mut best = self.best(all, &lists).unwrap_or(fallback);
        if self.alignment == Alignment::SingleNumaNode && best.affinity == Some(all) {
            best.affinity = None;
        }
        match self.alignment {
            Alignment::BestEffort => Ok(best),
            Alignment::Restricted | Alignment::SingleNumaNode if best.preferred => Ok(best),
            Alignment::Restricted | Alignment::SingleNumaNode => Err(affinity_error()),
        }
    }

    fn usable(&self, hints: &Hints) -> Vec<Hint> {
        let hints = match hints {
            None => vec![Hint { affinity: None, preferred: true }],
            Some(hints) if hints.is_empty() => vec![Hint { affinity: None, preferred: false }],
            Some(hints) => hints.clone(),
        };
        match self.alignment {
            Alignment::BestEffort | Alignment::Restricted => hints,
            Alignment::SingleNumaNode => {
                let single = |hint: &Hint| hint.preferred && hint.affinity.is_none_or(|mask| mask.count() == 1);
                hints.into_iter().filter(single).collect()
            }
        }
    }

    /// Over all choices of one hint of each list. Each step keeps distinct results only, so that it stays small.
    fn best(&self, all: NumaMask, lists: &[Vec<Hint>]) -> Option<Hint> {
        // Merged mask, first mask named, still preferred.
        let mut merged: Vec<(NumaMask, Option<NumaMask>, bool)> = vec![(all, None, true)];
        for list in lists {
            let mut next = Vec::new();
            for (mask, first, preferred) in merged {
                for hint in list {
                    let first = first.or(hint.affinity);
                    // Preferred are only hints that agree.
                    let agrees = hint.affinity.is_none() || hint.affinity == first;
                    let mask = hint.affinity.map_or(mask, |affinity| mask.and(affinity));
                    let found = (mask, first, preferred && hint.preferred && agrees);
                    if !next.contains(&found) {
                        next.push(found);
                    }
                }
            }
            merged = next;
        }
        let least = |list: &Vec<Hint>| list.iter().filter_map(|hint| hint.affinity).map(NumaMask::count).min();
        let wanted = lists.iter().filter_map(least).max().unwrap_or(0);
        let candidates = merged.into_iter().filter(|(mask, ..)| mask.count() > 0);
        let candidates = candidates.map(|(mask, _, preferred)| (mask, preferred));
        let better =
            |best: (NumaMask, bool), new: (NumaMask, bool)| if self.beats(new, best, wanted) { new } else { best };
        let (mask, preferred) = candidates.reduce(better)?;
        Some(Hint { affinity: Some(mask), preferred })
    }

    /// `compareHints`: unpreferred ones come as close as they can to the count that the hungriest resource needs.
    fn beats(&self, new: (NumaMask, bool), best: (NumaMask, bool), wanted: u32) -> bool {
        let ((new, new_preferred), (best, best_preferred)) = (new, best);
        if new_preferred != best_preferred {
            return new_preferred;
        }
        let narrower = || self.is_better(new, best);
        let (count, held) = (new.count(), best.count());
        if new_preferred || held > wanted {
            return narrower();
        }
        if held == wanted {
            return count == wanted && narrower();
        }
        count <= wanted && (count > held || (count == held && narrower()))
    }

    fn is_better(&self, new: NumaMask, best: NumaMask) -> bool {
        if !self.closest || new.count() != best.count() || new == best {
            return new.is_narrower_than(best);
        }
        (self.spread(new), new) < (self.spread(best), best)
    }

    /// The sum of distances between these nodes; of equally many it orders as their average does.
    fn spread(&self, mask: NumaMask) -> u32 {
        let rows = self.nodes.iter().filter(|(node, _)| mask.has(*node));
        let sum = |distances: &Vec<u32>| -> u32 {
            let columns = self.nodes.iter().zip(distances);
            columns.filter(|((node, _), _)| mask.has(*node)).map(|(_, distance)| distance).sum()
        };
        rows.map(|(_, distances)| sum(distances)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Alignment::{BestEffort, Restricted, SingleNumaNode};

    fn aligner(alignment: Alignment, nodes: u32) -> Aligner {
        let distances = |node: u32| (0..nodes).map(|other| 10 + 10 * node.abs_diff(other)).collect();
        let nodes = (0..nodes).map(|node| (node, distances(node))).collect();
        Aligner { alignment, scope: Scope::Container, closest: false, nodes }
    }

    /// `+0 -01 +*`: preferred on node 0, unpreferred on 0 and 1, preferred anywhere; `none` and `impossible` as said.
    fn hints(text: &str) -> Hints {
        let hint = |word: &str| {
            let (sign, nodes) = word.split_at(1);
            let mask = NumaMask::of(nodes.chars().filter_map(|c| c.to_digit(10)));
            Hint { affinity: (nodes != "*").then_some(mask), preferred: sign == "+" }
        };
        match text {
            "none" => None,
            "impossible" => Some(Vec::new()),
            text => Some(text.split(' ').map(hint).collect()),
        }
    }

    fn shown(result: Result<Hint, Rejection>) -> String {
        let nodes = |mask: NumaMask| mask.nodes().iter().map(u32::to_string).collect::<String>();
        match result {
            Ok(hint) => {
                let sign = if hint.preferred { "+" } else { "-" };
                format!("{sign}{}", hint.affinity.map_or("*".to_owned(), nodes))
            }
            Err(rejection) => rejection.reason.into_owned(),
        }
    }

    #[test]
    fn hints_merge_as_each_policy_says() {
        let refused = "TopologyAffinityError";
        for (providers, best_effort, restricted, single) in [
            (vec![], "+01", "+01", "+*"),
            (vec!["none"], "+01", "+01", "+*"),
            (vec!["impossible"], "-01", refused, refused),
            (vec!["+0 +1 -01"], "+0", "+0", "+0"),
            (vec!["+1 -01"], "+1", "+1", "+1"),
            (vec!["-01"], "-01", refused, refused),
            (vec!["+01"], "+01", "+01", refused),
            (vec!["+0 +1 -01", "+1 -01"], "+1", "+1", "+1"),
            (vec!["+0 -01", "+1 -01"], "-0", refused, refused),
            (vec!["+0", "+1"], "-01", refused, refused),
            (vec!["+0 +1 -01", "none", "+1"], "+1", "+1", "+1"),
            // Preferred, but not agreed on.
            (vec!["+01", "+0"], "-0", refused, refused),
        ] {
            let lists: Vec<Hints> = providers.iter().map(|text| hints(text)).collect();
            for (alignment, expected) in [(BestEffort, best_effort), (Restricted, restricted), (SingleNumaNode, single)]
            {
                assert_eq!(shown(aligner(alignment, 2).merge(&lists)), expected, "{providers:?} {alignment:?}");
            }
        }
    }

    #[test]
    fn unpreferred_hints_come_close_to_what_the_hungriest_needs() {
        let lists = [hints("-02 -023"), hints("-012 -03")];
        // Merged: 02, 0, 02, 03; the second resource and the first need two nodes.
        assert_eq!(shown(aligner(BestEffort, 4).merge(&lists)), "-02");
    }

    #[test]
    fn closest_nodes_are_preferred_where_asked() {
        let mut aligner = aligner(BestEffort, 4);
        let lists = [hints("+03 +12 +23")];
        assert_eq!(shown(aligner.merge(&lists)), "+12");
        let lists = [hints("+03 +23")];
        assert_eq!(shown(aligner.merge(&lists)), "+03");
        aligner.closest = true;
        assert_eq!(shown(aligner.merge(&lists)), "+23");
    }
}
