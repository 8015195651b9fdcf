//! Plans of containers that ended or are to die: policies, backoff, changed specs, probes.

use super::*;

#[test]
fn restarts_exited_container_at_once_the_first_time() {
    check(
        |case| {
            case.seen.containers[0].state = exited(1, 1);
            case.images(&["a"]);
        },
        &expect![[r#"
            Sync
              start a#1 in s0
            Running +PRTSC +I -R -CR +PS
              a: terminated Error 1, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn backs_off_before_the_second_restart() {
    check(
        |case| {
            case.seen.containers[0] = container("a", 1, exited(1, 3));
            case.images(&["a"]);
        },
        &expect![[r#"
            Sync
              event BackOff: Back-off restarting failed container a in pod p_d(u)
            Running +PRTSC +I -R -CR +PS
              a: waiting CrashLoopBackOff, restarts 1, last 1
              b: running, ready, restarts 0
            wake in 7s
        "#]],
    );
}

#[test]
fn waits_no_longer_than_the_node_lets_containers_wait() {
    check(
        |case| {
            case.delays = backoff::Delays::up_to(std::time::Duration::from_secs(15));
            case.seen.containers[0] = container("a", 9, exited(1, 3));
            case.images(&["a"]);
        },
        &expect![[r#"
            Sync
              event BackOff: Back-off restarting failed container a in pod p_d(u)
            Running +PRTSC +I -R -CR +PS
              a: waiting CrashLoopBackOff, restarts 9, last 1
              b: running, ready, restarts 0
            wake in 12s
        "#]],
    );
}

#[test]
fn a_run_of_ten_minutes_makes_the_backoff_begin_anew() {
    check(
        |case| {
            let state = ContainerState::Exited {
                started_at: time(NOW - 700),
                finished_at: time(NOW - 1),
                exit_code: 1,
                reason: "Error".to_owned(),
                message: String::new(),
            };
            case.seen.containers[0] = container("a", 7, state);
            case.images(&["a"]);
        },
        &expect![[r#"
            Sync
              start a#8 in s0
            Running +PRTSC +I -R -CR +PS
              a: terminated Error 1, restarts 7
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn restart_policies_decide_what_an_exit_means() {
    check(
        |case| {
            case.policy("OnFailure");
            case.seen.containers[0].state = exited(0, 1);
        },
        &expect![[r#"
            Sync
            Running +PRTSC +I -R -CR +PS
              a: terminated Completed 0, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| {
            case.policy("Never");
            case.seen.containers = vec![container("a", 0, exited(0, 1)), container("b", 0, exited(3, 1))];
        },
        &expect![[r#"
            Terminating (Finished, grace 30s)
              StopSandbox { id: s0 }
            Pending +PRTSC +I -R -CR +PS
              a: terminated Completed 0, restarts 0
              b: terminated Error 3, restarts 0
        "#]],
    );
}

#[test]
fn a_changed_image_kills_that_container_only() {
    check(
        |case| case.pod["spec"]["containers"][0]["image"] = json!("img2"),
        &expect![[r#"
            Sync
              renew a-0 within 30s: Container a definition changed, will be restarted
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn a_failed_liveness_probe_kills_with_the_probes_grace() {
    check(
        |case| {
            let failed = ProbeFailure { probe: "liveness", grace: Some(Duration::from_secs(3)) };
            let view = ProbeView { started: true, ready: true, failed: Some(failed) };
            case.memory.probes.insert(ContainerId::new("a-0"), view);
        },
        &expect![[r#"
            Sync
              renew a-0 within 3s: Container a failed liveness probe, will be restarted
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn one_that_a_probe_gave_up_for_good_ends_alone_or_with_its_pod() {
    let fail = |case: &mut Case, name: &str| {
        let failed = ProbeFailure { probe: "liveness", grace: None };
        let view = ProbeView { started: true, ready: true, failed: Some(failed) };
        case.memory.probes.insert(ContainerId::new(format!("{name}-0")), view);
    };
    check(
        |case| {
            case.policy("Never");
            fail(case, "a");
        },
        &expect![[r#"
            Sync
              kill a-0 within 30s: Container a failed liveness probe
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| {
            case.policy("Never");
            fail(case, "a");
            case.seen.containers[1] = container("b", 0, exited(0, 5));
        },
        &expect![[r#"
            Sync
              kill a-0 within 30s: Stopping container a
            Running +PRTSC +I -R -CR +PS
              a: running, ready, restarts 0
              b: terminated Completed 0, restarts 0
        "#]],
    );
}

#[test]
fn what_was_stopped_to_start_anew_does_so_whatever_the_policy_and_promptly() {
    let renewed = |case: &mut Case, policy: &str, attempt: u32, before: i64| {
        case.policy(policy);
        case.images(&["a"]);
        case.seen.containers[0] = container("a", attempt, exited(0, 1));
        case.memory.renewed.insert(ContainerId::new(format!("a-{attempt}")));
        if attempt > 0 {
            case.seen.containers.insert(1, container("a", attempt - 1, exited(0, before)));
        }
    };
    check(
        |case| renewed(case, "Never", 0, 0),
        &expect![[r#"
        Sync
          start a#1 in s0
        Running +PRTSC +I -R -CR +PS
          a: terminated Completed 0, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
    check(
        |case| renewed(case, "OnFailure", 1, 5),
        &expect![[r#"
        Sync
          start a#2 in s0
        Running +PRTSC +I -R -CR +PS
          a: terminated Completed 0, restarts 1, last 0
          b: running, ready, restarts 0
    "#]],
    );
    check(
        |case| renewed(case, "OnFailure", 2, 5),
        &expect![[r#"
        Sync
          event BackOff: Back-off restarting failed container a in pod p_d(u)
        Running +PRTSC +I -R -CR +PS
          a: waiting CrashLoopBackOff, restarts 2, last 0
          b: running, ready, restarts 0
        wake in 9s
    "#]],
    );
    check(
        |case| renewed(case, "OnFailure", 2, 11),
        &expect![[r#"
        Sync
          start a#3 in s0
        Running +PRTSC +I -R -CR +PS
          a: terminated Completed 0, restarts 2, last 0
          b: running, ready, restarts 0
    "#]],
    );
}

#[test]
fn rules_for_exits_say_nothing_of_a_container_that_a_probe_gave_up() {
    let given_up = |case: &mut Case, policy: &str| {
        case.policy("Never");
        case.pod["spec"]["containers"][0]["restartPolicy"] = json!(policy);
        case.pod["spec"]["containers"][0]["restartPolicyRules"] =
            json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [137]}}]);
        let failed = ProbeFailure { probe: "startup", grace: None };
        let view = ProbeView { started: false, ready: false, failed: Some(failed) };
        case.memory.probes.insert(ContainerId::new("a-0"), view);
    };
    check(
        |case| given_up(case, "Never"),
        &expect![[r#"
        Sync
          kill a-0 within 30s: Container a failed startup probe
        Running +PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
    check(
        |case| given_up(case, "OnFailure"),
        &expect![[r#"
        Sync
          renew a-0 within 30s: Container a failed startup probe, will be restarted
        Running +PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
}

#[test]
fn of_init_containers_only_sidecars_follow_their_image() {
    let changed = |case: &mut Case, sidecar: bool| {
        case.init("i", sidecar);
        case.seen.containers = vec![container("i", 0, running())];
        case.pod["spec"]["initContainers"][0]["image"] = json!("img2");
        case.images(&["a", "b"]);
    };
    check(
        |case| changed(case, true),
        &expect![[r#"
        Sync
          renew i-0 within 30s: Init container i definition changed
          start a#0 in s0
          start b#0 in s0
        Pending +PRTSC +I -R -CR +PS
          i: running, ready, restarts 0
          a: waiting PodInitializing, restarts 0
          b: waiting PodInitializing, restarts 0
    "#]],
    );
    check(
        |case| changed(case, false),
        &expect![[r#"
        Sync
        Pending +PRTSC -I -R -CR +PS
          i: running, restarts 0
          a: waiting PodInitializing, restarts 0
          b: waiting PodInitializing, restarts 0
    "#]],
    );
}

#[test]
fn the_end_of_what_was_stopped_to_start_anew_shows_only_beside_its_next_run() {
    let renewed = |case: &mut Case, policy: &str| {
        case.policy(policy);
        case.seen.containers[0].state = exited(0, 1);
        case.memory.renewed.insert(ContainerId::new("a-0"));
        let shown = json!({"containerStatuses": [{"name": "a", "image": "img", "imageID": "", "ready": true,
            "containerID": "containerd://a-0", "restartCount": 0, "state": {"running": {}}}]});
        case.memory.status = serde_json::from_value(shown).expect("a status");
        case.memory.running.insert(StepKey::Image(ContainerName::new("a")));
    };
    check(
        |case| renewed(case, "Never"),
        &expect![[r#"
        Sync
        Running +PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
    // Of a sandbox that is lost its containers' ends are shown, where that may be.
    let lost = |case: &mut Case, policy: &str| {
        renewed(case, policy);
        case.seen.sandboxes[0].ready = false;
        case.memory.running.insert(StepKey::Stop(ContainerId::new("b-0")));
    };
    check(
        |case| lost(case, "Always"),
        &expect![[r#"
        Sync
        Running -PRTSC +I -R -CR +PS
          a: terminated Completed 0, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
    check(
        |case| lost(case, "OnFailure"),
        &expect![[r#"
        Sync
        Running -PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
}

#[test]
fn what_it_waited_for_shows_until_it_runs() {
    check(
        |case| {
            case.policy("OnFailure");
            case.images(&["a"]);
            case.seen.containers[0] = container("a", 1, exited(1, 11));
            let shown = json!({"containerStatuses": [{"name": "a", "image": "img", "imageID": "", "ready": false,
                "containerID": "containerd://a-1", "restartCount": 1,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}}]});
            case.memory.status = serde_json::from_value(shown).expect("a status");
        },
        &expect![[r#"
            Sync
              start a#2 in s0
            Running +PRTSC +I -R -CR +PS
              a: waiting CrashLoopBackOff, restarts 1, last 1
              b: running, ready, restarts 0
        "#]],
    );
}
