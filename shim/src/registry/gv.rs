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
pub const APPS_V1: GroupVersion = GroupVersion { group: "apps", version: "v1" };
pub const BATCH_V1: GroupVersion = GroupVersion { group: "batch", version: "v1" };
pub const AUTOSCALING_V1: GroupVersion = GroupVersion { group: "autoscaling", version: "v1" };
pub const AUTOSCALING_V2: GroupVersion = GroupVersion { group: "autoscaling", version: "v2" };
pub const NETWORKING_V1: GroupVersion = GroupVersion { group: "networking.k8s.io", version: "v1" };
pub const STORAGE_V1: GroupVersion = GroupVersion { group: "storage.k8s.io", version: "v1" };
pub const RBAC_V1: GroupVersion = GroupVersion { group: "rbac.authorization.k8s.io", version: "v1" };
pub const CERTIFICATES_V1: GroupVersion = GroupVersion { group: "certificates.k8s.io", version: "v1" };
pub const ADMISSIONREGISTRATION_V1: GroupVersion =
    GroupVersion { group: "admissionregistration.k8s.io", version: "v1" };
pub const FLOWCONTROL_V1: GroupVersion = GroupVersion { group: "flowcontrol.apiserver.k8s.io", version: "v1" };
pub const RESOURCE_V1: GroupVersion = GroupVersion { group: "resource.k8s.io", version: "v1" };
pub const APIREGISTRATION_V1: GroupVersion = GroupVersion { group: "apiregistration.k8s.io", version: "v1" };
