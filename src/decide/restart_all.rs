//! `RestartAllContainers` (KEP-5532): an exit that a rule names removes every container of the pod, and the pod begins
//! again in its sandbox. The container that exited goes last: as long as it is seen, the others are still to go, and
//! a restart of ours finds the way from what it sees.

use super::{Out, Scene, backoff, containers, is_alive, restart_count};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::pod::{DesiredPod, Wanted};
use crate::model::step::{Step, StopContainer};
use k8s_openapi::api::core::v1 as api;
use std::time::Duration;

/// The condition that shows it.
pub(crate) const CONDITION: &str = "AllContainersRestarting";
const ACTION: &str = "RestartAllContainers";
/// Why containers show that were removed for it.
const REASON: &str = "RestartingAllContainers";
const MESSAGE: &str = "The container is removed because RestartAllContainers in place";
/// There is no crash backoff. The kubelet goes round no faster than it relists (`genericPlegRelistPeriod`).
const LEAST_PERIOD: Duration = Duration::from_secs(1);

/// Can any exit restart all of this pod?
pub(crate) fn may_happen(pod: &DesiredPod) -> bool {
    let mut rules = pod.all_containers().flat_map(|wanted| wanted.spec.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == ACTION)
}

/// The newest container of its name that ended such that all begin again.
fn trigger<'a>(scene: &Scene<'a>) -> Option<&'a ObservedContainer> {
    let sandbox = scene.sandbox().filter(|sandbox| sandbox.ready)?;
    scene.pod.all_containers().find_map(|wanted| {
        let container = scene.newest_in(&sandbox.id, &wanted.spec.name)?;
        let ContainerState::Exited { exit_code, .. } = container.state else { return None };
        is_asked(wanted, exit_code).then_some(container)
    })
}

/// Does this exit of a container restart all of its pod?
pub(crate) fn is_asked(wanted: Wanted<'_>, exit_code: i32) -> bool {
    containers::matching_rule(wanted.spec, exit_code).is_some_and(|rule| rule.action == ACTION)
}

/// How long it is until all begin again; the first time they do at once.
fn wait(scene: &Scene<'_>, trigger: &ObservedContainer) -> Duration {
    let ended = backoff::since_end(scene, trigger).unwrap_or_default();
    if restart_count(trigger) == 0 { Duration::ZERO } else { LEAST_PERIOD.saturating_sub(ended) }
}

/// Are the pod's containers being removed?
pub(crate) fn is_due(scene: &Scene<'_>) -> bool {
    trigger(scene).is_some_and(|container| wait(scene, container).is_zero())
}

/// Did the status shown last say so?
pub(crate) fn was_shown(status: &api::PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == CONDITION && condition.status == "True")
}

/// The next steps of it; false where the pod runs as usual.
pub(crate) fn steps(scene: &Scene<'_>, out: &mut Out) -> bool {
    let Some(last) = trigger(scene) else { return false };
    let wait = wait(scene, last);
    if !wait.is_zero() {
        out.wake_at(scene.now.mono + wait);
        return false;
    }
    let mut others = scene.seen.containers.iter().filter(|container| container.id != last.id).peekable();
    if others.peek().is_none() {
        out.steps.push(Step::RemoveContainer { id: last.id.clone() });
    }
    for container in others {
        out.steps.push(if is_alive(container) {
            // Without grace, and so without a preStop hook.
            Step::StopContainer(StopContainer {
                name: container.name.clone(),
                id: container.id.clone(),
                grace: Duration::ZERO,
                message: Some("killing".to_owned()),
                pre_stop: false,
                renews: false,
            })
        } else {
            Step::RemoveContainer { id: container.id.clone() }
        });
    }
    true
}

/// How a container ended that was removed for it.
pub(crate) fn removed() -> api::ContainerStateTerminated {
    api::ContainerStateTerminated {
        exit_code: 137,
        reason: Some(REASON.to_owned()),
        message: Some(MESSAGE.to_owned()),
        ..Default::default()
    }
}

/// What it shows until the pod begins again.
pub(crate) fn waiting() -> api::ContainerStateWaiting {
    api::ContainerStateWaiting { reason: Some(REASON.to_owned()), message: Some(MESSAGE.to_owned()) }
}

/// Was that container removed for it, and waits now?
pub(crate) fn is_removed(status: &api::ContainerStatus) -> bool {
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    waits && last.is_some_and(|end| end.reason.as_deref() == Some(REASON))
}
