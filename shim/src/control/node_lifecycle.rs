//! node-lifecycle-controller: nodes that stop reporting become Unknown, and taints follow the conditions of every node.

mod decide;

use self::decide::{NodeSeen, Plan};
use super::call::{CallError, FIELD_MANAGER, call};
use super::event::{Subject, record};
use super::informer::{Delta, Informer, ObjectKey, Store};
use super::queue::Queue;
use crate::clock;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Silence after which a node counts as gone (`--node-monitor-grace-period`, 50 s since 1.32).
const MONITOR_GRACE: Duration = Duration::from_secs(50);
/// The same for a node that never reported (`--node-startup-grace-period`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Where agents renew their leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Who signs our events, as stock's.
const COMPONENT: &str = "node-controller";
/// Page size of a LIST, as client-go's pager.
const LIST_PAGE_ITEMS: u32 = 500;

/// When a node was last heard of, by our own clock: the agent's may be off, and a jump of ours must not kill nodes.
struct Heartbeat {
    at: Instant,
    lease: Option<Timestamp>,
    status: Option<Timestamp>,
}

/// Watches over every node, for ever.
pub(super) async fn run(client: Client) {
    let mut nodes = Informer::new(Api::<Node>::all(client.clone()), ListParams::default(), NodeSeen::keep);
    let leases = Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE);
    let mut leases = Informer::new(leases, ListParams::default(), renewed);
    let mut monitor = Monitor { client, heartbeats: BTreeMap::new(), queue: Queue::default(), all_down: false };
    loop {
        // All arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = nodes.next() => monitor.node_changed(delta, leases.store()),
            delta = leases.next() => {
                if let Delta::Applied { key, new, .. } = delta {
                    monitor.lease_renewed(&key.name, *new);
                }
            }
            () = monitor.queue.wait() => {}
        }
        if nodes.is_synced() && leases.is_synced() {
            monitor.work(nodes.store()).await;
        }
    }
}

fn renewed(lease: Lease) -> Option<Timestamp> {
    lease.spec?.renew_time.map(|time| time.0)
}

struct Monitor {
    client: Client,
    heartbeats: BTreeMap<Arc<str>, Heartbeat>,
    queue: Queue<Arc<str>>,
    /// No node of the cluster is Ready: then it is more likely that we are cut off than that all died, and nothing is
    /// evicted (upstream's full disruption). It also keeps the pods of a lone node.
    all_down: bool,
}

impl Monitor {
    /// The lease may have been seen before its node.
    fn node_changed(&mut self, delta: Delta<NodeSeen>, leases: &Store<Option<Timestamp>>) {
        let now = clock::now().mono;
        match delta {
            Delta::Applied { key, new, .. } => {
                let status = new.ready().and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
                let lease = leases.get(&ObjectKey::new(LEASE_NAMESPACE, &key.name)).and_then(|lease| **lease);
                let heartbeat = self.heartbeats.entry(key.name.clone()).or_insert(Heartbeat { at: now, lease, status });
                if heartbeat.status != status {
                    heartbeat.status = status;
                    heartbeat.at = now;
                }
                self.queue.add(key.name, now);
            }
            Delta::Deleted { key, .. } => {
                self.heartbeats.remove(&key.name);
                self.queue.forget(&key.name);
            }
            Delta::Synced => {}
        }
    }

    /// Only the heartbeat moves: the timer that is set finds out when it rings, so renewals cost next to nothing.
    fn lease_renewed(&mut self, node: &str, renewed: Option<Timestamp>) {
        if let Some(heartbeat) = self.heartbeats.get_mut(node)
            && heartbeat.lease != renewed
        {
            heartbeat.lease = renewed;
            heartbeat.at = clock::now().mono;
        }
    }

    async fn work(&mut self, nodes: &Store<NodeSeen>) {
        let mut any = false;
        let all_down = !nodes.iter().inspect(|_| any = true).any(|(_, node)| node.is_ready()) && any;
        if self.all_down != all_down {
            self.all_down = all_down;
            let now = clock::now().mono;
            nodes.iter().for_each(|(key, _)| self.queue.add(key.name.clone(), now));
        }
        while let Some(name) = self.queue.pop(clock::now().mono) {
            let Some(node) = nodes.get(&ObjectKey::new("", &name)).cloned() else { continue };
            match self.pass(&name, &node).await {
                // A conflict means that a newer node is on its way to us.
                Ok(()) | Err(CallError::Conflict(_) | CallError::NotFound(_)) => self.queue.succeeded(&name),
                Err(error) => {
                    tracing::warn!(node = %name, %error, "node not judged, retrying");
                    self.queue.failed(name, clock::now().mono);
                }
            }
        }
    }

    async fn pass(&mut self, name: &Arc<str>, node: &NodeSeen) -> Result<(), CallError> {
        let silent = self.is_silent(name, node).await?;
        let plan = decide::plan(node, silent, self.all_down, clock::now().wall);
        self.write(name, node, plan).await
    }

    /// Whether the node's time is over; sets the timer where it is not.
    async fn is_silent(&mut self, name: &Arc<str>, node: &NodeSeen) -> Result<bool, CallError> {
        let grace = if node.ready().is_some() { MONITOR_GRACE } else { STARTUP_GRACE };
        let Some(heartbeat) = self.heartbeats.get(name) else { return Ok(false) };
        let (deadline, known) = (heartbeat.at + grace, heartbeat.lease);
        if deadline > clock::now().mono {
            self.queue.add(name.clone(), deadline);
            return Ok(false);
        }
        if node.is_unknown() {
            return Ok(true);
        }
        // Our watch may be what is silent: look once before a node is given up.
        let leases = Api::<Lease>::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let renewed = call(leases.get_opt(name)).await?.and_then(renewed);
        if renewed == known {
            return Ok(true);
        }
        self.lease_renewed(name, renewed);
        self.queue.add(name.clone(), clock::now().mono + grace);
        Ok(false)
    }

    /// The node's condition is written last of what a silent node needs: after a crash the next pass starts over.
    async fn write(&self, name: &str, node: &NodeSeen, plan: Plan) -> Result<(), CallError> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let api = Api::<Node>::all(self.client.clone());
        if !plan.conditions.is_empty() {
            self.mark_pods(name).await?;
            let patch = json!({"metadata": {"uid": node.uid}, "status": {"conditions": plan.conditions}});
            call(api.patch_status(name, &params, &Patch::Strategic(patch))).await?;
            tracing::info!(node = name, "node stopped reporting");
            let message = format!("Node {name} status is now: NodeNotReady");
            let subject = Subject { kind: "Node", namespace: "", name, uid: &node.uid };
            record(&self.client, COMPONENT, subject, "Normal", "NodeNotReady", &message).await;
            // The node comes back to us with these conditions; its taints are written then, on its new version.
            return Ok(());
        }
        if let Some(taints) = plan.taints {
            // The list of taints has no merge key: the version keeps us from undoing another writer's.
            let meta = json!({"uid": node.uid, "resourceVersion": node.version});
            let patch = json!({"metadata": meta, "spec": {"taints": taints}});
            call(api.patch(name, &params, &Patch::Merge(patch))).await?;
        }
        Ok(())
    }

    /// Pods of a node that nobody hears of are not Ready: traffic goes elsewhere.
    async fn mark_pods(&self, node: &str) -> Result<(), CallError> {
        let all = Api::<Pod>::all(self.client.clone());
        let mut params = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(LIST_PAGE_ITEMS);
        loop {
            let page = call(all.list(&params)).await?;
            for pod in page.items {
                let Some(patch) = decide::not_ready(&pod, clock::now().wall) else { continue };
                self.mark_pod(&pod, patch).await?;
            }
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(()),
            }
        }
    }

    async fn mark_pod(&self, pod: &Pod, patch: Value) -> Result<(), CallError> {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (namespace, name, uid) = (text(&pod.metadata.namespace), text(&pod.metadata.name), text(&pod.metadata.uid));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        match call(pods.patch_status(&name, &params, &Patch::Strategic(patch))).await {
            Ok(_) => {}
            // Gone meanwhile: nothing to mark.
            Err(CallError::NotFound(_) | CallError::Conflict(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        let subject = Subject { kind: "Pod", namespace: &namespace, name: &name, uid: &uid };
        record(&self.client, COMPONENT, subject, "Warning", "NodeNotReady", "Node is not ready").await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
