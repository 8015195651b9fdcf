//! A scripted cluster for tests: objects in memory, watches that follow them, and failures on demand.

use super::{Cluster, ClusterError, ContentRef, PodChange};
use crate::ids::{PodKey, PodUid};
use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewStatus};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};

/// The fake; tests hold it beside the `Arc<dyn Cluster>` they hand out.
#[derive(Default)]
pub struct FakeCluster {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    pods: BTreeMap<PodKey, Arc<Pod>>,
    config_maps: BTreeMap<(String, String), Arc<ConfigMap>>,
    secrets: BTreeMap<(String, String), Arc<Secret>>,
    services: Vec<Arc<Service>>,
    nodes: BTreeMap<String, Node>,
    leases: BTreeMap<String, Lease>,
    /// Storage's objects, by resource and name.
    objects: BTreeMap<(&'static str, String), Value>,
    events: BTreeMap<(String, String), Event>,
    followers: Vec<mpsc::UnboundedSender<PodChange>>,
    failures: BTreeMap<&'static str, VecDeque<ClusterError>>,
    calls: Vec<String>,
    hangs: bool,
}

impl FakeCluster {
    /// The next call of that name (`patch_pod_status`, …) fails so; several queue up.
    pub fn fail(&self, call: &'static str, error: ClusterError) {
        self.state().failures.entry(call).or_default().push_back(error);
    }

    /// Lists and watches never begin to answer, as with a server that is away.
    pub fn hang(&self) {
        self.state().hangs = true;
    }

    /// Creates or replaces a pod; followers see it.
    pub fn put_pod(&self, mut pod: Pod) -> Arc<Pod> {
        let mut state = self.state();
        pod.metadata.resource_version = Some(state.next_revision());
        let pod = Arc::new(pod);
        state.pods.insert(key(&pod), pod.clone());
        state.tell(PodChange::Applied(pod.clone()));
        pod
    }

    /// Removes a pod as a forced delete by someone else would.
    pub fn drop_pod(&self, key: &PodKey) {
        let mut state = self.state();
        if let Some(pod) = state.pods.remove(key) {
            state.tell(PodChange::Deleted(pod));
        }
    }

    /// Sends the complete list to all followers, as after a watch that could not be resumed.
    pub fn relist(&self) {
        let mut state = self.state();
        let all = state.pods.values().cloned().collect();
        state.tell(PodChange::Listed(all));
    }

    pub fn put_config_map(&self, map: ConfigMap) {
        let key = (map.metadata.namespace.clone().unwrap_or_default(), map.metadata.name.clone().unwrap_or_default());
        self.state().config_maps.insert(key, Arc::new(map));
    }

    pub fn put_secret(&self, secret: Secret) {
        let key =
            (secret.metadata.namespace.clone().unwrap_or_default(), secret.metadata.name.clone().unwrap_or_default());
        self.state().secrets.insert(key, Arc::new(secret));
    }

    pub fn put_services(&self, services: Vec<Service>) {
        self.state().services = services.into_iter().map(Arc::new).collect();
    }

    /// A claim, volume, driver, … by its resource (`csidrivers`) and name.
    pub fn put_object(&self, resource: &'static str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.state().objects.insert((resource, name), object);
    }

    /// That object as it is now.
    pub fn get_object(&self, resource: &'static str, name: &str) -> Option<Value> {
        self.state().objects.get(&(resource, name.to_owned())).cloned()
    }

    pub fn put_node(&self, node: Node) {
        self.state().nodes.insert(node.metadata.name.clone().unwrap_or_default(), node);
    }

    /// The pod as it is now.
    pub fn get_pod(&self, key: &PodKey) -> Option<Arc<Pod>> {
        self.state().pods.get(key).cloned()
    }

    pub fn get_node(&self, name: &str) -> Option<Node> {
        self.state().nodes.get(name).cloned()
    }

    pub fn get_lease(&self, name: &str) -> Option<Lease> {
        self.state().leases.get(name).cloned()
    }

    /// All events, by namespace and name.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.values().cloned().collect()
    }

    /// Every call so far, as `name argument`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: &'static str, argument: &str) -> Result<MutexGuard<'_, State>, ClusterError> {
        let mut state = self.state();
        state.calls.push(format!("{call} {argument}"));
        match state.failures.get_mut(call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(state),
        }
    }
}

impl State {
    fn next_revision(&mut self) -> String {
        self.revision += 1;
        self.revision.to_string()
    }

    fn object<T: DeserializeOwned>(&self, resource: &'static str, name: &str) -> Result<Option<T>, ClusterError> {
        let found = self.objects.get(&(resource, name.to_owned())).cloned().map(serde_json::from_value);
        found.transpose().map_err(|error| ClusterError::Rejected(error.to_string()))
    }

    fn patch(&mut self, resource: &'static str, name: &str, patch: &Value) -> Result<(), ClusterError> {
        let object = self.objects.get_mut(&(resource, name.to_owned())).ok_or_else(|| absent(resource, name))?;
        merge(object, patch);
        Ok(())
    }

    fn tell(&mut self, change: PodChange) {
        self.followers.retain(|follower| follower.send(change.clone()).is_ok());
    }
}

fn key(pod: &Pod) -> PodKey {
    PodKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

fn absent(kind: &str, name: &str) -> ClusterError {
    ClusterError::NotFound(format!("{kind} {name:?} not found"))
}

/// A strategic merge as far as statuses need it: maps merge, null deletes, these lists merge by their key, others replace.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if name.starts_with('$') {
            continue;
        }
        let merge_key = match name.as_str() {
            "conditions" | "addresses" => Some("type"),
            "drivers" => Some("name"),
            "podIPs" | "hostIPs" => Some("ip"),
            _ => None,
        };
        match (merge_key, value) {
            (_, Value::Null) => drop(target.as_object_mut().and_then(|map| map.remove(name))),
            (Some(merge_key), Value::Array(items)) => {
                let list = &mut target[name];
                if !list.is_array() {
                    *list = json!([]);
                }
                let Some(list) = list.as_array_mut() else { continue };
                for item in items {
                    let at = list.iter().position(|old| old[merge_key] == item[merge_key]);
                    match (item["$patch"] == "delete", at) {
                        (true, Some(at)) => drop(list.remove(at)),
                        (true, None) => {}
                        (false, Some(at)) => merge(&mut list[at], item),
                        (false, None) => list.push(item.clone()),
                    }
                }
            }
            (_, value) => merge(&mut target[name], value),
        }
    }
}

fn merged<T: Serialize + DeserializeOwned>(object: &T, patch: &Value) -> Result<T, ClusterError> {
    let mut value = serde_json::to_value(object).map_err(|error| ClusterError::Rejected(error.to_string()))?;
    merge(&mut value, patch);
    serde_json::from_value(value).map_err(|error| ClusterError::Rejected(error.to_string()))
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn follow_pods(&self, changes: mpsc::Sender<PodChange>) {
        if self.state().hangs {
            return changes.closed().await;
        }
        // Unbounded is right for a test's fake only: it never outlives a test.
        let (follower, mut told) = mpsc::unbounded_channel();
        {
            let mut state = self.state();
            let _ = follower.send(PodChange::Listed(state.pods.values().cloned().collect()));
            state.followers.push(follower);
        }
        while let Some(change) = told.recv().await {
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }

    async fn follow_services(&self, services: watch::Sender<Option<Arc<Vec<Arc<Service>>>>>) {
        let all = self.state().services.clone();
        services.send_replace(Some(Arc::new(all)));
        services.closed().await;
    }

    async fn follow_content(&self, _: &ContentRef, changed: mpsc::Sender<ContentRef>) {
        changed.closed().await;
    }

    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<Pod>>, ClusterError> {
        Ok(self.enter("pod", &key.to_string())?.pods.get(key).cloned())
    }

    async fn patch_pod_status(
        &self,
        key: &PodKey,
        uid: &PodUid,
        patch: &Value,
    ) -> Result<Option<Arc<Pod>>, ClusterError> {
        let mut state = self.enter("patch_pod_status", &key.to_string())?;
        let Some(pod) = state.pods.get(key).filter(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str())).cloned()
        else {
            return Ok(None);
        };
        let mut pod = merged(&*pod, &json!({"status": patch["status"]}))?;
        pod.metadata.resource_version = Some(state.next_revision());
        let pod = Arc::new(pod);
        state.pods.insert(key.clone(), pod.clone());
        state.tell(PodChange::Applied(pod.clone()));
        Ok(Some(pod))
    }

    async fn delete_pod(&self, key: &PodKey, uid: &PodUid) -> Result<(), ClusterError> {
        let mut state = self.enter("delete_pod", &key.to_string())?;
        if state.pods.get(key).is_some_and(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()))
            && let Some(pod) = state.pods.remove(key)
        {
            state.tell(PodChange::Deleted(pod));
        }
        Ok(())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ClusterError> {
        let state = self.enter("config_map", &format!("{namespace}/{name}"))?;
        state.config_maps.get(&(namespace.into(), name.into())).cloned().ok_or_else(|| absent("configmap", name))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ClusterError> {
        let state = self.enter("secret", &format!("{namespace}/{name}"))?;
        state.secrets.get(&(namespace.into(), name.into())).cloned().ok_or_else(|| absent("secret", name))
    }

    async fn persistent_volume_claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PersistentVolumeClaim, ClusterError> {
        let state = self.enter("persistent_volume_claim", &format!("{namespace}/{name}"))?;
        state.object("persistentvolumeclaims", name)?.ok_or_else(|| absent("persistentvolumeclaims", name))
    }

    async fn persistent_volume(&self, name: &str) -> Result<PersistentVolume, ClusterError> {
        let state = self.enter("persistent_volume", name)?;
        state.object("persistentvolumes", name)?.ok_or_else(|| absent("persistentvolumes", name))
    }

    async fn patch_claim_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ClusterError> {
        self.enter("patch_claim_status", &format!("{namespace}/{name}"))?.patch("persistentvolumeclaims", name, patch)
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriver>, ClusterError> {
        self.enter("csi_driver", name)?.object("csidrivers", name)
    }

    async fn volume_attachment(&self, name: &str) -> Result<Option<VolumeAttachment>, ClusterError> {
        self.enter("volume_attachment", name)?.object("volumeattachments", name)
    }

    async fn csi_node(&self, name: &str) -> Result<Option<CSINode>, ClusterError> {
        self.enter("csi_node", name)?.object("csinodes", name)
    }

    async fn create_csi_node(&self, node: &CSINode) -> Result<(), ClusterError> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut state = self.enter("create_csi_node", &name)?;
        let value = serde_json::to_value(node).map_err(|error| ClusterError::Rejected(error.to_string()))?;
        state.objects.insert(("csinodes", name), value);
        Ok(())
    }

    async fn patch_csi_node(&self, name: &str, patch: &Value) -> Result<(), ClusterError> {
        self.enter("patch_csi_node", name)?.patch("csinodes", name, patch)
    }

    async fn runtime_handler(&self, class: &str) -> Result<String, ClusterError> {
        drop(self.enter("runtime_handler", class)?);
        Err(absent("runtimeclasses.node.k8s.io", class))
    }

    async fn create_pod(&self, pod: &Pod) -> Result<(), ClusterError> {
        let mut state = self.enter("create_pod", &key(pod).to_string())?;
        if state.pods.contains_key(&key(pod)) {
            return Err(ClusterError::Conflict(format!("pods {:?} already exists", pod.metadata.name)));
        }
        let mut pod = pod.clone();
        let revision = state.next_revision();
        pod.metadata.uid = Some(format!("made-{revision}"));
        pod.metadata.resource_version = Some(revision);
        let pod = Arc::new(pod);
        state.pods.insert(key(&pod), pod.clone());
        state.tell(PodChange::Applied(pod));
        Ok(())
    }

    async fn node(&self, name: &str) -> Result<Option<Node>, ClusterError> {
        Ok(self.enter("node", name)?.nodes.get(name).cloned())
    }

    async fn create_node(&self, node: &Node) -> Result<Node, ClusterError> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut state = self.enter("create_node", &name)?;
        if state.nodes.contains_key(&name) {
            return Err(ClusterError::Conflict(format!("nodes {name:?} already exists")));
        }
        let mut node = node.clone();
        node.metadata.uid = Some(format!("uid-of-{name}"));
        node.metadata.resource_version = Some(state.next_revision());
        state.nodes.insert(name, node.clone());
        Ok(node)
    }

    async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ClusterError> {
        let mut state = self.enter("patch_node", name)?;
        let node = merged(state.nodes.get(name).ok_or_else(|| absent("nodes", name))?, patch)?;
        state.nodes.insert(name.to_owned(), node.clone());
        Ok(node)
    }

    async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ClusterError> {
        let mut state = self.enter("patch_node_status", name)?;
        let node =
            merged(state.nodes.get(name).ok_or_else(|| absent("nodes", name))?, &json!({"status": patch["status"]}))?;
        state.nodes.insert(name.to_owned(), node.clone());
        Ok(node)
    }

    async fn lease(&self, name: &str) -> Result<Option<Lease>, ClusterError> {
        Ok(self.enter("lease", name)?.leases.get(name).cloned())
    }

    async fn put_lease(&self, lease: &Lease) -> Result<Lease, ClusterError> {
        let name = lease.metadata.name.clone().unwrap_or_default();
        let mut state = self.enter("put_lease", &name)?;
        let held = state.leases.get(&name).and_then(|old| old.metadata.resource_version.clone());
        if held != lease.metadata.resource_version {
            return Err(ClusterError::Conflict(format!("leases {name:?}: the object has been modified")));
        }
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(state.next_revision());
        state.leases.insert(name, lease.clone());
        Ok(lease)
    }

    /// All there are, in the team that the namespace is named after.
    async fn service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount, ClusterError> {
        drop(self.enter("service_account", &format!("{namespace}/{name}"))?);
        let mut account = ServiceAccount::default();
        account.metadata.uid = Some(format!("uid-of-{name}"));
        account.metadata.annotations = Some([("example.com/team".to_owned(), namespace.to_owned())].into());
        Ok(account)
    }

    async fn service_account_token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_seconds: i64,
    ) -> Result<(String, String), ClusterError> {
        drop(self.enter("service_account_token", &key(pod).to_string())?);
        let expires = crate::clock::now().wall + jiff::SignedDuration::from_secs(expiration_seconds);
        Ok((format!("token-for-{}", audience.unwrap_or("api")), expires.to_string()))
    }

    async fn create_event(&self, event: &Event) -> Result<(), ClusterError> {
        let meta = &event.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let mut state = self.enter("create_event", event.reason.as_deref().unwrap_or_default())?;
        state.events.insert(key, event.clone());
        Ok(())
    }

    /// A token is the name of its user; `bad` is nobody's.
    async fn review_token(&self, review: &TokenReview) -> Result<TokenReview, ClusterError> {
        let token = review.spec.token.clone();
        drop(self.enter("review_token", &token)?);
        let known = token != "bad";
        let user = known.then(|| UserInfo { username: Some(token), ..UserInfo::default() });
        let status = TokenReviewStatus { authenticated: Some(known), user, ..TokenReviewStatus::default() };
        Ok(TokenReview { status: Some(status), ..review.clone() })
    }

    /// A user may do what it is named after: `get-stats` may `get` `stats`.
    async fn review_access(&self, review: &SubjectAccessReview) -> Result<SubjectAccessReview, ClusterError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let user = text(&review.spec.user);
        drop(self.enter("review_access", &user)?);
        let asked = review.spec.resource_attributes.clone().unwrap_or_default();
        let allowed = user == format!("{}-{}", text(&asked.verb), text(&asked.subresource));
        let status = SubjectAccessReviewStatus { allowed, ..SubjectAccessReviewStatus::default() };
        Ok(SubjectAccessReview { status: Some(status), ..review.clone() })
    }

    async fn patch_event(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ClusterError> {
        let mut state = self.enter("patch_event", name)?;
        let key = (namespace.to_owned(), name.to_owned());
        let event = merged(state.events.get(&key).ok_or_else(|| absent("events", name))?, patch)?;
        state.events.insert(key, event);
        Ok(())
    }
}
