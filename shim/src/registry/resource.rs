//! The group resource.k8s.io: devices, who offers them and who claims them.

pub mod deviceclass;
pub mod resourceclaim;
pub mod resourceclaimtemplate;
pub mod resourceslice;
