//! Tests of the scheduler's decisions: which nodes take a pod and why not, which is best, who waits for what.

mod queue;
mod state;

use super::score::choose;
use super::state::Cluster;
use super::view::{NodeView, PodView};
use super::write;
use crate::control::informer::ObjectKey;
use serde_json::{Value, json};
use std::sync::Arc;

/// Merges like a JSON merge patch, so that a test says only what differs from the ordinary.
fn merged(mut base: Value, patch: Value) -> Value {
    json_patch::merge(&mut base, &patch);
    base
}

fn pod(patch: Value) -> PodView {
    let base = json!({
        "metadata": {"namespace": "n", "name": "p", "uid": "u", "resourceVersion": "7", "generation": 1},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c"}]},
    });
    PodView::keep(serde_json::from_value(merged(base, patch)).unwrap())
}

fn node(name: &str, patch: Value) -> NodeView {
    let base = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", "pods": "3"}},
    });
    NodeView::keep(serde_json::from_value(merged(base, patch)).unwrap())
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("n", name)
}

/// Nodes by patch, and what is on the first by the pods' specs.
fn cluster(nodes: &[Value], placed: &[Value]) -> Cluster {
    let mut cluster = Cluster::default();
    for (at, patch) in nodes.iter().enumerate() {
        let view = node(&format!("n{at}"), patch.clone());
        cluster.set_node(&view.name.clone(), Arc::new(view));
    }
    for (at, spec) in placed.iter().enumerate() {
        let on_first = merged(json!({"spec": {"nodeName": "n0"}}), json!({"spec": spec}));
        cluster.observe(&key(&format!("placed{at}")), Some(&pod(on_first)));
    }
    cluster
}

/// Where the pod goes, or what is said.
fn check(spec: Value, nodes: &[Value], placed: &[Value]) -> String {
    let pod = pod(json!({"spec": spec}));
    let wish = &pod.pending().unwrap().wish;
    choose(wish, &cluster(nodes, placed)).map_or_else(|unfit| unfit.to_string(), |node| node.to_string())
}

fn asks(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

fn port(number: u16, address: &str, protocol: &str) -> Value {
    let port = json!({"containerPort": 1, "hostPort": number, "hostIP": address, "protocol": protocol});
    json!({"containers": [{"name": "c", "ports": [port]}]})
}

fn taint(effect: &str) -> Value {
    json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}})
}

fn tolerates(toleration: Value) -> Value {
    json!({"tolerations": [toleration]})
}

fn label(key: &str, operator: &str, values: Value) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

fn requires(terms: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// The message of one node's reasons.
fn one(reasons: &str, preemption: &str) -> String {
    format!(
        "0/1 nodes are available: {reasons}. no new claims to deallocate, preemption: 0/1 nodes are available: 1 {preemption}."
    )
}

#[test]
fn a_single_node_takes_a_pod_or_says_why_not() {
    let bound = "n0".to_owned();
    let unschedulable = json!({"spec": {"unschedulable": true}});
    let zone = json!({"metadata": {"labels": {"zone": "5"}}});
    let gpu = json!({"status": {"allocatable": {"example.com/gpu": "2"}}});
    let tainted = one("1 node(s) had untolerated taint(s)", NOT_HELPFUL);
    let unselected = one("1 node(s) didn't match Pod's node affinity/selector", NOT_HELPFUL);
    let unnamed = one("1 node(s) didn't satisfy plugin(s) [NodeAffinity]", NOT_HELPFUL);
    let ports = one("1 node(s) didn't have free ports for the requested pod ports", NO_VICTIMS);
    let named =
        |name: &str| requires(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]));
    let none = || json!({});
    for (spec, node, placed, expected) in [
        (none(), none(), vec![], bound.clone()),
        // NodeUnschedulable
        (none(), unschedulable.clone(), vec![], one("1 node(s) were unschedulable", NOT_HELPFUL)),
        (
            tolerates(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
            unschedulable.clone(),
            vec![],
            bound.clone(),
        ),
        (tolerates(json!({"operator": "Exists"})), unschedulable, vec![], bound.clone()),
        // TaintToleration
        (none(), taint("NoSchedule"), vec![], tainted.clone()),
        (none(), taint("NoExecute"), vec![], tainted.clone()),
        (none(), taint("PreferNoSchedule"), vec![], bound.clone()),
        (tolerates(json!({"key": "k", "value": "v"})), taint("NoSchedule"), vec![], bound.clone()),
        (tolerates(json!({"key": "k", "value": "w"})), taint("NoSchedule"), vec![], tainted.clone()),
        (
            tolerates(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})),
            taint("NoSchedule"),
            vec![],
            tainted,
        ),
        // NodeAffinity
        (json!({"nodeSelector": {"zone": "5"}}), zone.clone(), vec![], bound.clone()),
        (json!({"nodeSelector": {"zone": "6"}}), zone.clone(), vec![], unselected.clone()),
        (requires(json!([label("zone", "In", json!(["4", "5"]))])), zone.clone(), vec![], bound.clone()),
        (requires(json!([label("zone", "NotIn", json!(["5"]))])), zone.clone(), vec![], unselected.clone()),
        (requires(json!([label("other", "NotIn", json!(["5"]))])), zone.clone(), vec![], bound.clone()),
        (requires(json!([label("zone", "Gt", json!(["4"]))])), zone.clone(), vec![], bound.clone()),
        (requires(json!([label("zone", "Lt", json!(["5"]))])), zone.clone(), vec![], unselected.clone()),
        (
            requires(json!([label("zone", "DoesNotExist", json!([])), label("zone", "Exists", json!([]))])),
            zone,
            vec![],
            bound.clone(),
        ),
        (requires(json!([{}])), none(), vec![], unselected),
        (named("n0"), none(), vec![], bound.clone()),
        (named("other"), none(), vec![], unnamed),
        // NodePorts
        (port(80, "", "TCP"), none(), vec![port(80, "", "TCP")], ports.clone()),
        (port(80, "10.0.0.1", "TCP"), none(), vec![port(80, "0.0.0.0", "TCP")], ports),
        (port(80, "10.0.0.1", "TCP"), none(), vec![port(80, "10.0.0.2", "TCP")], bound.clone()),
        (port(80, "", "TCP"), none(), vec![port(80, "", "UDP")], bound.clone()),
        // NodeResourcesFit
        (asks(json!({"cpu": "4", "memory": "8Gi"})), none(), vec![], bound.clone()),
        (asks(json!({"cpu": "1"})), none(), vec![asks(json!({"cpu": "3001m"}))], one("1 Insufficient cpu", NO_VICTIMS)),
        (asks(json!({"cpu": "4001m"})), none(), vec![], one("1 Insufficient cpu", NOT_HELPFUL)),
        (
            asks(json!({"cpu": "2", "memory": "9Gi", "ephemeral-storage": "11Gi"})),
            none(),
            vec![asks(json!({"cpu": "3"}))],
            one("1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient memory", NOT_HELPFUL),
        ),
        (none(), none(), vec![none(), none(), none()], one("1 Too many pods", NO_VICTIMS)),
        (asks(json!({"example.com/gpu": "2"})), gpu.clone(), vec![], bound),
        (
            asks(json!({"example.com/gpu": "2"})),
            gpu,
            vec![asks(json!({"example.com/gpu": "1"}))],
            one("1 Insufficient example.com/gpu", NO_VICTIMS),
        ),
        (asks(json!({"example.com/gpu": "1"})), none(), vec![], one("1 Insufficient example.com/gpu", NOT_HELPFUL)),
        // What is said of preemption.
        (
            merged(asks(json!({"cpu": "5"})), json!({"preemptionPolicy": "Never"})),
            none(),
            vec![],
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
             preemption: not eligible due to preemptionPolicy=Never."
                .into(),
        ),
    ] {
        assert_eq!(
            check(spec.clone(), std::slice::from_ref(&node), &placed),
            expected,
            "{spec} on {node} beside {placed:?}"
        );
    }
}

#[test]
fn the_reasons_of_many_nodes_are_counted_and_sorted_as_text() {
    let small = json!({"status": {"allocatable": {"cpu": "1"}}});
    let mut nodes = vec![json!({}), small, taint("NoSchedule")];
    let busy = asks(json!({"cpu": "3"}));
    assert_eq!(
        check(asks(json!({"cpu": "2"})), &nodes, std::slice::from_ref(&busy)),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, \
         preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling."
    );
    nodes.extend((0..9).map(|_| taint("NoSchedule")));
    assert_eq!(
        check(asks(json!({"cpu": "2"})), &nodes, &[busy]),
        "0/12 nodes are available: 10 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, \
         preemption: 0/12 nodes are available: 1 No preemption victims found for incoming pod, \
         11 Preemption is not helpful for scheduling."
    );
    assert_eq!(check(json!({}), &[], &[]), "no nodes available to schedule pods");
}

#[test]
fn the_best_node_is_empty_undisputed_and_preferred_in_rising_order() {
    let prefers = |zone: &str| {
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1, "preference": label("zone", "In", json!([zone]))}]}}})
    };
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let discouraged = taint("PreferNoSchedule");
    let none = json!({});
    let busy = asks(json!({"cpu": "3"}));
    for (spec, nodes, placed, expected) in [
        // Of equals the first.
        (none.clone(), vec![none.clone(), none.clone()], vec![], "n0"),
        // LeastAllocated, also of pods that request nothing.
        (none.clone(), vec![none.clone(), none.clone()], vec![busy.clone()], "n1"),
        (none.clone(), vec![none.clone(), none.clone()], vec![none.clone()], "n1"),
        // Taints weigh more, unless tolerated.
        (none.clone(), vec![none.clone(), discouraged.clone()], vec![busy.clone()], "n0"),
        (tolerates(json!({"operator": "Exists"})), vec![none.clone(), discouraged.clone()], vec![busy.clone()], "n1"),
        // Preference weighs more than room, less than a taint.
        (prefers("a"), vec![zone("a"), zone("b")], vec![busy], "n0"),
        (prefers("a"), vec![merged(zone("a"), discouraged), zone("b")], vec![], "n1"),
        (prefers("b"), vec![zone("a"), zone("b")], vec![], "n1"),
    ] {
        assert_eq!(check(spec.clone(), &nodes, &placed), expected, "{spec} on {nodes:?}");
    }
}

#[test]
fn only_living_ungated_pods_of_ours_without_a_node_are_pending() {
    for (patch, expected) in [
        (json!({}), true),
        (json!({"spec": {"schedulerName": null}}), true),
        (json!({"spec": {"schedulerName": "other"}}), false),
        (json!({"spec": {"schedulingGates": [{"name": "a/b"}]}}), false),
        (json!({"spec": {"schedulingGates": []}}), true),
        (json!({"spec": {"nodeName": "n0"}}), false),
        (json!({"status": {"phase": "Failed"}}), false),
        (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), false),
    ] {
        assert_eq!(pod(patch.clone()).pending().is_some(), expected, "{patch}");
    }
}

#[test]
fn the_condition_is_written_when_it_differs_and_its_transition_only_when_the_status_does() {
    let condition = |status: &str, message: &str| json!({"status": {"conditions": [{"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": message}]}});
    for (patch, expected) in [
        (json!({}), Some(true)),
        (condition("True", "why"), Some(true)),
        (condition("False", "other"), Some(false)),
        (condition("False", "why"), None),
    ] {
        let written = write::condition_patch(&pod(patch.clone()), &write::unschedulable("why"));
        if let Some(written) = &written {
            assert_eq!(written["metadata"], json!({"uid": "u"}));
            assert_eq!(written["status"]["conditions"][0]["observedGeneration"], 1);
        }
        let transits = written.map(|w| w["status"]["conditions"][0].get("lastTransitionTime").is_some());
        assert_eq!(transits, expected, "{patch}");
    }
}
