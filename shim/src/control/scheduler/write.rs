//! What the scheduler writes about a pod: its binding, or why it has none.

use super::view::{Condition, PodView};
use crate::clock;
use crate::control::call::{CallError, call};
use crate::control::informer::ObjectKey;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;

/// Owner of what is written, as stock's scheduler.
const FIELD_MANAGER: &str = "kube-scheduler";

/// A write that ended.
pub(super) enum Done {
    Bound { key: ObjectKey, pod: Arc<PodView>, node: Arc<str>, result: Result<(), CallError> },
    Told { key: ObjectKey, result: Result<(), CallError> },
}

/// Binds the pod to the node; its uid is a precondition.
pub(super) async fn bind(client: Client, key: ObjectKey, pod: Arc<PodView>, node: Arc<str>) -> Done {
    let binding = Binding {
        metadata: ObjectMeta {
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_string()),
            ..ObjectReference::default()
        },
    };
    let api = Api::<Pod>::namespaced(client, &key.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let result = call(api.create_subresource::<_, Status>("binding", &key.name, &params, &binding)).await.map(drop);
    Done::Bound { key, pod, node, result }
}

/// The condition PodScheduled of a pod that no node takes.
pub(super) fn unschedulable(message: &str) -> Condition {
    Condition { is_false: true, reason: "Unschedulable".into(), message: message.into() }
}

/// Writes the condition to the pod's status; its uid is a precondition.
pub(super) async fn tell(client: Client, key: ObjectKey, patch: Value) -> Done {
    let api = Api::<Pod>::namespaced(client, &key.namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let result = call(api.patch_status(&key.name, &params, &Patch::Strategic(patch))).await.map(drop);
    Done::Told { key, result }
}

/// The patch that makes `wanted` the pod's condition; `None`: it is so already.
pub(super) fn condition_patch(pod: &PodView, wanted: &Condition) -> Option<Value> {
    let pending = pod.pending()?;
    let old = pending.condition.as_ref();
    if old == Some(wanted) {
        return None;
    }
    let mut condition = json!({
        "type": "PodScheduled",
        "status": if wanted.is_false { "False" } else { "True" },
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": pending.generation,
    });
    if old.is_none_or(|old| old.is_false != wanted.is_false) {
        condition["lastTransitionTime"] = json!(Time(clock::now().wall));
    }
    Some(json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}))
}
