//! Starting, restarting and killing containers while a pod is wanted.

use super::backoff::{self, Due};
use super::sandbox::{self, Need};
use super::{CONTAINER_HASH, Out, Scene, init, is_alive, resize, restart_all, restart_count, terminate};
use crate::ids::SandboxId;
use crate::model::memory::{ImageState, VolumesState};
use crate::model::observed::{ContainerState, ObservedContainer, ObservedSandbox};
use crate::model::pod::{ContainerKind, DesiredPod, RestartPolicy, Wanted, container_hash};
use crate::model::step::{PodEvent, StartContainer, Step, StepKey};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};
use std::collections::BTreeMap;

/// A container that is to start as soon as its sandbox, volumes and image are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) wanted: Wanted<'a>,
}

/// The steps of a pod that is to run.
pub(crate) fn sync(scene: &Scene<'_>, out: &mut Out) {
    volumes(scene, out);
    match sandbox::need(scene) {
        Need::Keep(_) if restart_all::steps(scene, out) => {}
        Need::Keep(current) => {
            let mut candidates = next(scene, Some(&current.id), out);
            let held = held_back(scene, &candidates);
            ephemeral(scene, &mut candidates, out);
            for candidate in candidates {
                if held.contains(&candidate.wanted.spec.name.as_str()) {
                    images(scene, candidate, out);
                } else {
                    start(scene, current, candidate, out);
                }
            }
            resize::steps(scene, out);
        }
        Need::Create { attempt } => {
            if replace_old_sandbox(scene, out) {
                sandbox::run(scene, attempt, out);
                for candidate in next(scene, None, out) {
                    images(scene, candidate, out);
                }
            }
        }
        Need::Nothing => {}
    }
}

/// What may start now, in the order of the spec.
fn next<'a>(scene: &Scene<'a>, sandbox: Option<&SandboxId>, out: &mut Out) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    if init::next(scene, sandbox, &mut candidates, out) {
        for wanted in scene.pod.regular_containers() {
            let seen = sandbox.and_then(|id| scene.newest_in(id, &wanted.spec.name));
            // A new sandbox does not run again what had ended for good in the old one.
            let old = scene.newest(&wanted.spec.name);
            if seen.is_none() && old.is_some_and(|old| has_ended_for_good(scene, wanted, old)) {
                continue;
            }
            consider(scene, wanted, seen, &mut candidates, out);
        }
    }
    candidates
}

/// The kubelet starts containers one after the other, each with its postStart hook: what comes after one whose hook has
/// not ended waits for it.
fn held_back<'a>(scene: &Scene<'a>, candidates: &[Candidate<'a>]) -> Vec<&'a str> {
    let begins = |wanted: &Wanted<'_>| {
        let name = wanted.name();
        let hook_runs = scene.newest(&wanted.spec.name).is_some_and(|seen| scene.memory.hooks.contains(&seen.id));
        let is_candidate = candidates.iter().any(|candidate| candidate.wanted.spec.name == wanted.spec.name);
        let starts = scene.memory.running.contains(&StepKey::Start(name.clone()));
        hook_runs || starts || (is_candidate && !is_put_off(scene, *wanted))
    };
    let mut all = scene.pod.all_containers().skip_while(|wanted| {
        let has_hook = wanted.spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
        !(has_hook && begins(wanted))
    });
    all.next();
    all.map(|wanted| wanted.spec.name.as_str()).collect()
}

/// Its start failed, or its image cannot be had: others do not wait until that is tried again.
fn is_put_off(scene: &Scene<'_>, wanted: Wanted<'_>) -> bool {
    let name = wanted.name();
    let later = |state: &ImageState| matches!(state, ImageState::Failed { retry, .. } if retry.at > scene.now.mono);
    let of_volume = |(volume, _): (&str, &str)| scene.memory.volume_images.get(volume).is_some_and(later);
    scene.memory.start_errors.get(&name).is_some_and(|error| error.retry.at > scene.now.mono)
        || scene.memory.images.get(&name).is_some_and(later)
        || image_volumes(scene.pod, wanted).any(of_volume)
}

/// Ephemeral containers start once, at any time of a pod's life in its sandbox; what has been seen of one never runs again.
fn ephemeral<'a>(scene: &Scene<'a>, candidates: &mut Vec<Candidate<'a>>, out: &mut Out) {
    for wanted in scene.pod.ephemeral_containers() {
        let name = wanted.spec.name.as_str();
        let shown = super::status::previous(&scene.memory.status, name).and_then(|status| status.state.as_ref());
        let ran = shown.is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        match scene.newest(name) {
            None if !ran => candidates.push(Candidate { wanted }),
            // Made but never started: the agent died in between.
            Some(made) if made.state == ContainerState::Created => consider(scene, wanted, Some(made), candidates, out),
            Some(_) | None => {}
        }
    }
}

fn volumes(scene: &Scene<'_>, out: &mut Out) {
    match &scene.memory.volumes {
        VolumesState::Unplaced => out.steps.push(Step::PlaceVolumes),
        VolumesState::Placed => {}
        VolumesState::Failed(retry) if retry.at <= scene.now.mono => out.steps.push(Step::PlaceVolumes),
        VolumesState::Failed(retry) => out.wake_at(retry.at),
    }
}

/// True when nothing of an older sandbox is left running or unstopped.
fn replace_old_sandbox(scene: &Scene<'_>, out: &mut Out) -> bool {
    let Some(old) = scene.sandbox() else { return true };
    let mut quiet = true;
    // As the kubelet: of a pod that is never restarted nothing goes on in another sandbox.
    let kill = if scene.pod.restart_policy() == RestartPolicy::Never { terminate::kill } else { terminate::renew };
    for container in scene.alive() {
        quiet = false;
        out.steps.push(kill(scene, container, scene.pod.grace(), format!("Stopping container {}", container.name)));
    }
    if !quiet {
        return false;
    }
    if scene.memory.stopped_sandboxes.contains(&old.id) {
        return true;
    }
    if !scene.memory.running.contains(&StepKey::StopSandbox(old.id.clone())) {
        let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        out.events.push(PodEvent { container: None, warning: false, reason: "SandboxChanged", message });
    }
    sandbox::stop(scene, old, out);
    false
}

/// Looks at one container that is to run: kills it, waits, or makes it a candidate for a start.
pub(crate) fn consider<'a>(
    scene: &Scene<'a>,
    wanted: Wanted<'a>,
    seen: Option<&'a ObservedContainer>,
    candidates: &mut Vec<Candidate<'a>>,
    out: &mut Out,
) {
    let Some(container) = seen else { return candidates.push(Candidate { wanted }) };
    match &container.state {
        ContainerState::Running { .. } => {
            if let Some(step) = reason_to_kill(scene, wanted, container) {
                out.steps.push(step);
            }
        }
        ContainerState::Unknown => {
            let message = format!("Container {} is in unknown state, try killing it before restart", container.name);
            out.steps.push(terminate::kill(scene, container, scene.pod.grace(), message));
        }
        // Made but never started: the agent died, or the start is under way.
        ContainerState::Created => {
            if !scene.memory.running.contains(&StepKey::Start(container.name.clone())) {
                out.steps.push(Step::RemoveContainer { id: container.id.clone() });
            }
        }
        // It begins again with all others.
        ContainerState::Exited { exit_code, .. } if restart_all::is_asked(wanted, *exit_code) => {}
        ContainerState::Exited { .. } => {
            if has_ended_for_good(scene, wanted, container) {
                return;
            }
            match backoff::restart_due(scene, container) {
                Due::Now => candidates.push(Candidate { wanted }),
                Due::At { at, .. } => out.wake_at(at),
            }
        }
    }
}

/// A running container dies when its definition changed or a probe gave it up (`computePodActions`). An init container
/// that runs to its end is let be.
fn reason_to_kill(scene: &Scene<'_>, wanted: Wanted<'_>, container: &ObservedContainer) -> Option<Step> {
    let name = &container.name;
    let is_sidecar = match wanted.kind {
        ContainerKind::Init => return None,
        ContainerKind::Sidecar => true,
        ContainerKind::Regular | ContainerKind::Ephemeral => false,
    };
    let hash = container.annotations.get(CONTAINER_HASH);
    if hash.is_some_and(|hash| *hash != container_hash(wanted.spec)) {
        let message = match is_sidecar {
            true => format!("Init container {name} definition changed"),
            false => format!("Container {name} definition changed, will be restarted"),
        };
        return Some(terminate::renew(scene, container, scene.pod.grace(), message));
    }
    let failure = scene.memory.probes.get(&container.id)?.failed.as_ref()?;
    let grace = failure.grace.unwrap_or(scene.pod.grace());
    if is_sidecar {
        let message = format!("Init container {name} failed {} probe", failure.probe);
        return Some(terminate::renew(scene, container, grace, message));
    }
    let message = format!("Container {name} failed {} probe", failure.probe);
    if policy(scene.pod, wanted) != RestartPolicy::Never {
        return Some(terminate::renew(scene, container, grace, format!("{message}, will be restarted")));
    }
    // Never restarted: where nothing goes on beside it the pod stops as a whole.
    let message = if another_goes_on(scene, container) { message } else { format!("Stopping container {name}") };
    Some(terminate::kill(scene, container, grace, message))
}

/// Beside that one: does another regular container run in good health, or is one to start?
fn another_goes_on(scene: &Scene<'_>, container: &ObservedContainer) -> bool {
    let others = scene.pod.regular_containers().filter(|other| other.spec.name != container.name.as_str());
    let goes_on = |other: Wanted<'_>| match scene.newest_in(&container.sandbox, &other.spec.name) {
        Some(seen) if matches!(seen.state, ContainerState::Running { .. }) => {
            scene.memory.probes.get(&seen.id).is_none_or(|view| view.failed.is_none())
        }
        Some(ended) => !has_ended_for_good(scene, other, ended),
        None => true,
    };
    others.into_iter().any(goes_on)
}

/// Starts a candidate once volumes and images are there.
fn start(scene: &Scene<'_>, sandbox: &ObservedSandbox, candidate: Candidate<'_>, out: &mut Out) {
    let name = candidate.wanted.name();
    let Some((image_ref, volume_images)) = images(scene, candidate, out) else { return };
    if let Some(error) = scene.memory.start_errors.get(&name)
        && error.retry.at > scene.now.mono
    {
        return out.wake_at(error.retry.at);
    }
    let target = scene.pod.target_of(name.as_str()).and_then(|target| scene.newest_in(&sandbox.id, target));
    out.steps.push(Step::StartContainer(StartContainer {
        attempt: next_restart_count(scene, name.as_str()),
        name,
        sandbox: sandbox.id.clone(),
        sandbox_attempt: sandbox.attempt,
        image_ref,
        volume_images,
        ips: super::status::pod_ips(scene, Some(sandbox)),
        target: target.map(|target| target.id.clone()),
    }));
}

/// The image to run and those of the image volumes it mounts, or the steps that get them: beside the sandbox, but as in
/// the kubelet not before the volumes are there, and the container's own after those of its volumes.
fn images(scene: &Scene<'_>, candidate: Candidate<'_>, out: &mut Out) -> Option<(String, BTreeMap<String, String>)> {
    if scene.memory.volumes != VolumesState::Placed {
        return None;
    }
    let mut of_volumes = BTreeMap::new();
    let mut missing = false;
    for (volume, _) in image_volumes(scene.pod, candidate.wanted) {
        let step = Step::EnsureVolumeImage { volume: volume.to_owned() };
        match available(scene, scene.memory.volume_images.get(volume), step, out) {
            Some(reference) => drop(of_volumes.insert(volume.to_owned(), reference)),
            None => missing = true,
        }
    }
    if missing {
        return None;
    }
    let name = candidate.wanted.name();
    let step = Step::EnsureImage { container: name.clone() };
    let own = available(scene, scene.memory.images.get(&name), step, out)?;
    Some((own, of_volumes))
}

/// Image volumes that a container mounts, with the image that each shows.
pub(crate) fn image_volumes<'a>(pod: &'a DesiredPod, wanted: Wanted<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let volumes = pod.spec().volumes.iter().flatten();
    let images = volumes.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)));
    let mounts = &wanted.spec.volume_mounts;
    images
        .filter(move |(name, _)| mounts.iter().flatten().any(|mount| mount.name == *name))
        .map(|(name, source)| (name, source.reference.as_deref().unwrap_or_default()))
}

/// The image if it is there; else the step that gets it, or when to try again.
fn available(scene: &Scene<'_>, state: Option<&ImageState>, step: Step, out: &mut Out) -> Option<String> {
    match state {
        Some(ImageState::Present { reference }) => return Some(reference.clone()),
        Some(ImageState::Failed { retry, since, .. }) if retry.at > scene.now.mono => {
            out.wake_at(retry.at);
            let shows_back_off = *since + super::status::PULL_ERROR_SHOWN;
            if shows_back_off > scene.now.mono {
                out.wake_at(shows_back_off);
            }
        }
        Some(ImageState::Failed { .. }) | None if out.steps.contains(&step) => {}
        Some(ImageState::Failed { .. }) | None => out.steps.push(step),
    }
    None
}

/// One more than that of the newest instance, also when the runtime has lost it.
fn next_restart_count(scene: &Scene<'_>, name: &str) -> u32 {
    if let Some(container) = scene.newest(name) {
        return restart_count(container) + 1;
    }
    let known = super::status::previous(&scene.memory.status, name);
    match known {
        Some(status) => {
            let seen = status.container_id.as_deref().is_some_and(|id| !id.is_empty());
            u32::try_from(status.restart_count).unwrap_or(0) + u32::from(seen)
        }
        None => 0,
    }
}

/// Ended, and starts again neither by its policy nor because it was stopped for that.
pub(crate) fn has_ended_for_good(scene: &Scene<'_>, wanted: Wanted<'_>, container: &ObservedContainer) -> bool {
    match container.state {
        ContainerState::Exited { exit_code, .. } => {
            !scene.memory.renewed.contains(&container.id) && !should_restart(scene.pod, wanted, exit_code)
        }
        ContainerState::Created | ContainerState::Running { .. } | ContainerState::Unknown => false,
    }
}

/// Does a container that ended with this code start again? Rules of the container, then its policy, then the pod's.
pub(crate) fn should_restart(pod: &DesiredPod, wanted: Wanted<'_>, exit_code: i32) -> bool {
    match wanted.kind {
        ContainerKind::Sidecar => return true,
        ContainerKind::Ephemeral => return false,
        ContainerKind::Init | ContainerKind::Regular => {}
    }
    let rule = matching_rule(wanted.spec, exit_code);
    if rule.is_some_and(|rule| matches!(rule.action.as_str(), "Restart" | "RestartAllContainers")) {
        return true;
    }
    match (policy(pod, wanted), wanted.kind) {
        (RestartPolicy::Never, _) => false,
        (RestartPolicy::OnFailure, _) | (RestartPolicy::Always, ContainerKind::Init) => exit_code != 0,
        (RestartPolicy::Always, ContainerKind::Sidecar | ContainerKind::Regular | ContainerKind::Ephemeral) => true,
    }
}

/// The container's own policy, or the pod's.
fn policy(pod: &DesiredPod, wanted: Wanted<'_>) -> RestartPolicy {
    match wanted.spec.restart_policy.as_deref() {
        Some(own) => RestartPolicy::parse(Some(own)),
        None => pod.restart_policy(),
    }
}

/// The first rule of a container that speaks of this exit code.
pub(crate) fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|value| *value == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// All regular containers ended for good, or an init container failed for good.
pub(crate) fn finished(scene: &Scene<'_>) -> bool {
    let starting = scene.memory.running.iter().any(|key| matches!(key, StepKey::Start(_) | StepKey::Sandbox));
    if starting || scene.alive().any(|c| scene.pod.regular_containers().any(|w| w.spec.name == c.name.as_str())) {
        return false;
    }
    let init_failed = scene.pod.init_containers().any(|wanted| {
        scene.newest(&wanted.spec.name).is_some_and(|container| {
            let failed = matches!(container.state, ContainerState::Exited { exit_code, .. } if exit_code != 0);
            failed && wanted.kind == ContainerKind::Init && has_ended_for_good(scene, wanted, container)
        })
    });
    let mut regular = scene.pod.regular_containers().peekable();
    let all_ended = regular.peek().is_some()
        && regular.all(|wanted| match scene.newest(&wanted.spec.name) {
            Some(container) => !is_alive(container) && has_ended_for_good(scene, wanted, container),
            None => false,
        });
    init_failed || all_ended
}
