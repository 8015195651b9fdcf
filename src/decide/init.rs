//! Which init containers and sidecars are next, in the order of the spec.

use super::containers::{self, Candidate};
use super::{Out, Scene};
use crate::ids::SandboxId;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::pod::{ContainerKind, Wanted};

/// Adds what of the init phase is to start in `sandbox` (`None`: a new one); says whether regular containers may start.
pub(crate) fn next<'a>(
    scene: &Scene<'a>,
    sandbox: Option<&SandboxId>,
    wanted: &mut Vec<Candidate<'a>>,
    out: &mut Out,
) -> bool {
    let current = |name: &str| sandbox.and_then(|id| scene.newest_in(id, name));
    // Once a regular container exists here the init phase was over: only sidecars still matter.
    let over = scene.pod.regular_containers().any(|w| current(&w.spec.name).is_some());
    let list: Vec<Wanted<'a>> = scene.pod.init_containers().collect();
    for (index, &candidate) in list.iter().enumerate() {
        let seen = current(&candidate.spec.name);
        let passed = over || list[index + 1..].iter().any(|later| current(&later.spec.name).is_some());
        let open = match candidate.kind {
            ContainerKind::Sidecar => sidecar(scene, candidate, seen, wanted, out),
            ContainerKind::Init | ContainerKind::Regular | ContainerKind::Ephemeral => {
                passed || init_container(scene, candidate, seen, wanted, out)
            }
        };
        if !open && !passed {
            return false;
        }
    }
    true
}

/// Keeps a sidecar running; true once what follows may start.
fn sidecar<'a>(
    scene: &Scene<'a>,
    candidate: Wanted<'a>,
    seen: Option<&'a ObservedContainer>,
    wanted: &mut Vec<Candidate<'a>>,
    out: &mut Out,
) -> bool {
    containers::consider(scene, candidate, seen, wanted, out);
    seen.is_some_and(|container| {
        matches!(container.state, ContainerState::Running { .. })
            && !super::status::hook_is_due(scene, candidate, container)
            && super::status::is_started(scene, candidate, container)
    })
}

/// Runs an init container to success; true once it has succeeded.
fn init_container<'a>(
    scene: &Scene<'a>,
    candidate: Wanted<'a>,
    seen: Option<&'a ObservedContainer>,
    wanted: &mut Vec<Candidate<'a>>,
    out: &mut Out,
) -> bool {
    if let Some(ObservedContainer { state: ContainerState::Exited { exit_code: 0, .. }, .. }) = seen {
        return true;
    }
    containers::consider(scene, candidate, seen, wanted, out);
    false
}
