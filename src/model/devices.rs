//! Devices as plugins name them, and what a container is given with them.

use std::collections::BTreeMap;

/// One device of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub healthy: bool,
    /// NUMA nodes that it is close to; none where the plugin does not say.
    pub nodes: Vec<i64>,
}

/// The devices of one resource by their ids.
pub type Devices = BTreeMap<String, Device>;

/// What a container must have so that it can use its devices: a plugin's answer to Allocate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    pub envs: BTreeMap<String, String>,
    pub mounts: Vec<DeviceMount>,
    pub nodes: Vec<DeviceNode>,
    pub annotations: BTreeMap<String, String>,
    /// Fully qualified names: `vendor.com/gpu=0`.
    pub cdi_devices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMount {
    pub container_path: String,
    pub host_path: String,
    pub read_only: bool,
}

/// A device file of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    pub container_path: String,
    pub host_path: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// What the node has of the resources of plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    pub capacity: BTreeMap<String, usize>,
    /// The healthy ones.
    pub allocatable: BTreeMap<String, usize>,
}
