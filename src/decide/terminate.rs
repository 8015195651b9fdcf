//! Why a pod stops, and how: containers first, sidecars after them in reverse, then sandbox, volumes, cgroups, object.

use super::{Out, Scene, containers, sandbox};
use crate::model::memory::{Stop, StopCause};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::pod::{ContainerKind, Wanted};
use crate::model::step::{PodEvent, Stage, Step, StepKey, StopContainer};
use std::time::Duration;

/// What a container gets at least between the two signals, however little of the grace is left
/// (`minimumGracePeriodInSeconds`).
pub const MIN_GRACE: Duration = Duration::from_secs(2);
/// A pod removed by force gets this (`calculateEffectiveGracePeriod`: at least one second).
const FORCED_GRACE: Duration = Duration::from_secs(1);

/// Why the pod stops, if it does; once it stops it never runs again.
pub(crate) fn stop(scene: &Scene<'_>, out: &mut Out) -> Option<Stop> {
    let initialized = || super::status::had_initialized(scene);
    let fresh = |cause, grace| Stop { cause, grace, since: scene.now.mono, initialized: initialized() };
    let deletion = scene.pod.deletion_grace();
    let remembered = scene.memory.stop.as_ref();
    let wanted = match (scene.pod.gone, deletion) {
        (true, grace) => Some((StopCause::Gone, grace.unwrap_or(FORCED_GRACE).max(FORCED_GRACE))),
        (false, Some(grace)) => Some((StopCause::Deleted, grace.max(FORCED_GRACE))),
        (false, None) => None,
    };
    match (wanted, remembered) {
        // A later request only ever shortens the grace that runs.
        (Some((cause, grace)), Some(old)) if old.cause == StopCause::Deleted || old.cause == StopCause::Gone => {
            Some(Stop { cause, grace: grace.min(old.grace), ..old.clone() })
        }
        (Some((cause, grace)), _) => Some(fresh(cause, grace)),
        (None, Some(old)) => Some(old.clone()),
        (None, None) => match scene.memory.removal.as_ref().filter(|_| !is_over(scene)) {
            Some(removal) => Some(fresh(StopCause::Removed, removal.grace)),
            None => own_reason(scene, out).map(|cause| fresh(cause, scene.pod.grace())),
        },
    }
}

/// A reason that nobody asked for: finished, refused or out of time.
fn own_reason(scene: &Scene<'_>, out: &mut Out) -> Option<StopCause> {
    if is_over(scene) || scene.memory.rejected.is_some() || containers::finished(scene) {
        return Some(StopCause::Finished);
    }
    let seconds = scene.pod.spec().active_deadline_seconds?;
    let deadline = Duration::from_secs(seconds.max(0).unsigned_abs());
    let active = Duration::try_from(scene.now.wall.duration_since(scene.start_time())).unwrap_or_default();
    if active < deadline {
        out.wake_at(scene.now.mono + (deadline - active));
        return None;
    }
    let message = DEADLINE_MESSAGE.to_owned();
    out.events.push(PodEvent { container: None, warning: false, reason: "DeadlineExceeded", message });
    Some(StopCause::Deadline)
}

/// Its phase is final.
fn is_over(scene: &Scene<'_>) -> bool {
    super::status::is_terminal(&scene.memory.status)
}

/// `status.message` of a pod that was active too long (`active_deadline.go`).
pub(crate) const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// The steps of a pod that is to stop, and how far it has come.
pub(crate) fn steps(scene: &Scene<'_>, stop: &Stop, out: &mut Out) -> Stage {
    let starting = scene.memory.running.iter().any(|key| matches!(key, StepKey::Start(_) | StepKey::Sandbox));
    if starting || kill_all(scene, stop, out) {
        return Stage::Terminating;
    }
    let mut stopped = true;
    for sandbox in &scene.seen.sandboxes {
        if !scene.memory.stopped_sandboxes.contains(&sandbox.id) && (sandbox.ready || !scene.memory.cleaned) {
            stopped = false;
            sandbox::stop(scene, sandbox, out);
        }
    }
    if !stopped {
        return Stage::Terminating;
    }
    if !scene.memory.cleaned {
        match &scene.memory.cleanup_retry {
            Some(retry) if retry.at > scene.now.mono => out.wake_at(retry.at),
            Some(_) | None => out.steps.push(Step::Cleanup),
        }
        return Stage::Terminated;
    }
    match stop.cause {
        StopCause::Finished | StopCause::Deadline | StopCause::Removed => Stage::Clean,
        StopCause::Deleted if !scene.memory.confirmed => {
            out.steps.push(Step::Confirm { delete: true });
            Stage::Clean
        }
        StopCause::Deleted | StopCause::Gone => remove_rest(scene, out),
    }
}

/// The object is gone or going: so are its dead containers.
fn remove_rest(scene: &Scene<'_>, out: &mut Out) -> Stage {
    for sandbox in &scene.seen.sandboxes {
        out.steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
    }
    for container in &scene.seen.containers {
        if scene.seen.sandboxes.iter().all(|sandbox| sandbox.id != container.sandbox) {
            out.steps.push(Step::RemoveContainer { id: container.id.clone() });
        }
    }
    if out.steps.is_empty() { Stage::Over } else { Stage::Clean }
}

/// Kills all, sidecars after those that they serve; false when nothing runs any more.
fn kill_all(scene: &Scene<'_>, stop: &Stop, out: &mut Out) -> bool {
    let over = stop.since + stop.grace;
    let left = over.saturating_duration_since(scene.now.mono);
    for container in scene.alive() {
        let told = scene.memory.pre_stopped.contains(&container.id);
        let message = format!("Stopping container {}", container.name);
        let mut kill = stop_of(scene, container, left, message);
        if told {
            (kill.message, kill.pre_stop) = (None, false);
        }
        // As the kubelet does, its hook runs at once, whoever's turn it is.
        let waits = !left.is_zero() && awaits_others(scene, container);
        if waits {
            out.wake_at(over);
        }
        if !waits && !scene.memory.running.contains(&StepKey::PreStop(container.id.clone())) {
            out.steps.push(Step::StopContainer(kill));
        } else if !told {
            out.steps.push(Step::PreStop(kill));
        }
    }
    scene.alive().next().is_some()
}

/// A sidecar runs until the containers have ended, and the sidecars that began after it (`newTerminationOrdering`).
fn awaits_others(scene: &Scene<'_>, container: &ObservedContainer) -> bool {
    let is_alive = |wanted: Wanted<'_>| scene.alive().any(|other| other.name.as_str() == wanted.spec.name);
    let mut later = scene.pod.init_containers().skip_while(|wanted| wanted.spec.name != container.name.as_str());
    later.next().is_some_and(|own| own.kind == ContainerKind::Sidecar)
        && (scene.pod.regular_containers().any(is_alive)
            || later.filter(|wanted| wanted.kind == ContainerKind::Sidecar).any(is_alive))
}

/// The step that kills one container.
pub(crate) fn kill(scene: &Scene<'_>, container: &ObservedContainer, grace: Duration, message: String) -> Step {
    Step::StopContainer(stop_of(scene, container, grace, message))
}

/// The step that kills one container, which then starts anew.
pub(crate) fn renew(scene: &Scene<'_>, container: &ObservedContainer, grace: Duration, message: String) -> Step {
    Step::StopContainer(StopContainer { renews: true, ..stop_of(scene, container, grace, message) })
}

fn stop_of(scene: &Scene<'_>, container: &ObservedContainer, grace: Duration, message: String) -> StopContainer {
    StopContainer {
        name: container.name.clone(),
        id: container.id.clone(),
        grace,
        message: Some(message),
        pre_stop: matches!(container.state, ContainerState::Running { .. })
            && scene.pod.container(container.name.as_str()).is_some(),
        renews: false,
    }
}

/// A kill that ends clearly earlier than the one under way replaces it.
pub(crate) fn is_sharper_kill(scene: &Scene<'_>, step: &Step) -> bool {
    let (Step::StopContainer(stop) | Step::PreStop(stop)) = step else { return false };
    let ends = scene.now.mono + stop.grace;
    scene.memory.kills.get(&stop.id).is_some_and(|running| ends + Duration::from_secs(1) < *running)
}
