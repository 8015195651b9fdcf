//! Dead containers and sandboxes that nobody needs any more: as the kubelet, one dead container a name is kept.

use super::{Out, Scene};
use crate::model::observed::ContainerState;
use crate::model::step::Step;

/// Removes dead containers beyond the newest two of a name (one may still be about to restart), and old empty sandboxes.
pub(crate) fn steps(scene: &Scene<'_>, out: &mut Out) {
    let containers = &scene.seen.containers;
    for (index, container) in containers.iter().enumerate() {
        let newer = containers[..index].iter().filter(|other| other.name == container.name).count();
        let dead = matches!(container.state, ContainerState::Exited { .. });
        if dead && newer >= 2 {
            out.steps.push(Step::RemoveContainer { id: container.id.clone() });
        }
    }
    for sandbox in scene.seen.sandboxes.iter().skip(1) {
        let empty = containers.iter().all(|container| container.sandbox != sandbox.id);
        if !sandbox.ready && empty {
            out.steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}
