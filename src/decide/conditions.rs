//! The conditions of a pod that the agent owns (`pkg/kubelet/status/generate.go`).

use super::{Scene, patch, resize, restart_all, status};
use crate::model::pod::ContainerKind;
use crate::model::step::Stage;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A condition before it is merged with the one shown.
struct Fresh {
    name: &'static str,
    truth: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Fresh {
    fn new(name: &'static str, truth: bool) -> Self {
        Self { name, truth, reason: None, message: None }
    }

    fn because(name: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self { name, truth: false, reason: Some(reason), message }
    }
}

/// Sets the agent's conditions in `status`; those of others stay.
pub(crate) fn set(scene: &Scene<'_>, stage: Stage, status: &mut PodStatus) {
    status.conditions = Some(with_others(scene, status.conditions.take().unwrap_or_default()));
    let containers_ready = containers_ready(scene, status);
    let fresh = [
        sandbox(scene, stage),
        initialized(scene, status),
        ready(scene, status, &containers_ready),
        containers_ready,
        Fresh::new("PodScheduled", true),
    ];
    let mut list = status.conditions.take().unwrap_or_default();
    for fresh in fresh {
        merge(scene, &mut list, fresh);
    }
    // Told with the last phase, not before (`mergePodStatus`).
    let ended = status::is_terminal(status);
    if let Some(removal) = scene.memory.removal.as_ref().filter(|removal| removal.disrupted && ended) {
        let (reason, message) = (Some("TerminationByKubelet"), Some(removal.disruption().to_owned()));
        merge(scene, &mut list, Fresh { name: patch::SHARED_CONDITION, truth: true, reason, message });
    }
    resize_conditions(scene, stage, &mut list);
    if restart_all::may_happen(scene.pod) {
        merge(scene, &mut list, restarts_all(scene, stage, status));
        // As upstream shows it: it follows the containers, not the spec.
        list.iter_mut().filter(|c| c.type_ == restart_all::CONDITION).for_each(|c| c.observed_generation = None);
    }
    status.conditions = Some(list);
}

fn restarts_all(scene: &Scene<'_>, stage: Stage, status: &PodStatus) -> Fresh {
    let name = restart_all::CONDITION;
    match status.phase.as_deref() {
        Some("Succeeded") => Fresh::because(name, "PodCompleted", None),
        Some("Failed") => Fresh::because(name, "PodFailed", None),
        Some(_) | None if stage == Stage::Sync && restart_all::is_due(scene) => {
            let message = Some("container exited with restart policy rule".to_owned());
            Fresh { truth: true, ..Fresh::because(name, "RestartAllContainersStarted", message) }
        }
        Some(_) | None => Fresh::new(name, false),
    }
}

/// They show while a resize waits or is under way, and speak of the generation that asks for it.
fn resize_conditions(scene: &Scene<'_>, stage: Stage, list: &mut Vec<PodCondition>) {
    let syncs = stage == Stage::Sync;
    let pending = scene.pod.resize.as_ref().filter(|_| syncs).map(|pending| {
        let fresh = Fresh::because(resize::PENDING, pending.reason, Some(pending.message.clone()));
        (Fresh { truth: true, ..fresh }, pending.generation)
    });
    let in_progress = scene.memory.resize.as_ref().filter(|_| syncs).map(|resize| {
        let error = resize.error.as_ref();
        let fresh = Fresh {
            reason: error.map(|_| "Error"),
            message: error.map(|error| error.message.clone()),
            ..Fresh::new(resize::IN_PROGRESS, true)
        };
        (fresh, resize.generation)
    });
    for (name, due) in [(resize::PENDING, pending), (resize::IN_PROGRESS, in_progress)] {
        let Some((fresh, generation)) = due else {
            list.retain(|condition| condition.type_ != name);
            continue;
        };
        merge(scene, list, fresh);
        list.iter_mut().filter(|c| c.type_ == name).for_each(|c| c.observed_generation = generation);
    }
}

/// Ours as shown last, those of others as the API server has them now: readiness gates look at them.
fn with_others(scene: &Scene<'_>, shown: Vec<PodCondition>) -> Vec<PodCondition> {
    let Some(api) = &scene.pod.pod.status else { return shown };
    let own = |condition: &&PodCondition| patch::KUBELET_CONDITIONS.contains(&condition.type_.as_str());
    let others = api.conditions.iter().flatten().filter(|condition| !own(condition)).cloned();
    shown.iter().filter(own).cloned().chain(others).collect()
}

/// A transition time moves only with the status.
fn merge(scene: &Scene<'_>, list: &mut Vec<PodCondition>, fresh: Fresh) {
    let text = if fresh.truth { "True" } else { "False" };
    let generation = scene.pod.generation();
    match list.iter_mut().find(|condition| condition.type_ == fresh.name) {
        Some(old) => {
            if old.status != text {
                old.last_transition_time = Some(Time(status::whole_seconds(scene.now.wall)));
            }
            text.clone_into(&mut old.status);
            old.reason = fresh.reason.map(str::to_owned);
            old.message = fresh.message;
            old.observed_generation = generation;
        }
        None => list.push(PodCondition {
            type_: fresh.name.to_owned(),
            status: text.to_owned(),
            reason: fresh.reason.map(str::to_owned),
            message: fresh.message,
            last_transition_time: Some(Time(status::whole_seconds(scene.now.wall))),
            observed_generation: generation,
            last_probe_time: None,
        }),
    }
}

fn sandbox(scene: &Scene<'_>, stage: Stage) -> Fresh {
    let name = "PodReadyToStartContainers";
    // The kubelet writes a static pod's end to its mirror at once, and what its cleaning up would change no more.
    if scene.pod.is_static && stage > Stage::Sync {
        let shown = scene.memory.status.conditions.iter().flatten().find(|condition| condition.type_ == name);
        return Fresh::new(name, shown.is_some_and(|condition| condition.status == "True"));
    }
    let ready =
        scene.sandbox().is_some_and(|sandbox| sandbox.ready && (scene.pod.host_network() || !sandbox.ips.is_empty()));
    Fresh::new(name, ready && status::sandbox_shown(scene) && stage < Stage::Terminated)
}

fn initialized(scene: &Scene<'_>, status: &PodStatus) -> Fresh {
    let name = "Initialized";
    if scene.pod.init_containers().next().is_none() || regular_started(status) {
        let reason = (status.phase.as_deref() == Some("Succeeded")).then_some("PodCompleted");
        return Fresh { reason, ..Fresh::new(name, true) };
    }
    let incomplete: Vec<_> = scene
        .pod
        .init_containers()
        .filter(|wanted| {
            status::previous(status, &wanted.spec.name).is_none_or(|shown| match wanted.kind {
                ContainerKind::Sidecar => shown.started != Some(true),
                ContainerKind::Init | ContainerKind::Regular | ContainerKind::Ephemeral => !shown.ready,
            })
        })
        .map(|wanted| wanted.spec.name.as_str())
        .collect();
    if status.phase.as_deref() == Some("Succeeded") {
        return Fresh { reason: Some("PodCompleted"), ..Fresh::new(name, true) };
    }
    // What has been is not taken back where containers begin again.
    let mut before = scene.memory.status.conditions.iter().flatten();
    if incomplete.is_empty() || before.any(|condition| condition.type_ == name && condition.status == "True") {
        return Fresh::new(name, true);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Fresh::because(name, "ContainersNotInitialized", Some(message))
}

/// Once a regular container has run, the init phase is over for good.
pub(super) fn regular_started(status: &PodStatus) -> bool {
    status.container_statuses.iter().flatten().any(|shown| {
        let ran = shown.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        let runs_or_ran =
            shown.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        ran || runs_or_ran
    })
}

fn containers_ready(scene: &Scene<'_>, status: &PodStatus) -> Fresh {
    let name = "ContainersReady";
    match status.phase.as_deref() {
        Some("Succeeded") => return Fresh::because(name, "PodCompleted", None),
        Some("Failed") => return Fresh::because(name, "PodFailed", None),
        Some(_) | None => {}
    }
    let unready: Vec<_> = scene
        .pod
        .all_containers()
        .filter(|wanted| wanted.kind != ContainerKind::Init)
        .filter(|wanted| status::previous(status, &wanted.spec.name).is_none_or(|shown| !shown.ready))
        .map(|wanted| wanted.spec.name.as_str())
        .collect();
    if unready.is_empty() {
        return Fresh::new(name, true);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Fresh::because(name, "ContainersNotReady", Some(message))
}

fn ready(scene: &Scene<'_>, status: &PodStatus, containers: &Fresh) -> Fresh {
    let name = "Ready";
    if !containers.truth {
        return Fresh { name, truth: false, reason: containers.reason, message: containers.message.clone() };
    }
    let closed: Vec<_> = scene
        .pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let found = status.conditions.iter().flatten().find(|condition| condition.type_ == *kind);
            match found {
                None => Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
                Some(condition) if condition.status == "True" => None,
                Some(condition) => {
                    Some(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", condition.status))
                }
            }
        })
        .collect();
    if closed.is_empty() {
        return Fresh::new(name, true);
    }
    Fresh::because(name, "ReadinessGatesNotReady", Some(closed.join(", ")))
}
