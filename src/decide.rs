//! All pod semantics, pure: from what is wanted, seen and remembered to what to do and to say.
//!
//! | part | decides |
//! |---|---|
//! | `sandbox` | keep or replace the sandbox; its host name and user namespace |
//! | `dns` | a pod's resolv.conf |
//! | `init` | which init container or sidecar is next |
//! | `containers` | start, restart and kill of containers; restart policies |
//! | `backoff` | when a container that ended may start again |
//! | `restart_all` | removes all containers where an exit asks for it |
//! | `terminate` | why a pod stops, and how |
//! | `status`, `conditions` | what the API shows |
//! | `admit` | whether the node takes the pod at all |
//! | `cpus`, `numa_memory`, `topology` | which containers own CPUs and memory, and from which NUMA nodes |
//! | `env`, `env_file` | environment, `$(VAR)` in command and args |
//! | `sysctl` | which sysctls a pod may set |
//! | `requests` | what a pod asks of the node |
//! | `resize` | other resources for containers that run |
//! | `static_pod` | pods from files, and the mirrors that show them |
//! | `probes` | when a failing probe begins to count |
//! | `devices` | which devices of plugins a container gets, and what the node has of them |
//! | `evict` | which pods give way when the node runs short |
//! | `preempt` | which pods make room for one that the node must have |
//! | `image_gc` | which images go |
//! | `shutdown` | in which order pods end when the machine does |
//! | `gc` | which dead containers and sandboxes go |
//! | `patch` | the strategic merge patch of the status fields that the agent owns |

use crate::clock::Now;
use crate::ids::{ContainerId, SandboxId};
use crate::model::memory::PodMemory;
use crate::model::observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};
use crate::model::pod::{DesiredPod, container_hash};
use crate::model::step::{Plan, PodEvent, Stage, Step};
use std::time::Duration;
use tokio::time::Instant;

pub mod admit;
pub mod backoff;
pub mod conditions;
pub mod containers;
pub mod cpus;
pub mod devices;
pub mod dns;
pub mod env;
mod env_file;
pub mod evict;
pub mod gc;
pub mod image_gc;
pub mod init;
pub mod numa_memory;
pub mod patch;
pub mod preempt;
pub mod probes;
pub mod requests;
pub mod resize;
mod restart_all;
pub mod sandbox;
pub mod shutdown;
pub mod static_pod;
pub mod status;
mod sysctl;
pub mod terminate;
pub mod topology;

/// Restart count of a container, annotated as the kubelet does.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Hash of the container's spec, annotated as the kubelet does.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";

/// Everything a decision may look at.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    pub pod: &'a DesiredPod,
    pub seen: &'a ObservedPod,
    pub memory: &'a PodMemory,
    pub now: Now,
    pub node_ips: &'a [std::net::IpAddr],
    /// How long containers that end again and again wait.
    pub delays: backoff::Delays,
}

/// What parts of the decision add to.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) steps: Vec<Step>,
    pub(crate) events: Vec<PodEvent>,
    pub(crate) wake: Option<Instant>,
    /// The resize under way has reached everything.
    pub(crate) resized: bool,
}

/// Decides the next pass of one pod.
pub fn plan(scene: Scene<'_>) -> Plan {
    let mut out = Out::default();
    let stop = terminate::stop(&scene, &mut out);
    let stage = match &stop {
        None => {
            containers::sync(&scene, &mut out);
            Stage::Sync
        }
        Some(stop) => terminate::steps(&scene, stop, &mut out),
    };
    if stage <= Stage::Clean {
        gc::steps(&scene, &mut out);
    }
    out.steps.retain(|step| !scene.memory.running.contains(&step.key()) || terminate::is_sharper_kill(&scene, step));
    let status = status::make(&scene, stop.as_ref(), stage, &mut out);
    Plan { stop, steps: out.steps, events: out.events, status, resized: out.resized, wake: out.wake, stage }
}

/// Brings the memory up to what is seen; called before each `plan`.
pub fn learn(memory: &mut PodMemory, pod: &DesiredPod, seen: &ObservedPod, now: Now) {
    for container in &seen.containers {
        let ContainerState::Exited { started_at, finished_at, .. } = &container.state else { continue };
        memory.ended.entry(container.id.clone()).or_insert(now.mono);
        // A container that never started has its start in 1970.
        let ran = started_at.as_second() > 0;
        let long = ran && finished_at.duration_since(*started_at).as_secs() >= backoff::RESET_AFTER_SECONDS;
        let changed = pod.container(container.name.as_str()).is_some_and(|wanted| {
            container.annotations.get(CONTAINER_HASH).is_some_and(|hash| *hash != container_hash(wanted.spec))
        });
        let newest = seen.containers.iter().find(|other| other.name == container.name);
        if (long || changed) && newest.is_some_and(|newest| newest.id == container.id) {
            memory.backoff_base.insert(container.name.clone(), restart_count(container));
        }
    }
    let alive = |id: &ContainerId| {
        seen.containers.iter().any(|c| c.id == *id && !matches!(c.state, ContainerState::Exited { .. }))
    };
    memory.kills.retain(|id, _| alive(id));
    memory.probes.retain(|id, _| alive(id));
    memory.hooks.retain(alive);
    memory.pre_stopped.retain(alive);
    memory.renewed.retain(|id| seen.containers.iter().any(|c| c.id == *id));
    for container in seen.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. })) {
        // Started by an earlier run of the agent: the status tells what it was given.
        if !memory.resources.contains_key(&container.id) {
            let given = resize::given(memory, pod, container);
            memory.resources.insert(container.id.clone(), given);
        }
    }
    memory.resources.retain(|id, _| alive(id));
    memory.ended.retain(|id, _| seen.containers.iter().any(|c| c.id == *id));
    memory.stopped_sandboxes.retain(|id| seen.sandboxes.iter().any(|s| s.id == *id));
}

/// The restart count that a container carries in its annotations.
pub(crate) fn restart_count(container: &ObservedContainer) -> u32 {
    container.annotations.get(RESTART_COUNT).and_then(|text| text.parse().ok()).unwrap_or(container.attempt)
}

impl<'a> Scene<'a> {
    /// The newest sandbox.
    pub(crate) fn sandbox(&self) -> Option<&'a ObservedSandbox> {
        self.seen.sandboxes.first()
    }

    /// The newest container of that name, in any sandbox.
    pub(crate) fn newest(&self, name: &str) -> Option<&'a ObservedContainer> {
        self.seen.containers.iter().find(|container| container.name.as_str() == name)
    }

    /// The newest container of that name in that sandbox.
    pub(crate) fn newest_in(&self, sandbox: &SandboxId, name: &str) -> Option<&'a ObservedContainer> {
        self.seen.containers.iter().find(|c| c.name.as_str() == name && c.sandbox == *sandbox)
    }

    pub(crate) fn alive(&self) -> impl Iterator<Item = &'a ObservedContainer> {
        self.seen.containers.iter().filter(|container| is_alive(container))
    }

    /// The start time that the API shows, or now.
    pub(crate) fn start_time(&self) -> jiff::Timestamp {
        self.memory.status.start_time.as_ref().map_or(self.now.wall, |time| time.0)
    }
}

/// Has, or may have, a process.
pub(crate) fn is_alive(container: &ObservedContainer) -> bool {
    match container.state {
        ContainerState::Running { .. } | ContainerState::Unknown => true,
        ContainerState::Created | ContainerState::Exited { .. } => false,
    }
}

impl Out {
    /// Look again at `at`, if nothing happens before.
    pub(crate) fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// A duration as Go prints it, to milliseconds: `10s`, `1m20s`, `5m0s`, `2.5s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = format!("{}.{:03}", seconds % 60, duration.subsec_millis());
    let rest = rest.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests;
