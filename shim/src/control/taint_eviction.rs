//! taint-eviction-controller: pods leave nodes with a NoExecute taint that they do not tolerate, or not for longer.

mod decide;

use self::decide::{PodSeen, Verdict};
use super::call::{CallError, FIELD_MANAGER, call};
use super::event::{Subject, record};
use super::informer::{Delta, Informer, ObjectKey, Store};
use super::queue::Queue;
use crate::clock;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Who signs our events, as stock's.
const COMPONENT: &str = "taint-eviction-controller";

/// Evicts, for ever.
pub(super) async fn run(client: Client) {
    let mut nodes = Informer::new(Api::<Node>::all(client.clone()), ListParams::default(), no_execute);
    // A pod without a node cannot be evicted from it.
    let bound = ListParams::default().fields("spec.nodeName!=");
    let mut pods = Informer::new(Api::<Pod>::all(client.clone()), bound, PodSeen::keep);
    let mut eviction = Eviction { client, queue: Queue::default(), since: BTreeMap::new() };
    loop {
        // All arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = nodes.next() => {
                if let Delta::Applied { key, old, new } = delta
                    && old.as_ref().map_or(!new.is_empty(), |old| *old != new)
                {
                    let now = clock::now().mono;
                    let there = pods.store().iter().filter(|(_, pod)| *pod.node == *key.name);
                    there.for_each(|(pod, _)| eviction.queue.add(pod.clone(), now));
                }
            }
            delta = pods.next() => match delta {
                Delta::Applied { key, .. } => eviction.queue.add(key, clock::now().mono),
                Delta::Deleted { key, .. } => {
                    eviction.queue.forget(&key);
                    eviction.since.remove(&key);
                }
                Delta::Synced => {}
            },
            () = eviction.queue.wait() => {}
        }
        if nodes.is_synced() && pods.is_synced() {
            eviction.work(nodes.store(), pods.store()).await;
        }
    }
}

/// The taints that evict.
fn no_execute(node: Node) -> Vec<Taint> {
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

struct Eviction {
    client: Client,
    queue: Queue<ObjectKey>,
    /// Since when pods are under the taints that will evict them; after a restart their time starts anew.
    since: BTreeMap<ObjectKey, Instant>,
}

impl Eviction {
    async fn work(&mut self, nodes: &Store<Vec<Taint>>, pods: &Store<PodSeen>) {
        while let Some(key) = self.queue.pop(clock::now().mono) {
            let Some(pod) = pods.get(&key).cloned() else { continue };
            let taints = nodes.get(&ObjectKey::new("", &pod.node)).map(|taints| taints.as_slice()).unwrap_or_default();
            let now = clock::now().mono;
            let wait = match decide::judge(&pod, taints) {
                Verdict::Stays => {
                    if self.since.remove(&key).is_some() {
                        let message = format!("Cancelling deletion of Pod {key}");
                        self.tell(&key, &pod, &message).await;
                    }
                    self.queue.succeeded(&key);
                    continue;
                }
                Verdict::Goes(wait) => wait,
            };
            let due = *self.since.entry(key.clone()).or_insert(now) + wait;
            if due > now {
                self.queue.add(key, due);
                continue;
            }
            match self.evict(&key, &pod).await {
                Ok(()) | Err(CallError::NotFound(_) | CallError::Conflict(_)) => {
                    self.since.remove(&key);
                    self.queue.succeeded(&key);
                }
                Err(error) => {
                    tracing::warn!(pod = %key, %error, "pod not evicted, retrying");
                    self.queue.failed(key, clock::now().mono);
                }
            }
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &PodSeen) -> Result<(), CallError> {
        tracing::info!(pod = %key, node = %pod.node, "evicting pod from tainted node");
        self.tell(key, pod, &format!("Marking for deletion Pod {key}")).await;
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": clock::now().wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        call(api.patch_status(&key.name, &params, &Patch::Strategic(patch))).await?;
        let only_this = Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() };
        call(api.delete(&key.name, &DeleteParams::default().preconditions(only_this))).await.map(drop)
    }

    async fn tell(&self, key: &ObjectKey, pod: &PodSeen, message: &str) {
        let subject = Subject { kind: "Pod", namespace: &key.namespace, name: &key.name, uid: &pod.uid };
        record(&self.client, COMPONENT, subject, "Normal", "TaintManagerEviction", message).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::script::Script;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_pod_leaves_when_its_toleration_ends() {
        let node = json!({"metadata": {"name": "n", "resourceVersion": "1"},
            "spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}});
        let pod = json!({"metadata": {"namespace": "d", "name": "p", "uid": "u", "resourceVersion": "1"},
            "spec": {"nodeName": "n", "containers": [], "tolerations": [
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}});
        let list = |item: &serde_json::Value| json!({"metadata": {"resourceVersion": "3"}, "items": [item]});
        let script = || {
            Script::default()
                .on("GET /api/v1/nodes?", 200, list(&node))
                .on("GET /api/v1/pods?", 200, list(&pod))
                .on("POST /api/v1/namespaces/d/events", 201, json!({"metadata": {}, "involvedObject": {}}))
                .on("PATCH /api/v1/namespaces/d/pods/p/status", 200, &pod)
                .on("DELETE /api/v1/namespaces/d/pods/p", 200, &pod)
        };
        for (seconds, deleted) in [(299, false), (301, true)] {
            let script = script();
            let _ = tokio::time::timeout(Duration::from_secs(seconds), run(script.client())).await;
            let delete = script.asked().into_iter().find(|line| line.starts_with("DELETE"));
            assert_eq!(delete.is_some(), deleted, "{seconds}");
            assert!(delete.is_none_or(|line| line.contains(r#""preconditions":{"uid":"u"}"#)));
        }
    }
}
