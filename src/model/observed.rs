//! What the runtime shows of one pod: a snapshot or an error, never a guess.

use crate::ids::{ContainerId, ContainerName, PodKey, PodUid, SandboxId};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// All sandboxes and containers that the runtime holds for one pod UID.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    /// Newest attempt first.
    pub sandboxes: Vec<ObservedSandbox>,
    /// Newest attempt first within each name.
    pub containers: Vec<ObservedContainer>,
}

/// A pod as two lists of the whole runtime tell it: who it is (`io.kubernetes.pod.*` labels), and its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePod {
    pub uid: PodUid,
    pub key: PodKey,
    pub shape: Shape,
    /// Images of its containers, dead ones too, as they name them.
    pub images: BTreeSet<String>,
}

/// Which sandboxes and containers there are, by id, and how each is: two looks with one shape have seen the same.
pub type Shape = BTreeMap<String, PartState>;

/// How a sandbox or a container is, without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartState {
    Ready,
    NotReady,
    Created,
    Running,
    Exited,
    Unknown,
}

impl ObservedPod {
    /// Whether a sandbox or a container has this id.
    pub fn holds(&self, id: &str) -> bool {
        let mut ids = self.sandboxes.iter().map(|s| s.id.as_str()).chain(self.containers.iter().map(|c| c.id.as_str()));
        ids.any(|held| held == id)
    }

    /// Whether it is a ready sandbox or a running container.
    pub fn runs(&self, id: &str) -> bool {
        self.sandboxes.iter().any(|sandbox| sandbox.ready && sandbox.id.as_str() == id)
            || self.containers.iter().any(|container| {
                matches!(container.state, ContainerState::Running { .. }) && container.id.as_str() == id
            })
    }

    pub fn shape(&self) -> Shape {
        let sandboxes = self.sandboxes.iter().map(|sandbox| {
            let state = if sandbox.ready { PartState::Ready } else { PartState::NotReady };
            (sandbox.id.to_string(), state)
        });
        let containers = self.containers.iter().map(|container| (container.id.to_string(), container.state.part()));
        sandboxes.chain(containers).collect()
    }
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
    /// Host path of the file that is mounted as its `terminationMessagePath`, whoever chose its name.
    pub termination_log: Option<PathBuf>,
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

impl ContainerState {
    /// Whether nothing of a status can change while its container stays in this state. A killed container's reason may
    /// still turn from Error to OOMKilled: the runtime hears of the two in either order.
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Running { .. } => true,
            Self::Exited { exit_code, reason, .. } => *exit_code != 137 || reason == "OOMKilled",
            Self::Created | Self::Unknown => false,
        }
    }

    fn part(&self) -> PartState {
        match self {
            Self::Created => PartState::Created,
            Self::Running { .. } => PartState::Running,
            Self::Exited { .. } if self.is_settled() => PartState::Exited,
            // No list shows it so: it is looked at again.
            Self::Exited { .. } | Self::Unknown => PartState::Unknown,
        }
    }
}
