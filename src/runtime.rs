//! The container runtime as the agent needs it: trait, domain types in and out. `runtime/cri.rs` is the real one.

pub(crate) mod content;
pub mod cri;
mod events;
mod facts;
pub mod fake;
mod lost_task;
mod newer;
mod observe;
mod rpc;
pub mod translate;

use crate::ids::{ContainerId, PodKey, PodUid, SandboxId};
use crate::model::devices::Edits;
use crate::model::observed::{ObservedPod, RuntimePod};
use crate::model::topology::Pins;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a caller can branch on. The message is the runtime's own (it goes into events and statuses).
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime does not answer: nothing is known; retry.
    #[error("container runtime is down: {0}")]
    Unavailable(String),
    #[error("{call} did not answer within {after:?}")]
    Deadline { call: &'static str, after: Duration },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Unimplemented(String),
    /// Any other answer, worded `rpc error: code = X desc = Y` as grpc-go prints it, code kept apart.
    #[error("rpc error: code = {code} desc = {message}")]
    Rpc { code: &'static str, message: String },
}

/// Everything a sandbox config is made from (`runtime/translate.rs` makes it, purely).
#[derive(Clone, Debug)]
pub struct SandboxInput {
    pub pod: Arc<Pod>,
    pub attempt: u32,
    /// `/var/log/pods/<ns>_<name>_<uid>`.
    pub log_directory: PathBuf,
    pub hostname: String,
    pub dns: DnsConfig,
    /// e.g. `/kubepods/besteffort/pod<uid>`.
    pub cgroup_parent: String,
    /// Runtime handler (RuntimeClass); empty is the default.
    pub runtime_handler: String,
    /// What the pod's user and group ids are on the node, where it has a user namespace of its own.
    pub user_namespace: Option<IdBlock>,
}

/// Ids of the node that a pod's become, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdBlock {
    pub first: u32,
    pub length: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Everything a container config is made from.
#[derive(Clone, Debug)]
pub struct ContainerInput {
    pub pod: Arc<Pod>,
    /// Name of the container in the spec (regular, init or ephemeral).
    pub name: String,
    pub attempt: u32,
    /// Restart count for `io.kubernetes.container.restartCount`.
    pub restart_count: u32,
    /// Resolved image id to run (from `image_status`/`pull_image`) and what the spec asked for.
    pub image_ref: String,
    /// Fully resolved environment, in order; command and args already expanded.
    pub env: Vec<(String, String)>,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub mounts: Vec<Mount>,
    /// The sandbox it runs in.
    pub sandbox: SandboxInput,
    /// The node's memory capacity in bytes (oom_score_adj of Burstable pods).
    pub node_memory: i64,
    pub pins: Pins,
    /// Whose processes an ephemeral container is to see.
    pub target: Option<ContainerId>,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: String,
    pub read_only: bool,
    pub propagation: Propagation,
    pub recursive_read_only: bool,
    /// Name of the image to mount; then there is no path of the host.
    pub image: Option<String>,
    /// A path within that image; empty: all of it.
    pub image_sub_path: String,
    pub selinux_relabel: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

/// An image present on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInfo {
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size: u64,
    pub pinned: bool,
    /// `uid` or user name of the image config.
    pub uid: Option<i64>,
    pub username: String,
}

/// What the runtime said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    pub name: String,
    pub version: String,
    /// `Err` carries "reason: message".
    pub runtime_ready: Result<(), String>,
    pub network_ready: Result<(), String>,
    /// From RuntimeConfig (containerd ≥ 2.0): `systemd` or `cgroupfs`.
    pub cgroup_driver: Option<String>,
    /// name → (recursive read-only mounts, user namespaces).
    pub handlers: BTreeMap<String, (bool, bool)>,
    pub supplemental_groups_policy: bool,
}

impl RuntimeInfo {
    /// Why nothing can run, in the kubelet's words.
    pub fn runtime_problem(&self) -> Option<String> {
        let text = self.runtime_ready.as_ref().err()?;
        Some(problem("container runtime", "RuntimeReady", text))
    }

    /// Why no pod gets a network of its own.
    pub fn network_problem(&self) -> Option<String> {
        let text = self.network_ready.as_ref().err()?;
        Some(problem("container runtime network", "NetworkReady", text))
    }
}

fn problem(what: &str, condition: &str, text: &str) -> String {
    let (reason, message) = text.split_once(": ").unwrap_or(("", text));
    format!("{what} not ready: {condition}=false reason:{reason} message:{message}")
}

/// A lifecycle hint: truth is always read by `observe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Something of this pod changed.
    Dirty(PodUid),
    /// Events may have been missed (start, reconnection): look at everything.
    Relist,
    /// The connection broke: the runtime may be down.
    Lost,
}

/// Output of a command run in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// How an exec or attach is streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// CPU and memory of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub id: String,
    pub name: String,
    pub pod: Option<(PodUid, PodKey)>,
    /// Cumulative nanoseconds.
    pub cpu_usage_core_nanoseconds: u64,
    pub memory_working_set_bytes: u64,
    pub memory_usage_bytes: u64,
    pub writable_layer_used_bytes: u64,
    pub writable_layer_inodes_used: u64,
    /// Unix nanoseconds of the reading.
    pub timestamp: i64,
}

/// The runtime's own storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFs {
    pub images: Option<Storage>,
    /// Where layers are kept apart from images; else they lie beside them.
    pub containers: Option<Storage>,
}

/// A folder of the runtime and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    pub path: PathBuf,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// The runtime; each call has its own deadline inside.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError>;
    /// One pod, all sandboxes and containers, read now.
    async fn observe(&self, uid: &PodUid) -> Result<ObservedPod, RuntimeError>;
    /// Every pod the runtime holds.
    async fn pods(&self) -> Result<Vec<RuntimePod>, RuntimeError>;
    async fn run_sandbox(&self, input: &SandboxInput) -> Result<SandboxId, RuntimeError>;
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    /// A container that has no devices of plugins.
    async fn create_container(&self, sandbox: &SandboxId, input: &ContainerInput) -> Result<ContainerId, RuntimeError> {
        self.create_container_with(sandbox, input, &Edits::default()).await
    }
    /// One with `devices`; the environment and the mounts that come with these are in `input` already.
    async fn create_container_with(
        &self,
        sandbox: &SandboxId,
        input: &ContainerInput,
        devices: &Edits,
    ) -> Result<ContainerId, RuntimeError>;
    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// SIGTERM (or the image's stop signal), then SIGKILL after `grace`.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError>;
    /// Gives a running container the resources that `container` has in `pod`'s spec now.
    async fn update_container(
        &self,
        id: &ContainerId,
        pod: &Pod,
        container: &str,
        node_memory: i64,
    ) -> Result<(), RuntimeError>;
    /// Moves a running container to these CPUs and NUMA nodes; nothing else of it changes.
    async fn pin_container(&self, id: &ContainerId, pins: &Pins) -> Result<(), RuntimeError>;
    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError>;
    async fn images(&self) -> Result<Vec<ImageInfo>, RuntimeError>;
    /// Returns the image id. `auth`: (registry user, password) tried by the runtime.
    async fn pull_image(&self, reference: &str, auth: Option<(String, String)>) -> Result<String, RuntimeError>;
    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError>;
    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError>;
    /// URL of the runtime's streaming server for this exec.
    async fn exec(&self, id: &ContainerId, options: &StreamOptions) -> Result<String, RuntimeError>;
    async fn attach(&self, id: &ContainerId, options: &StreamOptions) -> Result<String, RuntimeError>;
    async fn port_forward(&self, id: &SandboxId, ports: &[u16]) -> Result<String, RuntimeError>;
    /// Writes the container's state into an archive; `timeout` in seconds, 0 is the runtime's own.
    async fn checkpoint_container(&self, id: &ContainerId, file: &Path, timeout: i64) -> Result<(), RuntimeError>;
    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError>;
    /// Where images and writable layers are kept.
    async fn image_fs(&self) -> Result<ImageFs, RuntimeError>;
    /// Sent to the runtime at start (`UpdateRuntimeConfig`).
    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), RuntimeError>;
    /// Runs until cancelled: subscribes, sends `Relist` after each (re)connection, then `Dirty` as things change.
    /// Never waits for the receiver: a full channel is coalesced into a `Relist`.
    async fn follow(&self, events: tokio::sync::mpsc::Sender<RuntimeEvent>);
}
