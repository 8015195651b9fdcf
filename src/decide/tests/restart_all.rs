//! Plans of a pod whose container ends such that all begin again.

use super::*;

/// An exit of `a` with 42 restarts all; the pod's own policy is Never.
fn restarts_all(case: &mut Case) {
    case.policy("Never");
    case.pod["spec"]["containers"][0]["restartPolicyRules"] =
        json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    case.images(&["a", "b"]);
}

fn shows_all_restarting(case: &mut Case) {
    let running = |name: &str| {
        json!({"name": name, "image": "img", "imageID": "sha256:1", "containerID": format!("containerd://{name}-0"),
            "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "1970-01-12T00:00:00Z"}}})
    };
    let shown = json!({"phase": "Running", "containerStatuses": [running("a"), running("b")],
        "conditions": [{"type": "AllContainersRestarting", "status": "True"}]});
    case.memory.status = serde_json::from_value(shown).expect("a status");
}

#[test]
fn an_exit_that_restarts_all_stops_the_others_removes_them_then_itself_and_begins_again() {
    check(
        |case| {
            restarts_all(case);
            case.seen.containers[0].state = exited(42, 1);
        },
        &expect![[r#"
            Sync
              kill b-0 within 30s: Stopping container b
            Running +PRTSC +I -R -CR +PS +ACR
              a: terminated Error 42, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| {
            restarts_all(case);
            shows_all_restarting(case);
            case.seen.containers[0].state = exited(42, 1);
            case.seen.containers[1].state = exited(0, 1);
        },
        &expect![[r#"
            Sync
              RemoveContainer { id: b-0 }
            Running +ACR +PRTSC +I -R -CR +PS
              a: terminated Error 42, restarts 0
              b: terminated Completed 0, restarts 0
        "#]],
    );
    check(
        |case| {
            restarts_all(case);
            shows_all_restarting(case);
            case.seen.containers = vec![container("a", 0, exited(42, 1))];
        },
        &expect![[r#"
            Sync
              RemoveContainer { id: a-0 }
            Running +ACR +PRTSC +I -R -CR +PS
              a: terminated Error 42, restarts 0
              b: waiting ContainerCreating, restarts 0, last 137
        "#]],
    );
    check(
        |case| {
            restarts_all(case);
            shows_all_restarting(case);
            case.seen.containers.clear();
        },
        &expect![[r#"
            Sync
              start a#1 in s0
              start b#1 in s0
            Running -ACR +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0, last 137
              b: waiting ContainerCreating, restarts 0, last 137
        "#]],
    );
}
