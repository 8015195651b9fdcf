//! A pod's table row: `printPod`.

use crate::meta::{Meta, Object};
use crate::registry::Column;
use crate::registry::table::{AGE, NAME, age, completed, or, since, text_column, unix_seconds};
use crate::registry::value::{items, text, truth};
use serde_json::Value;

/// What the cells READY, STATUS and RESTARTS are made of.
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    /// When the last container ended that was started again.
    last_restart: Option<String>,
}

pub fn row(pod: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let summary = summarize(pod);
    let total =
        items(&spec["containers"]).len() + items(&spec["initContainers"]).iter().filter(|c| is_sidecar(c)).count();
    let restarts = match &summary.last_restart {
        Some(last) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, since(last, now)),
        Some(_) | None => summary.restarts.to_string(),
    };
    let pod_ip = items(&status["podIPs"]).first().map_or("", |ip| text(&ip["ip"]));
    vec![
        pod.name().into(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        if pod_ip.is_empty() { "<none>".into() } else { pod_ip.into() },
        or(&spec["nodeName"], "<none>"),
        or(&status["nominatedNodeName"], "<none>"),
        readiness_gates(pod).into(),
    ]
}

/// The condition of a finished pod's row.
pub fn conditions(pod: &Object) -> Vec<Value> {
    match text(&pod["status"]["phase"]) {
        "Succeeded" => completed("Succeeded", "The pod has completed successfully."),
        "Failed" => completed("Failed", "The pod failed."),
        _ => Vec::new(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(&container["restartPolicy"]) == "Always"
}

fn condition<'a>(pod: &'a Object, kind: &str) -> Option<&'a Value> {
    items(&pod["status"]["conditions"]).iter().find(|c| text(&c["type"]) == kind)
}

fn is_true(condition: Option<&Value>) -> bool {
    condition.is_some_and(|c| text(&c["status"]) == "True")
}

fn readiness_gates(pod: &Object) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|gate| is_true(condition(pod, text(&gate["conditionType"])))).count();
    format!("{met}/{}", gates.len())
}

/// Keeps the later of the two ends.
fn later(last: &mut Option<String>, status: &Value) {
    let finished = text(&status["lastState"]["terminated"]["finishedAt"]);
    let Some(seconds) = unix_seconds(finished) else { return };
    if last.as_deref().and_then(unix_seconds).is_none_or(|known| known < seconds) {
        *last = Some(finished.to_owned());
    }
}

/// `Signal:9` or `ExitCode:1` of a container that ended without a reason.
fn ending(terminated: &Value) -> String {
    match (text(&terminated["reason"]), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn summarize(pod: &Object) -> Summary {
    let status = &pod["status"];
    let mut reason = match text(&status["reason"]) {
        "" => text(&status["phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    if condition(pod, "PodScheduled").is_some_and(|c| text(&c["reason"]) == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let mut summary = Summary { reason, ready: 0, restarts: 0, last_restart: None };
    let (initializing, sidecars) = init_containers(pod, &mut summary);
    if !initializing || is_true(condition(pod, "Initialized")) {
        (summary.restarts, summary.last_restart) = sidecars;
        containers(pod, &mut summary);
    }
    if pod.deletion_timestamp().is_some() {
        if text(&status["reason"]) == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Init containers up to the first that is not done; also the restarts of sidecars alone.
fn init_containers(pod: &Object, summary: &mut Summary) -> (bool, (i64, Option<String>)) {
    let specs = items(&pod["spec"]["initContainers"]);
    let mut sidecars = (0, None);
    for (index, status) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        let sidecar = specs.iter().any(|c| c["name"] == status["name"] && is_sidecar(c));
        let restarts = status["restartCount"].as_i64().unwrap_or(0);
        summary.restarts += restarts;
        later(&mut summary.last_restart, status);
        if sidecar {
            sidecars.0 += restarts;
            later(&mut sidecars.1, status);
        }
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && truth(&status["started"]) {
            summary.ready += usize::from(truth(&status["ready"]));
            continue;
        }
        summary.reason = if terminated.is_object() {
            format!("Init:{}", ending(terminated))
        } else if !matches!(text(&waiting["reason"]), "" | "PodInitializing") {
            format!("Init:{}", text(&waiting["reason"]))
        } else {
            format!("Init:{index}/{}", specs.len())
        };
        return (true, sidecars);
    }
    (false, sidecars)
}

fn containers(pod: &Object, summary: &mut Summary) {
    let mut running = false;
    for status in items(&pod["status"]["containerStatuses"]).iter().rev() {
        summary.restarts += status["restartCount"].as_i64().unwrap_or(0);
        later(&mut summary.last_restart, status);
        let state = &status["state"];
        if !text(&state["waiting"]["reason"]).is_empty() {
            summary.reason = text(&state["waiting"]["reason"]).to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = ending(&state["terminated"]);
        } else if truth(&status["ready"]) && state["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = is_true(condition(pod, "Ready"));
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

/// `printPod`'s columns.
pub const COLUMNS: &[Column] = &[
    NAME,
    text_column("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    text_column("Status", "The aggregate status of the containers in this pod."),
    text_column("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
    AGE,
    text_column("IP", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.").wide(),
    text_column("Node", "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename").wide(),
    text_column("Nominated Node", "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.").wide(),
    text_column("Readiness Gates", "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates").wide(),
];
