//! Tables of plans: a healthy pod and its snapshot, one thing changed, the plan as text.

use super::*;
use crate::ids::{ContainerId, ContainerName};
use crate::model::memory::{ImageState, ProbeFailure, ProbeView, Retry, Stop, StopCause, VolumesState};
use crate::model::observed::ObservedContainer;
use crate::model::step::{StartContainer, StepKey, StopContainer};
use expect_test::{Expect, expect};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

mod restart_all;

/// Wall time of every test, in seconds since 1970.
const NOW: i64 = 1_000_000;

/// Wanted, seen and remembered: all is well.
struct Case {
    pod: Value,
    gone: bool,
    seen: ObservedPod,
    memory: PodMemory,
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn sandbox(attempt: u32) -> ObservedSandbox {
    ObservedSandbox {
        id: SandboxId::new(format!("s{attempt}")),
        attempt,
        ready: true,
        created_at: time(NOW - 100),
        ips: vec!["10.0.0.9".parse().expect("an address")],
    }
}

fn container(name: &str, attempt: u32, state: ContainerState) -> ObservedContainer {
    let wanted = k8s_openapi::api::core::v1::Container {
        name: name.to_owned(),
        image: Some("img".to_owned()),
        ..Default::default()
    };
    let annotations = [(RESTART_COUNT, attempt.to_string()), (CONTAINER_HASH, container_hash(&wanted))];
    ObservedContainer {
        id: ContainerId::new(format!("{name}-{attempt}")),
        name: ContainerName::new(name),
        sandbox: SandboxId::new("s0"),
        attempt,
        state,
        created_at: time(NOW - 60),
        image: "img".to_owned(),
        image_ref: "sha256:1".to_owned(),
        annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        log_path: String::new(),
        user: None,
    }
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: time(NOW - 50) }
}

fn exited(exit_code: i32, seconds_ago: i64) -> ContainerState {
    ContainerState::Exited {
        started_at: time(NOW - 50),
        finished_at: time(NOW - seconds_ago),
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
    }
}

/// A pod of containers `a` and `b`, both running.
fn healthy() -> Case {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}]},
    });
    let seen = ObservedPod {
        sandboxes: vec![sandbox(0)],
        containers: vec![container("a", 0, running()), container("b", 0, running())],
    };
    let memory = PodMemory { volumes: VolumesState::Placed, ..Default::default() };
    Case { pod, gone: false, seen, memory }
}

impl Case {
    fn init(&mut self, name: &str, sidecar: bool) {
        let mut init = json!({"name": name, "image": "img"});
        if sidecar {
            init["restartPolicy"] = json!("Always");
        }
        match self.pod["spec"]["initContainers"].as_array_mut() {
            Some(list) => list.push(init),
            None => self.pod["spec"]["initContainers"] = json!([init]),
        }
    }

    fn policy(&mut self, policy: &str) {
        self.pod["spec"]["restartPolicy"] = json!(policy);
    }

    /// The images of these containers are on the node.
    fn images(&mut self, names: &[&str]) {
        for name in names {
            let state = ImageState::Present { reference: "sha256:1".to_owned() };
            self.memory.images.insert(ContainerName::new(name), state);
        }
    }

    fn delete(&mut self, grace: i64) {
        self.pod["metadata"]["deletionTimestamp"] = json!("1970-01-12T00:00:00Z");
        self.pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
}

fn check(change: impl FnOnce(&mut Case), expected: &Expect) {
    let mut case = healthy();
    change(&mut case);
    let pod = serde_json::from_value(case.pod).expect("a pod");
    let pod = DesiredPod { gone: case.gone, ..DesiredPod::new(Arc::new(pod)).expect("a whole pod") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let now = Now { wall: time(NOW), mono: Instant::now() };
        learn(&mut case.memory, &pod, &case.seen, now);
        let node_ips = ["192.0.2.1".parse().expect("an address")];
        let plan = plan(Scene { pod: &pod, seen: &case.seen, memory: &case.memory, now, node_ips: &node_ips });
        expected.assert_eq(&render(&plan, now));
    });
}

fn render(plan: &Plan, now: Now) -> String {
    let mut text = format!("{:?}", plan.stage);
    if let Some(stop) = &plan.stop {
        let _ = write!(text, " ({:?}, grace {}s)", stop.cause, stop.grace.as_secs());
    }
    text.push('\n');
    for step in &plan.steps {
        let _ = match step {
            Step::StartContainer(StartContainer { name, sandbox, attempt, .. }) => {
                writeln!(text, "  start {name}#{attempt} in {sandbox}")
            }
            Step::StopContainer(StopContainer { id, grace, message, .. }) => {
                writeln!(text, "  kill {id} within {}s: {message}", grace.as_secs())
            }
            other => writeln!(text, "  {other:?}"),
        };
    }
    for event in &plan.events {
        let _ = writeln!(text, "  event {}: {}", event.reason, event.message);
    }
    let status = &plan.status;
    let _ = write!(text, "{}", status.phase.as_deref().unwrap_or("no phase"));
    for condition in status.conditions.iter().flatten() {
        let sign = if condition.status == "True" { '+' } else { '-' };
        let short: String = condition.type_.chars().filter(|c| c.is_uppercase()).collect();
        let _ = write!(text, " {sign}{short}");
    }
    text.push('\n');
    for shown in status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()) {
        let state = shown.state.as_ref();
        let word = if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
            format!("waiting {}", waiting.reason.as_deref().unwrap_or(""))
        } else if let Some(end) = state.and_then(|state| state.terminated.as_ref()) {
            format!("terminated {} {}", end.reason.as_deref().unwrap_or(""), end.exit_code)
        } else {
            "running".to_owned()
        };
        let last = shown.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = last.map(|end| format!(", last {}", end.exit_code)).unwrap_or_default();
        let ready = if shown.ready { ", ready" } else { "" };
        let _ = writeln!(text, "  {}: {word}{ready}, restarts {}{last}", shown.name, shown.restart_count);
    }
    if let Some(wake) = plan.wake {
        let _ = writeln!(text, "wake in {:.0}s", wake.duration_since(now.mono).as_secs_f64());
    }
    text
}

#[test]
fn a_healthy_pod_is_left_alone() {
    check(
        |_| {},
        &expect![[r#"
        Sync
        Running +PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
}

#[test]
fn a_new_pod_gets_sandbox_and_volumes_at_once_and_images_once_the_volumes_are_there() {
    check(
        |case| {
            case.seen = ObservedPod::default();
            case.memory.volumes = VolumesState::Unplaced;
        },
        &expect![[r#"
            Sync
              PlaceVolumes
              RunSandbox { attempt: 0 }
            Pending -PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    check(
        |case| {
            case.seen = ObservedPod::default();
            case.memory.running.insert(StepKey::Sandbox);
        },
        &expect![[r#"
            Sync
              EnsureImage { container: a }
              EnsureImage { container: b }
            Pending -PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
}

#[test]
fn containers_start_together_once_sandbox_volumes_and_images_are_there() {
    check(
        |case| {
            case.seen.containers.clear();
            case.images(&["a", "b"]);
        },
        &expect![[r#"
            Sync
              start a#0 in s0
              start b#0 in s0
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    check(
        |case| {
            case.seen.containers.clear();
            case.images(&["a"]);
            case.memory.running.insert(StepKey::Image(ContainerName::new("b")));
        },
        &expect![[r#"
            Sync
              start a#0 in s0
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
}

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
          kill a-0 within 30s: Container a definition changed, will be restarted
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
              kill a-0 within 3s: Container a failed liveness probe, will be restarted
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn init_containers_run_one_after_the_other() {
    check(
        |case| {
            case.init("i", false);
            case.init("j", false);
            case.seen.containers = vec![container("i", 0, exited(0, 1))];
            case.images(&["j"]);
        },
        &expect![[r#"
            Sync
              start j#0 in s0
            Pending +PRTSC -I -R -CR +PS
              i: terminated Completed 0, ready, restarts 0
              j: waiting PodInitializing, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
    check(
        |case| {
            case.policy("Never");
            case.init("i", false);
            case.seen.containers = vec![container("i", 0, exited(2, 1))];
        },
        &expect![[r#"
            Terminating (Finished, grace 30s)
              StopSandbox { id: s0 }
            Pending +PRTSC -I -R -CR +PS
              i: terminated Error 2, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
}

#[test]
fn a_sidecar_runs_before_the_rest_and_comes_back() {
    check(
        |case| {
            case.init("s", true);
            case.seen.containers = vec![container("s", 0, running())];
            case.images(&["a", "b"]);
        },
        &expect![[r#"
            Sync
              start a#0 in s0
              start b#0 in s0
            Pending +PRTSC +I -R -CR +PS
              s: running, ready, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
    check(
        |case| {
            case.init("s", true);
            case.seen.containers.push(container("s", 0, exited(0, 1)));
            case.images(&["s"]);
        },
        &expect![[r#"
            Sync
              start s#1 in s0
            Running +PRTSC +I -R -CR +PS
              s: terminated Completed 0, restarts 0
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn a_lost_sandbox_is_stopped_and_then_replaced() {
    let lose = |case: &mut Case| {
        case.seen.sandboxes[0].ready = false;
        case.seen.sandboxes[0].ips.clear();
        case.seen.containers[0].state = exited(137, 1);
    };
    check(
        lose,
        &expect![[r#"
        Sync
          kill b-0 within 30s: Stopping container b
        Running -PRTSC +I -R -CR +PS
          a: terminated Error 137, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
    check(
        |case| {
            lose(case);
            case.seen.containers[1].state = exited(137, 1);
        },
        &expect![[r#"
            Sync
              StopSandbox { id: s0 }
              event SandboxChanged: Pod sandbox changed, it will be killed and re-created.
            Running -PRTSC +I -R -CR +PS
              a: terminated Error 137, restarts 0
              b: terminated Error 137, restarts 0
        "#]],
    );
    check(
        |case| {
            lose(case);
            case.seen.containers[1].state = exited(137, 1);
            case.memory.stopped_sandboxes.insert(SandboxId::new("s0"));
        },
        &expect![[r#"
            Sync
              RunSandbox { attempt: 1 }
              EnsureImage { container: a }
              EnsureImage { container: b }
            Running -PRTSC +I -R -CR +PS
              a: terminated Error 137, restarts 0
              b: terminated Error 137, restarts 0
        "#]],
    );
}

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
              kill t-0 within 20s: Stopping container t
            Pending +PRTSC +I -R -CR +PS
              s: running, ready, restarts 0
              t: running, ready, restarts 0
              a: terminated Completed 0, restarts 0
              b: waiting PodInitializing, restarts 0
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
fn a_terminal_phase_never_goes_back() {
    check(
        |case| {
            case.memory.status.phase = Some("Succeeded".to_owned());
            case.memory.cleaned = true;
            case.seen = ObservedPod::default();
        },
        &expect![[r#"
            Clean (Finished, grace 30s)
            Succeeded -PRTSC +I -R -CR +PS
        "#]],
    );
}

/// The pull of `a` failed that many seconds ago.
fn pull_failed(case: &mut Case, seconds: u64) {
    let since = Instant::now() - Duration::from_secs(seconds);
    let retry = Retry { message: "no route".to_owned(), failures: 1, at: since + Duration::from_secs(10) };
    case.memory.images.insert(ContainerName::new("a"), ImageState::Failed { reason: "ErrImagePull", retry, since });
    case.seen.containers.remove(0);
}

#[test]
fn a_failed_pull_shows_first_as_itself_and_then_backs_off_which_is_told_once() {
    check(
        |case| pull_failed(case, 0),
        &expect![[r#"
            Sync
            Pending +PRTSC +I -R -CR +PS
              a: waiting ErrImagePull, restarts 0
              b: running, ready, restarts 0
            wake in 2s
        "#]],
    );
    check(
        |case| pull_failed(case, 2),
        &expect![[r#"
            Sync
              event BackOff: Back-off pulling image "img"
              event Failed: Error: ImagePullBackOff
            Pending +PRTSC +I -R -CR +PS
              a: waiting ImagePullBackOff, restarts 0
              b: running, ready, restarts 0
            wake in 8s
        "#]],
    );
    check(
        |case| {
            pull_failed(case, 3);
            let shown = json!({"containerStatuses": [{"name": "a", "image": "img", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]});
            case.memory.status = serde_json::from_value(shown).expect("a status");
        },
        &expect![[r#"
            Sync
            Pending +PRTSC +I -R -CR +PS
              a: waiting ImagePullBackOff, restarts 0
              b: running, ready, restarts 0
            wake in 7s
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
fn without_limits_of_its_own_a_container_shows_the_pods() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {
            "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img",
                "resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "16Mi"}}}],
            "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}, "requests": {"cpu": "50m"}},
        },
    });
    let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).expect("a pod"))).expect("a whole pod");
    let Case { seen, memory, .. } = healthy();
    let now = Now { wall: time(NOW), mono: Instant::now() };
    let status = plan(Scene { pod: &pod, seen: &seen, memory: &memory, now, node_ips: &[] }).status;
    assert_eq!(json!(status.allocated_resources), json!({"cpu": "50m", "memory": "16Mi"}));
    let shown = status.container_statuses.expect("statuses");
    assert_eq!(json!(shown[0].resources), json!(null));
    assert_eq!(json!(shown[1].allocated_resources), json!({"memory": "16Mi"}));
    let expected = json!({"limits": {"cpu": "100m", "memory": "16Mi"}, "requests": {"cpu": "100m", "memory": "16Mi"}});
    assert_eq!(json!(shown[1].resources), expected);
}

#[test]
fn a_running_container_shows_only_after_its_post_start_hook() {
    let waiting = expect![[r#"
        Sync
        Pending +PRTSC +I -R -CR +PS
          a: waiting ContainerCreating, restarts 0
          b: running, ready, restarts 0
    "#]];
    let hooked = |case: &mut Case| {
        case.pod["spec"]["containers"][0]["lifecycle"] = json!({"postStart": {"sleep": {"seconds": 1}}});
        let wanted = serde_json::from_value(case.pod["spec"]["containers"][0].clone()).expect("a container");
        case.seen.containers[0].annotations.insert(CONTAINER_HASH.to_owned(), container_hash(&wanted));
    };
    check(
        |case| {
            hooked(case);
            case.memory.running.insert(StepKey::Start(ContainerName::new("a")));
        },
        &waiting,
    );
    check(
        |case| {
            hooked(case);
            case.memory.hooks.insert(ContainerId::new("a-0"));
        },
        &waiting,
    );
}

#[test]
fn conditions_of_others_are_as_the_api_server_has_them() {
    let gate = |status: &str| json!([{"type": "example.com/lb", "status": status}]);
    check(
        |case| {
            case.pod["spec"]["readinessGates"] = json!([{"conditionType": "example.com/lb"}]);
            case.pod["status"] = json!({"conditions": gate("True")});
            case.memory.status = serde_json::from_value(json!({"conditions": gate("False")})).expect("a status");
        },
        &expect![[r#"
            Sync
            Running + +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}
