//! The group versions that the resource table names.

use crate::gvr::GroupVersion;

pub const CORE_V1: GroupVersion = GroupVersion { group: "", version: "v1" };
pub const EVENTS_V1: GroupVersion = GroupVersion { group: "events.k8s.io", version: "v1" };
pub const DISCOVERY_V1: GroupVersion = GroupVersion { group: "discovery.k8s.io", version: "v1" };
pub const COORDINATION_V1: GroupVersion = GroupVersion { group: "coordination.k8s.io", version: "v1" };
pub const SCHEDULING_V1: GroupVersion = GroupVersion { group: "scheduling.k8s.io", version: "v1" };
pub const NODE_V1: GroupVersion = GroupVersion { group: "node.k8s.io", version: "v1" };
pub const POLICY_V1: GroupVersion = GroupVersion { group: "policy", version: "v1" };
pub const AUTHORIZATION_V1: GroupVersion = GroupVersion { group: "authorization.k8s.io", version: "v1" };
pub const AUTHENTICATION_V1: GroupVersion = GroupVersion { group: "authentication.k8s.io", version: "v1" };
pub const APIEXTENSIONS_V1: GroupVersion = GroupVersion { group: "apiextensions.k8s.io", version: "v1" };
