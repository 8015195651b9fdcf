//! What the API shows of a pod: container statuses, phase, addresses. Derived from what is seen and what was shown
//! before, so that a restart of the agent never takes anything back.

use super::backoff::{self, Due};
use super::{Out, Scene, conditions, containers, restart_all, restart_count, terminate};
use crate::model::memory::{ImageState, Stop, StopCause};
use crate::model::observed::{ContainerState, ObservedContainer, ObservedSandbox};
use crate::model::pod::{ContainerKind, Wanted};
use crate::model::qos::QosClass;
use crate::model::resources::{List, all_limited, pod_limits, pod_requests, quantities};
use crate::model::step::{PodEvent, Stage, StepKey};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::IpAddr;
use std::time::Duration;

/// How long a pull failure shows as itself before it shows as back-off.
pub(crate) const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// The whole status, from the one shown before.
pub(crate) fn make(scene: &Scene<'_>, stop: Option<&Stop>, stage: Stage, out: &mut Out) -> api::PodStatus {
    let mut status = scene.memory.status.clone();
    status.observed_generation = scene.pod.generation();
    status.start_time.get_or_insert(Time(whole_seconds(scene.now.wall)));
    status.qos_class = Some(QosClass::of(&scene.pod.pod).as_str().to_owned());
    if let Some(rejection) = &scene.memory.rejected {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(rejection.reason.clone().into_owned());
        status.message = Some(format!("Pod was rejected: {}", rejection.message));
        // As upstream: of a pod that was never taken nothing else shows, not even that it was scheduled.
        status.conditions.iter_mut().for_each(|list| {
            list.retain(|condition| !super::patch::KUBELET_CONDITIONS.contains(&condition.type_.as_str()));
        });
        return status;
    }
    // Cleaned up: dead containers may be gone from the runtime, what they left is what was shown.
    if !(scene.memory.cleaned && is_terminal(&status)) {
        addresses(scene, &mut status);
        let ended = stage >= Stage::Terminated;
        status.init_container_statuses = statuses(scene, stop, scene.pod.init_containers(), out);
        status.container_statuses = statuses(scene, stop, scene.pod.regular_containers(), out);
        status.ephemeral_container_statuses = statuses(scene, stop, scene.pod.ephemeral_containers(), out);
        let phase = phase(scene, &status, ended);
        if ended {
            mark_unknown(stop, &mut status);
        }
        status.phase = Some(shown_phase(scene, phase, stop, ended).to_owned());
        pod_resources(scene, status.phase.as_deref() == Some("Running"), &mut status);
        if stop.is_none() {
            tell_pull_back_off(scene, &status, out);
        }
        match stop.filter(|_| ended).map(|stop| stop.cause) {
            Some(StopCause::Deadline) => {
                status.reason = Some("DeadlineExceeded".to_owned());
                status.message = Some(terminate::DEADLINE_MESSAGE.to_owned());
            }
            Some(StopCause::Removed) => {
                let removal = scene.memory.removal.as_ref();
                status.reason = removal.map(|removal| removal.reason.to_owned());
                status.message = removal.map(|removal| removal.message.clone());
            }
            Some(StopCause::Finished | StopCause::Deleted | StopCause::Gone) | None => {}
        }
    }
    shorten_messages(scene, &mut status);
    conditions::set(scene, stage, &mut status);
    status
}

/// Termination messages of a pod share 12 KiB equally (`MaxPodTerminationMessageLogLength`, `normalizeStatus`).
fn shorten_messages(scene: &Scene<'_>, status: &mut api::PodStatus) {
    let containers = scene.pod.all_containers().count() + scene.pod.ephemeral_containers().count();
    let each = 12 * 1024 / containers.max(1);
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    for shown in lists.into_iter().flatten().flatten() {
        for state in [&mut shown.state, &mut shown.last_state].into_iter().flatten() {
            if let Some(message) = state.terminated.as_mut().and_then(|end| end.message.as_mut()) {
                let within = (0..=each).rev().find(|end| message.is_char_boundary(*end));
                message.truncate(within.filter(|_| message.len() > each).unwrap_or(message.len()));
            }
        }
    }
}

/// Times of the API have whole seconds.
pub(crate) fn whole_seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

pub(crate) fn is_terminal(status: &api::PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// The status shown before of one container.
pub(crate) fn previous<'a>(status: &'a api::PodStatus, name: &str) -> Option<&'a api::ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

fn addresses(scene: &Scene<'_>, status: &mut api::PodStatus) {
    if let Some(first) = scene.node_ips.first() {
        status.host_ip = Some(first.to_string());
        status.host_ips = Some(scene.node_ips.iter().map(|ip| api::HostIP { ip: ip.to_string() }).collect());
    }
    let current = scene.sandbox().filter(|sandbox| sandbox.ready && sandbox_shown(scene));
    let ips = if current.is_some() { pod_ips(scene, current) } else { Vec::new() };
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.to_string());
        status.pod_ips = Some(ips.iter().map(|ip| api::PodIP { ip: ip.to_string() }).collect());
    }
}

/// A sandbox is made beside the volumes, but shown, as the kubelet does, only after them.
pub(crate) fn sandbox_shown(scene: &Scene<'_>) -> bool {
    scene.memory.volumes == crate::model::memory::VolumesState::Placed || !scene.seen.containers.is_empty()
}

/// The pod's addresses in its sandbox; the node's with host network.
pub(crate) fn pod_ips(scene: &Scene<'_>, sandbox: Option<&ObservedSandbox>) -> Vec<IpAddr> {
    match sandbox {
        Some(_) if scene.pod.host_network() => scene.node_ips.to_vec(),
        Some(sandbox) => sandbox.ips.clone(),
        None => Vec::new(),
    }
}

fn statuses<'a>(
    scene: &Scene<'a>,
    stop: Option<&Stop>,
    wanted: impl Iterator<Item = Wanted<'a>>,
    out: &mut Out,
) -> Option<Vec<api::ContainerStatus>> {
    let list: Vec<_> = wanted
        .map(|wanted| {
            let previous = previous(&scene.memory.status, &wanted.spec.name);
            match scene.newest(&wanted.spec.name) {
                Some(container) if begins_again(scene, wanted, container) => initializing(scene, wanted, container),
                Some(container) => shown(scene, stop, wanted, container, previous, out),
                None => unseen(scene, wanted, previous),
            }
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// A status that says nothing yet.
fn blank(wanted: Wanted<'_>) -> api::ContainerStatus {
    let mounts: Vec<_> = wanted.spec.volume_mounts.iter().flatten().map(mount_status).collect();
    api::ContainerStatus {
        name: wanted.spec.name.clone(),
        image: wanted.image().to_owned(),
        started: (wanted.kind != ContainerKind::Ephemeral).then_some(false),
        volume_mounts: (!mounts.is_empty()).then_some(mounts),
        ..Default::default()
    }
}

fn mount_status(mount: &api::VolumeMount) -> api::VolumeMountStatus {
    let read_only = mount.read_only == Some(true);
    let recursive = match mount.recursive_read_only.as_deref() {
        Some("Enabled" | "IfPossible") => "Enabled",
        Some(_) | None => "Disabled",
    };
    api::VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| recursive.to_owned()),
        ..Default::default()
    }
}

/// A container that the runtime does not hold: not started yet, or lost.
fn unseen(scene: &Scene<'_>, wanted: Wanted<'_>, previous: Option<&api::ContainerStatus>) -> api::ContainerStatus {
    let state = previous.and_then(|status| status.state.as_ref());
    if let (Some(previous), Some(state)) = (previous, state)
        && (state.terminated.is_some() || state.running.is_some())
    {
        if restart_all::was_shown(&scene.memory.status) {
            return removed(wanted, previous);
        }
        let mut status = previous.clone();
        if state.running.is_some() {
            status.ready = false;
            status.started = status.started.map(|_| false);
            status.state = Some(terminated_state(lost("deleted", " The container used to be Running")));
        }
        return status;
    }
    let mut status = blank(wanted);
    if let Some(previous) = previous {
        status.restart_count = previous.restart_count;
        status.last_state = previous.last_state.clone();
        status.image_id = previous.image_id.clone();
        status.container_id = previous.container_id.clone();
    }
    status.state = Some(waiting(scene, wanted).unwrap_or_else(|| default_waiting(scene)));
    status
}

/// An init container that ran in a sandbox before this one, where the init phase is not over yet.
fn begins_again(scene: &Scene<'_>, wanted: Wanted<'_>, container: &ObservedContainer) -> bool {
    let Some(current) = scene.sandbox().filter(|sandbox| sandbox.ready) else { return false };
    let mut regular = scene.pod.regular_containers();
    wanted.kind == ContainerKind::Init
        && container.sandbox != current.id
        && regular.all(|wanted| scene.newest_in(&current.id, &wanted.spec.name).is_none())
}

fn initializing(scene: &Scene<'_>, wanted: Wanted<'_>, before: &ObservedContainer) -> api::ContainerStatus {
    api::ContainerStatus {
        restart_count: i32::try_from(restart_count(before)).unwrap_or(i32::MAX),
        image_id: before.image_ref.clone(),
        last_state: Some(terminated_state(terminated(before))),
        state: Some(waiting(scene, wanted).unwrap_or_else(|| default_waiting(scene))),
        ..blank(wanted)
    }
}

/// A container that was removed so that all begin again.
fn removed(wanted: Wanted<'_>, previous: &api::ContainerStatus) -> api::ContainerStatus {
    let waiting = api::ContainerState { waiting: Some(restart_all::waiting()), ..Default::default() };
    api::ContainerStatus {
        restart_count: previous.restart_count + 1,
        last_state: Some(terminated_state(restart_all::removed())),
        state: Some(waiting),
        ..blank(wanted)
    }
}

/// The status of a container that the runtime holds.
fn shown(
    scene: &Scene<'_>,
    stop: Option<&Stop>,
    wanted: Wanted<'_>,
    container: &ObservedContainer,
    previous: Option<&api::ContainerStatus>,
    out: &mut Out,
) -> api::ContainerStatus {
    let begins = matches!(container.state, ContainerState::Running { .. }) && hook_is_due(scene, wanted, container);
    if let Some(before) = previous.filter(|before| begins && has_ended_once(before)) {
        return before.clone();
    }
    let mut status = blank(wanted);
    status.restart_count = i32::try_from(restart_count(container)).unwrap_or(i32::MAX);
    status.container_id = Some(container_id(container));
    if !container.image.is_empty() {
        status.image = container.image.clone();
    }
    status.image_id = container.image_ref.clone();
    resources(scene, wanted, container, &mut status);
    status.user = container.user.as_ref().map(|(uid, gid, groups)| api::ContainerUser {
        linux: Some(api::LinuxContainerUser {
            uid: *uid,
            gid: *gid,
            supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
        }),
    });
    status.last_state = last_state(scene, container, &status, previous);
    match &container.state {
        ContainerState::Running { .. } if begins => status.state = Some(default_waiting(scene)),
        ContainerState::Running { started_at } => {
            let running = api::ContainerStateRunning { started_at: Some(Time(whole_seconds(*started_at))) };
            status.state = Some(api::ContainerState { running: Some(running), ..Default::default() });
            let started = is_started(scene, wanted, container);
            match wanted.kind {
                // Nobody waits for one of these: it is neither started nor ready.
                ContainerKind::Ephemeral => {}
                ContainerKind::Init => status.started = Some(started),
                ContainerKind::Sidecar | ContainerKind::Regular => {
                    status.started = Some(started);
                    status.ready = started && is_ready(scene, wanted, container);
                }
            }
        }
        ContainerState::Exited { exit_code, .. } => {
            let state = terminated_state(terminated(container));
            status.ready = wanted.kind == ContainerKind::Init && *exit_code == 0;
            match restart_wait(scene, stop, wanted, container, *exit_code, out) {
                Some(waits) => {
                    status.last_state = Some(state);
                    status.state = Some(waits);
                    status.ready = false;
                }
                None => match previous.filter(|shown| begins_unnoticed(scene, stop, wanted, container, shown)) {
                    Some(running) => return running.clone(),
                    None => status.state = Some(state),
                },
            }
        }
        ContainerState::Created => {
            status.container_id = previous.and_then(|previous| previous.container_id.clone());
            status.state = Some(waiting(scene, wanted).unwrap_or_else(|| default_waiting(scene)));
        }
        ContainerState::Unknown => {
            status.state = Some(terminated_state(lost("terminated", "")));
        }
    }
    status
}

/// It was stopped to start anew, and nothing keeps it: as the kubelet, which does both in one go, the end is shown as the
/// last state of the next run. The API server would forbid to show one that its policy does not start again.
fn begins_unnoticed(
    scene: &Scene<'_>,
    stop: Option<&Stop>,
    wanted: Wanted<'_>,
    container: &ObservedContainer,
    shown: &api::ContainerStatus,
) -> bool {
    let ContainerState::Exited { exit_code, .. } = container.state else { return false };
    let ran = shown.container_id.as_deref() == Some(&container_id(container))
        && shown.state.as_ref().is_some_and(|state| state.running.is_some());
    let stays = scene.sandbox().is_some_and(|sandbox| sandbox.ready && sandbox.id == container.sandbox);
    stop.is_none()
        && ran
        && scene.memory.renewed.contains(&container.id)
        && (stays || !containers::should_restart(scene.pod, wanted, exit_code))
}

/// Does it show how the container ended before? Such a status stays until the postStart hook of the next run is over.
fn has_ended_once(shown: &api::ContainerStatus) -> bool {
    let states = [&shown.state, &shown.last_state];
    let runs = shown.state.as_ref().is_some_and(|state| state.running.is_some());
    !runs && states.into_iter().flatten().any(|state| state.terminated.is_some())
}

/// Its postStart hook runs, or will once the start that is under way is known to be over.
pub(crate) fn hook_is_due(scene: &Scene<'_>, wanted: Wanted<'_>, container: &ObservedContainer) -> bool {
    let has_hook = wanted.spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    let starts = scene.memory.running.contains(&StepKey::Start(container.name.clone()));
    scene.memory.hooks.contains(&container.id) || (has_hook && starts)
}

fn container_id(container: &ObservedContainer) -> String {
    format!("containerd://{}", container.id)
}

/// Has the startup probe, if there is one, succeeded?
pub(crate) fn is_started(scene: &Scene<'_>, wanted: Wanted<'_>, container: &ObservedContainer) -> bool {
    wanted.spec.startup_probe.is_none() || scene.memory.probes.get(&container.id).is_some_and(|view| view.started)
}

fn is_ready(scene: &Scene<'_>, wanted: Wanted<'_>, container: &ObservedContainer) -> bool {
    wanted.spec.readiness_probe.is_none() || scene.memory.probes.get(&container.id).is_some_and(|view| view.ready)
}

fn some(list: Option<&List>) -> Option<List> {
    list.filter(|list| !list.is_empty()).cloned()
}

/// What a container is granted, and what its cgroup has: without limits of its own it runs under the pod's, and without
/// a CPU request its weight is that of the limit (`convertToAPIContainerStatuses`).
fn resources(scene: &Scene<'_>, wanted: Wanted<'_>, container: &ObservedContainer, status: &mut api::ContainerStatus) {
    let Some(granted) = &wanted.spec.resources else { return };
    status.allocated_resources = some(granted.requests.as_ref());
    let running = matches!(container.state, ContainerState::Running { .. });
    let actual = scene.memory.resources.get(&container.id).filter(|_| running).unwrap_or(granted);
    let (mut limits, mut requests) = (some(actual.limits.as_ref()), some(actual.requests.as_ref()));
    if limits.is_none() && requests.is_none() {
        return;
    }
    let pod_limits = scene.pod.spec().resources.as_ref().and_then(|resources| resources.limits.as_ref());
    for name in ["cpu", "memory"] {
        let Some(limit) = pod_limits.and_then(|list| list.get(name)) else { continue };
        limits.get_or_insert_default().entry(name.to_owned()).or_insert_with(|| limit.clone());
    }
    if let Some(limit) = pod_limits.and(limits.as_ref()).and_then(|list| list.get("cpu")) {
        requests.get_or_insert_default().entry("cpu".to_owned()).or_insert_with(|| limit.clone());
    }
    status.resources = Some(api::ResourceRequirements { limits, requests, claims: None });
}

/// What the pod as a whole is granted, and what its cgroup has once it runs (`convertToAPIPodLevelResourcesStatus`): CPU
/// and memory, limits only where every container has one. A memory request is in no cgroup: the one shown first stays.
fn pod_resources(scene: &Scene<'_>, running: bool, status: &mut api::PodStatus) {
    let spec = scene.pod.spec();
    // A static pod's may be unreadable: then it has no cgroup either.
    let (Ok(requests), Ok(limits)) = (pod_requests(spec, true), pod_limits(spec, true)) else { return };
    let (mut requests, mut limits) = (quantities(&requests, spec), quantities(&limits, spec));
    status.allocated_resources = some(Some(&requests));
    let own = spec.resources.clone().unwrap_or_default();
    if running {
        let of_pod = |list: &Option<List>, name: &str| list.as_ref().is_some_and(|list| list.contains_key(name));
        requests.retain(|name, _| matches!(name.as_str(), "cpu" | "memory") || of_pod(&own.requests, name));
        limits.retain(|name, _| match name.as_str() {
            "cpu" | "memory" => all_limited(spec, name),
            _ => of_pod(&own.limits, name),
        });
        let before = scene.memory.status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let ran = scene.memory.status.phase.as_deref() == Some("Running");
        if let Some(shown) = before.and_then(|list| list.get("memory")).filter(|_| ran) {
            requests.entry("memory".to_owned()).and_modify(|request| request.clone_from(shown));
        }
    }
    let shown =
        api::ResourceRequirements { limits: some(Some(&limits)), requests: some(Some(&requests)), claims: None };
    status.resources = Some(shown).filter(|shown| *shown != api::ResourceRequirements::default());
}

/// How the instance before this one ended.
fn last_state(
    scene: &Scene<'_>,
    container: &ObservedContainer,
    status: &api::ContainerStatus,
    previous: Option<&api::ContainerStatus>,
) -> Option<api::ContainerState> {
    let older = scene.seen.containers.iter().find(|other| {
        other.name == container.name
            && other.id != container.id
            && matches!(other.state, ContainerState::Exited { .. })
            && restart_count(other) < restart_count(container)
    });
    if let Some(older) = older {
        return Some(terminated_state(terminated(older)));
    }
    let previous = previous?;
    if previous.restart_count == status.restart_count {
        let own = previous.last_state.as_ref()?.terminated.as_ref()?;
        let is_self = own.container_id.as_deref() == Some(&container_id(container));
        return (!is_self).then(|| previous.last_state.clone())?;
    }
    let ended = previous.state.as_ref().filter(|state| state.terminated.is_some());
    match ended {
        Some(state) => Some(state.clone()),
        None if previous.state.as_ref().is_some_and(|state| state.running.is_some()) => {
            Some(terminated_state(lost("deleted", " The container used to be Running")))
        }
        None => previous.last_state.clone(),
    }
}

fn terminated(container: &ObservedContainer) -> api::ContainerStateTerminated {
    let ContainerState::Exited { started_at, finished_at, exit_code, reason, message } = &container.state else {
        return lost("terminated", "");
    };
    let word = match (reason.as_str(), exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    api::ContainerStateTerminated {
        exit_code: *exit_code,
        reason: Some(word.to_owned()),
        message: (!message.is_empty()).then(|| message.clone()),
        started_at: Some(Time(whole_seconds(*started_at))),
        finished_at: Some(Time(whole_seconds(*finished_at))),
        container_id: Some(container_id(container)),
        signal: None,
    }
}

/// The end of a container that nobody saw (`ContainerStatusUnknown`).
fn lost(when: &str, more: &str) -> api::ContainerStateTerminated {
    let stop = if more.is_empty() { "" } else { "." };
    api::ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some(
            format!("The container could not be located when the pod was {when}{stop} {more}")
                .trim_end()
                .replace(".  ", ". "),
        ),
        ..Default::default()
    }
}

fn terminated_state(terminated: api::ContainerStateTerminated) -> api::ContainerState {
    api::ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn waiting_state(reason: &str, message: String) -> api::ContainerState {
    let message = (!message.is_empty()).then_some(message);
    let waiting = api::ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    api::ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn default_waiting(scene: &Scene<'_>) -> api::ContainerState {
    let initializing = scene.pod.init_containers().next().is_some();
    waiting_state(if initializing { "PodInitializing" } else { "ContainerCreating" }, String::new())
}

/// What keeps a container from starting.
fn waiting(scene: &Scene<'_>, wanted: Wanted<'_>) -> Option<api::ContainerState> {
    if let Some((image, ImageState::Failed { reason, retry, since })) = missing_image(scene, wanted) {
        let backs_off = *reason == "ErrImagePull" && scene.now.mono >= *since + PULL_ERROR_SHOWN;
        if backs_off {
            let message = format!("Back-off pulling image {image:?}: ErrImagePull: {}", retry.message);
            return Some(waiting_state("ImagePullBackOff", message));
        }
        return Some(waiting_state(reason, retry.message.clone()));
    }
    let error = scene.memory.start_errors.get(&wanted.name())?;
    Some(waiting_state(error.reason, error.retry.message.clone()))
}

/// The image that a container waits for: one that it mounts, or its own.
fn missing_image<'a>(scene: &Scene<'a>, wanted: Wanted<'a>) -> Option<(&'a str, &'a ImageState)> {
    let mut mounted = containers::image_volumes(scene.pod, wanted);
    let failed = |state: &&ImageState| matches!(state, ImageState::Failed { .. });
    let of_volume =
        mounted.find_map(|(volume, image)| Some((image, scene.memory.volume_images.get(volume).filter(failed)?)));
    let own = scene.memory.images.get(&wanted.name()).filter(failed);
    of_volume.or_else(|| Some((wanted.spec.image.as_deref().unwrap_or_default(), own?)))
}

/// Says once of each back-off that a pull waits (`image_manager.go`, `imageNotReady`).
fn tell_pull_back_off(scene: &Scene<'_>, status: &api::PodStatus, out: &mut Out) {
    let backs_off = |status: &api::PodStatus, name: &str| {
        let waiting = previous(status, name).and_then(|status| status.state.as_ref()?.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("ImagePullBackOff"))
    };
    for wanted in scene.pod.all_containers().chain(scene.pod.ephemeral_containers()) {
        let name = &wanted.spec.name;
        if !backs_off(status, name) || backs_off(&scene.memory.status, name) {
            continue;
        }
        let image = missing_image(scene, wanted).map_or(wanted.image(), |(image, _)| image);
        // An image volume belongs to the pod.
        let container = (image == wanted.image()).then(|| wanted.name());
        let mut say = |container, warning, reason, message| {
            out.events.push(PodEvent { container, warning, reason, message });
        };
        say(container, false, "BackOff", format!("Back-off pulling image {image:?}"));
        say(Some(wanted.name()), true, "Failed", "Error: ImagePullBackOff".to_owned());
    }
}

/// What a container that ended, and is to start again, waits for; `None` while nothing holds it.
fn restart_wait(
    scene: &Scene<'_>,
    stop: Option<&Stop>,
    wanted: Wanted<'_>,
    container: &ObservedContainer,
    exit_code: i32,
    out: &mut Out,
) -> Option<api::ContainerState> {
    let shown = previous(&scene.memory.status, container.name.as_str());
    if let Some(stop) = stop {
        // One that waited for its next run goes on to show so where nobody deletes the pod (`ShouldContainerBeRestarted`),
        // and as lost in the end.
        let state =
            shown.filter(|shown| shown.container_id.as_deref() == Some(&container_id(container)))?.state.as_ref();
        let waits =
            state.filter(|state| state.waiting.is_some() || **state == terminated_state(lost("terminated", "")));
        return waits.filter(|_| matches!(stop.cause, StopCause::Deadline | StopCause::Removed)).cloned();
    }
    let succeeded_init = wanted.kind == ContainerKind::Init && exit_code == 0;
    let restarts_all = restart_all::is_asked(wanted, exit_code);
    if succeeded_init || restarts_all || containers::has_ended_for_good(scene, wanted, container) {
        return None;
    }
    let Due::At { delay, .. } = backoff::restart_due(scene, container) else {
        // What it has waited for shows until it runs.
        let waited = shown.filter(|shown| shown.container_id.as_deref() == Some(&container_id(container)));
        let waited = waited.and_then(|shown| shown.state.clone()).filter(|state| state.waiting.is_some());
        return waiting(scene, wanted).or(waited.filter(|state| *state != default_waiting(scene)));
    };
    let (name, pod) = (&container.name, scene.pod.full_name());
    let before = shown.and_then(|status| status.state.as_ref()?.waiting.as_ref());
    if before.is_none_or(|waiting| waiting.reason.as_deref() != Some("CrashLoopBackOff")) {
        let message = format!("Back-off restarting failed container {name} in pod {pod}");
        out.events.push(PodEvent { container: Some(name.clone()), warning: true, reason: "BackOff", message });
    }
    let delay = super::go_duration(delay);
    Some(waiting_state("CrashLoopBackOff", format!("back-off {delay} restarting failed container={name} pod={pod}")))
}

#[derive(Default)]
struct Tally {
    pending_init: usize,
    /// Sidecars that do not run yet: of no matter once the pod has got beyond them.
    pending_sidecars: usize,
    /// Init containers that failed for good.
    failed_init: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

/// The phase (`kubelet_pods.go` `getPhase`).
fn phase(scene: &Scene<'_>, status: &api::PodStatus, ended: bool) -> &'static str {
    let tally = tally(scene, status);
    if tally.failed_init > 0 {
        return "Failed";
    }
    let starts = tally.pending_sidecars > 0 && !conditions::regular_started(status);
    if tally.pending_init > 0 || starts || tally.waiting > 0 {
        return "Pending";
    }
    if tally.running > 0 {
        return "Running";
    }
    if tally.stopped == 0 {
        return "Pending";
    }
    let all_succeeded = tally.stopped == tally.succeeded;
    // As upstream: a static pod that nobody wants any more does not fail, its mirror only goes.
    let over = (ended && !is_withdrawn(scene)) || containers::finished(scene);
    match (over, all_succeeded) {
        (false, _) => "Running",
        (true, true) => "Succeeded",
        (true, false) => "Failed",
    }
}

fn tally(scene: &Scene<'_>, status: &api::PodStatus) -> Tally {
    let mut tally = Tally::default();
    for wanted in scene.pod.all_containers() {
        let Some(shown) = previous(status, &wanted.spec.name) else { continue };
        let state = shown.state.as_ref();
        let running = state.is_some_and(|state| state.running.is_some());
        let ended = state.and_then(|state| state.terminated.as_ref());
        let ran_before = shown.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        match wanted.kind {
            ContainerKind::Init => match ended {
                Some(end) if end.exit_code == 0 => {}
                Some(end) => {
                    let retried = containers::should_restart(scene.pod, wanted, end.exit_code);
                    tally.pending_init += usize::from(retried);
                    tally.failed_init += usize::from(!retried);
                }
                // Removed so that all begin again: the pod is where it was.
                None if restart_all::is_removed(shown) => {}
                None => tally.pending_init += 1,
            },
            ContainerKind::Sidecar if running => {
                tally.running += 1;
                tally.pending_sidecars += usize::from(shown.started != Some(true));
            }
            ContainerKind::Sidecar => tally.pending_sidecars += usize::from(ended.is_none() && !ran_before),
            // They come and go without a word in the pod's phase.
            ContainerKind::Ephemeral => {}
            ContainerKind::Regular if running => tally.running += 1,
            ContainerKind::Regular => match ended {
                Some(end) => {
                    tally.stopped += 1;
                    tally.succeeded += usize::from(end.exit_code == 0);
                }
                None if ran_before => tally.stopped += 1,
                None => tally.waiting += 1,
            },
        }
    }
    tally
}

/// A terminal phase stays, and shows only once nothing can run any more (`mergePodStatus`).
fn shown_phase(scene: &Scene<'_>, phase: &'static str, stop: Option<&Stop>, ended: bool) -> &'static str {
    let before = scene.memory.status.phase.as_deref();
    match (before, phase) {
        (Some("Succeeded"), _) => "Succeeded",
        (Some("Failed"), _) => "Failed",
        _ if ended && is_withdrawn(scene) => phase,
        _ if ended => end_phase(phase, stop),
        (Some("Running"), "Succeeded" | "Failed") => "Running",
        (_, "Succeeded" | "Failed") => "Pending",
        _ => phase,
    }
}

/// Is it a static pod without a manifest?
fn is_withdrawn(scene: &Scene<'_>) -> bool {
    scene.pod.is_static && scene.pod.gone
}

/// A pod that stops ends Succeeded or Failed, whatever it was.
fn end_phase(phase: &'static str, stop: Option<&Stop>) -> &'static str {
    match (phase, stop.map(|stop| stop.cause)) {
        ("Succeeded", Some(StopCause::Deadline | StopCause::Removed)) => "Failed",
        ("Succeeded", _) => "Succeeded",
        _ => "Failed",
    }
}

/// Containers that do not show how they ended, in a pod that has (`status_manager.go` `TerminatePod`): all where the pod
/// got beyond its init containers, and of those the ones that were begun, the first one in any case.
fn mark_unknown(stop: Option<&Stop>, status: &mut api::PodStatus) {
    let begun = |shown: &api::ContainerStatus| {
        let waits = shown.state.as_ref().is_some_and(|state| state.waiting.is_some());
        !waits || shown.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    };
    let init = status.init_container_statuses.as_mut();
    let last = init.as_ref().and_then(|list| list.iter().rposition(begun)).unwrap_or_default();
    let init = init.into_iter().flatten().take(last + 1);
    let initialized = stop.is_none_or(|stop| stop.initialized);
    let regular = status.container_statuses.iter_mut().flatten().filter(|_| initialized);
    for shown in init.chain(regular) {
        if shown.state.as_ref().is_none_or(|state| state.terminated.is_none()) {
            shown.state = Some(terminated_state(lost("terminated", "")));
        }
    }
}

/// Judged by what was shown before the end (`hasPodInitialized`).
pub(crate) fn had_initialized(scene: &Scene<'_>) -> bool {
    let Some(last) = scene.pod.init_containers().next_back() else { return true };
    let before = &scene.memory.status;
    let ended = |state: Option<&api::ContainerState>| {
        state.and_then(|state| state.terminated.as_ref()).is_some_and(|end| end.exit_code == 0)
    };
    let moved = before.container_statuses.iter().flatten().any(|status| {
        let ran = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        ran || status.state.as_ref().is_some_and(|state| state.waiting.is_none())
    });
    let last_done = previous(before, &last.spec.name).is_some_and(|status| match last.kind {
        ContainerKind::Sidecar => {
            status.started == Some(true) && status.state.as_ref().is_some_and(|state| state.running.is_some())
        }
        ContainerKind::Init | ContainerKind::Regular | ContainerKind::Ephemeral => {
            ended(status.state.as_ref()) || ended(status.last_state.as_ref())
        }
    });
    moved || last_done
}
