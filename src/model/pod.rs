//! What is wanted: one v1 Pod, parsed once into what decisions ask for.

use crate::ids::{ContainerName, PodKey, PodUid};
use crate::model::eviction::Removal;
use crate::model::resources::Allocation;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::sync::Arc;
use std::time::Duration;

/// A pod with identity and spec: every other file may rely on both.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    pub pod: Arc<Pod>,
    pub uid: PodUid,
    pub key: PodKey,
    /// The object no longer exists at the API server: stop its containers, report nothing.
    pub gone: bool,
    /// Given to the node by a file or URL, not by the API server.
    pub is_static: bool,
    /// Taken from this node's own files because the API server is away: what it would tell may be missing.
    pub offline: bool,
    /// Ephemeral containers as containers: a runtime and the rules of starting see no difference.
    pub ephemeral: Arc<[Container]>,
    /// A change of resources that the node has not granted (yet): `pod` has those that are.
    pub resize: Option<PendingResize>,
    /// It has to leave the node: why, and how.
    pub removal: Option<Removal>,
    /// What the API shows of a static pod; its uid and status are the mirror's.
    pub mirror: Option<Arc<Pod>>,
}

/// Why resources that the spec asks for are not granted: condition `PodResizePending`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingResize {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    /// Why it can never be, as `kubelet_pod_infeasible_resizes_total` counts it; `None`: it may be later.
    pub never: Option<&'static str>,
    pub message: String,
    pub generation: Option<i64>,
}

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// How a container takes part in its pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to completion before what follows it.
    Init,
    /// A restartable init container: started in order, then kept running until the rest has ended.
    Sidecar,
    Regular,
    /// Added to a running pod to look into it: started once, never again.
    Ephemeral,
}

/// A container of the spec with its kind.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub spec: &'a Container,
    pub kind: ContainerKind,
}

impl DesiredPod {
    /// `None` for an object without uid, name or spec: the API server never sends one.
    pub fn new(pod: Arc<Pod>) -> Option<Self> {
        let uid = PodUid::new(pod.metadata.uid.as_deref()?);
        let key = PodKey::new(pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
        let ephemeral = pod.spec.as_ref()?.ephemeral_containers.iter().flatten().map(as_container).collect();
        Some(Self {
            pod,
            uid,
            key,
            gone: false,
            is_static: false,
            offline: false,
            ephemeral,
            resize: None,
            removal: None,
            mirror: None,
        })
    }

    /// A pod of which nothing but its name is known any more: all of it is to go.
    pub fn forgotten(uid: PodUid, key: PodKey) -> Self {
        let metadata = ObjectMeta {
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            uid: Some(uid.to_string()),
            ..Default::default()
        };
        let pod = Arc::new(Pod { metadata, spec: Some(PodSpec::default()), status: None });
        Self {
            pod,
            uid,
            key,
            gone: true,
            is_static: false,
            offline: false,
            ephemeral: Arc::default(),
            resize: None,
            removal: None,
            mirror: None,
        }
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The same pod with other resources: those that the node grants.
    pub fn granted(&self, allocation: &Allocation) -> Self {
        Self { pod: allocation.apply(&self.pod), ..self.clone() }
    }

    /// The object at the API server that shows this pod's status; `None`: a static pod without a mirror.
    pub fn shown_as(&self) -> Option<&Arc<Pod>> {
        if self.is_static { self.mirror.as_ref() } else { Some(&self.pod) }
    }

    pub fn spec(&self) -> &PodSpec {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        // `new` refuses a pod without a spec.
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }

    pub fn init_containers(&self) -> impl DoubleEndedIterator<Item = Wanted<'_>> {
        self.spec().init_containers.iter().flatten().map(|spec| Wanted { spec, kind: init_kind(spec) })
    }

    pub fn regular_containers(&self) -> impl DoubleEndedIterator<Item = Wanted<'_>> {
        self.spec().containers.iter().map(|spec| Wanted { spec, kind: ContainerKind::Regular })
    }

    /// Init containers, then regular ones, in the order of the spec.
    pub fn all_containers(&self) -> impl DoubleEndedIterator<Item = Wanted<'_>> {
        self.init_containers().chain(self.regular_containers())
    }

    pub fn ephemeral_containers(&self) -> impl Iterator<Item = Wanted<'_>> {
        self.ephemeral.iter().map(|spec| Wanted { spec, kind: ContainerKind::Ephemeral })
    }

    /// The container of that name, of whatever kind.
    pub fn container(&self, name: &str) -> Option<Wanted<'_>> {
        self.all_containers().chain(self.ephemeral_containers()).find(|wanted| wanted.spec.name == name)
    }

    /// `targetContainerName` of an ephemeral container.
    pub fn target_of(&self, name: &str) -> Option<&str> {
        let mut ephemeral = self.spec().ephemeral_containers.iter().flatten();
        let target = ephemeral.find(|container| container.name == name)?.target_container_name.as_deref();
        target.filter(|target| !target.is_empty())
    }

    pub fn restart_policy(&self) -> RestartPolicy {
        RestartPolicy::parse(self.spec().restart_policy.as_deref())
    }

    pub fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }

    pub fn generation(&self) -> Option<i64> {
        self.pod.metadata.generation
    }

    /// `spec.terminationGracePeriodSeconds`, 30 by default.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.spec().termination_grace_period_seconds.unwrap_or(30).max(0).unsigned_abs())
    }

    /// The grace of a deletion that was asked for.
    pub fn deletion_grace(&self) -> Option<Duration> {
        self.pod.metadata.deletion_timestamp.as_ref()?;
        let seconds = self.pod.metadata.deletion_grace_period_seconds;
        Some(seconds.map_or_else(|| self.grace(), |s| Duration::from_secs(s.max(0).unsigned_abs())))
    }

    /// `<name>_<namespace>(<uid>)`, as the kubelet's messages name a pod.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.key.name, self.key.namespace, self.uid)
    }

    /// Where an event about one of its containers points: `spec.containers{c}`.
    pub fn field_path(&self, container: &str) -> String {
        let list = match self.container(container).map(|wanted| wanted.kind) {
            Some(ContainerKind::Init | ContainerKind::Sidecar) => "initContainers",
            Some(ContainerKind::Ephemeral) => "ephemeralContainers",
            Some(ContainerKind::Regular) | None => "containers",
        };
        format!("spec.{list}{{{container}}}")
    }
}

/// Where a pod came from, and the hash of the file that it was made from: the kubelet's annotations of static pods.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// On the API server's copy of a static pod: the hash of the pod that it shows.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// The fields that an ephemeral container shares with every other (`EphemeralContainerCommon`).
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        name: e.name,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        command: e.command,
        args: e.args,
        working_dir: e.working_dir,
        env: e.env,
        env_from: e.env_from,
        ports: e.ports,
        resources: e.resources,
        lifecycle: e.lifecycle,
        security_context: e.security_context,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        volume_mounts: e.volume_mounts,
        volume_devices: e.volume_devices,
        ..Default::default()
    }
}

fn init_kind(container: &Container) -> ContainerKind {
    match container.restart_policy.as_deref() {
        Some("Always") => ContainerKind::Sidecar,
        Some(_) | None => ContainerKind::Init,
    }
}

impl RestartPolicy {
    /// As written in a pod; absent is `Always`.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            Some(_) | None => Self::Always,
        }
    }
}

impl Wanted<'_> {
    pub fn name(&self) -> ContainerName {
        ContainerName::new(&self.spec.name)
    }

    pub fn image(&self) -> &str {
        self.spec.image.as_deref().unwrap_or("")
    }
}

/// `io.kubernetes.container.hash` as kubelet 1.36 computes it: FNV-1a (32 bits, lower-case hex) over the dump of the
/// JSON of the fields whose change restarts a container, `image` and `name` (`pkg/kubelet/container/helpers.go`
/// `HashContainer`; the dump is spew's `%#v` of a byte slice).
pub fn container_hash(container: &Container) -> String {
    let fields = serde_json::json!({ "image": container.image.as_deref().unwrap_or(""), "name": container.name });
    let mut hash = Fnv32a::new();
    hash.write(b"([]uint8)[");
    for (i, byte) in fields.to_string().bytes().enumerate() {
        if i > 0 {
            hash.write(b" ");
        }
        hash.write(byte.to_string().as_bytes());
    }
    hash.write(b"]");
    format!("{:x}", hash.0)
}

struct Fnv32a(u32);

impl Fnv32a {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the kubelet's own `TestHashContainer`.
    #[test]
    fn container_hash_is_the_kubelets() {
        let container =
            Container { name: "test_container".into(), image: Some("foo/image:v1".into()), ..Default::default() };
        assert_eq!(container_hash(&container), "8e45cbd0");
    }
}
