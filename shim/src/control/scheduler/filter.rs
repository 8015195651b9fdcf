//! Which nodes a pod may run on, and the reasons of those it may not: the decisions of upstream's filter plugins.

use super::resources::Resources;
use super::state::NodeState;
use super::view::{HostPort, NodeView, Wish};
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What `spec.unschedulable` counts as: who tolerates this taint may run there nevertheless.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Why a node does not take a pod; displayed as upstream's plugins word it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    Unschedulable,
    /// Every affinity term names nodes, and this is none of them: upstream does not even look at it.
    NotNamed,
    UntoleratedTaint,
    Affinity,
    Ports,
    TooManyPods,
    Insufficient(Box<str>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Self::UntoleratedTaint => "node(s) had untolerated taint(s)",
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
        })
    }
}

/// A node's no.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rejection {
    pub reasons: Vec<Reason>,
    /// Whether the departure of other pods could change it.
    pub resolvable: bool,
}

impl Rejection {
    fn for_good(reason: Reason) -> Self {
        Self { reasons: vec![reason], resolvable: false }
    }
}

/// Whether the node takes the pod; the first plugin that says no gives the reasons, in upstream's order of plugins.
/// (NodeName has nothing to decide: a pod that names its node is assigned already.)
pub(super) fn check(wish: &Wish, node: &NodeView, state: &NodeState) -> Result<(), Rejection> {
    if named_nodes(wish).is_some_and(|names| !names.contains(&*node.name)) {
        return Err(Rejection::for_good(Reason::NotNamed));
    }
    if node.unschedulable && !tolerated(&wish.tolerations, UNSCHEDULABLE_TAINT, "", "NoSchedule") {
        return Err(Rejection::for_good(Reason::Unschedulable));
    }
    let repels = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    if !node.taints.iter().filter(repels).all(|taint| tolerates(&wish.tolerations, taint)) {
        return Err(Rejection::for_good(Reason::UntoleratedTaint));
    }
    if !selected(wish, node) {
        return Err(Rejection::for_good(Reason::Affinity));
    }
    if wish.usage.ports.iter().any(|wanted| state.ports.iter().any(|taken| collide(wanted, taken))) {
        return Err(Rejection { reasons: vec![Reason::Ports], resolvable: true });
    }
    fits(&wish.usage.requests, node, state)
}

fn required(wish: &Wish) -> Option<&NodeSelector> {
    wish.affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// The only nodes that can match, where every affinity term names some (as those of daemon pods do).
fn named_nodes(wish: &Wish) -> Option<BTreeSet<&str>> {
    let mut all = BTreeSet::new();
    for term in &required(wish)?.node_selector_terms {
        let fields = term.match_fields.iter().flatten();
        let names = fields
            .filter(|field| field.key == "metadata.name" && field.operator == "In")
            .map(|field| field.values.iter().flatten().map(String::as_str).collect::<BTreeSet<_>>())
            .reduce(|a, b| &a & &b)?;
        all.extend(names);
    }
    Some(all)
}

fn selected(wish: &Wish, node: &NodeView) -> bool {
    let labelled = wish.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    labelled && required(wish).is_none_or(|selector| selector.node_selector_terms.iter().any(|t| matches(t, node)))
}

/// Whether a node selector term selects the node; an empty one selects nothing.
pub(super) fn matches(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then_some(&*node.name);
    let label = |key: &str| node.labels.get(key).map(String::as_str);
    expressions.iter().all(|requirement| holds(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|one| one == value);
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        // The API server admits no other operator.
        _ => false,
    }
}

/// Whether any of the tolerations covers the taint.
pub(super) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerated(tolerations, &taint.key, taint.value.as_deref().unwrap_or(""), &taint.effect)
}

fn tolerated(tolerations: &[Toleration], key: &str, value: &str, effect: &str) -> bool {
    let same = |given: &Option<String>, wanted: &str| given.as_deref().is_none_or(|g| g.is_empty() || g == wanted);
    tolerations.iter().any(|toleration| {
        let own = toleration.value.as_deref().unwrap_or("");
        same(&toleration.effect, effect)
            && same(&toleration.key, key)
            && match toleration.operator.as_deref().unwrap_or("") {
                "" | "Equal" => own == value,
                "Exists" => true,
                "Gt" => compare(value, own).is_some_and(|(taint, bound)| taint > bound),
                "Lt" => compare(value, own).is_some_and(|(taint, bound)| taint < bound),
                _ => false,
            }
    })
}

fn compare(taint: &str, bound: &str) -> Option<(i64, i64)> {
    Some((taint.parse().ok()?, bound.parse().ok()?))
}

fn collide(wanted: &HostPort, taken: &HostPort) -> bool {
    wanted.port == taken.port
        && wanted.protocol == taken.protocol
        && (wanted.address.is_empty() || taken.address.is_empty() || wanted.address == taken.address)
}

/// NodeResourcesFit names everything that lacks; what exceeds the whole node no departure helps.
fn fits(requests: &Resources, node: &NodeView, state: &NodeState) -> Result<(), Rejection> {
    let (whole, used) = (&node.allocatable, &state.used);
    let mut rejection = Rejection { reasons: Vec::new(), resolvable: true };
    if state.pods >= node.pods {
        rejection.reasons.push(Reason::TooManyPods);
    }
    let mut ask = |resource: &str, asked: i64, whole: i64, used: i64| {
        if asked > 0 && asked > whole - used {
            rejection.reasons.push(Reason::Insufficient(resource.into()));
            rejection.resolvable &= asked <= whole;
        }
    };
    ask("cpu", requests.cpu_millis, whole.cpu_millis, used.cpu_millis);
    ask("memory", requests.memory_bytes, whole.memory_bytes, used.memory_bytes);
    ask("ephemeral-storage", requests.ephemeral_bytes, whole.ephemeral_bytes, used.ephemeral_bytes);
    for (name, asked) in &requests.scalars {
        ask(name, *asked, whole.scalar(name), used.scalar(name));
    }
    if rejection.reasons.is_empty() { Ok(()) } else { Err(rejection) }
}

/// No node takes the pod; displays as upstream's FitError with what its preemption adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Unfit {
    nodes: usize,
    reasons: BTreeMap<Reason, usize>,
    resolvable: usize,
    never_preempts: bool,
}

impl Unfit {
    pub(super) fn new(wish: &Wish) -> Self {
        Self { never_preempts: wish.never_preempts, ..Self::default() }
    }

    pub(super) fn add(&mut self, rejection: Rejection) {
        self.nodes += 1;
        self.resolvable += usize::from(rejection.resolvable);
        for reason in rejection.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// Whether a pod that leaves its node may make room for this one.
    pub(super) fn room_helps(&self) -> bool {
        self.resolvable > 0
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let list = |counts: Vec<String>| {
            let mut counts = counts;
            // As text, as upstream: "10 …" is before "2 …".
            counts.sort();
            counts.join(", ")
        };
        let nodes = self.nodes;
        let reasons = list(self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect());
        write!(f, "0/{nodes} nodes are available: {reasons}. no new claims to deallocate, preemption: ")?;
        if self.never_preempts {
            return f.write_str("not eligible due to preemptionPolicy=Never.");
        }
        let kinds = [
            (nodes - self.resolvable, "Preemption is not helpful for scheduling"),
            (self.resolvable, "No preemption victims found for incoming pod"),
        ];
        let kinds = kinds.iter().filter(|(count, _)| *count > 0).map(|(count, text)| format!("{count} {text}"));
        write!(f, "0/{nodes} nodes are available: {}.", list(kinds.collect()))
    }
}
