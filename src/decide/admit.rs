//! Whether the node takes a pod: the scheduler's filters once more, since a pod may name its node itself.

use super::requests::{self, Requests};
use crate::model::memory::Rejection;
use crate::model::node::NodeFacts;
use crate::model::pod::CONFIG_SOURCE;
use crate::model::resources::pod_requests;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The reason that depends on the node's labels, which others may change at any time.
pub const NODE_AFFINITY: &str = "NodeAffinity";
const OS_LABEL: &str = "kubernetes.io/os";
const OS: &str = "linux";
/// Followed by the container's name.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Admits `pod` beside `others` (those of this node that have not ended), or says why not, in the kubelet's words.
pub fn admit(pod: &Pod, others: &[Arc<Pod>], node: &NodeFacts) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    super::sysctl::admit(spec, &node.allowed_unsafe_sysctls)?;
    runs_here(pod, spec, node)?;
    fits(spec, others, node)?;
    if !matches_node(spec, node) {
        return Err(predicate(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    if conflicts(spec, others) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    if !tolerates(pod, spec, node) {
        return Err(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    if !node.app_armor && wants_app_armor(pod, spec) {
        return Err(refusal("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
    }
    Ok(())
}

/// What is given out already the node has, also where it does not show it (any more): a plugin's list may be newer than
/// the node, or the plugin gone.
pub fn cover(allocatable: &mut BTreeMap<String, Quantity>, given_out: BTreeMap<String, usize>) {
    for (name, count) in given_out {
        let least = i64::try_from(count).unwrap_or(i64::MAX);
        if Requests::bytes(allocatable, &name).0 < least {
            allocatable.insert(name, Quantity(least.to_string()));
        }
    }
}

fn predicate(reason: &'static str, message: &str) -> Rejection {
    Rejection { reason: reason.into(), message: format!("Predicate {reason} failed: {message}") }
}

fn refusal(reason: &'static str, message: &str) -> Rejection {
    Rejection { reason: reason.into(), message: message.to_owned() }
}

/// Is it made for a node such as this? (`predicateAdmitHandler.Admit`)
fn runs_here(pod: &Pod, spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let labels = pod.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(OS_LABEL)).is_some_and(|os| os != OS) {
        return Err(refusal(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != OS) {
        return Err(refusal("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    let policy = spec.security_context.as_ref().and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !node.supplemental_groups_policy {
        return Err(refusal(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    Ok(())
}

/// Does it bear with the taints that would evict it? Static pods bear with all.
fn tolerates(pod: &Pod, spec: &PodSpec, node: &NodeFacts) -> bool {
    let source = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CONFIG_SOURCE));
    let is_static = source.is_some_and(|source| source != "api");
    let tolerates = |taint: &Taint, toleration: &Toleration| {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let key = set(&toleration.key).is_none_or(|key| key == taint.key);
        let effect = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
        let value = match toleration.operator.as_deref() {
            Some("Exists") => true,
            Some("Equal" | "") | None => {
                toleration.value.clone().unwrap_or_default() == taint.value.clone().unwrap_or_default()
            }
            Some(_) => false,
        };
        key && effect && value
    };
    let mut evicting = node.taints.iter().filter(|taint| taint.effect == "NoExecute");
    is_static || evicting.all(|taint| spec.tolerations.iter().flatten().any(|toleration| tolerates(taint, toleration)))
}

/// Any profile but `Unconfined`, by field or by the annotation of old.
fn wants_app_armor(pod: &Pod, spec: &PodSpec) -> bool {
    let annotated = pod
        .metadata
        .annotations
        .iter()
        .flatten()
        .any(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && !value.is_empty() && value != "unconfined");
    let of_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers = containers.filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref());
    annotated || of_pod.into_iter().chain(of_containers).any(|profile| profile.type_ != "Unconfined")
}

/// A resource of which the node has too little left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) name: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Lack {
    /// How much would have to be given back.
    pub(crate) fn missing(&self) -> i64 {
        self.requested - (self.capacity - self.used)
    }
}

/// Is there room for what the pod asks for?
pub(crate) fn fits(spec: &PodSpec, others: &[Arc<Pod>], node: &NodeFacts) -> Result<(), Rejection> {
    let Some(Lack { name, requested, used, capacity }) = lacks(spec, others, node).into_iter().next() else {
        return Ok(());
    };
    Err(Rejection {
        reason: format!("OutOf{name}").into(),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    })
}

/// All of which there is too little for the pod, in the order in which the kubelet looks.
pub(crate) fn lacks(spec: &PodSpec, others: &[Arc<Pod>], node: &NodeFacts) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let mut look = |name: &str, requested: i64, used: i64, capacity: i64| {
        if requested > 0 && requested > capacity.saturating_sub(used) {
            lacks.push(Lack { name: name.to_owned(), requested, used, capacity });
        }
    };
    let running = i64::try_from(others.len()).unwrap_or(i64::MAX);
    look("pods", 1, running, Requests::bytes(&node.allocatable, "pods").0);
    let allocatable = Requests::in_list(Some(&node.allocatable));
    let asked = requests::of(spec);
    let specs = || others.iter().filter_map(|other| other.spec.as_ref());
    let used = specs().map(requests::of).fold(Requests::default(), Requests::plus);
    let table = [
        ("cpu", asked.cpu.0, used.cpu.0, allocatable.cpu.0),
        ("memory", asked.memory.0, used.memory.0, allocatable.memory.0),
        (
            requests::EPHEMERAL_STORAGE,
            asked.ephemeral_storage.0,
            used.ephemeral_storage.0,
            allocatable.ephemeral_storage.0,
        ),
    ];
    for (name, requested, used, capacity) in table {
        look(name, requested, used, capacity);
    }
    // Amounts that cannot be read were refused by the API server, or fail the pod's start.
    let pieces = |spec: &PodSpec| pod_requests(spec, true).unwrap_or_default();
    for (name, requested) in pieces(spec) {
        let known = node.allocatable.contains_key(&name) || name.starts_with("hugepages-");
        // As the kubelet: extended resources that the node does not have at all are none of its business.
        if !known || table.iter().any(|(counted, ..)| *counted == name) {
            continue;
        }
        let used: i64 = specs().filter_map(|spec| pieces(spec).get(&name).copied()).sum();
        look(&name, requested, used, Requests::bytes(&node.allocatable, &name).0);
    }
    lacks
}

fn matches_node(spec: &PodSpec, node: &NodeFacts) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|any| {
            any.node_selector_terms.iter().any(|term| term_matches(term, spec.node_name.as_deref(), node))
        })
}

/// Whether a volume that is for certain nodes is for this one.
pub fn reaches_node(terms: &[NodeSelectorTerm], node: &NodeFacts) -> bool {
    terms.iter().any(|term| term_matches(term, None, node))
}

/// The pod names its node itself: what is bound here bears this node's name.
fn term_matches(term: &NodeSelectorTerm, node_name: Option<&str>, node: &NodeFacts) -> bool {
    let labels: Vec<_> = term.match_expressions.iter().flatten().collect();
    let fields: Vec<_> = term.match_fields.iter().flatten().collect();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    labels.into_iter().all(|rule| rule_matches(rule, node.labels.get(&rule.key).map(String::as_str)))
        && fields.into_iter().all(|rule| rule.key == "metadata.name" && rule_matches(rule, node_name))
}

fn rule_matches(rule: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |value: &str| rule.values.iter().flatten().any(|v| v == value);
    let compare = |less: bool| {
        let bound = rule.values.iter().flatten().next().and_then(|v| v.parse::<i64>().ok());
        let value = value.and_then(|v| v.parse::<i64>().ok());
        matches!((value, bound), (Some(value), Some(bound)) if if less { value < bound } else { value > bound })
    };
    match rule.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(false),
        "Lt" => compare(true),
        _ => false,
    }
}

/// Host ports meet when port and protocol are equal and the addresses overlap.
fn conflicts(spec: &PodSpec, others: &[Arc<Pod>]) -> bool {
    let wanted = host_ports(spec);
    !wanted.is_empty()
        && others.iter().filter_map(|other| other.spec.as_ref()).flat_map(host_ports).any(|(ip, protocol, port)| {
            wanted.iter().any(|(own_ip, own_protocol, own_port)| {
                let overlap = *own_ip == ip || *own_ip == "0.0.0.0" || ip == "0.0.0.0";
                *own_port == port && *own_protocol == protocol && overlap
            })
        })
}

fn host_ports(spec: &PodSpec) -> Vec<(&str, &str, i32)> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            Some((ip, port.protocol.as_deref().unwrap_or("TCP"), number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> NodeFacts {
        NodeFacts {
            labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
            allocatable: [("cpu", "2"), ("memory", "1Gi"), ("pods", "2"), ("ex.org/gpu", "1")]
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .into(),
            taints: vec![serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoExecute"})).unwrap()],
            ..Default::default()
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        if spec.get("tolerations").is_none() {
            spec["tolerations"] = json!([{"operator": "Exists"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn check(spec: serde_json::Value, others: &[Pod], expected: &str) {
        let others: Vec<_> = others.iter().cloned().map(Arc::new).collect();
        let answer = match admit(&pod(spec), &others, &node()) {
            Ok(()) => "admitted".to_owned(),
            Err(rejection) => format!("{}: {}", rejection.reason, rejection.message),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_pod_that_fits_is_admitted() {
        check(json!({"nodeSelector": {"kubernetes.io/os": "linux"}}), &[], "admitted");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_resource() {
        let ask = |name: &str, amount: &str| json!({"containers": [{"name": "c", "resources": {"requests": {name: amount}}}]});
        check(
            ask("memory", "900Ti"),
            &[],
            "OutOfmemory: Node didn't have enough resource: memory, requested: 989560464998400, used: 0, capacity: 1073741824",
        );
        check(
            ask("cpu", "1500m"),
            &[pod(ask("cpu", "1"))],
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
        );
        check(
            json!({}),
            &[pod(json!({})), pod(json!({}))],
            "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
        );
    }

    #[test]
    fn other_resources_count_where_the_node_has_them_and_huge_pages_always() {
        let ask = |name: &str, amount: &str| json!({"containers": [{"name": "c", "resources": {"requests": {name: amount}}}]});
        let words = |name: &str, requested: i64, used: i64, capacity: i64| {
            format!(
                "OutOf{name}: Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            )
        };
        check(ask("ex.org/none", "7"), &[], "admitted");
        check(ask("ex.org/gpu", "1"), &[], "admitted");
        check(ask("ex.org/gpu", "1"), &[pod(ask("ex.org/gpu", "1"))], &words("ex.org/gpu", 1, 1, 1));
        check(ask("hugepages-2Mi", "4Mi"), &[], &words("hugepages-2Mi", 4_194_304, 0, 0));
        check(ask("ephemeral-storage", "1Gi"), &[], &words("ephemeral-storage", 1 << 30, 0, 0));
    }

    #[test]
    fn a_pod_for_other_nodes_is_refused() {
        check(
            json!({"os": {"name": "windows"}}),
            &[],
            "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
        );
        check(
            json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
            &[],
            "SupplementalGroupsPolicyNotSupported: SupplementalGroupsPolicy=Strict is not supported in this node",
        );
        check(
            json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            &[],
            "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host",
        );
        check(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}), &[], "admitted");
    }

    #[test]
    fn a_taint_that_would_evict_it_must_be_tolerated() {
        let words =
            "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        for (toleration, expected) in [
            (json!({"key": "k", "operator": "Exists"}), "admitted"),
            (json!({"key": "k", "value": "v", "effect": "NoExecute"}), "admitted"),
            (json!({"key": "k", "value": "w"}), words),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), words),
            (json!({"key": "other", "operator": "Exists"}), words),
        ] {
            check(json!({"tolerations": [toleration]}), &[], expected);
        }
    }

    #[test]
    fn selector_and_affinity_must_match_the_nodes_labels() {
        let words = "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        check(json!({"nodeSelector": {"disk": "none-such"}}), &[], words);
        let affinity = |operator: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
                [{"matchExpressions": [{"key": "kubernetes.io/os", "operator": operator, "values": ["linux"]}]}]}}}})
        };
        check(affinity("NotIn"), &[], words);
        check(affinity("In"), &[], "admitted");
    }

    #[test]
    fn a_host_port_in_use_is_refused() {
        let port = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]});
        let words = "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        check(port(""), &[pod(port("127.0.0.1"))], words);
        check(port("127.0.0.2"), &[pod(port("127.0.0.1"))], "admitted");
    }
}
