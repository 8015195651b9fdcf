//! Pod → CRI configuration, exactly as kubelet 1.36 makes it (`pkg/kubelet/kuberuntime`): pure.

mod resources;
mod security;

pub use super::facts::HostFacts;
pub use resources::{CPU_PERIOD_MICROSECONDS, cpu_quota, cpu_shares};

use super::newer::PartOfImage;
use super::{ContainerInput, Propagation, RuntimeError, SandboxInput};
use crate::model::devices::{DeviceNode, Edits};
use crate::model::pod::{as_container, container_hash};
use crate::model::resources::BadQuantity;
use jiff::Timestamp;
use k8s_cri::v1 as pb;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};
use std::collections::HashMap;

/// What about a pod cannot be said to the runtime; nothing that a pod demands is dropped silently.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TranslateError {
    #[error("pod has no spec")]
    NoSpec,
    #[error("container {0:?} is not in the pod's spec")]
    NoSuchContainer(String),
    #[error("no ids are set aside for the pod's user namespace")]
    UserNamespace,
    #[error(transparent)]
    Quantity(#[from] BadQuantity),
}

impl From<TranslateError> for RuntimeError {
    fn from(error: TranslateError) -> Self {
        Self::Unimplemented(error.to_string())
    }
}

/// What a container config depends on beside the pod: found by the caller.
#[derive(Clone, Debug, Default)]
pub struct ContainerFacts {
    /// User of the image's config, by number or by name.
    pub image_uid: Option<i64>,
    pub image_username: String,
    /// Container whose PID namespace an ephemeral container joins.
    pub target_container_id: Option<String>,
    /// What comes with its devices.
    pub devices: Edits,
}

/// `PodSandboxConfig` of a pod. `seen` is `kubernetes.io/config.seen` unless the pod carries it.
pub fn sandbox_config(
    input: &SandboxInput,
    facts: &HostFacts,
    seen: Timestamp,
) -> Result<pb::PodSandboxConfig, TranslateError> {
    let pod = &*input.pod;
    let spec = pod.spec.as_ref().ok_or(TranslateError::NoSpec)?;
    let meta = &pod.metadata;
    let mut labels: HashMap<_, _> = meta.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity_labels(pod));
    let mut annotations: HashMap<_, _> = meta.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.entry("kubernetes.io/config.source".into()).or_insert_with(|| "api".into());
    annotations.entry("kubernetes.io/config.seen".into()).or_insert_with(|| seen.to_string());

    Ok(pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            attempt: input.attempt,
        }),
        // In the host's UTS namespace the host's name stays.
        hostname: if spec.host_network == Some(true) { String::new() } else { input.hostname.clone() },
        log_directory: input.log_directory.to_string_lossy().into_owned(),
        dns_config: Some(pb::DnsConfig {
            servers: input.dns.servers.clone(),
            searches: input.dns.searches.clone(),
            options: input.dns.options.clone(),
        }),
        port_mappings: port_mappings(spec),
        labels,
        annotations,
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent.clone(),
            security_context: Some(security::sandbox(spec, input.user_namespace)?),
            sysctls: spec
                .security_context
                .iter()
                .flat_map(|context| context.sysctls.iter().flatten())
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
                .collect(),
            overhead: Some(resources::overhead(spec, facts)?),
            resources: Some(resources::sandbox(pod, spec, facts)?),
        }),
        windows: None,
    })
}

/// `ContainerConfig` of one container of a pod.
pub fn container_config(
    input: &ContainerInput,
    about: &ContainerFacts,
    facts: &HostFacts,
) -> Result<pb::ContainerConfig, TranslateError> {
    let pod = &*input.pod;
    let spec = pod.spec.as_ref().ok_or(TranslateError::NoSpec)?;
    let container =
        find_container(spec, &input.name).ok_or_else(|| TranslateError::NoSuchContainer(input.name.clone()))?;
    let container = container.as_ref();
    let mut labels: HashMap<_, _> = identity_labels(pod).into();
    labels.insert("io.kubernetes.container.name".into(), input.name.clone());
    let security = security::container(pod, container, about, facts, input.sandbox.user_namespace)?;
    let ids = security.namespace_options.as_ref().and_then(|options| options.userns_options.clone());
    let ids = ids.unwrap_or_default();
    let whole = input.mounts.iter().filter(|mount| mount.image_sub_path.is_empty()).map(|wanted| {
        let (uid_mappings, gid_mappings) = (ids.uids.clone(), ids.gids.clone());
        pb::Mount { uid_mappings, gid_mappings, ..mount(wanted) }
    });

    Ok(pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: input.name.clone(), attempt: input.attempt }),
        image: Some(pb::ImageSpec {
            image: input.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            runtime_handler: input.sandbox.runtime_handler.clone(),
            ..Default::default()
        }),
        command: input.command.clone(),
        args: input.args.clone(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: input.env.iter().map(|(key, value)| pb::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts: whole.collect(),
        labels,
        annotations: {
            let mut annotations: HashMap<_, _> = about.devices.annotations.clone().into_iter().collect();
            annotations.extend(container_annotations(pod, spec, container, input.restart_count));
            annotations
        },
        devices: about.devices.nodes.iter().map(device).collect(),
        cdi_devices: about.devices.cdi_devices.iter().map(|name| pb::CdiDevice { name: name.clone() }).collect(),
        log_path: format!("{}/{}.log", input.name, input.attempt),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        linux: Some(pb::LinuxContainerConfig {
            resources: Some(pb::LinuxContainerResources {
                cpuset_cpus: input.pins.cpus.clone(),
                cpuset_mems: input.pins.memory_nodes.clone(),
                ..resources::container(pod, container, input.node_memory, facts)?
            }),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

/// The mounts that `container_config` leaves out: of paths within images.
pub(super) fn parts_of_images(input: &ContainerInput) -> Vec<PartOfImage> {
    let parts = input.mounts.iter().filter(|mount| !mount.image_sub_path.is_empty());
    parts
        .map(|wanted| {
            let pb::Mount { container_path, readonly, image, .. } = mount(wanted);
            PartOfImage { container_path, readonly, image, image_sub_path: wanted.image_sub_path.clone() }
        })
        .collect()
}

/// `LinuxContainerResources` of one container, as an update of one that runs.
pub fn container_resources(
    pod: &Pod,
    container: &str,
    node_memory: i64,
    facts: &HostFacts,
) -> Result<pb::LinuxContainerResources, TranslateError> {
    let spec = pod.spec.as_ref().ok_or(TranslateError::NoSpec)?;
    let found = find_container(spec, container).ok_or_else(|| TranslateError::NoSuchContainer(container.to_owned()))?;
    resources::container(pod, &found, node_memory, facts)
}

/// The container of that name, be it regular, init or ephemeral.
fn find_container<'a>(spec: &'a PodSpec, name: &str) -> Option<std::borrow::Cow<'a, Container>> {
    use std::borrow::Cow;
    let mut known = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    known.find(|c| c.name == name).map(Cow::Borrowed).or_else(|| {
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
        Some(Cow::Owned(as_container(ephemeral)))
    })
}

fn identity_labels(pod: &Pod) -> [(String, String); 3] {
    let meta = &pod.metadata;
    [
        ("io.kubernetes.pod.name".into(), meta.name.clone().unwrap_or_default()),
        ("io.kubernetes.pod.namespace".into(), meta.namespace.clone().unwrap_or_default()),
        ("io.kubernetes.pod.uid".into(), meta.uid.clone().unwrap_or_default()),
    ]
}

/// What the kubelet reads back after a restart (`kuberuntime/labels.go`).
fn container_annotations(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    restart_count: u32,
) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        ("io.kubernetes.container.hash".into(), container_hash(container)),
        ("io.kubernetes.container.restartCount".into(), restart_count.to_string()),
        (
            "io.kubernetes.container.terminationMessagePath".into(),
            container.termination_message_path.clone().unwrap_or_default(),
        ),
        (
            "io.kubernetes.container.terminationMessagePolicy".into(),
            container.termination_message_policy.clone().unwrap_or_default(),
        ),
    ]);
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        annotations.insert("io.kubernetes.pod.deletionGracePeriod".into(), seconds.to_string());
    }
    if let Some(seconds) = spec.termination_grace_period_seconds {
        annotations.insert("io.kubernetes.pod.terminationGracePeriod".into(), seconds.to_string());
    }
    if let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(handler)
    {
        annotations.insert("io.kubernetes.container.preStopHandler".into(), json);
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty()) {
        let ports: Vec<_> = ports.iter().map(PortAnnotation::from).collect();
        if let Ok(json) = serde_json::to_string(&ports) {
            annotations.insert("io.kubernetes.container.ports".into(), json);
        }
    }
    annotations
}

/// A container port with its fields in the order in which Go writes them.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct PortAnnotation<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_port: Option<i32>,
    container_port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<&'a str>,
}

impl<'a> From<&'a ContainerPort> for PortAnnotation<'a> {
    fn from(port: &'a ContainerPort) -> Self {
        Self {
            name: port.name.as_deref().filter(|v| !v.is_empty()),
            host_port: port.host_port.filter(|&v| v != 0),
            container_port: port.container_port,
            protocol: port.protocol.as_deref().filter(|v| !v.is_empty()),
            host_ip: port.host_ip.as_deref().filter(|v| !v.is_empty()),
        }
    }
}

/// Ports of containers that run as long as the pod does.
fn port_mappings(spec: &PodSpec) -> Vec<pb::PortMapping> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => pb::Protocol::Udp,
                Some("SCTP") => pb::Protocol::Sctp,
                _ => pb::Protocol::Tcp,
            };
            pb::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.unwrap_or_default(),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            }
        })
        .collect()
}

fn device(node: &DeviceNode) -> pb::Device {
    pb::Device {
        container_path: node.container_path.clone(),
        host_path: node.host_path.clone(),
        permissions: node.permissions.clone(),
    }
}

fn mount(mount: &super::Mount) -> pb::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => pb::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => pb::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => pb::MountPropagation::PropagationBidirectional,
    };
    pb::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.to_string_lossy().into_owned(),
        readonly: mount.read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.as_ref().map(|image| pb::ImageSpec { image: image.clone(), ..Default::default() }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
