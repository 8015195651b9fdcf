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

mod converge;
mod ephemeral;
mod gc;
mod images;
mod init;
mod resize;
mod restart;
mod restart_all;
mod start;
mod status;
mod terminate;

/// Wall time of every test, in seconds since 1970.
const NOW: i64 = 1_000_000;

/// Wanted, seen and remembered: all is well.
struct Case {
    pod: Value,
    gone: bool,
    seen: ObservedPod,
    memory: PodMemory,
    delays: backoff::Delays,
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
        termination_log: None,
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
    Case { pod, gone: false, seen, memory, delays: Default::default() }
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
        let plan = plan(Scene {
            pod: &pod,
            seen: &case.seen,
            memory: &case.memory,
            now,
            node_ips: &node_ips,
            delays: case.delays,
        });
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
            Step::StartContainer(StartContainer { name, sandbox, attempt, target, .. }) => {
                let beside = target.as_ref().map(|target| format!(" beside {target}")).unwrap_or_default();
                writeln!(text, "  start {name}#{attempt} in {sandbox}{beside}")
            }
            Step::StopContainer(StopContainer { id, grace, message, renews, .. }) => {
                let message = message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
                let what = if *renews { "renew" } else { "kill" };
                writeln!(text, "  {what} {id} within {}s{message}", grace.as_secs())
            }
            Step::PreStop(StopContainer { id, grace, .. }) => {
                writeln!(text, "  preStop {id} within {}s", grace.as_secs())
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
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    for shown in lists.into_iter().flatten().flatten() {
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
