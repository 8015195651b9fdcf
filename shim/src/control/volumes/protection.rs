//! pvc-protection and pv-protection: a claim that a pod uses, and a volume that a claim has, are not deleted before
//! they are free. The API server puts the finalizers on; these take them off.

use crate::clock;
use crate::control::call::{CallError, FIELD_MANAGER, call};
use crate::control::informer::{Delta, Informer, ObjectKey};
use crate::control::queue::Queue;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use std::fmt::Debug;

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";

/// What is read of a protected object.
struct Protected {
    version: String,
    /// To be freed: it is being deleted and still has our finalizer; the others it has.
    doomed: Option<Vec<String>>,
    /// Of a volume: a claim has it.
    bound: bool,
}

fn protected(meta: ObjectMeta, finalizer: &str, bound: bool) -> Protected {
    let finalizers = meta.finalizers.unwrap_or_default();
    let ours = meta.deletion_timestamp.is_some() && finalizers.iter().any(|name| name == finalizer);
    let others = || finalizers.iter().filter(|name| *name != finalizer).cloned().collect();
    Protected { version: meta.resource_version.clone().unwrap_or_default(), doomed: ours.then(others), bound }
}

/// The claims that a pod which has not ended uses.
fn claims_of(pod: Pod) -> Vec<ObjectKey> {
    let ended =
        pod.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    let namespace = pod.metadata.namespace.unwrap_or_default();
    let name = pod.metadata.name.unwrap_or_default();
    let volumes = pod.spec.and_then(|spec| spec.volumes).unwrap_or_default();
    let claim = |volume: k8s_openapi::api::core::v1::Volume| match (volume.persistent_volume_claim, volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name),
        (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
        (None, None) => None,
    };
    let names = volumes.into_iter().filter_map(claim).filter(|_| !ended);
    names.map(|claim| ObjectKey::new(&namespace, &claim)).collect()
}

/// Frees claims, for ever.
pub(in crate::control) async fn run_claims(client: Client) {
    let keep = |claim: PersistentVolumeClaim| protected(claim.metadata, OF_CLAIMS, false);
    let mut claims = Informer::new(Api::<PersistentVolumeClaim>::all(client.clone()), ListParams::default(), keep);
    let mut pods = Informer::new(Api::<Pod>::all(client.clone()), ListParams::default(), claims_of);
    let mut queue: Queue<ObjectKey> = Queue::default();
    loop {
        let now = clock::now().mono;
        // All arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = claims.next() => if let Some(key) = delta.key() {
                queue.add(key.clone(), now);
            },
            delta = pods.next() => {
                let freed = match delta {
                    Delta::Applied { old, .. } => old,
                    Delta::Deleted { old, .. } => Some(old),
                    Delta::Synced => None,
                };
                freed.iter().flat_map(|claims| claims.iter()).for_each(|key| queue.add(key.clone(), now));
            }
            () = queue.wait() => {}
        }
        if !claims.is_synced() || !pods.is_synced() {
            continue;
        }
        while let Some(key) = queue.pop(clock::now().mono) {
            let Some(doomed) = claims.store().get(&key).filter(|claim| claim.doomed.is_some()) else { continue };
            if pods.store().iter().any(|(_, used)| used.contains(&key)) {
                continue;
            }
            let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &key.namespace);
            finish(&mut queue, &key, free(&api, &key, doomed).await);
        }
    }
}

/// Frees volumes, for ever.
pub(in crate::control) async fn run_volumes(client: Client) {
    let keep = |volume: PersistentVolume| {
        let bound = volume.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound");
        protected(volume.metadata, OF_VOLUMES, bound)
    };
    let api = Api::<PersistentVolume>::all(client.clone());
    let mut volumes = Informer::new(api.clone(), ListParams::default(), keep);
    let mut queue: Queue<ObjectKey> = Queue::default();
    loop {
        // Both arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = volumes.next() => if let Some(key) = delta.key() {
                queue.add(key.clone(), clock::now().mono);
            },
            () = queue.wait() => {}
        }
        while let Some(key) = queue.pop(clock::now().mono) {
            let volume = volumes.store().get(&key).filter(|volume| volume.doomed.is_some() && !volume.bound);
            if let Some(volume) = volume {
                finish(&mut queue, &key, free(&api, &key, volume).await);
            }
        }
    }
}

async fn free<K>(api: &Api<K>, key: &ObjectKey, object: &Protected) -> Result<(), CallError>
where
    K: Clone + Debug + serde::de::DeserializeOwned,
{
    let others = object.doomed.as_deref().unwrap_or_default();
    let patch = json!({"metadata": {"resourceVersion": object.version, "finalizers": others}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    call(api.patch(&key.name, &params, &Patch::Merge(patch))).await.map(drop)
}

fn finish(queue: &mut Queue<ObjectKey>, key: &ObjectKey, result: Result<(), CallError>) {
    match result {
        // The watch brings what others did in between.
        Ok(()) | Err(CallError::Conflict(_) | CallError::NotFound(_)) => queue.succeeded(key),
        Err(error) => {
            tracing::warn!(object = %key, %error, "protection not lifted, retrying");
            queue.failed(key.clone(), clock::now().mono);
        }
    }
}
