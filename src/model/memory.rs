//! What a worker remembers of its pod between passes. Losing it costs time, never correctness.

use crate::ids::{ContainerId, ContainerName, SandboxId};
use crate::model::eviction::Removal;
use crate::model::step::StepKey;
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// One pod's memory. `learn` (in `decide`) keeps it current with what is seen; the worker adds outcomes of steps.
#[derive(Clone, Debug, Default)]
pub struct PodMemory {
    /// The status decided last; at start the one the API server had. Transition times, start time and readiness of
    /// containers adopted from an earlier run are kept from it.
    pub status: PodStatus,
    /// Refused by the node: no container of it ever starts.
    pub rejected: Option<Rejection>,
    /// It has to leave the node: why, and how.
    pub removal: Option<Removal>,
    /// Once a pod has to stop it never starts anything again.
    pub stop: Option<Stop>,
    /// Steps that run now.
    pub running: BTreeSet<StepKey>,
    pub volumes: VolumesState,
    pub sandbox_retry: Option<Retry>,
    /// A sandbox could not be stopped.
    pub stop_retry: Option<Retry>,
    /// Sandboxes that `StopSandbox` has succeeded on.
    pub stopped_sandboxes: BTreeSet<SandboxId>,
    pub images: BTreeMap<ContainerName, ImageState>,
    pub start_errors: BTreeMap<ContainerName, StartError>,
    /// Restart count at which a container's crash backoff began anew.
    pub backoff_base: BTreeMap<ContainerName, u32>,
    /// When this agent first saw the end of a container: waits run on the monotonic clock.
    pub ended: BTreeMap<ContainerId, Instant>,
    /// Kills under way, and when each is over.
    pub kills: BTreeMap<ContainerId, Instant>,
    /// Containers whose preStop hooks are over: their signal is left, when it is their turn.
    pub pre_stopped: BTreeSet<ContainerId>,
    /// Containers that were stopped so that they start anew, however they end.
    pub renewed: BTreeSet<ContainerId>,
    /// What probes have shown, by container instance.
    pub probes: BTreeMap<ContainerId, ProbeView>,
    /// Containers that were started and whose postStart hook has not ended.
    pub hooks: BTreeSet<ContainerId>,
    /// What containers that run were given, at their start or by a resize since.
    pub resources: BTreeMap<ContainerId, ResourceRequirements>,
    /// A resize that was granted and has not reached everything yet.
    pub resize: Option<Resize>,
    /// Images of the pod's image volumes, by volume.
    pub volume_images: BTreeMap<String, ImageState>,
    /// Volumes and cgroups of the stopped pod are removed.
    pub cleaned: bool,
    pub cleanup_retry: Option<Retry>,
    /// The terminal status is published and, where asked for, the object deleted.
    pub confirmed: bool,
}

/// A resize under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resize {
    /// The generation of the pod that asks for it.
    pub generation: Option<i64>,
    /// The pod's cgroup has what is granted.
    pub pod_done: bool,
    pub error: Option<Retry>,
}

/// Why the node refused a pod: `reason` and `message` of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Cow<'static, str>,
    /// As the event says it; the status prefixes `Pod was rejected: `.
    pub message: String,
}

/// Why and how a pod stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub cause: StopCause,
    pub grace: Duration,
    /// When the grace began.
    pub since: Instant,
    /// Whether its init phase was over by then: what its init containers do while they are stopped does not count.
    pub initialized: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// `metadata.deletionTimestamp` is set.
    Deleted,
    /// The object does not exist any more.
    Gone,
    /// `activeDeadlineSeconds` is over.
    Deadline,
    /// The node takes its room back (`PodMemory::removal`).
    Removed,
    /// All its containers ended and none starts again.
    Finished,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VolumesState {
    #[default]
    Unplaced,
    Placed,
    Failed(Retry),
}

/// Something failed and is tried again at `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    pub message: String,
    pub failures: u32,
    pub at: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    Present {
        reference: String,
    },
    /// `reason` is a waiting reason (`ErrImagePull`, `ErrImageNeverPull`, …); `since` is when it failed.
    Failed {
        reason: &'static str,
        retry: Retry,
        since: Instant,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    pub reason: &'static str,
    pub retry: Retry,
}

/// What probes say of one container instance; without a probe of a kind its field stays as made by `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeView {
    pub started: bool,
    pub ready: bool,
    /// Liveness or startup failed for good: kill with this event message and grace.
    pub failed: Option<ProbeFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// `liveness` or `startup`.
    pub probe: &'static str,
    pub grace: Option<Duration>,
}
