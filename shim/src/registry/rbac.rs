//! The group rbac.authorization.k8s.io. Roles and bindings in a namespace and in the cluster have the same rules.

pub mod binding;
pub mod role;
