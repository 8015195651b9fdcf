//! CertificateSigningRequests: asks for a certificate and waits until it is signed.

use super::write::from_kube;
use super::{ClusterError, Connection};
use crate::clock;
use futures::TryStreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{Api, ObjectMeta, PostParams, WatchEvent, WatchParams};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{sleep, timeout, timeout_at};

/// Between looks where a watch cannot be had.
const RETRY: Duration = Duration::from_secs(10);
/// A watch is opened anew after this many seconds.
const WATCH_SECONDS: u32 = 290;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Empty: the server gives one out (`csr-…`). A name that is taken is that of the same request, made before.
    pub name: String,
    pub signer: &'static str,
    pub usages: &'static [&'static str],
    /// PKCS#10, PEM.
    pub pem: String,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// PEM.
    Issued(Vec<u8>),
    /// Denied or failed, and why.
    Refused(String),
}

impl Connection {
    /// The signed certificate (PEM); `wait` is how long approval and signature may take.
    ///
    /// # Errors
    /// `Rejected` when it was denied or cannot be signed; `Unavailable` when nobody did either.
    pub async fn request_certificate(
        &self,
        request: &CertificateRequest,
        wait: Duration,
    ) -> Result<Vec<u8>, ClusterError> {
        let deadline = clock::now().mono + wait;
        let api = Api::<CertificateSigningRequest>::all(self.client());
        let made = self.create(&api, request).await?;
        let name = made.metadata.name.clone().unwrap_or_default();
        tracing::info!(request = name, signer = request.signer, "certificate asked for");
        match timeout_at(deadline, issued(&api, &name, made)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClusterError::Unavailable(format!(
                "certificate signing request {name} was neither approved nor denied in {wait:?}: see kubectl describe \
                 csr {name}, and approve it by kubectl certificate approve {name}"
            ))),
        }
    }

    async fn create(
        &self,
        api: &Api<CertificateSigningRequest>,
        request: &CertificateRequest,
    ) -> Result<CertificateSigningRequest, ClusterError> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let generate = if request.name.is_empty() { Some("csr-".to_owned()) } else { None };
        let object = CertificateSigningRequest {
            metadata: ObjectMeta { name: some(&request.name), generate_name: generate, ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.pem.clone().into_bytes()),
                signer_name: request.signer.to_owned(),
                usages: Some(request.usages.iter().map(|usage| (*usage).to_owned()).collect()),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        };
        match deadlined(api.create(&PostParams::default(), &object)).await {
            Err(ClusterError::Conflict(_)) if !request.name.is_empty() => deadlined(api.get(&request.name)).await,
            answer => answer,
        }
    }
}

async fn deadlined<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
    match timeout(super::write::CALL_DEADLINE, call).await {
        Ok(answer) => answer.map_err(from_kube),
        Err(_) => Err(ClusterError::Unavailable("the API server did not answer within 10 s".into())),
    }
}

/// Follows one request until it is decided on.
async fn issued(
    api: &Api<CertificateSigningRequest>,
    name: &str,
    mut seen: CertificateSigningRequest,
) -> Result<Vec<u8>, ClusterError> {
    let only = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    loop {
        match state(&seen) {
            State::Issued(pem) => return Ok(pem),
            State::Refused(why) => return Err(ClusterError::Rejected(why)),
            State::Waiting => {}
        }
        let version = seen.metadata.resource_version.clone().unwrap_or_default();
        match next_change(api, &only, &version).await {
            Some(changed) => seen = changed,
            None => {
                sleep(RETRY).await;
                match deadlined(api.get(name)).await {
                    Ok(read) => seen = read,
                    Err(ClusterError::NotFound(_)) => {
                        return Err(ClusterError::Rejected(format!("certificate signing request {name} was deleted")));
                    }
                    Err(error) => tracing::warn!(%error, "certificate signing request not read, retrying"),
                }
            }
        }
    }
}

/// The request as it is after its next change; `None`: the watch ended without one.
async fn next_change(
    api: &Api<CertificateSigningRequest>,
    only: &WatchParams,
    version: &str,
) -> Option<CertificateSigningRequest> {
    let mut events = pin!(deadlined(api.watch(only, version)).await.ok()?);
    while let Ok(Some(event)) = events.try_next().await {
        match event {
            WatchEvent::Added(request) | WatchEvent::Modified(request) => return Some(request),
            WatchEvent::Deleted(_) | WatchEvent::Error(_) => return None,
            WatchEvent::Bookmark(_) => {}
        }
    }
    None
}

fn state(request: &CertificateSigningRequest) -> State {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if let Some(refusal) = conditions.iter().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed")) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let name = request.metadata.name.as_deref().unwrap_or_default();
        let (reason, message) = (text(&refusal.reason), text(&refusal.message));
        let verdict = refusal.type_.to_lowercase();
        return State::Refused(format!("certificate signing request {name} was {verdict}: {reason}: {message}"));
    }
    match status.and_then(|status| status.certificate.as_ref()) {
        Some(pem) if !pem.0.is_empty() => State::Issued(pem.0.clone()),
        Some(_) | None => State::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_issued_refused_or_waits() {
        let of = |status: serde_json::Value| {
            let object =
                json!({"metadata": {"name": "csr-1"}, "spec": {"request": "", "signerName": "s"}, "status": status});
            state(&serde_json::from_value(object).unwrap())
        };
        let approved = json!({"type": "Approved", "status": "True"});
        assert_eq!(of(json!({})), State::Waiting);
        assert_eq!(of(json!({"conditions": [approved]})), State::Waiting);
        assert_eq!(of(json!({"conditions": [approved], "certificate": "UEVN"})), State::Issued(b"PEM".to_vec()));
        let denied = json!({"type": "Denied", "status": "True", "reason": "No", "message": "not you"});
        let text = "certificate signing request csr-1 was denied: No: not you";
        assert_eq!(of(json!({"conditions": [denied]})), State::Refused(text.into()));
    }
}
