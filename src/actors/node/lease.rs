//! The node's Lease: proof of life for the node controller.

use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use std::time::Duration;

/// First and longest wait after a failure (client-go's lease controller: 100 ms doubling to 7 s).
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(7);

/// Renews for ever, each quarter of the lease's duration (40 s: every 10 s).
pub(super) async fn renew(cluster: &dyn Cluster, node: &Node, duration: Duration) {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    // What the API had after our last write: spares a read before each.
    let mut held: Option<Lease> = None;
    let mut retry = RETRY_FIRST;
    loop {
        match renew_once(cluster, node, name, held.take(), duration).await {
            Ok(lease) => {
                held = Some(lease);
                retry = RETRY_FIRST;
                tokio::time::sleep(duration / 4).await;
            }
            Err(error) => {
                if retry == RETRY_FIRST {
                    tracing::warn!(%error, "node lease not renewed, retrying");
                }
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_LAST);
            }
        }
    }
}

async fn renew_once(
    cluster: &dyn Cluster,
    node: &Node,
    name: &str,
    held: Option<Lease>,
    duration: Duration,
) -> Result<Lease, ClusterError> {
    let known = match held {
        Some(lease) => Some(lease),
        None => cluster.lease(name).await?,
    };
    let lease = renewed(known, node, name, duration);
    match cluster.put_lease(&lease).await {
        // Someone else wrote or removed it: read it again, at once.
        Err(ClusterError::Conflict(_) | ClusterError::NotFound(_)) => {
            let known = cluster.lease(name).await?;
            cluster.put_lease(&renewed(known, node, name, duration)).await
        }
        answer => answer,
    }
}

fn renewed(known: Option<Lease>, node: &Node, name: &str, duration: Duration) -> Lease {
    let mut lease = known.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("kube-node-lease".into()),
            ..Default::default()
        },
        spec: None,
    });
    if lease.metadata.owner_references.as_deref().unwrap_or_default().is_empty() {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_owned(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            ..Default::default()
        }]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
    spec.renew_time = Some(MicroTime(clock::now().wall));
    lease
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::FakeCluster;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_made_renewed_every_ten_seconds_and_taken_back_after_a_conflict() {
        let fake = FakeCluster::default();
        let node = Node {
            metadata: ObjectMeta { name: Some("n1".into()), uid: Some("u".into()), ..Default::default() },
            ..Default::default()
        };
        fake.fail("put_lease", ClusterError::Unavailable("starting".into()));
        let run = renew(&fake, &node, Duration::from_secs(40));
        let _ = tokio::time::timeout(Duration::from_secs(25), run).await;
        let calls = fake.calls();
        assert_eq!(calls.iter().filter(|call| call.starts_with("put_lease")).count(), 4, "{calls:?}");
        let lease = fake.get_lease("n1").unwrap();
        assert_eq!(lease.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        assert_eq!(lease.spec.as_ref().unwrap().lease_duration_seconds, Some(40));

        let stale = Lease { metadata: ObjectMeta { resource_version: Some("0".into()), ..lease.metadata }, ..lease };
        let taken = renew_once(&fake, &node, "n1", Some(stale), Duration::from_secs(40)).await.unwrap();
        assert_eq!(taken.spec.unwrap().holder_identity.as_deref(), Some("n1"));
    }
}
