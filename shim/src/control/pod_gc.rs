//! pod-garbage-collector-controller: pods of nodes that no longer exist are removed; nobody else could finish them.

use super::call::{CallError, FIELD_MANAGER, call};
use super::informer::{Delta, Informer, ObjectKey, Store};
use super::queue::Queue;
use crate::clock;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a node must be gone before its pods go: it may register again (upstream's `quarantineTime`).
const QUARANTINE: Duration = Duration::from_secs(40);

/// What is read of a pod.
struct PodSeen {
    uid: String,
    node: Arc<str>,
    /// Succeeded or Failed.
    ended: bool,
}

fn keep(pod: Pod) -> PodSeen {
    let phase = pod.status.and_then(|status| status.phase);
    PodSeen {
        uid: pod.metadata.uid.unwrap_or_default(),
        node: pod.spec.and_then(|spec| spec.node_name).unwrap_or_default().into(),
        ended: matches!(phase.as_deref(), Some("Succeeded" | "Failed")),
    }
}

/// Collects, for ever.
pub(super) async fn run(client: Client) {
    let mut nodes = Informer::new(Api::<Node>::all(client.clone()), ListParams::default(), |_| ());
    let bound = ListParams::default().fields("spec.nodeName!=");
    let mut pods = Informer::new(Api::<Pod>::all(client.clone()), bound, keep);
    // Names of nodes that are gone and, as far as known, have pods.
    let mut queue: Queue<Arc<str>> = Queue::default();
    let absent =
        |nodes: &Informer<()>, name: &str| nodes.is_synced() && nodes.store().get(&ObjectKey::new("", name)).is_none();
    loop {
        // All arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = nodes.next() => match delta {
                Delta::Applied { key, .. } => queue.forget(&key.name),
                Delta::Deleted { key, .. } => queue.add(key.name, clock::now().mono + QUARANTINE),
                Delta::Synced => {
                    let gone = pods.store().iter().filter(|(_, pod)| absent(&nodes, &pod.node));
                    gone.for_each(|(_, pod)| queue.add(pod.node.clone(), clock::now().mono + QUARANTINE));
                }
            },
            delta = pods.next() => {
                if let Delta::Applied { new, .. } = delta
                    && absent(&nodes, &new.node)
                {
                    queue.add(new.node.clone(), clock::now().mono + QUARANTINE);
                }
            }
            () = queue.wait() => {}
        }
        if !nodes.is_synced() || !pods.is_synced() {
            continue;
        }
        while let Some(name) = queue.pop(clock::now().mono) {
            match collect(&client, &name, pods.store()).await {
                Ok(()) => queue.succeeded(&name),
                Err(error) => {
                    tracing::warn!(node = %name, %error, "pods of the absent node not removed, retrying");
                    queue.failed(name, clock::now().mono);
                }
            }
        }
    }
}

async fn collect(client: &Client, node: &str, pods: &Store<PodSeen>) -> Result<(), CallError> {
    let orphans: Vec<_> = pods.iter().filter(|(_, pod)| *pod.node == *node).collect();
    // Only the API itself can say that a node is not there.
    if orphans.is_empty() || call(Api::<Node>::all(client.clone()).get_opt(node)).await?.is_some() {
        return Ok(());
    }
    for (key, pod) in orphans {
        match remove(client, key, pod).await {
            Ok(()) | Err(CallError::NotFound(_) | CallError::Conflict(_)) => {
                tracing::info!(pod = %key, node, "removed pod of a node that no longer exists");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn remove(client: &Client, key: &ObjectKey, pod: &PodSeen) -> Result<(), CallError> {
    let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let now = clock::now().wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    call(api.patch_status(&key.name, &params, &Patch::Strategic(last_words(pod, &now)))).await?;
    let only_this = Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() };
    call(api.delete(&key.name, &DeleteParams::default().grace_period(0).preconditions(only_this))).await.map(drop)
}

/// The last status of a pod whose node is gone.
fn last_words(pod: &PodSeen, now: &str) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists", "lastTransitionTime": now,
    });
    let mut status = json!({"conditions": [condition]});
    if !pod.ended {
        status["phase"] = "Failed".into();
    }
    json!({"metadata": {"uid": pod.uid}, "status": status})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::script::Script;

    #[tokio::test(start_paused = true)]
    async fn pods_of_absent_nodes_are_removed_after_the_quarantine_and_others_stay() {
        let list = |items: Value| json!({"metadata": {"resourceVersion": "3"}, "items": items});
        let pod = |name: &str, node: &str| {
            json!({"metadata": {"namespace": "d", "name": name, "uid": name, "resourceVersion": "1"},
                "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}})
        };
        let not_found =
            json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
        let script = || {
            Script::default()
                .on("GET /api/v1/nodes?", 200, list(json!([{"metadata": {"name": "here", "resourceVersion": "1"}}])))
                .on("GET /api/v1/pods?", 200, list(json!([pod("a", "gone"), pod("b", "here")])))
                .on("GET /api/v1/nodes/gone", 404, &not_found)
                .on("PATCH /api/v1/namespaces/d/pods/a/status", 200, pod("a", "gone"))
                .on("DELETE /api/v1/namespaces/d/pods/a", 200, pod("a", "gone"))
        };
        for (seconds, expected) in [(39, vec![]), (41, vec!["PATCH", "DELETE"])] {
            let script = script();
            let _ = tokio::time::timeout(Duration::from_secs(seconds), run(script.client())).await;
            let asked = script.asked();
            let writes: Vec<&String> = asked.iter().filter(|line| !line.starts_with("GET")).collect();
            let methods: Vec<&str> = writes.iter().filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(methods, expected);
            assert!(writes.iter().all(|line| line.contains("/pods/a")));
            if let [patch, delete] = writes[..] {
                assert!(patch.contains(r#""phase":"Failed""#) && delete.contains(r#""gracePeriodSeconds":0"#));
            }
        }
    }
}
