//! What all workers share.

use super::pace::SandboxPace;
use crate::actors::devices::DevicesHandle;
use crate::actors::images::ImagesHandle;
use crate::actors::pods::PodsHandle;
use crate::actors::probes::ProbesHandle;
use crate::actors::status::StatusHandle;
use crate::cgroups::Cgroups;
use crate::cluster::{Cluster, KnownPods, Recorder};
use crate::decide::backoff::Delays;
use crate::managers::Managers;
use crate::model::dns::NodeDns;
use crate::model::node::NodeFacts;
use crate::runtime::{Runtime, RuntimeError};
use crate::supervisor::Supervisor;
use crate::volumes::Volumes;
use k8s_openapi::api::core::v1::Service;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// The services of all namespaces; `None` until they are listed.
pub type Services = watch::Receiver<Option<Arc<Vec<Arc<Service>>>>>;

/// Handles and facts, cheap to share.
pub struct WorkerContext {
    pub runtime: Arc<dyn Runtime>,
    pub cluster: Arc<dyn Cluster>,
    pub volumes: Volumes,
    /// `None`: the runtime alone makes them (tests).
    pub cgroups: Option<Cgroups>,
    pub pace: SandboxPace,
    pub recorder: Recorder,
    pub status: StatusHandle,
    pub images: ImagesHandle,
    pub devices: DevicesHandle,
    pub probes: ProbesHandle,
    pub pods: PodsHandle,
    pub node: watch::Receiver<NodeFacts>,
    pub services: Services,
    pub dns: NodeDns,
    pub paths: WorkerPaths,
    pub known: KnownPods,
    /// How long containers that end again and again wait.
    pub restart_delays: Delays,
    /// `None`: no policy gives containers CPUs of their own.
    pub managers: Option<Arc<Managers>>,
    pub tasks: Supervisor,
}

impl WorkerContext {
    /// Makes one call of the runtime to its end, also when its worker is dropped meanwhile: the agent's stop waits for
    /// it, so that what the call makes is seen by whoever looks next.
    pub async fn to_end<T: Send + 'static>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, RuntimeError>> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.spawn_to_end(name, async move {
            // Nobody waits any more when the worker has gone.
            let _ = sender.send(call.await);
        });
        receiver.await.unwrap_or_else(|_| Err(RuntimeError::Unavailable("the agent is stopping".to_owned())))
    }
}

/// Where a pod's traces lie.
#[derive(Clone, Debug)]
pub struct WorkerPaths {
    /// `/var/log/pods`.
    pub pod_logs: PathBuf,
}
