//! The pods of this node: which exist, one worker for each, and the table that others read them from.

use crate::actors::pod_worker::{self, Beginning, PodWorker, WorkerContext, WorkerHandle};
use crate::cluster::PodChange;
use crate::decide::admit;
use crate::ids::{PodKey, PodUid};
use crate::model::memory::Rejection;
use crate::model::observed::{ObservedPod, RuntimePod, Shape};
use crate::model::pod::DesiredPod;
use crate::runtime::RuntimeEvent;
use crate::supervisor::Supervisor;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Ended workers waiting to be taken note of; a full channel only makes a worker that is over wait.
const ENDED_WORKERS: usize = 32;
/// The runtime's pods could not be listed: it is down, ask again.
const AUDIT_RETRY: Duration = Duration::from_secs(10);

/// Reads the pods of this node without waiting for anyone; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PodsHandle {
    table: Arc<RwLock<Table>>,
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    by_uid: BTreeMap<PodUid, Entry>,
    by_key: BTreeMap<PodKey, PodUid>,
}

#[derive(Debug)]
struct Entry {
    /// As the API has it, but for the status, which is the newest that the worker decided.
    pod: Arc<Pod>,
    observed: Option<Arc<ObservedPod>>,
}

impl PodsHandle {
    /// All pods that the API wants on this node, each with its current local status.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.read().by_uid.values().map(|entry| entry.pod.clone()).collect()
    }

    /// The newest pod of that name.
    pub fn get(&self, key: &PodKey) -> Option<Arc<Pod>> {
        let table = self.read();
        table.by_uid.get(table.by_key.get(key)?).map(|entry| entry.pod.clone())
    }

    pub fn get_uid(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.read().by_uid.get(uid).map(|entry| entry.pod.clone())
    }

    /// What the runtime showed of that pod when its worker last looked.
    pub fn observed(&self, uid: &PodUid) -> Option<Arc<ObservedPod>> {
        self.read().by_uid.get(uid)?.observed.clone()
    }

    /// Marked whenever a pod, its status or what was observed of it may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What a worker decided and saw; a pod that is gone from the API leaves the table.
    pub(crate) fn update(&self, pod: &DesiredPod, status: &Arc<PodStatus>, observed: &Arc<ObservedPod>) {
        self.put(pod, status, observed);
        self.changes.send_replace(());
    }

    fn put(&self, pod: &DesiredPod, status: &Arc<PodStatus>, observed: &Arc<ObservedPod>) {
        if pod.gone {
            return self.remove(&pod.uid);
        }
        let same = self.read().by_uid.get(&pod.uid).is_some_and(|entry| {
            entry.pod.metadata.resource_version == pod.pod.metadata.resource_version
                && entry.pod.status.as_ref() == Some(&**status)
        });
        let mut table = self.write();
        if same {
            if let Some(entry) = table.by_uid.get_mut(&pod.uid) {
                entry.observed = Some(observed.clone());
            }
            return;
        }
        let mut merged = Pod::clone(&pod.pod);
        merged.status = Some(PodStatus::clone(status));
        let entry = Entry { pod: Arc::new(merged), observed: Some(observed.clone()) };
        table.by_uid.insert(pod.uid.clone(), entry);
    }

    /// A pod that has a worker from now on.
    fn insert(&self, pod: &DesiredPod) {
        let mut table = self.write();
        table.by_key.insert(pod.key.clone(), pod.uid.clone());
        table.by_uid.entry(pod.uid.clone()).or_insert_with(|| Entry { pod: pod.pod.clone(), observed: None });
    }

    fn remove(&self, uid: &PodUid) {
        let mut table = self.write();
        table.by_uid.remove(uid);
        table.by_key.retain(|_, owner| owner != uid);
    }

    // A poisoned lock still holds whole entries: writers only replace Arcs.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The actor: turns changes of the API and of the runtime into inputs of workers.
pub struct PodsTask {
    context: Arc<WorkerContext>,
    supervisor: Supervisor,
    changes: mpsc::Receiver<PodChange>,
    runtime_events: mpsc::Receiver<RuntimeEvent>,
    workers: BTreeMap<PodUid, WorkerHandle>,
    ended: (mpsc::Sender<PodUid>, mpsc::Receiver<PodUid>),
    /// Pods that the runtime held when it was last asked; a pod that comes later is new to it.
    in_runtime: Option<BTreeSet<PodUid>>,
    listed: bool,
    /// When to compare the runtime's pods with ours.
    audit_at: Option<Instant>,
}

impl PodsTask {
    pub fn new(
        context: Arc<WorkerContext>,
        supervisor: Supervisor,
        changes: mpsc::Receiver<PodChange>,
        runtime_events: mpsc::Receiver<RuntimeEvent>,
    ) -> Self {
        Self {
            context,
            supervisor,
            changes,
            runtime_events,
            workers: BTreeMap::new(),
            ended: mpsc::channel(ENDED_WORKERS),
            in_runtime: None,
            listed: false,
            audit_at: None,
        }
    }

    /// Runs until the supervisor stops it.
    pub async fn run(mut self) {
        loop {
            let audit_at = self.audit_at;
            let audit = async {
                match audit_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel-safe: channels keep what was not received.
            tokio::select! {
                change = self.changes.recv() => match change {
                    Some(change) => self.pod_changed(change).await,
                    None => return,
                },
                event = self.runtime_events.recv() => match event {
                    Some(event) => self.runtime_changed(event),
                    None => return,
                },
                Some(uid) = self.ended.1.recv() => self.worker_ended(&uid),
                () = audit => self.audit().await,
            }
        }
    }

    async fn pod_changed(&mut self, change: PodChange) {
        match change {
            PodChange::Listed(pods) => self.take_list(pods).await,
            PodChange::Applied(pod) => {
                if let Some(pod) = DesiredPod::new(pod) {
                    self.apply(pod).await;
                }
            }
            PodChange::Deleted(pod) => {
                if let Some(pod) = DesiredPod::new(pod) {
                    self.gone(pod);
                }
            }
        }
    }

    /// The complete list: what has a worker and is not in it is gone.
    async fn take_list(&mut self, pods: Vec<Arc<Pod>>) {
        let mut pods: Vec<_> = pods.into_iter().filter_map(DesiredPod::new).collect();
        // As the kubelet admits them: the oldest first.
        pods.sort_by_key(|pod| pod.pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let present: BTreeSet<PodUid> = pods.iter().map(pod_worker::uid_of).collect();
        let missing: Vec<_> = self.workers.iter().filter(|(uid, _)| !present.contains(*uid)).collect();
        let missing: Vec<_> = missing.into_iter().map(|(_, worker)| worker.desired()).collect();
        missing.into_iter().for_each(|pod| self.gone(pod));
        for pod in pods {
            self.apply(pod).await;
        }
        self.listed = true;
        self.audit_at = Some(crate::clock::now().mono);
    }

    async fn apply(&mut self, pod: DesiredPod) {
        if let Some(worker) = self.workers.get(&pod.uid) {
            return worker.desire(pod);
        }
        let mut memory = pod_worker::remembered(&pod);
        memory.rejected = self.admit(&pod).await;
        if let Some(rejection) = &memory.rejected {
            self.context.recorder.pod(&pod.pod, None, true, rejection.reason, rejection.message.clone());
        }
        let fresh = self.listed && self.in_runtime.as_ref().is_some_and(|known| !known.contains(&pod.uid));
        self.context.pods.insert(&pod);
        self.start(Beginning { pod, memory, fresh });
    }

    /// A pod that has been taken before, or is ending, is not judged again.
    ///
    /// The scheduler may have seen a label of the node before we did: none is refused for one without a fresh look.
    async fn admit(&self, pod: &DesiredPod) -> Option<Rejection> {
        let status = pod.pod.status.as_ref();
        let taken = status.is_some_and(|status| status.start_time.is_some());
        if taken || pod.pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let others: Vec<_> = self.context.pods.list().into_iter().filter(|other| !ended(other)).collect();
        let mut node = self.context.node.borrow().clone();
        let rejection = admit::admit(&pod.pod, &others, &node).err()?;
        if rejection.reason != admit::NODE_AFFINITY {
            return Some(rejection);
        }
        let name = pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        match self.context.cluster.node(name).await {
            Ok(fresh) => node.labels = fresh.and_then(|fresh| fresh.metadata.labels).unwrap_or_default(),
            Err(error) => tracing::warn!(%error, pod = %pod.key, "labels of the node not read again"),
        }
        admit::admit(&pod.pod, &others, &node).err()
    }

    fn gone(&mut self, mut pod: DesiredPod) {
        pod.gone = true;
        self.context.pods.remove(&pod.uid);
        if let Some(worker) = self.workers.get(&pod.uid) {
            worker.desire(pod);
        }
    }

    fn start(&mut self, beginning: Beginning) {
        let uid = beginning.pod.uid.clone();
        let (handle, worker) = PodWorker::new(self.context.clone(), beginning);
        self.workers.insert(uid.clone(), handle);
        let ended = self.ended.0.clone();
        self.supervisor.spawn("pod_worker", async move {
            worker.run().await;
            // The receiver lives as long as this actor; without it nobody needs to know.
            let _ = ended.send(uid).await;
        });
    }

    fn runtime_changed(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Dirty(uid) => {
                if let Some(worker) = self.workers.get(&uid) {
                    worker.dirty();
                }
            }
            RuntimeEvent::Relist => self.audit_at = Some(crate::clock::now().mono),
        }
    }

    /// A worker that is over has left nothing; if its pod was asked for again meanwhile, a new one starts.
    fn worker_ended(&mut self, uid: &PodUid) {
        let Some(worker) = self.workers.remove(uid) else { return };
        let desired = worker.desired();
        if desired.gone {
            self.context.pods.remove(uid);
        }
        if let Some(known) = &mut self.in_runtime {
            known.remove(uid);
        }
    }

    /// Has those workers look whose pod is not as they last saw it. Once the API's list is in, what the runtime holds and
    /// the API does not know is stopped and removed.
    async fn audit(&mut self) {
        self.audit_at = None;
        match self.context.runtime.pods().await {
            Ok(held) => {
                let shapes: BTreeMap<&PodUid, &Shape> = held.iter().map(|pod| (&pod.uid, &pod.shape)).collect();
                let none = Shape::new();
                for (uid, worker) in &self.workers {
                    let seen = self.context.pods.observed(uid);
                    if seen.is_none_or(|seen| seen.shape() != **shapes.get(uid).unwrap_or(&&none)) {
                        worker.dirty();
                    }
                }
                for orphan in &held {
                    if !self.listed || self.workers.contains_key(&orphan.uid) {
                        continue;
                    }
                    tracing::info!(pod = %orphan.key, uid = %orphan.uid, "stopping a pod that the API server does not know");
                    let beginning = Beginning { pod: orphan_pod(orphan), memory: Default::default(), fresh: false };
                    self.start(beginning);
                }
                self.in_runtime = Some(held.into_iter().map(|pod| pod.uid).collect());
            }
            Err(error) => {
                tracing::warn!(%error, "pods of the runtime not listed");
                self.workers.values().for_each(WorkerHandle::dirty);
                self.audit_at = Some(crate::clock::now().mono + AUDIT_RETRY);
            }
        }
    }
}

/// As much of a pod as its sandbox's labels tell.
fn orphan_pod(orphan: &RuntimePod) -> DesiredPod {
    let metadata = ObjectMeta {
        name: Some(orphan.key.name.to_string()),
        namespace: Some(orphan.key.namespace.to_string()),
        uid: Some(orphan.uid.to_string()),
        ..Default::default()
    };
    let pod = Pod { metadata, spec: Some(PodSpec::default()), status: None };
    DesiredPod { pod: Arc::new(pod), uid: orphan.uid.clone(), key: orphan.key.clone(), gone: true }
}
