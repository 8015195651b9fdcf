//! What the agent knows of its node.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
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
}
