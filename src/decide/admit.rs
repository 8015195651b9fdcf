//! Whether the node takes a pod: the scheduler's filters once more, since a pod may name its node itself.

use super::requests::{self, Requests};
use crate::model::memory::Rejection;
use crate::model::node::NodeFacts;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};
use std::sync::Arc;

/// The reason that depends on the node's labels, which others may change at any time.
pub const NODE_AFFINITY: &str = "NodeAffinity";

/// Admits `pod` beside `others` (those of this node that have not ended), or says why not, in the kubelet's words.
pub fn admit(pod: &Pod, others: &[Arc<Pod>], node: &NodeFacts) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    super::sysctl::admit(spec)?;
    fits(spec, others, node)?;
    if !matches_node(spec, node) {
        return Err(predicate(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    if conflicts(spec, others) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

fn predicate(reason: &'static str, message: &str) -> Rejection {
    Rejection { reason, message: format!("Predicate {reason} failed: {message}") }
}

/// Is there room for what the pod asks for?
pub(crate) fn fits(spec: &PodSpec, others: &[Arc<Pod>], node: &NodeFacts) -> Result<(), Rejection> {
    let refuse = |reason: &'static str, requested: i64, used: i64, capacity: i64| {
        Err(Rejection {
            reason,
            message: format!(
                "Node didn't have enough resource: {}, requested: {requested}, used: {used}, capacity: {capacity}",
                reason.trim_start_matches("OutOf")
            ),
        })
    };
    let running = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let max_pods = Requests::bytes(&node.allocatable, "pods").0;
    if running >= max_pods {
        return refuse("OutOfpods", 1, running, max_pods);
    }
    let allocatable = Requests::in_list(Some(&node.allocatable));
    let asked = requests::of(spec);
    let specs = others.iter().filter_map(|other| other.spec.as_ref());
    let used = specs.map(requests::of).fold(Requests::default(), Requests::plus);
    let table = [
        ("OutOfcpu", asked.cpu.0, used.cpu.0, allocatable.cpu.0),
        ("OutOfmemory", asked.memory.0, used.memory.0, allocatable.memory.0),
        ("ephemeral-storage", asked.ephemeral_storage.0, used.ephemeral_storage.0, allocatable.ephemeral_storage.0),
    ];
    for (reason, requested, used, capacity) in table {
        if requested > 0 && requested > capacity.saturating_sub(used) {
            return refuse(reason, requested, used, capacity);
        }
    }
    Ok(())
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
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    fn node() -> NodeFacts {
        NodeFacts {
            labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
            allocatable: [("cpu", "2"), ("memory", "1Gi"), ("pods", "2")]
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .into(),
            ..Default::default()
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
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
