//! One call to the API server: request, deadline, answer, and its failures as `ClusterError`.

use super::{ClusterError, Connection};
use crate::clock::rate::TokenBucket;
use crate::ids::{PodKey, PodUid};
use crate::metrics::catalog;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::client::Body;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long any single call may take (the kubelet's heartbeat client: 10 s).
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";

/// Calls under way at once: each has a connection of its own while it lasts, and a TLS handshake costs more than a
/// short wait when a hundred pods start together.
const CALLS_AT_ONCE: usize = 16;

/// Host and port of the API server, for `rest_client_*`: a process has one.
static HOST: OnceLock<String> = OnceLock::new();

/// Which API server the calls go to.
pub(super) fn goes_to(url: &http::Uri) {
    HOST.get_or_init(|| url.authority().map_or_else(String::new, ToString::to_string));
}

/// The HTTP side of the cluster: cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    connection: Arc<Connection>,
    slots: Arc<Semaphore>,
    /// Calls begun a second; who comes too early waits.
    rate: Option<Arc<Mutex<TokenBucket>>>,
}

impl Api {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, slots: Arc::new(Semaphore::new(CALLS_AT_ONCE)), rate: None }
    }

    /// Begins at most so many calls a second, and so many at once.
    pub(super) fn limited(self, qps: f64, burst: f64) -> Self {
        Self { rate: Some(Arc::new(Mutex::new(TokenBucket::new(qps, burst)))), ..self }
    }

    /// The same server, without queueing behind this one's calls (proof of life must not wait for pods).
    pub(super) fn beside(&self) -> Self {
        Self::new(self.connection.clone())
    }

    /// For what is not one call: a watch.
    pub(super) fn client(&self) -> kube::Client {
        self.connection.client()
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClusterError> {
        self.call(Method::GET, path, JSON, Vec::new()).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClusterError> {
        self.call(Method::POST, path, JSON, encode_body(body)?).await
    }

    /// `None`: there is no such object.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ClusterError> {
        absent_is_none(self.get(path).await)
    }

    /// Strategic merge patch of what the caller does not need back.
    pub(super) async fn patch_object(&self, path: &str, patch: &Value) -> Result<(), ClusterError> {
        self.patch::<serde::de::IgnoredAny>(path, patch).await.map(drop)
    }

    async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClusterError> {
        self.call(Method::PUT, path, JSON, encode_body(body)?).await
    }

    async fn patch<T: DeserializeOwned>(&self, path: &str, patch: &Value) -> Result<T, ClusterError> {
        self.call(Method::PATCH, path, STRATEGIC_MERGE, encode_body(patch)?).await
    }

    /// Sends one request and decodes its answer, all within `CALL_DEADLINE`.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<T, ClusterError> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::ACCEPT, JSON)
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(body))
            .map_err(|error| ClusterError::Rejected(format!("malformed request path {path}: {error}")))?;
        if let Some(rate) = &self.rate {
            let wait = rate.lock().unwrap_or_else(PoisonError::into_inner).take(crate::clock::now());
            tokio::time::sleep(wait).await;
        }
        // Each call before us ends by its own deadline. Closed it never is: no permit then means no limit.
        let _slot = self.slots.acquire().await.ok();
        let exchange = async {
            let answer = self.client().send(request).await.map_err(from_kube)?;
            let status = answer.status();
            let bytes = answer.into_body().collect().await.map_err(from_kube)?.to_bytes();
            Ok((status, bytes))
        };
        let begun = crate::clock::now().mono;
        let answer = tokio::time::timeout(CALL_DEADLINE, exchange).await.unwrap_or_else(|_| {
            Err(ClusterError::Unavailable(format!("{method} {path} got no answer within {CALL_DEADLINE:?}")))
        });
        self.count(&method, answer.as_ref().ok().map(|(status, _)| *status), begun.elapsed());
        let (status, bytes) = answer?;
        tracing::trace!(%method, path, %status, took = ?begun.elapsed(), "API server called");
        if !status.is_success() {
            return Err(from_answer(status, &bytes));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| ClusterError::Rejected(format!("{method} {path} answered what cannot be read: {error}")))
    }

    /// client-go's `rest_client_*`; no status: no answer.
    fn count(&self, method: &Method, status: Option<StatusCode>, took: Duration) {
        let code = status.map_or_else(|| "<error>".to_owned(), |status| status.as_u16().to_string());
        let (host, method) = (HOST.get().cloned().unwrap_or_default(), method.to_string());
        catalog::REST_REQUESTS.inc([code, host.clone(), method.clone()]);
        catalog::REST_DURATION.observe([host, method], took);
    }

    /// `None`: no such pod.
    pub(super) async fn pod(&self, key: &PodKey) -> Result<Option<Pod>, ClusterError> {
        absent_is_none(self.get(&pod_path(key)).await)
    }

    /// `None`: the pod, or that pod of this name, is gone.
    pub(super) async fn patch_pod_status(
        &self,
        key: &PodKey,
        uid: &PodUid,
        patch: &Value,
    ) -> Result<Option<Pod>, ClusterError> {
        let mut patch = patch.clone();
        patch["metadata"]["uid"] = json!(uid.as_str());
        match self.patch(&format!("{}/status", pod_path(key)), &patch).await {
            Err(ClusterError::Conflict(message)) if is_uid_conflict(&message) => Ok(None),
            answer => absent_is_none(answer),
        }
    }

    pub(super) async fn delete_pod(&self, key: &PodKey, uid: &PodUid) -> Result<(), ClusterError> {
        let options = json!({
            "kind": "DeleteOptions", "apiVersion": "v1",
            "gracePeriodSeconds": 0, "preconditions": {"uid": uid.as_str()},
        });
        match self.call::<Value>(Method::DELETE, &pod_path(key), JSON, encode_body(&options)?).await {
            Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
            Err(ClusterError::Conflict(message)) if is_uid_conflict(&message) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn create_pod(&self, pod: &Pod) -> Result<(), ClusterError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        self.post::<serde::de::IgnoredAny>(&format!("/api/v1/namespaces/{namespace}/pods"), pod).await.map(drop)
    }

    pub(super) async fn node(&self, name: &str) -> Result<Option<Node>, ClusterError> {
        absent_is_none(self.get(&format!("/api/v1/nodes/{name}")).await)
    }

    pub(super) async fn create_node(&self, node: &Node) -> Result<Node, ClusterError> {
        self.post("/api/v1/nodes", node).await
    }

    pub(super) async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ClusterError> {
        self.patch(&format!("/api/v1/nodes/{name}"), patch).await
    }

    pub(super) async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ClusterError> {
        self.patch(&format!("/api/v1/nodes/{name}/status"), patch).await
    }

    pub(super) async fn lease(&self, name: &str) -> Result<Option<Lease>, ClusterError> {
        absent_is_none(self.get(&format!("{LEASES}/{name}")).await)
    }

    /// PUT when it carries a resourceVersion (it was read before), else POST.
    pub(super) async fn put_lease(&self, lease: &Lease) -> Result<Lease, ClusterError> {
        match &lease.metadata.resource_version {
            Some(_) => {
                self.put(&format!("{LEASES}/{}", lease.metadata.name.as_deref().unwrap_or_default()), lease).await
            }
            None => self.post(LEASES, lease).await,
        }
    }

    pub(super) async fn create_event(&self, event: &Event) -> Result<(), ClusterError> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        self.post::<serde::de::IgnoredAny>(&format!("/api/v1/namespaces/{namespace}/events"), event).await.map(drop)
    }

    pub(super) async fn patch_event(&self, namespace: &str, name: &str, patch: &Value) -> Result<(), ClusterError> {
        self.patch::<serde::de::IgnoredAny>(&format!("/api/v1/namespaces/{namespace}/events/{name}"), patch)
            .await
            .map(drop)
    }
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn pod_path(key: &PodKey) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", key.namespace, key.name)
}

fn encode_body(body: &impl Serialize) -> Result<Vec<u8>, ClusterError> {
    serde_json::to_vec(body).map_err(|error| ClusterError::Rejected(format!("cannot encode the request: {error}")))
}

fn absent_is_none<T>(answer: Result<T, ClusterError>) -> Result<Option<T>, ClusterError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(ClusterError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// "Precondition failed: UID in precondition: …" of a DELETE or of a PATCH that names another uid.
fn is_uid_conflict(message: &str) -> bool {
    message.to_ascii_lowercase().contains("uid")
}

/// An HTTP failure as its `Status` words it.
fn from_answer(status: StatusCode, body: &[u8]) -> ClusterError {
    let message = match serde_json::from_slice::<Value>(body).ok().as_ref().and_then(|v| v["message"].as_str()) {
        Some(message) if !message.is_empty() => message.to_owned(),
        _ => {
            let text = String::from_utf8_lossy(&body[..body.len().min(256)]);
            format!("{status}: {}", text.trim())
        }
    };
    classify(status.as_u16(), message)
}

fn classify(code: u16, message: String) -> ClusterError {
    match code {
        404 => ClusterError::NotFound(message),
        409 => ClusterError::Conflict(message),
        410 => ClusterError::Expired(message),
        // The server lost revisions that we saw (restored from a backup): our position is as useless as an old one.
        504 if message.contains("Too large resource version") => ClusterError::Expired(message),
        401 | 403 => ClusterError::Denied(message),
        429 | 500.. => ClusterError::Unavailable(message),
        _ => ClusterError::Rejected(message),
    }
}

/// A failure of the client: an answer keeps its code, anything else is the connection's.
pub(super) fn from_kube(error: kube::Error) -> ClusterError {
    match error {
        kube::Error::Api(status) => classify(status.code, status.message.clone()),
        kube::Error::SerdeError(error) => ClusterError::Rejected(format!("answered what cannot be read: {error}")),
        error => ClusterError::Unavailable(chain(&error)),
    }
}

/// The error with its causes: a connector says "client error (Connect)" and keeps "connection refused" below.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_become_what_a_caller_branches_on() {
        let body = br#"{"kind":"Status","message":"pods \"a\" not found","code":404}"#;
        for (code, want) in [
            (404, r#"NotFound("pods \"a\" not found")"#),
            (409, r#"Conflict("pods \"a\" not found")"#),
            (410, r#"Expired("pods \"a\" not found")"#),
            (401, r#"Denied("pods \"a\" not found")"#),
            (403, r#"Denied("pods \"a\" not found")"#),
            (422, r#"Rejected("pods \"a\" not found")"#),
            (429, r#"Unavailable("pods \"a\" not found")"#),
            (503, r#"Unavailable("pods \"a\" not found")"#),
        ] {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(format!("{:?}", from_answer(status, body)), want);
        }
        let plain = from_answer(StatusCode::BAD_GATEWAY, b"no upstream\n");
        assert_eq!(plain.to_string(), "API server is unavailable: 502 Bad Gateway: no upstream");
    }

    #[test]
    fn a_conflict_on_the_uid_is_told_from_a_lost_race() {
        assert!(is_uid_conflict(
            "Operation cannot be fulfilled on pods \"p\": Precondition failed: UID in precondition: a"
        ));
        assert!(!is_uid_conflict("Operation cannot be fulfilled: the object has been modified"));
    }
}
