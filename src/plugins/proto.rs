//! Messages of `deviceplugin/v1beta1` and `podresources/v1` (k8s.io/kubelet), field by field.

/// The kubelet's device plugin API, package `v1beta1`.
pub mod device {
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Empty {}

    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct DevicePluginOptions {
        #[prost(bool, tag = "1")]
        pub pre_start_required: bool,
        #[prost(bool, tag = "2")]
        pub get_preferred_allocation_available: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RegisterRequest {
        #[prost(string, tag = "1")]
        pub version: String,
        /// Name of the plugin's socket in the folder of the kubelet's.
        #[prost(string, tag = "2")]
        pub endpoint: String,
        #[prost(string, tag = "3")]
        pub resource_name: String,
        #[prost(message, optional, tag = "4")]
        pub options: Option<DevicePluginOptions>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ListAndWatchResponse {
        #[prost(message, repeated, tag = "1")]
        pub devices: Vec<Device>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Device {
        #[prost(string, tag = "1")]
        pub id: String,
        /// `Healthy` or `Unhealthy`.
        #[prost(string, tag = "2")]
        pub health: String,
        #[prost(message, optional, tag = "3")]
        pub topology: Option<super::TopologyInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PreStartContainerRequest {
        #[prost(string, repeated, tag = "1")]
        pub devices_ids: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PreferredAllocationRequest {
        #[prost(message, repeated, tag = "1")]
        pub container_requests: Vec<ContainerPreferredAllocationRequest>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerPreferredAllocationRequest {
        #[prost(string, repeated, tag = "1")]
        pub available_device_ids: Vec<String>,
        #[prost(string, repeated, tag = "2")]
        pub must_include_device_ids: Vec<String>,
        #[prost(int32, tag = "3")]
        pub allocation_size: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PreferredAllocationResponse {
        #[prost(message, repeated, tag = "1")]
        pub container_responses: Vec<ContainerPreferredAllocationResponse>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerPreferredAllocationResponse {
        #[prost(string, repeated, tag = "1")]
        pub device_ids: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AllocateRequest {
        #[prost(message, repeated, tag = "1")]
        pub container_requests: Vec<ContainerAllocateRequest>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerAllocateRequest {
        #[prost(string, repeated, tag = "1")]
        pub devices_ids: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AllocateResponse {
        #[prost(message, repeated, tag = "1")]
        pub container_responses: Vec<ContainerAllocateResponse>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerAllocateResponse {
        #[prost(btree_map = "string, string", tag = "1")]
        pub envs: BTreeMap<String, String>,
        #[prost(message, repeated, tag = "2")]
        pub mounts: Vec<Mount>,
        #[prost(message, repeated, tag = "3")]
        pub devices: Vec<DeviceSpec>,
        #[prost(btree_map = "string, string", tag = "4")]
        pub annotations: BTreeMap<String, String>,
        #[prost(message, repeated, tag = "5")]
        pub cdi_devices: Vec<CdiDevice>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Mount {
        #[prost(string, tag = "1")]
        pub container_path: String,
        #[prost(string, tag = "2")]
        pub host_path: String,
        #[prost(bool, tag = "3")]
        pub read_only: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct DeviceSpec {
        #[prost(string, tag = "1")]
        pub container_path: String,
        #[prost(string, tag = "2")]
        pub host_path: String,
        #[prost(string, tag = "3")]
        pub permissions: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CdiDevice {
        #[prost(string, tag = "1")]
        pub name: String,
    }
}

/// Who holds what of the node, package `v1`. Claims of dynamic resource allocation, which this node does not do, are
/// left out.
pub mod podresources {
    use super::TopologyInfo;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ListPodResourcesRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ListPodResourcesResponse {
        #[prost(message, repeated, tag = "1")]
        pub pod_resources: Vec<PodResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct GetPodResourcesRequest {
        #[prost(string, tag = "1")]
        pub pod_name: String,
        #[prost(string, tag = "2")]
        pub pod_namespace: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct GetPodResourcesResponse {
        #[prost(message, optional, tag = "1")]
        pub pod_resources: Option<PodResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AllocatableResourcesRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AllocatableResourcesResponse {
        #[prost(message, repeated, tag = "1")]
        pub devices: Vec<ContainerDevices>,
        /// CPUs that a static policy may give out.
        #[prost(int64, repeated, tag = "2")]
        pub cpu_ids: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub memory: Vec<ContainerMemory>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PodResources {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub namespace: String,
        #[prost(message, repeated, tag = "3")]
        pub containers: Vec<ContainerResources>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerResources {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, repeated, tag = "2")]
        pub devices: Vec<ContainerDevices>,
        /// CPUs that are this container's alone.
        #[prost(int64, repeated, tag = "3")]
        pub cpu_ids: Vec<i64>,
        #[prost(message, repeated, tag = "4")]
        pub memory: Vec<ContainerMemory>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerDevices {
        #[prost(string, tag = "1")]
        pub resource_name: String,
        #[prost(string, repeated, tag = "2")]
        pub device_ids: Vec<String>,
        #[prost(message, optional, tag = "3")]
        pub topology: Option<TopologyInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ContainerMemory {
        /// `memory` or `hugepages-…`.
        #[prost(string, tag = "1")]
        pub memory_type: String,
        #[prost(uint64, tag = "2")]
        pub size: u64,
        #[prost(message, optional, tag = "3")]
        pub topology: Option<TopologyInfo>,
    }
}

/// The same in both packages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopologyInfo {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NumaNode>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct NumaNode {
    #[prost(int64, tag = "1")]
    pub id: i64,
}
