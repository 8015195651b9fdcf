//! What to do next for a pod. The executor makes no choices: all it needs is in the step.

use crate::ids::{ContainerId, ContainerName, SandboxId};
use k8s_openapi::api::core::v1::PodStatus;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

use crate::model::memory::Stop;

/// The outcome of one decision.
#[derive(Clone, Debug)]
pub struct Plan {
    pub stop: Option<Stop>,
    /// Independent of one another: all may run at once.
    pub steps: Vec<Step>,
    pub events: Vec<PodEvent>,
    pub status: PodStatus,
    /// The resize that was under way is complete.
    pub resized: bool,
    /// Look again then, even if nothing happens.
    pub wake: Option<Instant>,
    /// Where the worker stands.
    pub stage: Stage,
}

/// A worker's life, in order; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Containers are started and kept.
    Sync,
    /// Containers and sandboxes are being stopped.
    Terminating,
    /// Nothing runs; volumes and cgroups go.
    Terminated,
    /// Cleaned up; only a finished pod's dead containers remain, for their logs.
    Clean,
    /// Nothing is left to do, ever.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    PlaceVolumes,
    /// Make sure that the image of this container is on the node, by its pull policy.
    EnsureImage {
        container: ContainerName,
    },
    /// The same for the image of an image volume.
    EnsureVolumeImage {
        volume: String,
    },
    RunSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: SandboxId,
    },
    /// Removes its containers too.
    RemoveSandbox {
        id: SandboxId,
    },
    StartContainer(StartContainer),
    /// Tell that a container is to stop and run its preStop hook. Its signal comes later, when it is its turn.
    PreStop(StopContainer),
    StopContainer(StopContainer),
    RemoveContainer {
        id: ContainerId,
    },
    /// Give the pod's cgroup and these containers, which run, the resources that are granted now.
    Resize {
        containers: Vec<(ContainerName, ContainerId)>,
    },
    /// Unmount and remove the pod's volumes, then its cgroups.
    Cleanup,
    /// Publish the terminal status; then, if the pod is being deleted, DELETE it with grace 0.
    Confirm {
        delete: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartContainer {
    pub name: ContainerName,
    pub sandbox: SandboxId,
    pub sandbox_attempt: u32,
    /// Also its restart count.
    pub attempt: u32,
    pub image_ref: String,
    /// Images of the image volumes that it mounts, by volume.
    pub volume_images: BTreeMap<String, String>,
    pub ips: Vec<IpAddr>,
    /// Of an ephemeral container that names one: the container whose processes it is to see, if there is one.
    pub target: Option<ContainerId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopContainer {
    pub name: ContainerName,
    pub id: ContainerId,
    pub grace: Duration,
    /// The Killing event's message; `None` where it has been told.
    pub message: Option<String>,
    /// Not where the container never got beyond its start.
    pub pre_stop: bool,
    /// It is to start anew, however it ends.
    pub renews: bool,
}

/// What a running step excludes: no second one with its key starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKey {
    Volumes,
    Image(ContainerName),
    VolumeImage(String),
    Sandbox,
    StopSandbox(SandboxId),
    RemoveSandbox(SandboxId),
    Start(ContainerName),
    PostStart(ContainerId),
    PreStop(ContainerId),
    Stop(ContainerId),
    Remove(ContainerId),
    Resize,
    Cleanup,
    Confirm,
}

impl Step {
    pub fn key(&self) -> StepKey {
        match self {
            Self::PlaceVolumes => StepKey::Volumes,
            Self::EnsureImage { container } => StepKey::Image(container.clone()),
            Self::EnsureVolumeImage { volume } => StepKey::VolumeImage(volume.clone()),
            Self::RunSandbox { .. } => StepKey::Sandbox,
            Self::StopSandbox { id } => StepKey::StopSandbox(id.clone()),
            Self::RemoveSandbox { id } => StepKey::RemoveSandbox(id.clone()),
            Self::StartContainer(start) => StepKey::Start(start.name.clone()),
            Self::PreStop(stop) => StepKey::PreStop(stop.id.clone()),
            Self::StopContainer(stop) => StepKey::Stop(stop.id.clone()),
            Self::RemoveContainer { id } => StepKey::Remove(id.clone()),
            Self::Resize { .. } => StepKey::Resize,
            Self::Cleanup => StepKey::Cleanup,
            Self::Confirm { .. } => StepKey::Confirm,
        }
    }
}

/// An event to record on the pod, once per occurrence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    pub container: Option<ContainerName>,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}
