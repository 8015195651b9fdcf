//! The group scheduling.k8s.io.

pub mod priorityclass;
