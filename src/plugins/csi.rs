//! CSI drivers of the node, each behind its socket: the Node service as the agent calls it.

pub mod fake;
pub mod proto;

use self::proto::{self as pb, NodeRpcType, UsageUnit};
use super::rpc::{self, PluginError};
use crate::clock;
use crate::metrics::catalog;
use hyper_util::rt::TokioIo;
use prost::Message;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// How long the kubelet waits for a driver (`csiTimeout`).
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Drivers that have registered; cheap to clone.
#[derive(Clone, Default)]
pub struct Drivers(Arc<Mutex<BTreeMap<String, Driver>>>);

/// No such driver runs on this node (now).
#[derive(Clone, Debug, thiserror::Error)]
#[error("driver name {0} not found in the list of registered CSI drivers")]
pub struct UnknownDriver(String);

impl Drivers {
    /// Takes a driver, in the place of one that had the name before. Its socket is connected to when it is first called.
    pub fn add(&self, name: &str, socket: &Path) -> Driver {
        let driver =
            Driver { name: name.into(), endpoint: socket.into(), channel: lazy(socket), capabilities: Arc::default() };
        self.all().insert(name.to_owned(), driver.clone());
        driver
    }

    /// Lets go of the driver that listens there; another that came in its place stays. Whether there was one to let go of.
    pub fn remove(&self, name: &str, socket: &Path) -> bool {
        let mut all = self.all();
        let found = all.get(name).is_some_and(|driver| *driver.endpoint == *socket);
        if found {
            all.remove(name);
        }
        found
    }

    pub fn get(&self, name: &str) -> Result<Driver, UnknownDriver> {
        self.all().get(name).cloned().ok_or_else(|| UnknownDriver(name.to_owned()))
    }

    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Driver>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of the Node service a driver does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub stage: bool,
    pub expand: bool,
    /// It tells one writing pod of the node from several.
    pub multi_writer: bool,
    /// It gives volumes to the pod's fsGroup itself.
    pub mount_group: bool,
    /// It says how full its volumes are, and how they are.
    pub stats: bool,
    pub condition: bool,
}

/// How full a volume is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub bytes: Figure,
    pub inodes: Figure,
    /// What is wrong with it, if anything is; `None`: the driver does not say.
    pub abnormal: Option<Option<String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    pub total: u64,
    pub used: u64,
    pub available: u64,
}

/// What a driver says of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    pub node_id: String,
    /// 0: as many as one likes.
    pub max_volumes: i64,
    pub topology: BTreeMap<String, String>,
}

/// One driver; cheap to clone.
#[derive(Clone)]
pub struct Driver {
    name: Arc<str>,
    endpoint: Arc<Path>,
    channel: Channel,
    /// Asked for once a registration.
    capabilities: Arc<OnceCell<Capabilities>>,
}

impl Driver {
    pub async fn node_info(&self) -> Result<NodeInfo, PluginError> {
        let answer: pb::NodeGetInfoResponse = self.call("/csi.v1.Node/NodeGetInfo", pb::Empty {}).await?;
        Ok(NodeInfo {
            node_id: answer.node_id,
            max_volumes: answer.max_volumes_per_node,
            topology: answer.accessible_topology.map(|topology| topology.segments).unwrap_or_default(),
        })
    }

    pub async fn capabilities(&self) -> Result<Capabilities, PluginError> {
        let ask = || async {
            let answer: pb::NodeGetCapabilitiesResponse =
                self.call("/csi.v1.Node/NodeGetCapabilities", pb::Empty {}).await?;
            Ok::<_, PluginError>(Capabilities::from(answer))
        };
        self.capabilities.get_or_try_init(ask).await.copied()
    }

    pub async fn stage(&self, request: pb::NodeStageVolumeRequest) -> Result<(), PluginError> {
        self.call::<_, pb::Empty>("/csi.v1.Node/NodeStageVolume", request).await.map(drop)
    }

    pub async fn unstage(&self, request: pb::NodeUnstageVolumeRequest) -> Result<(), PluginError> {
        self.call::<_, pb::Empty>("/csi.v1.Node/NodeUnstageVolume", request).await.map(drop)
    }

    pub async fn publish(&self, request: pb::NodePublishVolumeRequest) -> Result<(), PluginError> {
        self.call::<_, pb::Empty>("/csi.v1.Node/NodePublishVolume", request).await.map(drop)
    }

    pub async fn unpublish(&self, request: pb::NodeUnpublishVolumeRequest) -> Result<(), PluginError> {
        self.call::<_, pb::Empty>("/csi.v1.Node/NodeUnpublishVolume", request).await.map(drop)
    }

    pub async fn expand(&self, request: pb::NodeExpandVolumeRequest) -> Result<(), PluginError> {
        self.call::<_, pb::NodeExpandVolumeResponse>("/csi.v1.Node/NodeExpandVolume", request).await.map(drop)
    }

    /// Of a volume that lies there.
    pub async fn figures(&self, volume: &str, path: &Path) -> Result<Figures, PluginError> {
        let request =
            pb::NodeGetVolumeStatsRequest { volume_id: volume.to_owned(), volume_path: path.display().to_string() };
        let answer: pb::NodeGetVolumeStatsResponse = self.call("/csi.v1.Node/NodeGetVolumeStats", request).await?;
        Ok(answer.into())
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, PluginError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let begun = clock::now().mono;
        let answer = rpc::unary(&self.channel, path, request, CALL_TIMEOUT).await.map_err(|error| match error {
            // The deadline that the kubelet sends along, as it reads it back.
            PluginError::Deadline { .. } => {
                PluginError::Rpc { code: Code::DeadlineExceeded, message: "context deadline exceeded".to_owned() }
            }
            error => error,
        });
        let status = answer.as_ref().map_or_else(PluginError::code_name, |_| "OK");
        let labels = [Cow::Owned(self.name.to_string()), status.into(), path.into(), "false".into()];
        catalog::CSI_OPERATIONS.observe(labels, begun.elapsed());
        answer
    }
}

impl From<pb::NodeGetCapabilitiesResponse> for Capabilities {
    fn from(answer: pb::NodeGetCapabilitiesResponse) -> Self {
        let mut known = Self::default();
        for kind in answer.capabilities.iter().filter_map(|capability| capability.rpc).map(|rpc| rpc.kind()) {
            match kind {
                NodeRpcType::StageUnstageVolume => known.stage = true,
                NodeRpcType::ExpandVolume => known.expand = true,
                NodeRpcType::SingleNodeMultiWriter => known.multi_writer = true,
                NodeRpcType::VolumeMountGroup => known.mount_group = true,
                NodeRpcType::GetVolumeStats => known.stats = true,
                NodeRpcType::VolumeCondition => known.condition = true,
                NodeRpcType::Unknown => {}
            }
        }
        known
    }
}

impl From<pb::NodeGetVolumeStatsResponse> for Figures {
    fn from(answer: pb::NodeGetVolumeStatsResponse) -> Self {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let mut known = Self::default();
        for usage in &answer.usage {
            let figure =
                Figure { total: count(usage.total), used: count(usage.used), available: count(usage.available) };
            match usage.unit() {
                UsageUnit::Bytes => known.bytes = figure,
                UsageUnit::Inodes => known.inodes = figure,
                UsageUnit::Unknown => {}
            }
        }
        known.abnormal = answer.volume_condition.map(|found| found.abnormal.then_some(found.message));
        known
    }
}

/// A channel that connects when first used, and again after the driver restarts.
fn lazy(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT).connect_with_connector_lazy(connector)
}
