//! The node actor: registers the Node, keeps its status and Lease true, and tells the rest what the node is.

pub mod claim;
mod lease;
mod machine;
mod status;

#[cfg(test)]
mod tests;

pub use self::status::KUBELET_VERSION;
use self::status::{Inputs, condition, is_true};
use crate::actors::csi_node::CsiNode;
use crate::actors::devices::DevicesHandle;
use crate::clock::{self, Now};
use crate::cluster::{Cluster, ClusterError, Recorder};
use crate::decide::devices::is_extended_resource;
use crate::disk::{self, DiskUsage};
use crate::model::devices::Advertised;
use crate::model::eviction::Distress;
use crate::model::node::{Machine, NodeFacts};
use crate::runtime::{ImageInfo, Runtime, RuntimeInfo};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use node_config::agent::AgentConfig;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// While the node is not ready or the API server not reached: the next look comes sooner, then ever later.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// The image list changes seldom, and listing costs the runtime something (the kubelet's image cache: 30 s).
const IMAGES_EVERY: Duration = Duration::from_secs(30);
/// A node that has just started is still given its images: for that long it lists them that often.
const SETTLING: Duration = Duration::from_secs(120);
const SETTLING_IMAGES_EVERY: Duration = Duration::from_secs(5);
/// How long a runtime may take to say how it is, before it counts as down.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(5);
/// A runtime whose connection broke may just be restarting: only if it is not back by then the node is not ready.
const RUNTIME_RESTART: Duration = Duration::from_secs(2);
/// Plugins list their devices several times as they start.
const DEVICES_SETTLE: Duration = Duration::from_millis(50);
/// The annotation that lets the attach-detach controller do its work.
const MANAGED_ATTACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// Why the node cannot be described; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("no default route, so no address for the node: set one with --node-ip")]
    NoAddress,
    #[error(
        "node name {name:?} is held by {holder}: give this one another with --hostname-override, or stop that one and \
         run kubectl delete node {name}"
    )]
    NameTaken { name: String, holder: String },
    #[error("cannot read what the machine is: {0}")]
    Machine(#[source] std::io::Error),
    #[error("cannot read the size of the disk under {}: {source}", path.display())]
    Disk { path: std::path::PathBuf, source: std::io::Error },
}

/// What the node actor needs.
pub struct NodeDeps {
    pub config: Arc<AgentConfig>,
    pub cluster: Arc<dyn Cluster>,
    pub runtime: Arc<dyn Runtime>,
    pub recorder: Recorder,
    /// What its conditions tell of: shortages, and that it is being switched off.
    pub distress: watch::Receiver<Distress>,
    /// Volumes that must not be detached from it.
    pub volumes_in_use: watch::Receiver<BTreeSet<String>>,
    /// What plugins have.
    pub devices: DevicesHandle,
}

/// What others read; cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    /// Complete from the start, but for labels and resources that the API adds.
    pub facts: watch::Receiver<NodeFacts>,
    /// Whether the API server has this node as Ready.
    pub ready: watch::Receiver<bool>,
    /// Has the node look how the runtime is, sooner than it would.
    pub runtime_lost: Arc<Notify>,
    /// The machine as it was found at the start.
    pub machine: Arc<Machine>,
    /// The runtime's last word on itself; `None` before the first and while it does not answer.
    pub runtime: watch::Receiver<Option<Arc<RuntimeInfo>>>,
}

/// Reads the machine; returns the handle, and the task to run under the supervisor.
pub fn new(deps: NodeDeps) -> Result<(NodeHandle, impl Future<Output = ()> + Send + 'static), NodeError> {
    let machine = Arc::new(machine::read().map_err(NodeError::Machine)?);
    let ips = addresses(&deps.config, machine::default_address, machine::default_address_of)?;
    let root = &deps.config.root_dir;
    // The root directory may not exist yet: its nearest ancestor lies on the same disk.
    let root = root.ancestors().find(|path| path.exists()).unwrap_or(root).to_owned();
    let disk = disk::usage(&root).map_err(|source| NodeError::Disk { path: root, source })?;
    let (facts, facts_reader) = watch::channel(NodeFacts::default());
    let (ready, ready_reader) = watch::channel(false);
    let (runtime, runtime_reader) = watch::channel(None);
    let runtime_lost = Arc::new(Notify::new());
    let task = NodeTask {
        device_changes: deps.devices.changes(),
        devices: Advertised::default(),
        outdated: BTreeSet::new(),
        deps,
        machine: machine.clone(),
        ips,
        disk,
        images: Vec::new(),
        images_read: None,
        started: clock::now().mono,
        facts,
        ready,
        runtime,
        runtime_lost: runtime_lost.clone(),
    };
    task.publish_facts(&task.status(None, clock::now()), None, Vec::new());
    let handle =
        NodeHandle { facts: facts_reader, ready: ready_reader, runtime_lost, machine, runtime: runtime_reader };
    Ok((handle, task.run()))
}

/// The node's addresses, the main one first. `0.0.0.0` and `::` stand for the default route's of that family.
fn addresses(
    config: &AgentConfig,
    default: impl Fn() -> Option<IpAddr>,
    default_of: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Result<Vec<IpAddr>, NodeError> {
    let given = |ip: IpAddr| if ip.is_unspecified() { default_of(ip) } else { Some(ip) };
    let first = config.node_ip.map_or_else(default, given).ok_or(NodeError::NoAddress)?;
    Ok(std::iter::once(first).chain(config.second_node_ip.and_then(given)).collect())
}

struct NodeTask {
    deps: NodeDeps,
    machine: Arc<Machine>,
    ips: Vec<IpAddr>,
    disk: DiskUsage,
    images: Vec<ImageInfo>,
    images_read: Option<Instant>,
    started: Instant,
    device_changes: watch::Receiver<()>,
    devices: Advertised,
    /// What the node's status is to lose: zeroed once, others may give it anew.
    outdated: BTreeSet<String>,
    facts: watch::Sender<NodeFacts>,
    ready: watch::Sender<bool>,
    runtime: watch::Sender<Option<Arc<RuntimeInfo>>>,
    runtime_lost: Arc<Notify>,
}

impl NodeTask {
    async fn run(mut self) {
        self.deps.recorder.node(false, "Starting", "Starting kubelet.".into());
        let node = self.register().await;
        if self.deps.devices.is_new() {
            let capacity = node.status.iter().flat_map(|status| status.capacity.iter().flatten());
            self.outdated = capacity.map(|(name, _)| name.clone()).filter(|name| is_extended_resource(name)).collect();
        }
        let cluster = self.deps.cluster.clone();
        let duration = self.deps.config.node_lease_duration;
        let csi = CsiNode { node_name: self.deps.config.node_name.clone(), cluster: cluster.clone() };
        tokio::join!(
            lease::renew(&*cluster, &node, duration),
            self.keep_status(node.status.clone().unwrap_or_default()),
            csi.introduce(&node)
        );
    }

    /// Creates the Node, or takes over the one that is there; until the API server has answered.
    async fn register(&mut self) -> Node {
        let mut retry = RETRY_FIRST;
        let mut told = false;
        loop {
            self.look().await;
            match self.register_once().await {
                Ok(node) => {
                    tracing::info!(node = self.deps.config.node_name, "node registered");
                    self.publish(&node);
                    return node;
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "node not registered, retrying");
                    }
                    tokio::time::sleep(retry).await;
                    retry = later(retry);
                }
            }
        }
    }

    async fn register_once(&self) -> Result<Node, ClusterError> {
        let name = &self.deps.config.node_name;
        if self.deps.config.kubelet.register_node == Some(false) {
            let missing =
                || ClusterError::NotFound(format!("node {name:?} is not there: registerNode leaves it to others"));
            return self.deps.cluster.node(name).await?.ok_or_else(missing);
        }
        let wanted = self.node();
        let status = wanted.status.clone().unwrap_or_default();
        match self.deps.cluster.create_node(&wanted).await {
            Ok(node) => {
                self.note_transitions(None, &status);
                return Ok(node);
            }
            Err(ClusterError::Conflict(_)) => {}
            // A credential that may update its node but not create it: perhaps the node is there.
            Err(error @ ClusterError::Denied(_)) => match self.deps.cluster.node(name).await {
                Ok(Some(_)) => {}
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        }
        let known = self.deps.cluster.node(name).await?;
        let known = known.ok_or_else(|| ClusterError::Unavailable(format!("node {name:?} is being replaced")))?;
        match adoption_patch(&known, &wanted) {
            Some(patch) => self.deps.cluster.patch_node(name, &patch).await,
            None => Ok(known),
        }
    }

    /// The Node as first created (`initialNode`).
    fn node(&self) -> Node {
        let config = &self.deps.config;
        let taints = config.register_with_taints.iter().map(|(key, value, effect)| Taint {
            key: key.clone(),
            value: Some(value.clone()).filter(|value| !value.is_empty()),
            effect: effect.clone(),
            time_added: None,
        });
        let taints: Vec<Taint> = taints.collect();
        let mut labels = config.node_labels.clone();
        labels.extend(self.default_labels());
        Node {
            metadata: ObjectMeta {
                name: Some(config.node_name.clone()),
                labels: Some(labels),
                annotations: Some(BTreeMap::from([(MANAGED_ATTACH.to_owned(), "true".to_owned())])),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                taints: (!taints.is_empty()).then_some(taints),
                provider_id: Some(config.kubelet.provider_id.clone()).filter(|id| !id.is_empty()),
                ..Default::default()
            }),
            status: Some(self.status(None, clock::now())),
        }
    }

    fn default_labels(&self) -> BTreeMap<String, String> {
        let architecture = self.machine.architecture;
        let labels = [
            ("beta.kubernetes.io/arch", architecture),
            ("beta.kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture),
            ("kubernetes.io/hostname", &self.deps.config.node_name),
            ("kubernetes.io/os", "linux"),
        ];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// Looks, compares with what the API has, and patches what differs; every 10 s, or sooner until the node is ready.
    async fn keep_status(&mut self, registered: NodeStatus) {
        let mut reported = clock::now().mono;
        let mut last = Some(registered);
        let mut retry = RETRY_FIRST;
        let mut told = false;
        loop {
            self.list_images().await;
            match self.pass(last.take(), &mut reported).await {
                Ok(true) => {
                    retry = RETRY_FIRST;
                    told = false;
                    self.wait().await;
                }
                Ok(false) => {
                    tokio::time::sleep(retry).await;
                    retry = later(retry);
                }
                Err(error) => {
                    // Once an outage.
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "node status not updated, retrying");
                    }
                    tokio::time::sleep(retry).await;
                    retry = later(retry);
                }
            }
            self.look().await;
        }
    }

    /// Until the next look is due; a shortage that begins or ends, and a runtime that is lost, are shown sooner.
    async fn wait(&mut self) {
        // Every arm is cancel-safe: a change that is not seen here is seen by the next wait.
        tokio::select! {
            () = tokio::time::sleep(self.deps.config.kubelet.node_status_update_frequency.to_std()) => {}
            () = self.runtime_lost.notified() => tokio::time::sleep(RUNTIME_RESTART).await,
            // Without eviction nothing changes any more.
            Ok(()) = self.deps.distress.changed() => {}
            Ok(()) = self.deps.volumes_in_use.changed() => {}
            // A plugin that comes and goes all the time is not followed at every step.
            Ok(()) = self.device_changes.changed() => tokio::time::sleep(DEVICES_SETTLE).await,
        }
    }

    /// One comparison; `last` spares the read right after registration. Whether the API now has the node as Ready.
    async fn pass(&mut self, last: Option<NodeStatus>, reported: &mut Instant) -> Result<bool, ClusterError> {
        let name = self.deps.config.node_name.clone();
        let last = match last {
            Some(last) => last,
            None => {
                let node = self.deps.cluster.node(&name).await?;
                let node = node.ok_or_else(|| {
                    ClusterError::NotFound(format!("node {name:?} was deleted: restart the agent to register it again"))
                })?;
                self.publish(&node);
                node.status.unwrap_or_default()
            }
        };
        let now = clock::now();
        let next = self.status(Some(&last), now);
        let change = status::change(&last, &next)
            .map_err(|error| ClusterError::Rejected(format!("cannot encode the node's status: {error}")))?;
        let due = now.mono - *reported >= self.deps.config.node_status_report_frequency;
        if !change.matters && !due {
            self.outdated.clear();
            return Ok(is_true(&last, "Ready"));
        }
        let node = self.deps.cluster.patch_node_status(&name, &change.patch).await?;
        self.outdated.clear();
        *reported = now.mono;
        self.note_transitions(Some(&last), &next);
        self.publish(&node);
        Ok(node.status.as_ref().is_some_and(|status| is_true(status, "Ready")))
    }

    /// Asks the runtime and the disk.
    async fn look(&mut self) {
        let info = match tokio::time::timeout(RUNTIME_DEADLINE, self.deps.runtime.info()).await {
            Ok(Ok(info)) => Some(Arc::new(info)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "container runtime does not answer");
                None
            }
            Err(_) => {
                tracing::debug!("container runtime does not answer in time");
                None
            }
        };
        self.runtime.send_if_modified(|known| {
            let changed = *known != info;
            *known = info;
            changed
        });
        self.device_changes.mark_unchanged();
        self.devices = self.deps.devices.advertised().await;
        let root = &self.deps.config.root_dir;
        match disk::usage(root) {
            Ok(usage) => self.disk = usage,
            Err(error) => tracing::debug!(%error, "root directory not looked at"),
        }
    }

    async fn list_images(&mut self) {
        let now = clock::now().mono;
        let every = if now - self.started < SETTLING { SETTLING_IMAGES_EVERY } else { IMAGES_EVERY };
        if self.images_read.is_some_and(|read| now - read < every) {
            return;
        }
        match tokio::time::timeout(RUNTIME_DEADLINE, self.deps.runtime.images()).await {
            Ok(Ok(images)) => {
                self.images = images;
                self.images_read = Some(now);
            }
            Ok(Err(error)) => tracing::debug!(%error, "images not listed"),
            Err(_) => tracing::debug!("images not listed in time"),
        }
    }

    fn status(&self, last: Option<&NodeStatus>, now: Now) -> NodeStatus {
        let runtime = self.runtime.borrow().clone();
        let distress = self.deps.distress.borrow();
        let volumes_in_use = self.deps.volumes_in_use.borrow();
        status::build(&Inputs {
            config: &self.deps.config,
            machine: &self.machine,
            disk: self.disk,
            ips: &self.ips,
            runtime: runtime.as_deref().ok_or("does not answer"),
            images: &self.images,
            distress: &distress,
            volumes_in_use: &volumes_in_use,
            devices: &self.devices,
            outdated: &self.outdated,
            last,
            now: now.wall,
        })
    }

    /// Tells the others what the API has.
    fn publish(&self, node: &Node) {
        if let Some(status) = &node.status {
            let ready = is_true(status, "Ready");
            self.ready.send_if_modified(|known| std::mem::replace(known, ready) != ready);
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
            self.publish_facts(status, node.metadata.labels.as_ref(), taints.unwrap_or_default());
        }
    }

    fn publish_facts(&self, status: &NodeStatus, labels: Option<&BTreeMap<String, String>>, taints: Vec<Taint>) {
        let default_handler = self.runtime.borrow().as_ref().and_then(|info| info.handlers.get("").copied());
        let own_labels = || {
            let mut labels = self.deps.config.node_labels.clone();
            labels.extend(self.default_labels());
            labels
        };
        let facts = NodeFacts {
            capacity: status.capacity.clone().unwrap_or_default(),
            allocatable: status.allocatable.clone().unwrap_or_default(),
            labels: labels.cloned().unwrap_or_else(own_labels),
            ips: self.ips.clone(),
            recursive_read_only_mounts: default_handler.is_some_and(|(read_only, _)| read_only),
            user_namespaces: self.runtime.borrow().as_ref().map(|info| user_namespaces(info)).unwrap_or_default(),
            supplemental_groups_policy: self
                .runtime
                .borrow()
                .as_ref()
                .is_none_or(|info| info.supplemental_groups_policy),
            taints,
            allowed_unsafe_sysctls: self.deps.config.kubelet.allowed_unsafe_sysctls.clone(),
            app_armor: self.machine.app_armor,
            volumes_in_use: status.volumes_in_use.iter().flatten().cloned().collect(),
        };
        self.facts.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });
    }

    /// Events as the kubelet's: on each change of a condition, and the three good ones at first.
    fn note_transitions(&self, last: Option<&NodeStatus>, next: &NodeStatus) {
        for (type_, if_true, if_false) in [
            ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
            ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
            ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
            ("Ready", "NodeReady", "NodeNotReady"),
        ] {
            let was = condition(last, type_).map(|condition| condition.status.as_str());
            let is = condition(Some(next), type_).map(|condition| condition.status.as_str());
            if was == is || (was.is_none() && type_ == "Ready") {
                continue;
            }
            let reason = if is == Some("True") { if_true } else { if_false };
            let message = format!("Node {} status is now: {reason}", self.deps.config.node_name);
            self.deps.recorder.node(false, reason, message);
        }
    }
}

/// By half: a node that takes long to become ready is seen ready at most a third later, up to `RETRY_LAST`.
fn later(retry: Duration) -> Duration {
    (retry * 3 / 2).min(RETRY_LAST)
}

/// What a node that was there already lacks of ours: the default labels and the attach annotation, nothing else.
fn adoption_patch(known: &Node, wanted: &Node) -> Option<serde_json::Value> {
    let defaults = ["beta.kubernetes.io/", "kubernetes.io/"];
    let known_labels = known.metadata.labels.clone().unwrap_or_default();
    let labels: BTreeMap<&String, &String> = (wanted.metadata.labels.iter().flatten())
        .filter(|(key, value)| defaults.iter().any(|d| key.starts_with(d)) && known_labels.get(*key) != Some(*value))
        .collect();
    let managed = known.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(MANAGED_ATTACH));
    if labels.is_empty() && managed {
        return None;
    }
    Some(json!({"metadata": {"labels": labels, "annotations": {MANAGED_ATTACH: "true"}}}))
}

/// Which runtime handlers can make user namespaces.
fn user_namespaces(info: &RuntimeInfo) -> BTreeMap<String, bool> {
    info.handlers.iter().map(|(name, (_, can))| (name.clone(), *can)).collect()
}
