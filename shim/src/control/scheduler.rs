//! The scheduler: gives each pending pod a node the moment it is seen, or says why it cannot.
//!
//! Watches feed `state` (what nodes have left) and `queue` (who waits); a pass decides for every waiting pod, `filter`
//! then `score`, assumes the choice, and writes it beside the next decisions. Nothing polls: besides watches only the
//! ends of backoffs and assumptions wake it. It preempts nobody.

mod events;
mod filter;
mod queue;
mod resources;
mod score;
mod state;
mod view;
mod write;

use super::call::CallError;
use super::informer::{Delta, Informer, ObjectKey};
use crate::clock;
use events::{Happening, Recorder, What};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use queue::{Chance, PodQueue};
use state::Cluster;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;
use view::{NodeView, PodView, Stage};
use write::Done;

/// Writes under way at once: enough for the store to commit many together, few enough to be no burden on it.
const MAX_WRITES: usize = 64;

struct Scheduler {
    client: Client,
    recorder: Recorder,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    cluster: Cluster,
    queue: PodQueue,
    /// At most `MAX_WRITES`.
    writes: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Pods whose condition is being written: bound only afterwards, or the condition would overtake the binding.
    being_told: BTreeSet<ObjectKey>,
}

/// Schedules for ever.
pub(super) async fn run(client: Client) {
    let (recorder, writer) = events::recorder(client.clone());
    let mut scheduler = Scheduler {
        recorder,
        nodes: Informer::new(Api::<Node>::all(client.clone()), ListParams::default(), NodeView::keep),
        pods: Informer::new(Api::<Pod>::all(client.clone()), ListParams::default(), PodView::keep),
        client,
        cluster: Cluster::default(),
        queue: PodQueue::default(),
        writes: FuturesUnordered::new(),
        being_told: BTreeSet::new(),
    };
    tokio::join!(scheduler.run(), writer.run());
}

impl Scheduler {
    async fn run(&mut self) {
        loop {
            let wake = [self.queue.next_due(), self.cluster.next_expiry()].into_iter().flatten().min();
            // All arms are cancel-safe: see `Informer::next`; a write that is not taken stays in its set; a timer is
            // set anew.
            tokio::select! {
                delta = self.nodes.next() => self.node_changed(delta),
                delta = self.pods.next() => self.pod_changed(delta),
                Some(done) = self.writes.next(), if !self.writes.is_empty() => self.written(done),
                () = until(wake) => {}
            }
            // Before both are complete, a node would look emptier than it is.
            if self.nodes.is_synced() && self.pods.is_synced() {
                self.pass(clock::now().mono);
            }
        }
    }

    fn node_changed(&mut self, delta: Delta<NodeView>) {
        match delta {
            // A heartbeat changes nothing that is kept.
            Delta::Applied { old: Some(old), new, .. } if old == new => {}
            Delta::Applied { key, new, .. } => {
                self.cluster.set_node(&key.name, new);
                self.queue.chance(Chance::Node, clock::now().mono);
            }
            Delta::Deleted { key, .. } => self.cluster.remove_node(&key.name),
            Delta::Synced => {}
        }
    }

    fn pod_changed(&mut self, delta: Delta<PodView>) {
        let now = clock::now().mono;
        let (key, old, new) = match delta {
            Delta::Applied { key, old, new } => (key, old, Some(new)),
            Delta::Deleted { key, old } => (key, Some(old), None),
            Delta::Synced => return,
        };
        let another = old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old.uid != new.uid);
        if self.cluster.observe(&key, new.as_deref()) {
            self.queue.chance(Chance::Room, now);
        }
        let Some(pending) = new.as_deref().and_then(PodView::pending) else {
            self.queue.remove(&key);
            return;
        };
        if another {
            self.queue.remove(&key);
        }
        let before = old.as_deref().filter(|_| !another).and_then(PodView::pending);
        if before.is_none_or(|before| before.wish != pending.wish) {
            self.queue.add(&key, pending.wish.priority, now);
        }
    }

    fn pass(&mut self, now: Instant) {
        for key in self.cluster.expire(now) {
            tracing::warn!(pod = %key, "binding was taken but never seen, scheduling again");
            self.queue.error(&key, now);
            self.queue.chance(Chance::Room, now);
        }
        self.queue.advance(now);
        while self.writes.len() < MAX_WRITES {
            let Some(key) = self.queue.pop() else { break };
            self.schedule(key, now);
        }
    }

    fn schedule(&mut self, key: ObjectKey, now: Instant) {
        let Some(pod) = self.pods.store().get(&key).cloned() else { return self.queue.remove(&key) };
        let Stage::Pending(pending) = &pod.stage else { return self.queue.remove(&key) };
        if self.being_told.contains(&key) {
            return self.queue.error(&key, now);
        }
        match score::choose(&pending.wish, &self.cluster) {
            Ok(node) => {
                self.cluster.assume(&key, &pod.uid, &node, &pending.wish.usage);
                self.writes.push(write::bind(self.client.clone(), key, pod, node).boxed());
            }
            Err(unfit) => {
                self.queue.unschedulable(&key, unfit.room_helps(), now);
                let message = unfit.to_string();
                if let Some(patch) = write::condition_patch(&pod, &write::unschedulable(&message)) {
                    self.being_told.insert(key.clone());
                    self.writes.push(write::tell(self.client.clone(), key.clone(), patch).boxed());
                }
                self.record(key, &pod, What::FailedScheduling { message: message.into() });
            }
        }
    }

    fn record(&self, key: ObjectKey, pod: &PodView, what: What) {
        let resource_version = pod.pending().map(|pending| pending.resource_version.clone()).unwrap_or_default();
        self.recorder.record(Happening { pod: key, uid: pod.uid.clone(), resource_version, what });
    }

    fn written(&mut self, done: Done) {
        let now = clock::now().mono;
        match done {
            Done::Bound { key, pod, node, result: Ok(()) } => {
                self.cluster.bound(&key, &pod.uid, now);
                self.record(key, &pod, What::Scheduled { node });
            }
            Done::Bound { key, pod, node, result: Err(error) } => self.not_bound(&key, &pod, &node, &error, now),
            Done::Told { key, result } => {
                self.being_told.remove(&key);
                match result {
                    // Gone, or another pod of that name.
                    Ok(()) | Err(CallError::NotFound(_) | CallError::Conflict(_)) => {}
                    Err(error) => tracing::warn!(pod = %key, %error, "condition PodScheduled not written"),
                }
            }
        }
    }

    fn not_bound(&mut self, key: &ObjectKey, pod: &Arc<PodView>, node: &str, error: &CallError, now: Instant) {
        match error {
            // It is gone, or has a node: the watch will show it.
            CallError::NotFound(_) | CallError::Conflict(_) => {
                tracing::debug!(pod = %key, node, %error, "binding refused");
            }
            error => tracing::warn!(pod = %key, node, %error, "pod not bound, retrying"),
        }
        if self.cluster.not_bound(key, &pod.uid) {
            self.queue.chance(Chance::Room, now);
        }
        if self.pods.store().get(key).is_some_and(|known| known.uid == pod.uid) {
            self.queue.error(key, now);
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
