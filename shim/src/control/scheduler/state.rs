//! The cluster as the scheduler sees it: what each node has and what its pods take, assumed ones included.

use super::resources::Resources;
use super::view::{HostPort, NodeView, PodView, Stage, Usage};
use crate::control::informer::ObjectKey;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a pod that was bound counts for its node before the watch shows it.
const ASSUMED_FOR: Duration = Duration::from_secs(30);

/// Nodes and what is placed on them.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    nodes: BTreeMap<Arc<str>, NodeState>,
    placed: BTreeMap<ObjectKey, Placed>,
    /// When assumptions end, soonest first; also of pods that were confirmed since.
    expiries: VecDeque<(Instant, ObjectKey)>,
}

/// One node: pods may be known before their node is, and outlive it.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    view: Option<Arc<NodeView>>,
    pub used: Resources,
    /// (milli-CPU, bytes), see `Usage::for_score`.
    pub used_for_score: (i64, i64),
    pub pods: i64,
    pub ports: Vec<HostPort>,
}

#[derive(Debug)]
struct Placed {
    uid: Box<str>,
    node: Arc<str>,
    usage: Arc<Usage>,
    assumption: Assumption,
}

/// Whether the watch has shown the pod on its node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Assumption {
    Confirmed,
    /// The binding is on its way.
    Binding,
    /// The API server took the binding.
    Until(Instant),
}

impl Cluster {
    /// The nodes that exist, by name.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&NodeView, &NodeState)> {
        self.nodes.values().filter_map(|state| Some((&**state.view.as_ref()?, state)))
    }

    pub(super) fn set_node(&mut self, name: &Arc<str>, view: Arc<NodeView>) {
        self.nodes.entry(name.clone()).or_default().view = Some(view);
    }

    pub(super) fn remove_node(&mut self, name: &Arc<str>) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.view = None;
        }
        self.forget_if_empty(name);
    }

    /// What the watch shows of a pod (`None`: it is gone). Returns whether that made room on a node.
    pub(super) fn observe(&mut self, key: &ObjectKey, pod: Option<&PodView>) -> bool {
        let before = self.placed.get(key);
        let (node, usage, uid) = match pod {
            Some(PodView { stage: Stage::Assigned { node, usage }, uid }) => (node, usage, uid),
            // This is from before the binding.
            Some(PodView { stage: Stage::Pending(_), uid })
                if before.is_some_and(|placed| placed.uid == *uid && placed.assumption != Assumption::Confirmed) =>
            {
                return false;
            }
            Some(PodView { stage: Stage::Pending(_) | Stage::Idle, .. }) | None => return self.remove(key),
        };
        let same = before.is_some_and(|placed| placed.node == *node && placed.usage == *usage);
        let freed = before.is_some() && !same;
        self.place(
            key,
            Placed { uid: uid.clone(), node: node.clone(), usage: usage.clone(), assumption: Assumption::Confirmed },
        );
        freed
    }

    /// Counts the pod for the node while it is being bound.
    pub(super) fn assume(&mut self, key: &ObjectKey, uid: &str, node: &Arc<str>, usage: &Arc<Usage>) {
        let assumption = Assumption::Binding;
        self.place(key, Placed { uid: uid.into(), node: node.clone(), usage: usage.clone(), assumption });
    }

    /// The binding was taken: the watch must show it soon.
    pub(super) fn bound(&mut self, key: &ObjectKey, uid: &str, now: Instant) {
        if let Some(placed) = self.placed.get_mut(key)
            && *placed.uid == *uid
            && placed.assumption == Assumption::Binding
        {
            placed.assumption = Assumption::Until(now + ASSUMED_FOR);
            self.expiries.push_back((now + ASSUMED_FOR, key.clone()));
        }
    }

    /// The binding failed. Returns whether that made room on a node.
    pub(super) fn not_bound(&mut self, key: &ObjectKey, uid: &str) -> bool {
        let assumed = |placed: &Placed| *placed.uid == *uid && placed.assumption == Assumption::Binding;
        self.placed.get(key).is_some_and(assumed) && self.remove(key)
    }

    /// When the next assumption ends.
    pub(super) fn next_expiry(&mut self) -> Option<Instant> {
        while let Some((at, key)) = self.expiries.front() {
            if self.placed.get(key).is_some_and(|placed| placed.assumption == Assumption::Until(*at)) {
                return Some(*at);
            }
            self.expiries.pop_front();
        }
        None
    }

    /// Drops assumptions that ended, and tells whose.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<ObjectKey> {
        let mut expired = Vec::new();
        while self.next_expiry().is_some_and(|at| at <= now) {
            if let Some((_, key)) = self.expiries.pop_front() {
                self.remove(&key);
                expired.push(key);
            }
        }
        expired
    }

    fn place(&mut self, key: &ObjectKey, placed: Placed) {
        self.remove(key);
        self.nodes.entry(placed.node.clone()).or_default().add(&placed.usage);
        self.placed.insert(key.clone(), placed);
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(placed) = self.placed.remove(key) else { return false };
        if let Some(state) = self.nodes.get_mut(&placed.node) {
            state.subtract(&placed.usage);
        }
        self.forget_if_empty(&placed.node);
        true
    }

    fn forget_if_empty(&mut self, node: &Arc<str>) {
        if self.nodes.get(node).is_some_and(|state| state.view.is_none() && state.pods == 0) {
            self.nodes.remove(node);
        }
    }
}

impl NodeState {
    fn add(&mut self, usage: &Usage) {
        self.used.add(&usage.requests);
        self.used_for_score.0 += usage.for_score.0;
        self.used_for_score.1 += usage.for_score.1;
        self.pods += 1;
        self.ports.extend(usage.ports.iter().cloned());
    }

    fn subtract(&mut self, usage: &Usage) {
        self.used.subtract(&usage.requests);
        self.used_for_score.0 -= usage.for_score.0;
        self.used_for_score.1 -= usage.for_score.1;
        self.pods -= 1;
        for port in &usage.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}
