//! The cluster as the agent needs it: trait over the API server. `cluster/` holds the kube-client implementation.

mod certificates;
mod client;
mod connection;
mod events;
pub mod fake;
mod known;
mod objects;
#[cfg(test)]
mod tests;
mod watch;
mod write;

pub use self::certificates::CertificateRequest;
pub use self::client::KubeCluster;
pub use self::connection::{Connection, ContactError, ServerVersion};
pub use self::events::Recorder;
pub use self::known::KnownPods;

use crate::ids::{PodKey, PodUid};
use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use std::path::PathBuf;
use std::sync::Arc;

/// What a caller can branch on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// The API server does not answer or answered 5xx/429: retry.
    #[error("API server is unavailable: {0}")]
    Unavailable(String),
    #[error("{0}")]
    NotFound(String),
    /// 409: another writer, or the uid precondition failed.
    #[error("{0}")]
    Conflict(String),
    /// 410: the position of a list or watch is too old; list again.
    #[error("{0}")]
    Expired(String),
    /// 401 or 403.
    #[error("{0}")]
    Denied(String),
    /// Any other 4xx: repeating it will not help.
    #[error("{0}")]
    Rejected(String),
    /// What the kubeconfig says is no way to any API server.
    #[error("kubeconfig {} cannot be used: {message}; it must name a server, its CA, and the node's certificate and key: have it \
             written by kubeadm join, or put one that is whole in its place", path.display())]
    Kubeconfig { path: PathBuf, message: String },
}

/// Pods of this node as the API server has them.
#[derive(Clone, Debug)]
pub enum PodChange {
    /// The complete list (start, or after a watch could not be resumed): what is absent is gone.
    Listed(Vec<Arc<Pod>>),
    Applied(Arc<Pod>),
    Deleted(Arc<Pod>),
}

/// An object whose content volumes show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentRef {
    pub kind: ContentKind,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentKind {
    ConfigMap,
    Secret,
}

/// The API server.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Runs until cancelled: lists and watches pods with `spec.nodeName=<node>`, resuming and relisting as needed.
    async fn follow_pods(&self, changes: tokio::sync::mpsc::Sender<PodChange>);
    /// Runs until cancelled: keeps the services of all namespaces current (environment variables of pods).
    async fn follow_services(&self, services: tokio::sync::watch::Sender<Option<Arc<Vec<Arc<Service>>>>>);
    /// Runs until cancelled: names the object whenever it is written. What it holds is read by who is told.
    async fn follow_content(&self, object: &ContentRef, changed: tokio::sync::mpsc::Sender<ContentRef>);
    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<Pod>>, ClusterError>;
    /// Strategic merge patch on `/status` with the uid as precondition; `None`: the pod is gone.
    async fn patch_pod_status(
        &self,
        key: &PodKey,
        uid: &PodUid,
        patch: &serde_json::Value,
    ) -> Result<Option<Arc<Pod>>, ClusterError>;
    /// DELETE with grace 0 and the uid as precondition; already gone is fine.
    async fn delete_pod(&self, key: &PodKey, uid: &PodUid) -> Result<(), ClusterError>;
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ClusterError>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ClusterError>;
    async fn persistent_volume_claim(&self, namespace: &str, name: &str)
    -> Result<PersistentVolumeClaim, ClusterError>;
    async fn persistent_volume(&self, name: &str) -> Result<PersistentVolume, ClusterError>;
    /// Strategic merge patch on a claim's `/status`.
    async fn patch_claim_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<(), ClusterError>;
    /// `None`: nobody has described the driver.
    async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriver>, ClusterError>;
    async fn volume_attachment(&self, name: &str) -> Result<Option<VolumeAttachment>, ClusterError>;
    async fn csi_node(&self, name: &str) -> Result<Option<CSINode>, ClusterError>;
    async fn create_csi_node(&self, node: &CSINode) -> Result<(), ClusterError>;
    async fn patch_csi_node(&self, name: &str, patch: &serde_json::Value) -> Result<(), ClusterError>;
    /// The handler of a runtime class (`node.k8s.io`).
    async fn runtime_handler(&self, class: &str) -> Result<String, ClusterError>;
    /// Mirror pods only: everything else is made by others.
    async fn create_pod(&self, pod: &Pod) -> Result<(), ClusterError>;
    async fn node(&self, name: &str) -> Result<Option<Node>, ClusterError>;
    async fn create_node(&self, node: &Node) -> Result<Node, ClusterError>;
    async fn patch_node(&self, name: &str, patch: &serde_json::Value) -> Result<Node, ClusterError>;
    async fn patch_node_status(&self, name: &str, patch: &serde_json::Value) -> Result<Node, ClusterError>;
    async fn lease(&self, name: &str) -> Result<Option<Lease>, ClusterError>;
    async fn put_lease(&self, lease: &Lease) -> Result<Lease, ClusterError>;
    async fn service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount, ClusterError>;
    /// A bound token of a service account (projected volumes): (token, expiry as RFC 3339).
    async fn service_account_token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_seconds: i64,
    ) -> Result<(String, String), ClusterError>;
    /// Asks whose a bearer token is.
    async fn review_token(&self, review: &TokenReview) -> Result<TokenReview, ClusterError>;
    /// Asks whether someone may do something.
    async fn review_access(&self, review: &SubjectAccessReview) -> Result<SubjectAccessReview, ClusterError>;
    /// Creates an event (recorder's business: `cluster::events`).
    async fn create_event(&self, event: &k8s_openapi::api::core::v1::Event) -> Result<(), ClusterError>;
    async fn patch_event(&self, namespace: &str, name: &str, patch: &serde_json::Value) -> Result<(), ClusterError>;
}

/// Where an event is shown.
#[derive(Clone, Debug)]
pub struct EventSubject {
    pub reference: k8s_openapi::api::core::v1::ObjectReference,
}
