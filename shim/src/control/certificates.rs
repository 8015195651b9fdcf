//! CertificateSigningRequests: kubelets' client certificates are approved, approved requests are signed, old ones removed.
//!
//! | module | kube-controller-manager's controller |
//! |---|---|
//! | `approve` | certificatesigningrequest-approving-controller |
//! | `sign` | certificatesigningrequest-signing-controller |
//! | `clean` | certificatesigningrequest-cleaner-controller |
//!
//! `request` reads what a request holds, and says whether it is a node's.

pub(super) mod approve;
pub(super) mod clean;
mod request;
pub(super) mod sign;

use super::call::{CallError, FIELD_MANAGER, call};
use super::informer::{Delta, Informer};
use super::queue::Queue;
use crate::clock;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::sync::Arc;

/// Follows all requests and hands each that `waits` to `handle`, for ever; failures are tried again, later each time.
async fn follow<F>(client: Client, waits: fn(CertificateSigningRequest) -> bool, handle: impl Fn(Arc<str>) -> F)
where
    F: Future<Output = Result<(), CallError>>,
{
    // Whether a request waits is all that is kept of it: it is read as of now when its turn comes.
    let all = Api::<CertificateSigningRequest>::all(client);
    let mut requests = Informer::new(all, ListParams::default(), waits);
    // Holds requests that wait, each once.
    let mut queue: Queue<Arc<str>> = Queue::default();
    loop {
        // Both arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = requests.next() => match delta {
                Delta::Applied { key, new, .. } if *new => queue.add(key.name, clock::now().mono),
                Delta::Applied { key, .. } | Delta::Deleted { key, .. } => queue.forget(&key.name),
                Delta::Synced => {}
            },
            () = queue.wait() => {}
        }
        while let Some(name) = queue.pop(clock::now().mono) {
            match handle(name.clone()).await {
                // A conflict means that the request is newer than what was read: its delta is on the way.
                Ok(()) | Err(CallError::NotFound(_) | CallError::Conflict(_)) => queue.succeeded(&name),
                Err(error) => {
                    tracing::warn!(request = %name, %error, "certificate signing request not handled, retrying");
                    queue.failed(name, clock::now().mono);
                }
            }
        }
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    let status = request.status.as_ref();
    status.and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, condition: &str) -> bool {
    conditions(request).iter().any(|known| known.type_ == condition)
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

/// Writes one more condition, and the certificate where there is one, through the subresource whose business it is.
async fn write(
    client: &Client,
    subresource: &'static str,
    request: &CertificateSigningRequest,
    status: Value,
) -> Result<(), CallError> {
    let name = request.metadata.name.clone().unwrap_or_default();
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    // Nobody may have written in between: a list of conditions is replaced as a whole.
    let patch = Patch::Merge(json!({
        "metadata": {"uid": request.metadata.uid, "resourceVersion": request.metadata.resource_version},
        "status": status,
    }));
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    call(api.patch_subresource(subresource, &name, &params, &patch)).await.map(drop)
}

/// The conditions with one more.
fn with_condition(request: &CertificateSigningRequest, kind: &str, reason: &str, message: &str) -> Value {
    let now = clock::now().wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut all: Vec<Value> = conditions(request).iter().map(|known| json!(known)).collect();
    all.push(json!({
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now,
    }));
    all.into()
}
