//! persistentvolume-binder-controller, its static half: claims get volumes that exist. Nothing is provisioned.

mod decide;
mod protection;

pub(super) use protection::{run_claims as protect_claims, run_volumes as protect_volumes};

use super::call::{CallError, FIELD_MANAGER, call};
use super::event::{self, Subject};
use super::informer::{Informer, ObjectKey};
use super::queue::retry_wait;
use crate::clock;
use crate::selector::{LabelSelector, Op, Requirement};
use decide::{Action, Claim, Holder, Volume, amount, plan};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as api;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Where an older spelling names the class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Binds, for ever.
pub(super) async fn run(client: Client) {
    let mut volumes = Informer::new(Api::<PersistentVolume>::all(client.clone()), ListParams::default(), keep_volume);
    let mut claims =
        Informer::new(Api::<PersistentVolumeClaim>::all(client.clone()), ListParams::default(), keep_claim);
    // Claims that were told that nothing fits: bounded by the claims there are.
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut failures = 0;
    loop {
        let retry = async {
            match failures {
                0 => std::future::pending().await,
                failures => tokio::time::sleep(retry_wait(failures)).await,
            }
        };
        // All arms are cancel-safe (see `Informer::next`).
        tokio::select! {
            _ = volumes.next() => {}
            _ = claims.next() => {}
            () = retry => {}
        }
        if !volumes.is_synced() || !claims.is_synced() {
            continue;
        }
        let actions = plan(
            &volumes.store().iter().map(|(key, volume)| (key, &**volume)).collect(),
            &claims.store().iter().map(|(key, claim)| (key, &**claim)).collect(),
        );
        let mut failed = false;
        for action in actions {
            match carry_out(&client, action, &mut told).await {
                // Somebody was faster; the watch brings what they did.
                Ok(()) | Err(CallError::Conflict(_) | CallError::NotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, "volume not bound, retrying");
                    failed = true;
                }
            }
        }
        failures = if failed { failures + 1 } else { 0 };
        let alive: BTreeSet<&str> = claims.store().iter().map(|(_, claim)| claim.uid.as_str()).collect();
        told.retain(|uid| alive.contains(uid.as_str()));
    }
}

fn keep_volume(volume: PersistentVolume) -> Volume {
    let (meta, status) = (volume.metadata, volume.status.unwrap_or_default());
    let spec = volume.spec.unwrap_or_default();
    let capacity = spec.capacity.and_then(|list| list.get("storage").cloned()).unwrap_or_default().0;
    let annotated = meta.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION)).cloned();
    Volume {
        uid: meta.uid.unwrap_or_default(),
        version: meta.resource_version.unwrap_or_default(),
        capacity: amount(&capacity),
        capacity_text: capacity,
        modes: spec.access_modes.unwrap_or_default(),
        class: annotated.or(spec.storage_class_name).unwrap_or_default(),
        mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
        labels: meta.labels.unwrap_or_default().into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        claim: spec.claim_ref.map(|claim| Holder {
            key: ObjectKey::new(claim.namespace.as_deref().unwrap_or(""), claim.name.as_deref().unwrap_or("")),
            uid: claim.uid,
        }),
        phase: status.phase.unwrap_or_default(),
        policy: spec.persistent_volume_reclaim_policy.unwrap_or_default(),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

fn keep_claim(claim: PersistentVolumeClaim) -> Claim {
    let (meta, status) = (claim.metadata, claim.status.unwrap_or_default());
    let spec = claim.spec.unwrap_or_default();
    let request = spec.resources.and_then(|resources| resources.requests?.get("storage").cloned()).unwrap_or_default();
    let annotation = |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name)).cloned();
    Claim {
        uid: meta.uid.clone().unwrap_or_default(),
        volume: spec.volume_name.unwrap_or_default(),
        request: amount(&request.0),
        modes: spec.access_modes.unwrap_or_default(),
        class: annotation(CLASS_ANNOTATION).or(spec.storage_class_name).unwrap_or_default(),
        mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
        selector: spec.selector.map(selector),
        phase: status.phase.unwrap_or_default(),
        completed: annotation(BIND_COMPLETED).is_some(),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

fn selector(selector: api::LabelSelector) -> LabelSelector {
    let equal = selector.match_labels.into_iter().flatten();
    let equal = equal.map(|(key, value)| Requirement { key: key.into(), op: Op::In(vec![value.into()]) });
    let rules = selector.match_expressions.into_iter().flatten().filter_map(|rule| {
        let values = rule.values.into_iter().flatten().map(Into::into).collect();
        let op = match rule.operator.as_str() {
            "In" => Op::In(values),
            "NotIn" => Op::NotIn(values),
            "Exists" => Op::Exists,
            "DoesNotExist" => Op::DoesNotExist,
            // Validation refuses others.
            _ => return None,
        };
        Some(Requirement { key: rule.key.into(), op })
    });
    LabelSelector { requirements: equal.chain(rules).collect() }
}

async fn carry_out(client: &Client, action: Action, told: &mut BTreeSet<String>) -> Result<(), CallError> {
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let claims = |claim: &ObjectKey| Api::<PersistentVolumeClaim>::namespaced(client.clone(), &claim.namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    match action {
        Action::Take { volume, version, claim, uid, chosen } => {
            let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1",
                "namespace": &*claim.namespace, "name": &*claim.name, "uid": uid});
            let mut patch = json!({"metadata": {"resourceVersion": version}, "spec": {"claimRef": reference}});
            annotate(&mut patch, chosen, &[BOUND_BY_CONTROLLER]);
            call(volumes.patch(&volume, &params, &Patch::Merge(patch))).await?;
        }
        Action::Name { claim, uid, volume, chosen } => {
            let mut patch = json!({"metadata": {"uid": uid}, "spec": {"volumeName": &*volume}});
            annotate(&mut patch, true, &[BIND_COMPLETED]);
            annotate(&mut patch, chosen, &[BOUND_BY_CONTROLLER]);
            call(claims(&claim).patch(&claim.name, &params, &Patch::Merge(patch))).await?;
        }
        Action::Bound { claim, uid, capacity, modes } => {
            let status = json!({"phase": "Bound", "accessModes": modes, "capacity": {"storage": capacity}});
            let patch = json!({"metadata": {"uid": uid}, "status": status});
            call(claims(&claim).patch_status(&claim.name, &params, &Patch::Merge(patch))).await?;
        }
        Action::Lost { claim, uid } => {
            let patch = json!({"metadata": {"uid": uid}, "status": {"phase": "Lost"}});
            call(claims(&claim).patch_status(&claim.name, &params, &Patch::Merge(patch))).await?;
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            tell(client, &claim, &uid, "Warning", "ClaimLost", message).await;
        }
        Action::Phase { volume, uid, phase, message } => {
            let now = clock::now().wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let message = if message.is_empty() { Value::Null } else { message.into() };
            let status = json!({"phase": phase, "message": message, "lastPhaseTransitionTime": now});
            let patch = json!({"metadata": {"uid": uid}, "status": status});
            call(volumes.patch_status(&volume, &params, &Patch::Merge(patch))).await?;
        }
        Action::NoneFits { claim, uid } => {
            if told.insert(uid.clone()) {
                let message = "no persistent volumes available for this claim and no storage class is set";
                tell(client, &claim, &uid, "Normal", "FailedBinding", message).await;
            }
        }
    }
    Ok(())
}

fn annotate(patch: &mut Value, wanted: bool, names: &[&str]) {
    for name in names.iter().filter(|_| wanted) {
        patch["metadata"]["annotations"][*name] = "yes".into();
    }
}

async fn tell(client: &Client, claim: &ObjectKey, uid: &str, kind: &str, reason: &str, message: &str) {
    let subject = Subject { kind: "PersistentVolumeClaim", namespace: &claim.namespace, name: &claim.name, uid };
    event::record(client, "persistentvolume-controller", subject, kind, reason, message).await;
}
