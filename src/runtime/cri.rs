//! `CriRuntime`: the trait `Runtime` over CRI v1 on a Unix socket.

use super::newer::{self, CreateContainer, More};
use super::observe::Observations;
use super::rpc::{self, MAX_MESSAGE_BYTES, call};
use super::translate::{self, HostFacts};
use super::{
    ContainerInput, ContainerStats, ExecOutput, ImageFs, ImageInfo, Runtime, RuntimeError, RuntimeEvent, RuntimeInfo,
    RuntimePod, SandboxInput, Storage, StreamOptions, events, lost_task,
};
use crate::clock;
use crate::ids::{ContainerId, PodKey, PodUid, SandboxId};
use crate::model::devices::Edits;
use crate::model::observed::{ObservedPod, PartState, Shape};
use crate::model::topology::Pins;
use async_trait::async_trait;
use k8s_cri::v1 as pb;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// `runtimeRequestTimeout` where nothing else is said: every call that has no better bound.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Pulls are bounded by progress, by containerd itself (`image_pull_progress_timeout`); this only ends a hung one.
const PULL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// A hook without a timeout is bounded by the caller (the pod's grace period); this only ends a hung one.
const UNBOUNDED_EXEC_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Users of images remembered, by image id (content-addressed, so never stale). Cleared when full.
const IMAGE_USERS_KEPT: usize = 512;

/// Label by which the kubelet marks everything of a pod.
pub(super) const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";

/// The container runtime behind a CRI socket. Cheap calls; connects when first used and again after a restart.
#[derive(Debug)]
pub struct CriRuntime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    socket: PathBuf,
    facts: HostFacts,
    /// Of every call that has no better bound.
    deadline: Duration,
    observations: Observations,
    image_users: Mutex<HashMap<String, ImageUser>>,
}

/// User of an image's config: (uid, user name).
type ImageUser = (Option<i64>, String);

impl CriRuntime {
    /// Makes the connection and asks for the version once, so that a wrong socket is told at once.
    pub async fn connect(socket: &Path) -> Result<Self, RuntimeError> {
        let runtime = Self::lazy(socket);
        runtime.version().await?;
        Ok(runtime)
    }

    /// As `connect`, but the runtime may come up later. Must be called within a tokio runtime.
    pub fn lazy(socket: &Path) -> Self {
        let channel = rpc::channel(socket);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            channel,
            socket: socket.to_owned(),
            facts: HostFacts::detect(),
            deadline: REQUEST_TIMEOUT,
            observations: Observations::default(),
            image_users: Mutex::default(),
        }
    }

    /// Replaces what was found out about this machine (seccomp profile folder, `seccompDefault`, …).
    pub fn with_facts(mut self, facts: HostFacts) -> Self {
        self.facts = facts;
        self
    }

    /// Gives calls that have no better bound another one (`runtimeRequestTimeout`).
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks somebody else for images (`imageServiceEndpoint`). Must be called within a tokio runtime.
    pub fn with_images_at(mut self, socket: &Path) -> Self {
        self.images = ImageServiceClient::new(rpc::channel(socket)).max_decoding_message_size(MAX_MESSAGE_BYTES);
        self
    }

    /// Where the runtime listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn observations(&self) -> &Observations {
        &self.observations
    }

    pub(super) fn client(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) async fn version(&self) -> Result<pb::VersionResponse, RuntimeError> {
        let request = pb::VersionRequest { version: "0.1.0".into() };
        call("Version", self.deadline, self.client().version(request)).await
    }

    pub(super) async fn list_sandboxes(
        &self,
        label_selector: HashMap<String, String>,
    ) -> Result<Vec<pb::PodSandbox>, RuntimeError> {
        let filter = pb::PodSandboxFilter { label_selector, ..Default::default() };
        let request = pb::ListPodSandboxRequest { filter: Some(filter) };
        Ok(call("ListPodSandbox", self.deadline, self.client().list_pod_sandbox(request)).await?.items)
    }

    pub(super) async fn list_containers(
        &self,
        label_selector: HashMap<String, String>,
    ) -> Result<Vec<pb::Container>, RuntimeError> {
        let filter = pb::ContainerFilter { label_selector, ..Default::default() };
        let request = pb::ListContainersRequest { filter: Some(filter) };
        Ok(call("ListContainers", self.deadline, self.client().list_containers(request)).await?.containers)
    }

    pub(super) async fn sandbox_status(&self, id: &str) -> Result<pb::PodSandboxStatus, RuntimeError> {
        let request = pb::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = call("PodSandboxStatus", self.deadline, self.client().pod_sandbox_status(request)).await?;
        answer.status.ok_or_else(|| RuntimeError::Rpc { code: "Internal", message: "sandbox status is empty".into() })
    }

    pub(super) async fn container_status(&self, id: &str) -> Result<pb::ContainerStatus, RuntimeError> {
        let request = pb::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = call("ContainerStatus", self.deadline, self.client().container_status(request)).await?;
        answer.status.ok_or_else(|| RuntimeError::Rpc { code: "Internal", message: "container status is empty".into() })
    }

    /// The user that the image names: the kubelet always sends one, so that an image's group is not used.
    async fn image_user(&self, image_ref: &str) -> Result<ImageUser, RuntimeError> {
        let known = self.image_users.lock().unwrap_or_else(PoisonError::into_inner).get(image_ref).cloned();
        match known {
            Some(user) => Ok(user),
            // `image` remembers it.
            None => Ok(self.image(image_ref).await?.map_or((None, String::new()), |image| (image.uid, image.username))),
        }
    }

    /// The answer of a call that stopped or removed a sandbox or container, or may have in spite of an error.
    fn ended<T>(&self, id: &str, answer: Result<T, RuntimeError>) -> Result<(), RuntimeError> {
        self.observations.doubt_holder(id);
        answer.map(drop)
    }

    /// The answer of a removal; once more where only a task that the runtime has forgotten was in its way.
    async fn removed<F>(&self, remove: impl Fn() -> F) -> Result<(), RuntimeError>
    where
        F: Future<Output = Result<(), RuntimeError>>,
    {
        let refused = match remove().await {
            Err(refused) => refused,
            Ok(()) => return Ok(()),
        };
        let Some(container) = lost_task::of(&refused) else { return Err(refused) };
        lost_task::delete(self.channel(), &container).await?;
        remove().await
    }

    async fn runtime_config(&self) -> Result<Option<String>, RuntimeError> {
        match call("RuntimeConfig", self.deadline, self.client().runtime_config(pb::RuntimeConfigRequest {})).await {
            Ok(config) => Ok(config.linux.map(|linux| match linux.cgroup_driver() {
                pb::CgroupDriver::Systemd => "systemd".to_owned(),
                pb::CgroupDriver::Cgroupfs => "cgroupfs".to_owned(),
            })),
            Err(RuntimeError::Unimplemented(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Runtime for CriRuntime {
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let mut client = self.client();
        let status = call("Status", self.deadline, client.status(pb::StatusRequest { verbose: false }));
        let (version, status, cgroup_driver) = tokio::try_join!(self.version(), status, self.runtime_config())?;
        let conditions = status.status.map(|s| s.conditions).unwrap_or_default();
        let condition = |name: &str| match conditions.iter().find(|c| c.r#type == name) {
            Some(condition) if condition.status => Ok(()),
            Some(condition) => Err(format!("{}: {}", condition.reason, condition.message)),
            None => Err(format!("{name}Unknown: the runtime does not report {name}")),
        };
        Ok(RuntimeInfo {
            name: version.runtime_name,
            version: version.runtime_version,
            runtime_ready: condition("RuntimeReady"),
            network_ready: condition("NetworkReady"),
            cgroup_driver,
            handlers: status
                .runtime_handlers
                .into_iter()
                .map(|handler| {
                    let features = handler.features.unwrap_or_default();
                    (handler.name, (features.recursive_read_only_mounts, features.user_namespaces))
                })
                .collect(),
            supplemental_groups_policy: status.features.is_some_and(|f| f.supplemental_groups_policy),
        })
    }

    async fn observe(&self, uid: &PodUid) -> Result<ObservedPod, RuntimeError> {
        self.observations.observe(self, uid).await
    }

    async fn pods(&self) -> Result<Vec<RuntimePod>, RuntimeError> {
        let (sandboxes, containers) =
            tokio::try_join!(self.list_sandboxes(HashMap::new()), self.list_containers(HashMap::new()))?;
        let mut pods: BTreeMap<PodUid, RuntimePod> = BTreeMap::new();
        // Containers too: one whose sandbox record is lost still belongs to a pod that must be cleaned up.
        let sandboxes = sandboxes.into_iter().map(|s| {
            let ready = s.state == pb::PodSandboxState::SandboxReady as i32;
            (s.id, s.labels, if ready { PartState::Ready } else { PartState::NotReady }, Vec::new())
        });
        let containers = containers.into_iter().map(|c| {
            let state = match c.state() {
                pb::ContainerState::ContainerCreated => PartState::Created,
                pb::ContainerState::ContainerRunning => PartState::Running,
                pb::ContainerState::ContainerExited => PartState::Exited,
                pb::ContainerState::ContainerUnknown => PartState::Unknown,
            };
            let named = c.image.map(|image| [image.image, image.user_specified_image]).into_iter().flatten();
            (c.id, c.labels, state, named.chain([c.image_ref]).collect())
        });
        for (id, labels, state, images) in sandboxes.chain(containers) {
            let of = |name: &str| labels.get(name).map_or("", String::as_str);
            let Some(uid) = labels.get(POD_UID_LABEL).map(PodUid::new) else { continue };
            let pod = pods.entry(uid.clone()).or_insert_with(|| {
                let key = PodKey::new(of("io.kubernetes.pod.namespace"), of("io.kubernetes.pod.name"));
                RuntimePod { uid, key, shape: Shape::new(), images: Default::default() }
            });
            pod.shape.insert(id, state);
            pod.images.extend(images);
        }
        self.observations.keep_only(|uid| pods.contains_key(uid));
        Ok(pods.into_values().collect())
    }

    async fn run_sandbox(&self, input: &SandboxInput) -> Result<SandboxId, RuntimeError> {
        let config = translate::sandbox_config(input, &self.facts, clock::now().wall)?;
        let request = pb::RunPodSandboxRequest { config: Some(config), runtime_handler: input.runtime_handler.clone() };
        let uid = PodUid::new(input.pod.metadata.uid.as_deref().unwrap_or_default());
        // It may pull the pause image, and waits for CNI.
        let answer =
            call("RunPodSandbox", self.deadline.saturating_mul(2), self.client().run_pod_sandbox(request)).await;
        let made = answer.map(|answer| SandboxId::new(answer.pod_sandbox_id));
        self.observations.sandbox_made(&uid, input.attempt, made.as_ref().ok());
        made
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let request = pb::StopPodSandboxRequest { pod_sandbox_id: id.to_string() };
        self.ended(id.as_str(), call("StopPodSandbox", self.deadline, self.client().stop_pod_sandbox(request)).await)
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let remove = || async {
            let request = pb::RemovePodSandboxRequest { pod_sandbox_id: id.to_string() };
            call("RemovePodSandbox", self.deadline, self.client().remove_pod_sandbox(request)).await.map(drop)
        };
        self.ended(id.as_str(), self.removed(remove).await)
    }

    async fn create_container_with(
        &self,
        sandbox: &SandboxId,
        input: &ContainerInput,
        devices: &Edits,
    ) -> Result<ContainerId, RuntimeError> {
        let (image_uid, image_username) = self.image_user(&input.image_ref).await?;
        let target_container_id = input.target.as_ref().map(ToString::to_string);
        let about =
            translate::ContainerFacts { image_uid, image_username, target_container_id, devices: devices.clone() };
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_string(),
            config: Some(translate::container_config(input, &about, &self.facts)?),
            sandbox_config: Some(translate::sandbox_config(&input.sandbox, &self.facts, clock::now().wall)?),
        };
        let answer = match More::new(translate::parts_of_images(input)) {
            None => call("CreateContainer", self.deadline, self.client().create_container(request)).await,
            Some(more) => {
                let created = newer::create_container(self.channel(), CreateContainer { request, more });
                call("CreateContainer", self.deadline, created).await
            }
        };
        let made = answer.map(|answer| ContainerId::new(answer.container_id));
        let uid = PodUid::new(input.pod.metadata.uid.as_deref().unwrap_or_default());
        self.observations.container_made(&uid, sandbox, made.as_ref().ok());
        made
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request = pb::StartContainerRequest { container_id: id.to_string() };
        call("StartContainer", self.deadline, self.client().start_container(request)).await.map(drop)
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = pb::StopContainerRequest { container_id: id.to_string(), timeout };
        let deadline = grace.saturating_add(self.deadline);
        self.ended(id.as_str(), call("StopContainer", deadline, self.client().stop_container(request)).await)
    }

    async fn update_container(
        &self,
        id: &ContainerId,
        pod: &Pod,
        container: &str,
        node_memory: i64,
    ) -> Result<(), RuntimeError> {
        let linux = translate::container_resources(pod, container, node_memory, &self.facts)?;
        let request = pb::UpdateContainerResourcesRequest {
            container_id: id.to_string(),
            linux: Some(linux),
            ..Default::default()
        };
        let mut client = self.client();
        let answer = client.update_container_resources(request);
        call("UpdateContainerResources", self.deadline, answer).await.map(drop)
    }

    async fn pin_container(&self, id: &ContainerId, pins: &Pins) -> Result<(), RuntimeError> {
        let linux = pb::LinuxContainerResources {
            cpuset_cpus: pins.cpus.clone(),
            cpuset_mems: pins.memory_nodes.clone(),
            ..Default::default()
        };
        let request = pb::UpdateContainerResourcesRequest {
            container_id: id.to_string(),
            linux: Some(linux),
            ..Default::default()
        };
        let mut client = self.client();
        let answer = client.update_container_resources(request);
        call("UpdateContainerResources", self.deadline, answer).await.map(drop)
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let remove = || async {
            let request = pb::RemoveContainerRequest { container_id: id.to_string() };
            call("RemoveContainer", self.deadline, self.client().remove_container(request)).await.map(drop)
        };
        self.ended(id.as_str(), self.removed(remove).await)
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request = pb::ReopenContainerLogRequest { container_id: id.to_string() };
        call("ReopenContainerLog", self.deadline, self.client().reopen_container_log(request)).await.map(drop)
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        let request = pb::ImageStatusRequest { image: Some(image_spec(reference)), verbose: false };
        let answer = call("ImageStatus", self.deadline, self.images.clone().image_status(request)).await?;
        let image = answer.image.filter(|image| !image.id.is_empty()).map(image_info);
        if let Some(image) = &image {
            let mut users = self.image_users.lock().unwrap_or_else(PoisonError::into_inner);
            if users.len() >= IMAGE_USERS_KEPT {
                users.clear();
            }
            users.insert(image.id.clone(), (image.uid, image.username.clone()));
        }
        Ok(image)
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        let request = pb::ListImagesRequest { filter: None };
        let answer = call("ListImages", self.deadline, self.images.clone().list_images(request)).await?;
        Ok(answer.images.into_iter().map(image_info).collect())
    }

    async fn pull_image(&self, reference: &str, auth: Option<(String, String)>) -> Result<String, RuntimeError> {
        let request = pb::PullImageRequest {
            image: Some(image_spec(reference)),
            auth: auth.map(|(username, password)| pb::AuthConfig { username, password, ..Default::default() }),
            sandbox_config: None,
        };
        Ok(call("PullImage", PULL_TIMEOUT, self.images.clone().pull_image(request)).await?.image_ref)
    }

    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        let request = pb::RemoveImageRequest { image: Some(image_spec(reference)) };
        call("RemoveImage", self.deadline, self.images.clone().remove_image(request)).await.map(drop)
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        // Whole seconds, rounded up: 0 means no timeout to the runtime.
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let request = pb::ExecSyncRequest {
            container_id: id.to_string(),
            cmd: command.to_vec(),
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let deadline = if timeout.is_zero() { UNBOUNDED_EXEC_TIMEOUT } else { timeout.saturating_add(self.deadline) };
        let answer = call("ExecSync", deadline, self.client().exec_sync(request)).await?;
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }

    async fn exec(&self, id: &ContainerId, options: &StreamOptions) -> Result<String, RuntimeError> {
        let request = pb::ExecRequest {
            container_id: id.to_string(),
            cmd: options.command.clone(),
            tty: options.tty,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        Ok(call("Exec", self.deadline, self.client().exec(request)).await?.url)
    }

    async fn attach(&self, id: &ContainerId, options: &StreamOptions) -> Result<String, RuntimeError> {
        let request = pb::AttachRequest {
            container_id: id.to_string(),
            stdin: options.stdin,
            tty: options.tty,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        Ok(call("Attach", self.deadline, self.client().attach(request)).await?.url)
    }

    async fn port_forward(&self, id: &SandboxId, ports: &[u16]) -> Result<String, RuntimeError> {
        let request = pb::PortForwardRequest {
            pod_sandbox_id: id.to_string(),
            port: ports.iter().map(|&port| i32::from(port)).collect(),
        };
        Ok(call("PortForward", self.deadline, self.client().port_forward(request)).await?.url)
    }

    async fn checkpoint_container(&self, id: &ContainerId, file: &Path, timeout: i64) -> Result<(), RuntimeError> {
        let location = file.to_string_lossy().into_owned();
        let request = pb::CheckpointContainerRequest { container_id: id.to_string(), location, timeout };
        // The runtime's own time limit, or its default, comes first.
        let deadline = self.deadline + Duration::from_secs(timeout.max(0).unsigned_abs());
        call("CheckpointContainer", deadline, self.client().checkpoint_container(request)).await.map(drop)
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        let request = pb::ListContainerStatsRequest { filter: None };
        let answer = call("ListContainerStats", self.deadline, self.client().list_container_stats(request)).await?;
        Ok(answer.stats.into_iter().map(container_stats).collect())
    }

    async fn image_fs(&self) -> Result<ImageFs, RuntimeError> {
        let mut client = self.images.clone();
        let answer = call("ImageFsInfo", self.deadline, client.image_fs_info(pb::ImageFsInfoRequest {})).await?;
        let storage = |mut list: Vec<pb::FilesystemUsage>| {
            let first = (!list.is_empty()).then(|| list.swap_remove(0))?;
            let value = |v: Option<pb::UInt64Value>| v.map_or(0, |v| v.value);
            let path = PathBuf::from(first.fs_id?.mountpoint);
            Some(Storage { path, used_bytes: value(first.used_bytes), inodes_used: value(first.inodes_used) })
        };
        Ok(ImageFs { images: storage(answer.image_filesystems), containers: storage(answer.container_filesystems) })
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), RuntimeError> {
        let network_config = Some(pb::NetworkConfig { pod_cidr: cidr.to_owned() });
        let request = pb::UpdateRuntimeConfigRequest { runtime_config: Some(pb::RuntimeConfig { network_config }) };
        call("UpdateRuntimeConfig", self.deadline, self.client().update_runtime_config(request)).await.map(drop)
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        events::follow(self, events).await;
    }
}

fn image_spec(reference: &str) -> pb::ImageSpec {
    pb::ImageSpec { image: reference.to_owned(), ..Default::default() }
}

fn image_info(image: pb::Image) -> ImageInfo {
    ImageInfo {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size: image.size,
        pinned: image.pinned,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
    }
}

fn container_stats(stats: pb::ContainerStats) -> ContainerStats {
    let attributes = stats.attributes.unwrap_or_default();
    let label = |name: &str| attributes.labels.get(name).map_or("", String::as_str);
    let key = || PodKey::new(label("io.kubernetes.pod.namespace"), label("io.kubernetes.pod.name"));
    let pod = attributes.labels.get(POD_UID_LABEL).map(|uid| (PodUid::new(uid), key()));
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let layer = stats.writable_layer.unwrap_or_default();
    let value = |v: Option<pb::UInt64Value>| v.map_or(0, |v| v.value);
    ContainerStats {
        pod,
        id: attributes.id,
        name: attributes.metadata.map(|m| m.name).unwrap_or_default(),
        cpu_usage_core_nanoseconds: value(cpu.usage_core_nano_seconds),
        memory_working_set_bytes: value(memory.working_set_bytes),
        memory_usage_bytes: value(memory.usage_bytes),
        writable_layer_used_bytes: value(layer.used_bytes),
        writable_layer_inodes_used: value(layer.inodes_used),
        timestamp: cpu.timestamp,
    }
}
