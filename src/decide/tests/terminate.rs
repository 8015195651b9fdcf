//! Plans of a pod that stops.

use super::*;
use crate::model::eviction::Removal;

#[test]
fn deletion_kills_all_then_the_sandbox_then_cleans_up_and_confirms() {
    check(
        |case| case.delete(20),
        &expect![[r#"
        Terminating (Deleted, grace 20s)
          kill a-0 within 20s: Stopping container a
          kill b-0 within 20s: Stopping container b
        Running +PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
    let end = |case: &mut Case| {
        case.delete(20);
        case.seen.containers = vec![container("a", 0, exited(0, 1)), container("b", 0, exited(0, 1))];
    };
    check(
        end,
        &expect![[r#"
        Terminating (Deleted, grace 20s)
          StopSandbox { id: s0 }
        Running +PRTSC +I -R -CR +PS
          a: terminated Completed 0, restarts 0
          b: terminated Completed 0, restarts 0
    "#]],
    );
    let stop = |case: &mut Case| {
        end(case);
        case.seen.sandboxes[0].ready = false;
        case.memory.stopped_sandboxes.insert(SandboxId::new("s0"));
    };
    check(
        stop,
        &expect![[r#"
        Terminated (Deleted, grace 20s)
          Cleanup
        Succeeded -PRTSC +I -R -CR +PS
          a: terminated Completed 0, restarts 0
          b: terminated Completed 0, restarts 0
    "#]],
    );
    let clean = |case: &mut Case| {
        stop(case);
        case.memory.cleaned = true;
    };
    check(
        clean,
        &expect![[r#"
        Clean (Deleted, grace 20s)
          Confirm { delete: true }
        Succeeded -PRTSC +I -R -CR +PS
          a: terminated Completed 0, restarts 0
          b: terminated Completed 0, restarts 0
    "#]],
    );
    check(
        |case| {
            clean(case);
            case.memory.confirmed = true;
        },
        &expect![[r#"
            Clean (Deleted, grace 20s)
              RemoveSandbox { id: s0 }
            Succeeded -PRTSC +I -R -CR +PS
              a: terminated Completed 0, restarts 0
              b: terminated Completed 0, restarts 0
        "#]],
    );
}

#[test]
fn sidecars_stop_after_the_rest_in_reverse() {
    check(
        |case| {
            case.delete(20);
            case.init("s", true);
            case.init("t", true);
            case.seen.containers =
                vec![container("a", 0, exited(0, 1)), container("s", 0, running()), container("t", 0, running())];
        },
        &expect![[r#"
            Terminating (Deleted, grace 20s)
              preStop s-0 within 20s
              kill t-0 within 20s: Stopping container t
            Pending +PRTSC +I -R -CR +PS
              s: running, ready, restarts 0
              t: running, ready, restarts 0
              a: terminated Completed 0, restarts 0
              b: waiting PodInitializing, restarts 0
            wake in 20s
        "#]],
    );
}

#[test]
fn a_pod_that_is_gone_is_killed_with_the_least_grace_and_not_reported() {
    check(
        |case| case.gone = true,
        &expect![[r#"
        Terminating (Gone, grace 1s)
          kill a-0 within 1s: Stopping container a
          kill b-0 within 1s: Stopping container b
        Running +PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
}

#[test]
fn the_active_deadline_fails_the_pod() {
    check(
        |case| {
            case.pod["spec"]["activeDeadlineSeconds"] = json!(60);
            let start = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(NOW - 61));
            case.memory.status.start_time = Some(start);
        },
        &expect![[r#"
            Terminating (Deadline, grace 30s)
              kill a-0 within 30s: Stopping container a
              kill b-0 within 30s: Stopping container b
              event DeadlineExceeded: Pod was active on the node longer than the specified deadline
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn what_an_init_container_does_while_it_is_stopped_does_not_begin_the_containers() {
    let stopped = |case: &mut Case, initialized: bool| {
        case.init("i", false);
        case.delete(20);
        case.seen.containers = vec![container("i", 0, exited(0, 1))];
        case.seen.sandboxes[0].ready = false;
        case.memory.stopped_sandboxes.insert(SandboxId::new("s0"));
        let grace = Duration::from_secs(20);
        case.memory.stop = Some(Stop { cause: StopCause::Deleted, grace, since: Instant::now(), initialized });
    };
    check(
        |case| stopped(case, false),
        &expect![[r#"
            Terminated (Deleted, grace 20s)
              Cleanup
            Failed -PRTSC +I -R -CR +PS
              i: terminated Completed 0, ready, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
    check(
        |case| stopped(case, true),
        &expect![[r#"
            Terminated (Deleted, grace 20s)
              Cleanup
            Failed -PRTSC +I -R -CR +PS
              i: terminated Completed 0, ready, restarts 0
              a: terminated ContainerStatusUnknown 137, restarts 0
              b: terminated ContainerStatusUnknown 137, restarts 0
        "#]],
    );
}

#[test]
fn an_evicted_pod_is_killed_within_a_second_and_fails() {
    let evicted = |case: &mut Case| case.memory.removal = Some(Removal::over_limit("too much".to_owned()));
    check(
        evicted,
        &expect![[r#"
            Terminating (Removed, grace 1s)
              kill a-0 within 1s: Stopping container a
              kill b-0 within 1s: Stopping container b
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn a_sidecars_hook_runs_at_once_its_signal_comes_in_turn_or_when_the_grace_is_over() {
    let begin = |case: &mut Case| {
        case.delete(20);
        case.init("s", true);
        case.seen.containers = vec![container("a", 0, running()), container("s", 0, running())];
    };
    check(
        begin,
        &expect![[r#"
        Terminating (Deleted, grace 20s)
          kill a-0 within 20s: Stopping container a
          preStop s-0 within 20s
        Pending +PRTSC +I -R -CR +PS
          s: running, ready, restarts 0
          a: running, ready, restarts 0
          b: waiting PodInitializing, restarts 0
        wake in 20s
    "#]],
    );
    let hook_over = |case: &mut Case| {
        begin(case);
        case.memory.running.insert(StepKey::Stop(ContainerId::new("a-0")));
        case.memory.pre_stopped.insert(ContainerId::new("s-0"));
    };
    check(
        hook_over,
        &expect![[r#"
        Terminating (Deleted, grace 20s)
        Pending +PRTSC +I -R -CR +PS
          s: running, ready, restarts 0
          a: running, ready, restarts 0
          b: waiting PodInitializing, restarts 0
        wake in 20s
    "#]],
    );
    check(
        |case| {
            hook_over(case);
            case.seen.containers[0].state = exited(0, 1);
        },
        &expect![[r#"
            Terminating (Deleted, grace 20s)
              kill s-0 within 20s
            Pending +PRTSC +I -R -CR +PS
              s: running, ready, restarts 0
              a: terminated Completed 0, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
    check(
        |case| {
            hook_over(case);
            let grace = Duration::from_secs(20);
            let since = Instant::now() - grace;
            case.memory.stop = Some(Stop { cause: StopCause::Deleted, grace, since, initialized: true });
        },
        &expect![[r#"
            Terminating (Deleted, grace 20s)
              kill s-0 within 0s
            Pending +PRTSC +I -R -CR +PS
              s: running, ready, restarts 0
              a: running, ready, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
    check(
        |case| {
            begin(case);
            case.seen.containers[0].state = exited(0, 1);
            case.memory.running.insert(StepKey::PreStop(ContainerId::new("s-0")));
        },
        &expect![[r#"
            Terminating (Deleted, grace 20s)
            Pending +PRTSC +I -R -CR +PS
              s: running, ready, restarts 0
              a: terminated Completed 0, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
}

#[test]
fn a_container_that_waits_for_its_next_run_when_the_node_ends_its_pod_is_lost() {
    let waits = |case: &mut Case, ended: bool| {
        case.seen.containers[0] = container("a", 1, exited(1, 3));
        let shown = json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "img", "imageID": "",
            "containerID": "containerd://a-1", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}]});
        case.memory.status = serde_json::from_value(shown).expect("a status");
        case.memory.running.insert(StepKey::Stop(ContainerId::new("b-0")));
        if ended {
            case.seen.containers[1].state = exited(0, 1);
            case.seen.sandboxes[0].ready = false;
            case.memory.stopped_sandboxes.insert(SandboxId::new("s0"));
        }
    };
    let stop = |case: &mut Case, cause: StopCause| {
        let stop = Stop { cause, grace: Duration::from_secs(30), since: Instant::now(), initialized: true };
        case.memory.stop = Some(stop);
    };
    check(
        |case| {
            waits(case, false);
            stop(case, StopCause::Deadline);
        },
        &expect![[r#"
            Terminating (Deadline, grace 30s)
            Running +PRTSC +I -R -CR +PS
              a: waiting CrashLoopBackOff, restarts 1, last 1
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| {
            waits(case, true);
            stop(case, StopCause::Deadline);
        },
        &expect![[r#"
            Terminated (Deadline, grace 30s)
              Cleanup
            Failed -PRTSC +I -R -CR +PS
              a: terminated ContainerStatusUnknown 137, restarts 1, last 1
              b: terminated Completed 0, restarts 0
        "#]],
    );
    check(
        |case| {
            waits(case, true);
            stop(case, StopCause::Deadline);
            let lost = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown",
                "message": "The container could not be located when the pod was terminated"}});
            let shown = &mut case.memory.status.container_statuses.as_mut().expect("statuses")[0];
            shown.state = serde_json::from_value(lost).expect("a state");
        },
        &expect![[r#"
            Terminated (Deadline, grace 30s)
              Cleanup
            Failed -PRTSC +I -R -CR +PS
              a: terminated ContainerStatusUnknown 137, restarts 1, last 1
              b: terminated Completed 0, restarts 0
        "#]],
    );
    check(
        |case| {
            waits(case, true);
            case.delete(30);
        },
        &expect![[r#"
            Terminated (Deleted, grace 30s)
              Cleanup
            Failed -PRTSC +I -R -CR +PS
              a: terminated Error 1, restarts 1, last 1
              b: terminated Completed 0, restarts 0
        "#]],
    );
}

#[test]
fn of_init_containers_those_that_were_begun_show_an_end_and_the_first_in_any_case() {
    let ended = |case: &mut Case| {
        case.init("i", false);
        case.init("j", false);
        case.delete(20);
        case.seen.containers.clear();
        case.seen.sandboxes[0].ready = false;
        case.memory.stopped_sandboxes.insert(SandboxId::new("s0"));
    };
    check(
        ended,
        &expect![[r#"
        Terminated (Deleted, grace 20s)
          Cleanup
        Failed -PRTSC -I -R -CR +PS
          i: terminated ContainerStatusUnknown 137, restarts 0
          j: waiting PodInitializing, restarts 0
          a: waiting PodInitializing, restarts 0
          b: waiting PodInitializing, restarts 0
    "#]],
    );
    check(
        |case| {
            ended(case);
            case.seen.containers = vec![container("i", 0, exited(0, 1))];
        },
        &expect![[r#"
            Terminated (Deleted, grace 20s)
              Cleanup
            Failed -PRTSC -I -R -CR +PS
              i: terminated Completed 0, ready, restarts 0
              j: waiting PodInitializing, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
}
