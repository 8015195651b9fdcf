//! Plans of ephemeral containers.

use super::*;

fn with_debugger(case: &mut Case) {
    case.pod["spec"]["ephemeralContainers"] = json!([{"name": "dbg", "image": "img"}]);
}

#[test]
fn one_starts_beside_containers_that_run() {
    check(
        |case| {
            with_debugger(case);
            case.images(&["dbg"]);
        },
        &expect![[r#"
            Sync
              start dbg#0 in s0
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
              dbg: waiting ContainerCreating, restarts 0
        "#]],
    );
}

#[test]
fn one_sees_the_processes_of_the_container_that_it_names() {
    check(
        |case| {
            with_debugger(case);
            case.pod["spec"]["ephemeralContainers"][0]["targetContainerName"] = json!("b");
            case.images(&["dbg"]);
        },
        &expect![[r#"
            Sync
              start dbg#0 in s0 beside b-0
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
              dbg: waiting ContainerCreating, restarts 0
        "#]],
    );
}

#[test]
fn one_that_ended_is_not_started_again_and_its_end_means_nothing_to_the_pod() {
    check(
        |case| {
            with_debugger(case);
            case.images(&["dbg"]);
            case.seen.containers.push(container("dbg", 0, exited(3, 5)));
        },
        &expect![[r#"
            Sync
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
              dbg: terminated Error 3, restarts 0
        "#]],
    );
}

#[test]
fn one_that_the_runtime_has_lost_stays_ended() {
    check(
        |case| {
            with_debugger(case);
            case.images(&["dbg"]);
            let ended = json!({"phase": "Running", "ephemeralContainerStatuses": [{"name": "dbg", "image": "img",
                "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]});
            case.memory.status = serde_json::from_value(ended).expect("a status");
        },
        &expect![[r#"
            Sync
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
              dbg: terminated  0, restarts 0
        "#]],
    );
}

#[test]
fn one_that_was_made_and_never_started_is_made_anew() {
    check(
        |case| {
            with_debugger(case);
            case.images(&["dbg"]);
            case.seen.containers.push(container("dbg", 0, ContainerState::Created));
        },
        &expect![[r#"
            Sync
              RemoveContainer { id: dbg-0 }
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
              dbg: waiting ContainerCreating, restarts 0
        "#]],
    );
}

#[test]
fn one_dies_with_its_pod() {
    check(
        |case| {
            with_debugger(case);
            case.seen.containers.push(container("dbg", 0, running()));
            case.delete(5);
        },
        &expect![[r#"
            Terminating (Deleted, grace 5s)
              kill a-0 within 5s: Stopping container a
              kill b-0 within 5s: Stopping container b
              kill dbg-0 within 5s: Stopping container dbg
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
              dbg: running, restarts 0
        "#]],
    );
}
