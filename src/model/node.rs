//! What the agent knows of its node.

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What admission, volumes and environment variables ask of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub capacity: BTreeMap<String, Quantity>,
    pub allocatable: BTreeMap<String, Quantity>,
    pub labels: BTreeMap<String, String>,
    /// The node's addresses (`status.hostIPs`), primary first.
    pub ips: Vec<IpAddr>,
    /// Whether the default runtime handler can mount read-only recursively.
    pub recursive_read_only_mounts: bool,
    /// Runtime handlers (the default one has no name), and whether each can make user namespaces.
    pub user_namespaces: BTreeMap<String, bool>,
    /// Whether the runtime takes `supplementalGroupsPolicy`, as far as is known.
    pub supplemental_groups_policy: bool,
    pub taints: Vec<Taint>,
    /// Sysctls that pods may set beyond the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// `status.volumesInUse` as the API has it.
    pub volumes_in_use: BTreeSet<String>,
}

/// The machine as it is while we run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Online logical CPUs.
    pub cpus: u32,
    pub memory_bytes: u64,
    /// 0: no swap.
    pub swap_bytes: u64,
    /// Page size in bytes → pages set aside.
    pub huge_pages: BTreeMap<u64, u64>,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    pub os_image: String,
    /// Go's name: `amd64`, `arm64`.
    pub architecture: &'static str,
}
