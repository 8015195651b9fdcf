//! `RestartAllContainers` (KEP-5532): an exit that a rule names removes every container of the pod, and the pod begins
//! again in its sandbox. The container that exited goes last: as long as it is seen, the others are still to go, and
//! a restart of ours finds the way from what it sees.

use super::backoff::{self, Due};
use super::{Out, Scene, containers, is_alive, terminate};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::step::Step;
use k8s_openapi::api::core::v1 as api;

/// The condition that shows it.
pub(crate) const CONDITION: &str = "AllContainersRestarting";

/// The newest container of its name that ended such that all begin again.
fn trigger<'a>(scene: &Scene<'a>) -> Option<&'a ObservedContainer> {
    let sandbox = scene.sandbox().filter(|sandbox| sandbox.ready)?;
    scene.pod.all_containers().find_map(|wanted| {
        let container = scene.newest_in(&sandbox.id, &wanted.spec.name)?;
        let ContainerState::Exited { exit_code, .. } = container.state else { return None };
        (containers::matching_rule(wanted.spec, exit_code)?.action == "RestartAllContainers").then_some(container)
    })
}

/// Are the pod's containers being removed now, or as soon as the crash backoff is over?
pub(crate) fn is_due(scene: &Scene<'_>) -> bool {
    trigger(scene).is_some_and(|container| backoff::restart_due(scene, container) == Due::Now)
}

/// Did the status shown last say so?
pub(crate) fn was_shown(status: &api::PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == CONDITION && condition.status == "True")
}

/// The next steps of it; false where the pod runs as usual.
pub(crate) fn steps(scene: &Scene<'_>, out: &mut Out) -> bool {
    let Some(last) = trigger(scene) else { return false };
    if let Due::At { at, .. } = backoff::restart_due(scene, last) {
        out.wake_at(at);
        return false;
    }
    let mut others = scene.seen.containers.iter().filter(|container| container.id != last.id).peekable();
    if others.peek().is_none() {
        out.steps.push(Step::RemoveContainer { id: last.id.clone() });
    }
    for container in others {
        out.steps.push(if is_alive(container) {
            let message = format!("Stopping container {}", container.name);
            terminate::kill(scene, container, scene.pod.grace(), message)
        } else {
            Step::RemoveContainer { id: container.id.clone() }
        });
    }
    true
}

/// How a container shows that was removed for it.
pub(crate) fn removed() -> api::ContainerStateTerminated {
    api::ContainerStateTerminated {
        exit_code: 137,
        reason: Some("RestartingAllContainers".to_owned()),
        message: Some("The container is removed because RestartAllContainers in place".to_owned()),
        ..Default::default()
    }
}
