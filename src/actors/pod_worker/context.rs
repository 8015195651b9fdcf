//! What all workers share.

use crate::actors::images::ImagesHandle;
use crate::actors::pods::PodsHandle;
use crate::actors::probes::ProbesHandle;
use crate::actors::status::StatusHandle;
use crate::cgroups::Cgroups;
use crate::cluster::{Cluster, Recorder};
use crate::model::dns::NodeDns;
use crate::model::node::NodeFacts;
use crate::runtime::Runtime;
use crate::volumes::Volumes;
use k8s_openapi::api::core::v1::Service;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// The services of all namespaces; `None` until they are listed.
pub type Services = watch::Receiver<Option<Arc<Vec<Arc<Service>>>>>;

/// Handles and facts, cheap to share.
pub struct WorkerContext {
    pub runtime: Arc<dyn Runtime>,
    pub cluster: Arc<dyn Cluster>,
    pub volumes: Volumes,
    /// `None`: the runtime alone makes them (tests).
    pub cgroups: Option<Cgroups>,
    pub recorder: Recorder,
    pub status: StatusHandle,
    pub images: ImagesHandle,
    pub probes: ProbesHandle,
    pub pods: PodsHandle,
    pub node: watch::Receiver<NodeFacts>,
    pub services: Services,
    pub dns: NodeDns,
    pub paths: WorkerPaths,
}

/// Where a pod's traces lie.
#[derive(Clone, Debug)]
pub struct WorkerPaths {
    /// `/var/log/pods`.
    pub pod_logs: PathBuf,
}
