//! What the runtime shows of one pod: a snapshot or an error, never a guess.

use crate::ids::{ContainerId, ContainerName, PodKey, PodUid, SandboxId};
use jiff::Timestamp;
use std::net::IpAddr;

/// All sandboxes and containers that the runtime holds for one pod UID.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    /// Newest attempt first.
    pub sandboxes: Vec<ObservedSandbox>,
    /// Newest attempt first within each name.
    pub containers: Vec<ObservedContainer>,
}

/// Identity of a pod as the `io.kubernetes.pod.*` labels of its sandbox say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePod {
    pub uid: PodUid,
    pub key: PodKey,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedSandbox {
    pub id: SandboxId,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    /// Primary first; empty with host network or before CNI has answered.
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    pub id: ContainerId,
    pub name: ContainerName,
    pub sandbox: SandboxId,
    pub attempt: u32,
    pub state: ContainerState,
    pub created_at: Timestamp,
    /// The image as the spec named it, and the id that runs (`imageID` of the status).
    pub image: String,
    pub image_ref: String,
    /// Annotations as the kubelet writes them: `io.kubernetes.container.hash`, `.restartCount`,
    /// `.terminationMessagePath`, `.terminationMessagePolicy`, `io.kubernetes.pod.terminationGracePeriod`.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Host path of the CRI log file.
    pub log_path: String,
    /// uid, gid, supplemental groups of the first process, where the runtime tells.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    Created,
    Running { started_at: Timestamp },
    Exited { started_at: Timestamp, finished_at: Timestamp, exit_code: i32, reason: String, message: String },
    Unknown,
}
