//! ConfigMaps, Secrets and tokens: always read from the API server, concurrent readers share one request.

use super::ClusterError;
use super::watch::encode;
use super::write::Api;
use crate::clock;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// Shared reads by namespace and name.
#[derive(Default)]
pub(super) struct Objects {
    config_maps: Shared<ConfigMap>,
    secrets: Shared<Secret>,
}

impl Objects {
    pub(super) async fn config_map(&self, api: &Api, ns: &str, name: &str) -> Result<Arc<ConfigMap>, ClusterError> {
        self.config_maps
            .read(ns, name, async || {
                let mut map: ConfigMap = api
                    .get(&format!("/api/v1/namespaces/{}/configmaps/{}", encode(ns), encode(name)))
                    .await
                    .map_err(|error| singular(error, "configmap", name))?;
                map.metadata.managed_fields = None;
                Ok(map)
            })
            .await
    }

    pub(super) async fn secret(&self, api: &Api, ns: &str, name: &str) -> Result<Arc<Secret>, ClusterError> {
        self.secrets
            .read(ns, name, async || {
                let mut secret: Secret = api
                    .get(&format!("/api/v1/namespaces/{}/secrets/{}", encode(ns), encode(name)))
                    .await
                    .map_err(|error| singular(error, "secret", name))?;
                secret.metadata.managed_fields = None;
                Ok(secret)
            })
            .await
    }
}

/// The kubelet names the kind in the singular here (`configmap "x" not found`), users search for that.
fn singular(error: ClusterError, kind: &str, name: &str) -> ClusterError {
    match error {
        ClusterError::NotFound(_) => ClusterError::NotFound(format!("{kind} {name:?} not found")),
        error => error,
    }
}

pub(super) async fn service_account(api: &Api, ns: &str, name: &str) -> Result<ServiceAccount, ClusterError> {
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}", encode(ns), encode(name));
    api.get(&path).await.map_err(|error| singular(error, "serviceaccount", name))
}

/// A token bound to the pod: (token, expiry as RFC 3339).
pub(super) async fn token(
    api: &Api,
    pod: &Pod,
    audience: Option<&str>,
    expiration_seconds: i64,
) -> Result<(String, String), ClusterError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience.to_owned()]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            expiration_seconds: Some(expiration_seconds),
        }),
        ..Default::default()
    };
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", encode(namespace), encode(account));
    let answer: TokenRequest = api.post(&path, &request).await?;
    match answer.status.map(|status| (status.token, status.expiration_timestamp)) {
        Some((Some(token), Some(expiry))) => Ok((token, expiry.0.to_string())),
        _ => {
            Err(ClusterError::Rejected(format!("the answer holds no token for service account {namespace}/{account}")))
        }
    }
}

type Slot<T> = Arc<tokio::sync::Mutex<Option<(Instant, Result<Arc<T>, ClusterError>)>>>;

/// Readers of one object wait for one request, and never for one that had begun before they asked: what a pod was
/// created after is what it sees.
struct Shared<T> {
    /// Only objects with a reader at this moment.
    slots: Mutex<HashMap<(String, String), Slot<T>>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

impl<T> Shared<T> {
    async fn read<F>(&self, ns: &str, name: &str, fetch: impl FnOnce() -> F) -> Result<Arc<T>, ClusterError>
    where
        F: Future<Output = Result<T, ClusterError>>,
    {
        let asked = clock::now().mono;
        let key = (ns.to_owned(), name.to_owned());
        let slot = Lent { shared: self, slot: self.slot(&key), key };
        let mut last = slot.slot.lock().await;
        match &*last {
            Some((began, answer)) if *began >= asked => answer.clone(),
            _ => {
                let began = clock::now().mono;
                let answer = fetch().await.map(Arc::new);
                *last = Some((began, answer.clone()));
                answer
            }
        }
    }

    fn slot(&self, key: &(String, String)) -> Slot<T> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone()
    }
}

/// A reader's hold on a slot; the last one drops the object.
struct Lent<'a, T> {
    shared: &'a Shared<T>,
    slot: Slot<T>,
    key: (String, String),
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        let mut slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours: nobody else waits (new readers take theirs under the same lock).
        if Arc::strong_count(&self.slot) == 2 {
            slots.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn readers_share_a_request_that_began_after_they_asked_and_no_other() {
        let shared = Shared::<usize>::default();
        let calls = AtomicUsize::new(0);
        let fetch = async || {
            let n = calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            Ok(n)
        };
        let later = async {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            tokio::join!(shared.read("a", "b", fetch), shared.read("a", "b", fetch))
        };
        let (first, (second, third)) = tokio::join!(shared.read("a", "b", fetch), later);
        assert_eq!((*first.unwrap(), *second.unwrap(), *third.unwrap()), (0, 1, 1));
        assert!(shared.slots.lock().unwrap().is_empty());
    }

    #[test]
    fn missing_objects_are_named_in_the_singular() {
        let error = singular(ClusterError::NotFound("configmaps \"x\" not found".into()), "configmap", "x");
        assert_eq!(error.to_string(), "configmap \"x\" not found");
    }
}
