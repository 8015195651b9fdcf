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
              kill b-0 within 0s: killing
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
              b: waiting RestartingAllContainers, restarts 1, last 137
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
              a: waiting RestartingAllContainers, restarts 1, last 137
              b: waiting RestartingAllContainers, restarts 1, last 137
        "#]],
    );
}

#[test]
fn the_condition_shows_from_the_start_and_says_how_the_pod_ended() {
    let condition = |change: fn(&mut Case)| {
        let mut case = healthy();
        restarts_all(&mut case);
        change(&mut case);
        let pod = serde_json::from_value(case.pod).expect("a pod");
        let pod = DesiredPod::new(Arc::new(pod)).expect("a whole pod");
        let now = Now { wall: time(NOW), mono: Instant::now() };
        let (seen, memory) = (&case.seen, &case.memory);
        let status = plan(Scene { pod: &pod, seen, memory, now, node_ips: &[], delays: case.delays }).status;
        let mut conditions = status.conditions.into_iter().flatten();
        let shown = conditions.find(|condition| condition.type_ == "AllContainersRestarting").expect("it");
        format!("{} {} {}", shown.status, shown.reason.unwrap_or_default(), shown.message.unwrap_or_default())
    };
    type Change = fn(&mut Case);
    let table: [(Change, &str); 4] = [
        (|_| {}, "False"),
        (
            |case| case.seen.containers[0].state = exited(42, 1),
            "True RestartAllContainersStarted container exited with restart policy rule",
        ),
        (|case| case.memory.status.phase = Some("Succeeded".to_owned()), "False PodCompleted"),
        (|case| case.memory.status.phase = Some("Failed".to_owned()), "False PodFailed"),
    ];
    for (change, expected) in table {
        assert_eq!(condition(change).trim_end(), expected);
    }
}

#[test]
fn init_containers_that_are_to_run_again_leave_the_pod_running_and_a_second_time_waits_a_second() {
    check(
        |case| {
            restarts_all(case);
            shows_all_restarting(case);
            case.init("i", false);
            let ended = json!({"name": "i", "image": "img", "imageID": "", "containerID": "containerd://i-0",
                "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}});
            case.memory.status.init_container_statuses = serde_json::from_value(json!([ended])).expect("statuses");
            case.seen.containers[0].state = exited(42, 1);
        },
        &expect![[r#"
            Sync
              kill b-0 within 0s: killing
            Running +ACR +PRTSC +I -R -CR +PS
              i: waiting RestartingAllContainers, restarts 1, last 137
              a: terminated Error 42, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| {
            restarts_all(case);
            case.seen.containers[0] = container("a", 1, exited(42, 0));
        },
        &expect![[r#"
            Sync
            Running +PRTSC +I -R -CR +PS -ACR
              a: terminated Error 42, restarts 1
              b: running, ready, restarts 0
            wake in 1s
        "#]],
    );
}
