//! One device plugin as the agent calls it (`v1beta1.DevicePlugin`).

pub mod checkpoint;
pub mod fake;
pub mod registration;

use super::proto::device as pb;
use super::rpc::{self, PluginError};
use crate::clock;
use crate::model::devices::{Device, DeviceMount, DeviceNode, Devices, Edits};
use std::path::Path;
use std::time::Duration;
use tonic::Streaming;
use tonic::transport::Channel;

/// The version of the API that plugins must speak.
pub const VERSION: &str = "v1beta1";
/// `Device.health` of one that can be had.
const HEALTHY: &str = "Healthy";
/// As long as the kubelet tries to reach a plugin; the pauses are grpc-go's.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_GROWS: f32 = 1.6;
const OPTIONS_TIMEOUT: Duration = Duration::from_secs(10);
/// The kubelet waits for ever, with every other pod behind; a plugin that sets up hardware takes seconds.
const ALLOCATE_TIMEOUT: Duration = Duration::from_secs(30);
/// `KubeletPreStartContainerRPCTimeoutInSecs`.
const PRE_START_TIMEOUT: Duration = Duration::from_secs(30);

/// A plugin that is connected; cheap to clone.
#[derive(Clone, Debug)]
pub struct DevicePlugin {
    channel: Channel,
    pre_start: bool,
    prefers: bool,
}

/// The plugin's lists of its devices, one after the other.
pub struct Lists(Streaming<pb::ListAndWatchResponse>);

impl DevicePlugin {
    /// Dials back to a plugin that has registered, and asks for its options.
    pub async fn connect(socket: &Path) -> Result<Self, PluginError> {
        let channel = dial(socket).await?;
        let path = "/v1beta1.DevicePlugin/GetDevicePluginOptions";
        let options: pb::DevicePluginOptions = rpc::unary(&channel, path, pb::Empty {}, OPTIONS_TIMEOUT).await?;
        Ok(Self { channel, pre_start: options.pre_start_required, prefers: options.get_preferred_allocation_available })
    }

    pub async fn lists(&self) -> Result<Lists, PluginError> {
        rpc::follow(&self.channel, "/v1beta1.DevicePlugin/ListAndWatch", pb::Empty {}).await.map(Lists)
    }

    /// Which devices it would rather give, if it cares at all.
    pub async fn preferred(
        &self,
        available: Vec<String>,
        must_include: Vec<String>,
        count: usize,
    ) -> Result<Vec<String>, PluginError> {
        if !self.prefers {
            return Ok(Vec::new());
        }
        let request = pb::ContainerPreferredAllocationRequest {
            available_device_ids: available,
            must_include_device_ids: must_include,
            allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let request = pb::PreferredAllocationRequest { container_requests: vec![request] };
        let path = "/v1beta1.DevicePlugin/GetPreferredAllocation";
        let answer: pb::PreferredAllocationResponse =
            rpc::unary(&self.channel, path, request, ALLOCATE_TIMEOUT).await?;
        Ok(answer.container_responses.into_iter().next().map(|first| first.device_ids).unwrap_or_default())
    }

    /// Has it give these devices to a container; `None`: it says nothing of how.
    pub async fn allocate(&self, ids: Vec<String>) -> Result<Option<Edits>, PluginError> {
        let request =
            pb::AllocateRequest { container_requests: vec![pb::ContainerAllocateRequest { devices_ids: ids }] };
        let path = "/v1beta1.DevicePlugin/Allocate";
        let answer: pb::AllocateResponse = rpc::unary(&self.channel, path, request, ALLOCATE_TIMEOUT).await?;
        Ok(answer.container_responses.into_iter().next().map(Edits::from))
    }

    /// Tells it, if it wants to know, that a container with these devices is about to start.
    pub async fn pre_start(&self, ids: Vec<String>) -> Result<(), PluginError> {
        if !self.pre_start {
            return Ok(());
        }
        let request = pb::PreStartContainerRequest { devices_ids: ids };
        let path = "/v1beta1.DevicePlugin/PreStartContainer";
        rpc::unary::<_, pb::Empty>(&self.channel, path, request, PRE_START_TIMEOUT).await.map(drop)
    }
}

/// Until somebody listens: a plugin may register before it does.
async fn dial(socket: &Path) -> Result<Channel, PluginError> {
    let begun = clock::now().mono;
    let mut pause = FIRST_PAUSE;
    loop {
        match rpc::connect(socket).await {
            Err(error) if begun.elapsed() + pause > DIAL_TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(pause).await,
            connected => return connected,
        }
        pause = pause.mul_f32(PAUSE_GROWS);
    }
}

impl Lists {
    /// The next list; `None` when the plugin ended them.
    pub async fn next(&mut self) -> Result<Option<Devices>, PluginError> {
        let list = self.0.message().await?;
        Ok(list.map(|list| list.devices.into_iter().map(device).collect()))
    }
}

fn device(device: pb::Device) -> (String, Device) {
    let nodes = device.topology.into_iter().flat_map(|topology| topology.nodes).map(|node| node.id).collect();
    (device.id, Device { healthy: device.health == HEALTHY, nodes })
}

impl From<pb::ContainerAllocateResponse> for Edits {
    fn from(answer: pb::ContainerAllocateResponse) -> Self {
        let mount = |mount: pb::Mount| DeviceMount {
            container_path: mount.container_path,
            host_path: mount.host_path,
            read_only: mount.read_only,
        };
        let node = |node: pb::DeviceSpec| DeviceNode {
            container_path: node.container_path,
            host_path: node.host_path,
            permissions: node.permissions,
        };
        Self {
            envs: answer.envs,
            mounts: answer.mounts.into_iter().map(mount).collect(),
            nodes: answer.devices.into_iter().map(node).collect(),
            annotations: answer.annotations,
            cdi_devices: answer.cdi_devices.into_iter().map(|device| device.name).collect(),
        }
    }
}

impl From<&Edits> for pb::ContainerAllocateResponse {
    fn from(edits: &Edits) -> Self {
        let mount = |mount: &DeviceMount| pb::Mount {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.clone(),
            read_only: mount.read_only,
        };
        let node = |node: &DeviceNode| pb::DeviceSpec {
            container_path: node.container_path.clone(),
            host_path: node.host_path.clone(),
            permissions: node.permissions.clone(),
        };
        Self {
            envs: edits.envs.clone(),
            mounts: edits.mounts.iter().map(mount).collect(),
            devices: edits.nodes.iter().map(node).collect(),
            annotations: edits.annotations.clone(),
            cdi_devices: edits.cdi_devices.iter().map(|name| pb::CdiDevice { name: name.clone() }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_does_not_listen_yet_is_waited_for() {
        let (begun, folder) = (clock::now().mono, tempfile::tempdir().unwrap());
        let error = DevicePlugin::connect(&folder.path().join("none.sock")).await.unwrap_err();
        assert!(error.to_string().starts_with("failed to dial plugin: "), "{error}");
        assert!((9..=10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
