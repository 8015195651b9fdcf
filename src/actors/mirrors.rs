//! Keeps the mirrors of static pods at the API server: made, replaced, removed.

use crate::cluster::{Cluster, ClusterError};
use crate::decide::static_pod::{MirrorAction, MirrorView, mirror_actions, mirror_of};
use k8s_openapi::api::core::v1::Node;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// After a failure, doubling up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The actor; `run` it under the supervisor.
pub struct MirrorsTask {
    cluster: Arc<dyn Cluster>,
    node_name: String,
    view: watch::Receiver<MirrorView>,
}

impl MirrorsTask {
    pub fn new(cluster: Arc<dyn Cluster>, node_name: &str, view: watch::Receiver<MirrorView>) -> Self {
        Self { cluster, node_name: node_name.to_owned(), view }
    }

    pub async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            let actions = mirror_actions(&self.view.borrow_and_update());
            let mut failed = false;
            for action in actions {
                if let Err(error) = self.act(action).await {
                    tracing::warn!(%error, "mirror of a static pod not kept");
                    failed = true;
                }
            }
            let wait = async {
                if failed {
                    tokio::time::sleep(retry).await;
                } else {
                    std::future::pending().await
                }
            };
            // Both arms are cancel-safe: a watch keeps what was sent.
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { return },
                () = wait => {}
            }
            retry = if failed { (retry * 2).min(LAST_RETRY) } else { FIRST_RETRY };
        }
    }

    async fn act(&self, action: MirrorAction) -> Result<(), ClusterError> {
        match action {
            MirrorAction::Create(pod) => {
                let mirror = mirror_of(&pod, &self.node().await?);
                match self.cluster.create_pod(&mirror).await {
                    // Made already; the watch will tell.
                    Ok(()) | Err(ClusterError::Conflict(_)) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            MirrorAction::Delete { key, uid } => self.cluster.delete_pod(&key, &uid).await,
        }
    }

    /// The owner of every mirror.
    async fn node(&self) -> Result<Node, ClusterError> {
        let absent = || ClusterError::NotFound(format!("node {:?} is not registered yet", self.node_name));
        self.cluster.node(&self.node_name).await?.ok_or_else(absent)
    }
}
