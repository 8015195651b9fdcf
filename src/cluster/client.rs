//! `KubeCluster`: the real cluster, through the kube client and a kubeconfig.

use super::objects::{self, Objects};
use super::watch::{self, Change, Collection, Sink};
use super::write::Api;
use super::{Cluster, ClusterError, Connection, ContentKind, ContentRef, PodChange};
use crate::ids::{PodKey, PodUid};
use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch as channel};

const STORAGE: &str = "/apis/storage.k8s.io/v1";

/// The API server behind a kubeconfig.
pub struct KubeCluster {
    api: Api,
    /// For the node's status and lease.
    heartbeat: Api,
    events: Api,
    node_name: String,
    objects: Objects,
}

impl KubeCluster {
    /// The cluster of that kubeconfig; see `Connection::open`.
    pub async fn connect(kubeconfig: &Path, node_name: &str) -> Result<Self, ClusterError> {
        Ok(Self::over(Arc::new(Connection::open(kubeconfig).await?), node_name))
    }

    /// The cluster behind a connection that others renew.
    pub fn over(connection: Arc<Connection>, node_name: &str) -> Self {
        let api = Api::new(connection);
        let (heartbeat, events) = (api.beside(), api.clone());
        Self { heartbeat, events, api, node_name: node_name.to_owned(), objects: Objects::default() }
    }

    /// Bounds the calls, (a second, at once); but for proofs of life, and for events, whose recorder has a bound of its own.
    pub fn limited(self, limit: Option<(f64, f64)>) -> Self {
        match limit {
            Some((qps, burst)) => Self { api: self.api.limited(qps, burst), ..self },
            None => self,
        }
    }
}

struct Pods(mpsc::Sender<PodChange>);

#[async_trait]
impl Sink<Pod> for Pods {
    async fn change(&mut self, change: Change<Pod>) -> ControlFlow<()> {
        let change = match change {
            Change::Listed(pods) => PodChange::Listed(pods),
            Change::Applied(pod) => PodChange::Applied(pod),
            Change::Deleted(pod) => PodChange::Deleted(pod),
        };
        match self.0.send(change).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Tells that one object was written.
struct Content {
    object: ContentRef,
    out: mpsc::Sender<ContentRef>,
}

#[async_trait]
impl<T: Send + Sync + 'static> Sink<T> for Content {
    async fn change(&mut self, change: Change<T>) -> ControlFlow<()> {
        match change {
            // What a removed object showed stays, as in the kubelet.
            Change::Deleted(_) => ControlFlow::Continue(()),
            // The first list too: it may be newer than what the pod was given.
            Change::Listed(_) | Change::Applied(_) => match self.out.send(self.object.clone()).await {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            },
        }
    }
}

struct Services {
    known: BTreeMap<(String, String), Arc<Service>>,
    out: channel::Sender<Option<Arc<Vec<Arc<Service>>>>>,
}

fn key(service: &Service) -> (String, String) {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

#[async_trait]
impl Sink<Service> for Services {
    async fn change(&mut self, change: Change<Service>) -> ControlFlow<()> {
        match change {
            Change::Listed(services) => {
                self.known = services.into_iter().map(|service| (key(&service), service)).collect();
            }
            Change::Applied(service) => drop(self.known.insert(key(&service), service)),
            Change::Deleted(service) => drop(self.known.remove(&key(&service))),
        }
        match self.out.send(Some(Arc::new(self.known.values().cloned().collect()))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

#[async_trait]
impl Cluster for KubeCluster {
    async fn follow_pods(&self, changes: mpsc::Sender<PodChange>) {
        let selector = watch::encode(&format!("spec.nodeName={}", self.node_name));
        let pods = Collection { path: "/api/v1/pods".to_owned(), field_selector: Some(selector) };
        watch::follow(&self.api, &pods, &mut Pods(changes)).await;
    }

    async fn follow_services(&self, services: channel::Sender<Option<Arc<Vec<Arc<Service>>>>>) {
        let all = Collection { path: "/api/v1/services".to_owned(), field_selector: None };
        watch::follow(&self.api, &all, &mut Services { known: BTreeMap::new(), out: services }).await;
    }

    async fn follow_content(&self, object: &ContentRef, changed: mpsc::Sender<ContentRef>) {
        let plural = match object.kind {
            ContentKind::ConfigMap => "configmaps",
            ContentKind::Secret => "secrets",
        };
        let one = Collection {
            path: format!("/api/v1/namespaces/{}/{plural}", watch::encode(&object.namespace)),
            field_selector: Some(watch::encode(&format!("metadata.name={}", object.name))),
        };
        let mut sink = Content { object: object.clone(), out: changed };
        match object.kind {
            ContentKind::ConfigMap => watch::follow::<ConfigMap>(&self.api, &one, &mut sink).await,
            ContentKind::Secret => watch::follow::<Secret>(&self.api, &one, &mut sink).await,
        }
    }

    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<Pod>>, ClusterError> {
        Ok(self.api.pod(key).await?.map(Arc::new))
    }

    async fn patch_pod_status(
        &self,
        key: &PodKey,
        uid: &PodUid,
        patch: &Value,
    ) -> Result<Option<Arc<Pod>>, ClusterError> {
        let pod = self.api.patch_pod_status(key, uid, patch).await?;
        Ok(pod.map(|mut pod| {
            pod.metadata.managed_fields = None;
            Arc::new(pod)
        }))
    }

    async fn delete_pod(&self, key: &PodKey, uid: &PodUid) -> Result<(), ClusterError> {
        self.api.delete_pod(key, uid).await
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ClusterError> {
        self.objects.config_map(&self.api, namespace, name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ClusterError> {
        self.objects.secret(&self.api, namespace, name).await
    }

    async fn persistent_volume_claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PersistentVolumeClaim, ClusterError> {
        let (ns, name) = (watch::encode(namespace), watch::encode(name));
        self.api.get(&format!("/api/v1/namespaces/{ns}/persistentvolumeclaims/{name}")).await
    }

    async fn persistent_volume(&self, name: &str) -> Result<PersistentVolume, ClusterError> {
        self.api.get(&format!("/api/v1/persistentvolumes/{}", watch::encode(name))).await
    }

    async fn patch_claim_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ClusterError> {
        let (ns, name) = (watch::encode(namespace), watch::encode(name));
        self.api.patch_object(&format!("/api/v1/namespaces/{ns}/persistentvolumeclaims/{name}/status"), patch).await
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriver>, ClusterError> {
        self.api.find(&format!("{STORAGE}/csidrivers/{}", watch::encode(name))).await
    }

    async fn volume_attachment(&self, name: &str) -> Result<Option<VolumeAttachment>, ClusterError> {
        self.api.find(&format!("{STORAGE}/volumeattachments/{}", watch::encode(name))).await
    }

    async fn csi_node(&self, name: &str) -> Result<Option<CSINode>, ClusterError> {
        self.api.find(&format!("{STORAGE}/csinodes/{}", watch::encode(name))).await
    }

    async fn create_csi_node(&self, node: &CSINode) -> Result<(), ClusterError> {
        self.api.post::<serde::de::IgnoredAny>(&format!("{STORAGE}/csinodes"), node).await.map(drop)
    }

    async fn patch_csi_node(&self, name: &str, patch: &Value) -> Result<(), ClusterError> {
        self.api.patch_object(&format!("{STORAGE}/csinodes/{}", watch::encode(name)), patch).await
    }

    async fn runtime_handler(&self, class: &str) -> Result<String, ClusterError> {
        let path = format!("/apis/node.k8s.io/v1/runtimeclasses/{}", watch::encode(class));
        let class: RuntimeClass = self.api.get(&path).await?;
        Ok(class.handler)
    }

    async fn create_pod(&self, pod: &Pod) -> Result<(), ClusterError> {
        self.api.create_pod(pod).await
    }

    async fn node(&self, name: &str) -> Result<Option<Node>, ClusterError> {
        self.heartbeat.node(name).await
    }

    async fn create_node(&self, node: &Node) -> Result<Node, ClusterError> {
        self.heartbeat.create_node(node).await
    }

    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ClusterError> {
        self.heartbeat.patch_node(name, patch).await
    }

    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ClusterError> {
        self.heartbeat.patch_node_status(name, patch).await
    }

    async fn lease(&self, name: &str) -> Result<Option<Lease>, ClusterError> {
        self.heartbeat.lease(name).await
    }

    async fn put_lease(&self, lease: &Lease) -> Result<Lease, ClusterError> {
        self.heartbeat.put_lease(lease).await
    }

    async fn service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount, ClusterError> {
        objects::service_account(&self.api, namespace, name).await
    }

    async fn service_account_token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_seconds: i64,
    ) -> Result<(String, String), ClusterError> {
        objects::token(&self.api, pod, audience, expiration_seconds).await
    }

    async fn review_token(&self, review: &TokenReview) -> Result<TokenReview, ClusterError> {
        self.heartbeat.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await
    }

    async fn review_access(&self, review: &SubjectAccessReview) -> Result<SubjectAccessReview, ClusterError> {
        self.heartbeat.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await
    }

    async fn create_event(&self, event: &Event) -> Result<(), ClusterError> {
        self.events.create_event(event).await
    }

    async fn patch_event(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ClusterError> {
        self.events.patch_event(namespace, name, patch).await
    }
}
