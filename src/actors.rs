//! The agent's actors, one a file: a cheap handle, a private request, a private task; only the supervisor spawns them.

pub mod certificates;
pub mod content;
mod csi_node;
pub mod devices;
pub mod eviction;
pub mod housekeeping;
pub mod image_gc;
pub mod images;
pub mod mirrors;
pub mod node;
pub mod pinning;
pub mod plugins;
pub mod pod_worker;
pub mod pods;
pub mod probes;
pub mod runtime_watch;
pub mod shutdown;
pub mod static_pods;
pub mod status;
