//! `/pods` (what the API wants here, with the local status) and `/runningpods/` (what the runtime runs).

use super::{Deps, Reply, json, text};
use crate::ids::PodKey;
use crate::model::observed::{ContainerState, ObservedPod, RuntimePod};
use crate::runtime::RuntimeError;
use http::StatusCode;
use serde_json::{Value, json};

pub(super) fn desired(deps: &Deps) -> Reply {
    json(&list(deps.pods.list().iter().map(|pod| serde_json::to_value(&**pod).unwrap_or_default()).collect()))
}

pub(super) async fn running(deps: &Deps) -> Reply {
    match observe_all(deps).await {
        Ok(pods) => json(&list(pods.iter().filter_map(|(pod, seen)| running_pod(pod, seen)).collect())),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn observe_all(deps: &Deps) -> Result<Vec<(RuntimePod, ObservedPod)>, RuntimeError> {
    let mut seen = Vec::new();
    for pod in deps.runtime.pods().await? {
        let observed = deps.runtime.observe(&pod.uid).await?;
        seen.push((pod, observed));
    }
    Ok(seen)
}

/// A pod as the kubelet rebuilds it from the runtime: names, uid, and containers that run; `None` when none does.
fn running_pod(pod: &RuntimePod, seen: &ObservedPod) -> Option<Value> {
    let containers: Vec<Value> = seen
        .containers
        .iter()
        .filter(|container| matches!(container.state, ContainerState::Running { .. }))
        .map(|container| json!({"name": container.name.as_str(), "image": container.image, "resources": {}}))
        .collect();
    let PodKey { namespace, name } = &pod.key;
    let metadata = json!({"name": &**name, "namespace": &**namespace, "uid": pod.uid.as_str()});
    let running = !containers.is_empty();
    running.then(|| json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}}))
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}
