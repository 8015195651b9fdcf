//! The group flowcontrol.apiserver.k8s.io: objects only; requests in flight are limited by flags.

pub mod flowschema;
pub mod prioritylevelconfiguration;
