//! Tests of the heartbeat monitor against a scripted API.

use super::*;
use crate::control::tests::script::Script;

fn node(version: u32) -> Value {
    let conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].map(|kind| {
        let status = if kind == "Ready" { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastHeartbeatTime": "2026-01-01T00:00:00Z"})
    });
    let meta = json!({"name": "n", "uid": "u", "resourceVersion": version.to_string()});
    json!({"metadata": meta, "status": {"conditions": conditions}})
}

fn lease(renewed: &str) -> Value {
    json!({"metadata": {"name": "n", "namespace": "kube-node-lease", "resourceVersion": "2"},
        "spec": {"renewTime": renewed}})
}

fn list(items: &[Value]) -> Value {
    json!({"metadata": {"resourceVersion": "3"}, "items": items})
}

/// What was written within this time, method and path.
async fn written(script: &Script, time: Duration) -> Vec<String> {
    let _ = tokio::time::timeout(time, run(script.client())).await;
    let asked = script.asked();
    let path = |line: &String| line.split(['?', '{']).next().unwrap_or("").trim().to_owned();
    asked.iter().filter(|line| !line.starts_with("GET")).map(path).collect()
}

const OLD: &str = "2026-01-01T00:00:00.000000Z";

fn one_node() -> Script {
    Script::default().on("GET /api/v1/nodes?", 200, list(&[node(1)])).on(
        "GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?",
        200,
        list(&[lease(OLD)]),
    )
}

#[tokio::test(start_paused = true)]
async fn a_node_is_given_up_after_the_grace_and_never_before() {
    let pod = json!({"metadata": {"namespace": "d", "name": "p", "uid": "pu"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let script = || {
        one_node()
            .on("GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", 200, lease(OLD))
            .on("GET /api/v1/pods?", 200, list(std::slice::from_ref(&pod)))
            .on("PATCH /api/v1/namespaces/d/pods/p/status", 200, &pod)
            .on("POST /api/v1/namespaces/d/events", 201, json!({"metadata": {}, "involvedObject": {}}))
            .on("PATCH /api/v1/nodes/n/status", 200, node(2))
            .on("POST /api/v1/namespaces/default/events", 201, json!({"metadata": {}, "involvedObject": {}}))
    };
    assert!(written(&script(), MONITOR_GRACE - Duration::from_secs(1)).await.is_empty());
    assert_eq!(
        written(&script(), MONITOR_GRACE + Duration::from_secs(1)).await,
        [
            "PATCH /api/v1/namespaces/d/pods/p/status",
            "POST /api/v1/namespaces/d/events",
            "PATCH /api/v1/nodes/n/status",
            "POST /api/v1/namespaces/default/events",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_only_our_watch_missed_saves_the_node() {
    let script = one_node().on(
        "GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
        200,
        lease("2026-01-01T00:00:40.000000Z"),
    );
    assert!(written(&script, MONITOR_GRACE + Duration::from_secs(20)).await.is_empty());
}
