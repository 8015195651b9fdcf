//! The pods of this node: which exist, one worker for each, and the table that others read them from.

use crate::actors::devices::DeviceHints;
use crate::actors::eviction::Eviction;
use crate::actors::pod_worker::{self, Beginning, PodWorker, WorkerContext, WorkerHandle};
use crate::actors::static_pods::StaticPods;
use crate::cluster::PodChange;
use crate::decide::resize::{self, Verdict};
use crate::decide::static_pod::{self, MirrorView};
use crate::decide::{admit, cpus, evict, preempt};
use crate::ids::{PodKey, PodUid};
use crate::metrics::catalog;
use crate::model::eviction::{Distress, Removal};
use crate::model::memory::Rejection;
use crate::model::observed::{ObservedPod, Shape};
use crate::model::pod::{CONFIG_MIRROR, DesiredPod, PendingResize};
use crate::model::resources::Allocation;
use crate::runtime::RuntimeEvent;
use crate::supervisor::Supervisor;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// Ended workers waiting to be taken note of; a full channel only makes a worker that is over wait.
const ENDED_WORKERS: usize = 32;
/// An API server that has not answered by then is away: what this node knows of its pods must do.
const OFFLINE_AFTER: Duration = Duration::from_secs(15);
/// The runtime's pods could not be listed: it is down, ask again.
const AUDIT_RETRY: Duration = Duration::from_secs(10);

/// Reads the pods of this node without waiting for anyone; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PodsHandle {
    table: Arc<RwLock<Table>>,
    changes: watch::Sender<()>,
    /// The API server has told all of them since the start.
    complete: Arc<AtomicBool>,
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

    /// Whether a pod that is not here is not on this node: the API server has told all of them.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
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

/// What the actor hears from, and whom it tells of static pods.
pub struct Inputs {
    pub changes: mpsc::Receiver<PodChange>,
    pub runtime_events: mpsc::Receiver<RuntimeEvent>,
    pub static_pods: watch::Receiver<StaticPods>,
    pub evictions: mpsc::Receiver<Eviction>,
    pub mirrors: watch::Sender<MirrorView>,
    /// Why the node takes fewer pods than usual.
    pub distress: watch::Receiver<Distress>,
    /// Told when the runtime's connection broke: the node is to look how it is.
    pub runtime_lost: Arc<Notify>,
}

/// The actor: turns changes of the API and of the runtime into inputs of workers.
pub struct PodsTask {
    context: Arc<WorkerContext>,
    supervisor: Supervisor,
    inputs: Inputs,
    /// The API server's copies of static pods.
    mirrors: BTreeMap<PodKey, Arc<Pod>>,
    workers: BTreeMap<PodUid, WorkerHandle>,
    /// Pods that the node must have: they have no worker until those have ended that make room for them.
    arrivals: BTreeMap<PodUid, Arrival>,
    ended: (mpsc::Sender<PodUid>, mpsc::Receiver<PodUid>),
    /// Pods that the runtime held when it was last asked; a pod that comes later is new to it.
    in_runtime: Option<BTreeSet<PodUid>>,
    listed: bool,
    /// When to compare the runtime's pods with ours, and when that was last done.
    audit_at: Option<Instant>,
    audited: Option<Instant>,
}

/// Why a pod is not taken.
enum Refusal {
    /// Whatever the pod.
    Final(Rejection),
    /// As the node is now: for a pod that it must have, others may leave.
    Room(Rejection),
}

/// A pod that waits for others to end.
struct Arrival {
    pod: DesiredPod,
    leaving: BTreeSet<PodUid>,
    /// It is not kept waiting longer than this, whatever keeps the others.
    until: Instant,
}

impl PodsTask {
    pub fn new(context: Arc<WorkerContext>, supervisor: Supervisor, inputs: Inputs) -> Self {
        Self {
            context,
            supervisor,
            inputs,
            mirrors: BTreeMap::new(),
            workers: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            ended: mpsc::channel(ENDED_WORKERS),
            in_runtime: None,
            listed: false,
            audit_at: None,
            audited: None,
        }
    }

    /// Runs until the supervisor stops it.
    pub async fn run(mut self) {
        // Before the first audit: what runs of them is no orphan.
        self.sync_static().await;
        let offline_at = crate::clock::now().mono + OFFLINE_AFTER;
        let mut asked_files = false;
        let mut pods_changed = self.context.pods.changes();
        let mut device_changes = self.context.devices.changes();
        loop {
            let audit = at_time(self.audit_at);
            let arrival = at_time(self.arrivals.values().map(|arrival| arrival.until).min());
            // Every arm is cancel-safe: channels keep what was not received.
            tokio::select! {
                change = self.inputs.changes.recv() => match change {
                    Some(change) => self.pod_changed(change).await,
                    None => return,
                },
                Some(eviction) = self.inputs.evictions.recv() => self.remove(eviction),
                Ok(()) = self.inputs.static_pods.changed() => self.sync_static().await,
                event = self.inputs.runtime_events.recv() => match event {
                    Some(event) => self.runtime_changed(event),
                    None => return,
                },
                Some(uid) = self.ended.1.recv() => self.worker_ended(&uid).await,
                Ok(()) = device_changes.changed() => self.devices_changed(),
                () = audit => self.audit().await,
                Ok(()) = pods_changed.changed(), if !self.arrivals.is_empty() => self.let_in().await,
                () = arrival => self.let_in().await,
                () = tokio::time::sleep_until(offline_at), if !self.listed && !asked_files => {
                    asked_files = true;
                    self.begin_known().await;
                }
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
            PodChange::Deleted(pod) => match DesiredPod::new(pod) {
                Some(pod) if is_mirror(&pod) => self.mirror_gone(&pod),
                Some(pod) => self.gone(pod),
                None => {}
            },
        }
        self.retry_resizes().await;
    }

    /// The complete list: what has a worker and is not in it is gone.
    async fn take_list(&mut self, pods: Vec<Arc<Pod>>) {
        if self.context.managers.is_some() {
            let running = pods.iter().filter(|pod| !has_ended(pod)).filter_map(|pod| pod.metadata.uid.as_deref());
            let keep = self.owners(running.map(PodUid::new).collect());
            self.release(move |uid| keep.contains(uid)).await;
        }
        let mut pods: Vec<_> = pods.into_iter().filter_map(DesiredPod::new).collect();
        // As the kubelet admits them: the oldest first.
        pods.sort_by_key(|pod| pod.pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let present: BTreeSet<PodUid> = pods.iter().map(pod_worker::uid_of).collect();
        let missing: Vec<_> = self.workers.iter().filter(|(uid, _)| !present.contains(*uid)).collect();
        let missing: Vec<_> = missing.into_iter().map(|(_, worker)| worker.desired()).collect();
        missing.into_iter().filter(|pod| !pod.is_static).for_each(|pod| self.gone(pod));
        let withdrawn = self.arrivals.values().filter(|arrival| !present.contains(&arrival.pod.uid));
        let withdrawn: Vec<_> = withdrawn.map(|arrival| arrival.pod.clone()).collect();
        withdrawn.into_iter().filter(|pod| !pod.is_static).for_each(|pod| self.gone(pod));
        let (known, kept) = (self.context.known.clone(), present.clone());
        self.on_disk(move || known.keep_only(&kept));
        let shown: BTreeSet<PodKey> = pods.iter().filter(|pod| is_mirror(pod)).map(|pod| pod.key.clone()).collect();
        let lost: Vec<_> = self.mirrors.iter().filter(|(key, _)| !shown.contains(*key)).collect();
        let lost: Vec<_> = lost.into_iter().filter_map(|(_, mirror)| DesiredPod::new(mirror.clone())).collect();
        lost.iter().for_each(|mirror| self.mirror_gone(mirror));
        for pod in pods {
            self.apply(pod).await;
        }
        self.listed = true;
        self.context.pods.complete.store(true, Ordering::Relaxed);
        self.tell_mirrors();
        self.audit_at = Some(crate::clock::now().mono);
    }

    async fn apply(&mut self, pod: DesiredPod) {
        if is_mirror(&pod) {
            return self.mirror_seen(&pod);
        }
        if let Some(worker) = self.workers.get(&pod.uid) {
            let granted = Allocation::of(worker.desired().spec());
            return self.desire(pod, &granted);
        }
        if let Some(arrival) = self.arrivals.get_mut(&pod.uid)
            && pod.pod.metadata.deletion_timestamp.is_none()
        {
            arrival.pod = pod;
            return;
        }
        let granted = pod.pod.status.as_ref().filter(|status| has_pending_resize(status));
        match granted.map(|status| Allocation::shown(pod.spec(), status)) {
            // A change of resources was pending when we stopped: what runs is what was granted before.
            Some(granted) => {
                self.begin(pod.granted(&granted)).await;
                self.desire(pod, &granted);
            }
            None => self.begin(pod).await,
        }
    }

    fn remove(&self, Eviction { uid, removal }: Eviction) {
        if let Some(worker) = self.workers.get(&uid) {
            worker.desire(DesiredPod { removal: Some(removal), ..worker.desired() });
        }
    }

    /// Tells the worker what is wanted now, with the resources that the node grants.
    fn desire(&self, mut pod: DesiredPod, granted: &Allocation) {
        let Some(worker) = self.workers.get(&pod.uid) else { return };
        let before = worker.desired();
        if before.generation() != pod.generation() || is_past(&before) != is_past(&pod) {
            self.remember(&pod);
        }
        let fixed = self.context.managers.as_ref().map(|managers| managers.fixed()).unwrap_or_default();
        let verdict = resize::judge(&pod, granted, || self.others(&pod.uid), &self.context.node.borrow(), fixed);
        let told = matches!(&verdict, Verdict::Pending(pending) if before.resize.as_ref() == Some(pending));
        if let Verdict::Pending(PendingResize { never: Some(why), .. }) = &verdict
            && !told
        {
            catalog::INFEASIBLE_RESIZES.inc([*why]);
        }
        if let Some((warning, reason, message)) = resize::event(&pod, &verdict).filter(|_| !told) {
            self.context.recorder.pod(&pod.pod, None, warning, reason, message);
        }
        match verdict {
            Verdict::Unchanged | Verdict::Granted => {}
            Verdict::Pending(pending) => {
                pod.resize = Some(pending);
                pod = pod.granted(granted);
            }
        }
        pod.mirror = before.mirror;
        worker.desire(pod);
    }

    /// Resizes that wait for room are judged again when others change.
    async fn retry_resizes(&mut self) {
        let waiting = self.workers.values().filter(|worker| worker.waits_for_room()).map(WorkerHandle::desired);
        let waiting: Vec<_> = waiting.collect();
        for pod in waiting {
            // The worker has the granted resources only: the API has those that are wanted.
            if let Ok(Some(wanted)) = self.context.cluster.pod(&pod.key).await
                && let Some(wanted) = DesiredPod::new(wanted).filter(|wanted| wanted.uid == pod.uid)
            {
                self.desire(wanted, &Allocation::of(pod.spec()));
            }
        }
    }

    /// The pods of this node that have not ended, but for one.
    fn others(&self, uid: &PodUid) -> Vec<Arc<Pod>> {
        let is_other = |pod: &Pod| pod.metadata.uid.as_deref() != Some(uid.as_str());
        self.context.pods.list().into_iter().filter(|pod| is_other(pod) && !has_ended(pod)).collect()
    }

    /// The API server is away since we began: runs the pods that were here before. It corrects this when it is back.
    async fn begin_known(&mut self) {
        let known = self.context.known.clone();
        match tokio::task::spawn_blocking(move || known.read()).await {
            Ok(Ok(pods)) => {
                for pod in pods.into_iter().filter_map(|pod| DesiredPod::new(Arc::new(pod))) {
                    if !self.workers.contains_key(&pod.uid) && !self.arrivals.contains_key(&pod.uid) {
                        tracing::info!(pod = %pod.key, "the API server is away: running a pod that is known here");
                        self.begin(DesiredPod { offline: true, ..pod }).await;
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "known pods not read"),
            Err(panic) => tracing::error!(%panic, "known pods not read"),
        }
    }

    /// Writes down a pod of the API, in the background; one that has ended or is ending must never run again.
    fn remember(&self, pod: &DesiredPod) {
        if pod.is_static || pod.offline {
            return;
        }
        let known = self.context.known.clone();
        if is_past(pod) {
            let uid = pod.uid.clone();
            return self.on_disk(move || known.remove(&uid));
        }
        let pod = pod.pod.clone();
        self.on_disk(move || known.write(&pod));
    }

    fn on_disk(&self, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
        self.supervisor.spawn("known_pods", async move {
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "known pods not kept"),
                Err(panic) => tracing::error!(%panic, "known pods not kept"),
            }
        });
    }

    /// Judges a pod that has no worker and gives it one.
    async fn begin(&mut self, pod: DesiredPod) {
        self.remember(&pod);
        let admitted = match self.admit(&pod).await {
            Ok(()) => Ok(()),
            Err(Refusal::Final(rejection)) => Err(rejection),
            Err(Refusal::Room(rejection)) => match self.make_room(&pod, rejection) {
                Ok(arrival) => return self.keep_waiting(arrival),
                Err(rejection) => Err(rejection),
            },
        };
        self.enter(pod, admitted.err()).await;
    }

    /// Others count it among the node's pods from now on: the room that comes free is its own.
    fn keep_waiting(&mut self, arrival: Arrival) {
        self.context.pods.insert(&arrival.pod);
        self.arrivals.insert(arrival.pod.uid.clone(), arrival);
    }

    /// Those for which all others have ended, or that have waited long enough, begin.
    async fn let_in(&mut self) {
        let now = crate::clock::now().mono;
        let has_ended = |uid: &PodUid| self.context.pods.get_uid(uid).is_none_or(|pod| has_ended(&pod));
        let due =
            self.arrivals.values().filter(|arrival| now >= arrival.until || arrival.leaving.iter().all(has_ended));
        let due: Vec<_> = due.map(|arrival| arrival.pod.uid.clone()).collect();
        for arrival in due.iter().filter_map(|uid| self.arrivals.remove(uid)).collect::<Vec<_>>() {
            self.enter(arrival.pod, None).await;
        }
        self.tell_mirrors();
    }

    /// Gives a pod its worker.
    async fn enter(&mut self, pod: DesiredPod, rejected: Option<Rejection>) {
        self.arrivals.remove(&pod.uid);
        let mut memory = pod_worker::remembered(&pod);
        memory.rejected = rejected;
        if let Some(rejection) = &memory.rejected {
            self.context.recorder.pod(&pod.pod, None, true, rejection.reason.clone(), rejection.message.clone());
            let refused = pod.uid.clone();
            self.context.devices.take_back(&pod.uid).await;
            self.release(move |uid| *uid != refused).await;
        }
        let fresh = self.listed && self.in_runtime.as_ref().is_some_and(|known| !known.contains(&pod.uid));
        self.context.pods.insert(&pod);
        self.start(Beginning { pod, memory, fresh });
    }

    /// Starts static pods that are new, stops those that no manifest wants any more. A changed manifest is another pod:
    /// it starts when the one before has ended.
    async fn sync_static(&mut self) {
        let wanted = self.inputs.static_pods.borrow_and_update().clone();
        let uids: BTreeSet<&str> = wanted.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        let statics: Vec<_> = self.workers.values().map(WorkerHandle::desired).filter(|pod| pod.is_static).collect();
        for pod in statics.iter().filter(|pod| !pod.gone && !uids.contains(pod.uid.as_str())) {
            self.gone(withdrawn(pod));
        }
        let arriving = self.arrivals.values().map(|arrival| arrival.pod.clone()).filter(|pod| pod.is_static);
        let unwanted: Vec<_> = arriving.filter(|pod| !uids.contains(pod.uid.as_str())).collect();
        unwanted.into_iter().for_each(|pod| self.gone(pod));
        for pod in wanted.iter().filter_map(|pod| DesiredPod::new(pod.clone())) {
            let mut arriving = self.arrivals.values();
            let taken = self.workers.contains_key(&pod.uid)
                || statics.iter().any(|other| other.key == pod.key)
                || arriving.any(|other| other.pod.key == pod.key);
            if !taken {
                let mirror = self.mirrors.get(&pod.key).filter(|mirror| static_pod::shows(mirror, &pod.pod)).cloned();
                self.begin(DesiredPod { is_static: true, mirror, ..pod }).await;
            }
        }
        self.tell_mirrors();
    }

    fn mirror_seen(&mut self, mirror: &DesiredPod) {
        self.mirrors.insert(mirror.key.clone(), mirror.pod.clone());
        self.show_static(&mirror.key, Some(&mirror.pod));
        self.tell_mirrors();
    }

    fn mirror_gone(&mut self, mirror: &DesiredPod) {
        self.mirrors.remove(&mirror.key);
        self.show_static(&mirror.key, None);
        self.tell_mirrors();
    }

    /// The static pod of that name is shown by this object from now on.
    fn show_static(&self, key: &PodKey, mirror: Option<&Arc<Pod>>) {
        for worker in self.workers.values() {
            let pod = worker.desired();
            if pod.is_static && pod.key == *key && !pod.gone {
                let mirror = mirror.filter(|mirror| static_pod::shows(mirror, &pod.pod)).cloned();
                worker.desire(DesiredPod { mirror, ..pod });
            }
        }
    }

    fn tell_mirrors(&self) {
        let workers: Vec<_> = self.workers.values().map(WorkerHandle::desired).filter(|pod| pod.is_static).collect();
        let (ending, running): (Vec<_>, Vec<_>) = workers.into_iter().partition(|pod| pod.gone);
        self.inputs.mirrors.send_replace(MirrorView {
            statics: running.into_iter().map(|pod| (pod.key, pod.pod)).collect(),
            mirrors: self.mirrors.clone(),
            ending: ending.into_iter().map(|pod| pod.key).collect(),
            listed: self.listed,
        });
    }

    /// A pod that has been taken before, or is ending, is not judged again.
    async fn admit(&self, pod: &DesiredPod) -> Result<(), Refusal> {
        let taken = pod.pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        if taken || pod.pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.judge(pod).await
    }

    /// Is it for this node, and is there room?
    ///
    /// The node's labels and taints may have changed since we last read them: where they decide, they are read again.
    async fn judge(&self, pod: &DesiredPod) -> Result<(), Refusal> {
        let status = pod.pod.status.as_ref();
        evict::admit(&pod.pod, &self.inputs.distress.borrow()).map_err(Refusal::Final)?;
        let given_out = self.allocate(pod).await.map_err(Refusal::Final)?;
        let others = self.others(&pod.uid);
        let mut node = self.context.node.borrow().clone();
        admit::cover(&mut node.allocatable, given_out);
        let admitted = admit::admit(&pod.pod, &others, &node);
        // One that names its node itself has been judged by nobody; the scheduler's judgement may be newer than ours.
        let scheduled = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let scheduled = scheduled.into_iter().any(|condition| condition.type_ == "PodScheduled");
        let affinity = admitted.as_ref().is_err_and(|rejection| rejection.reason == admit::NODE_AFFINITY);
        if pod.is_static || (scheduled && !affinity) {
            return admitted.map_err(Refusal::Room);
        }
        let name = pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        match self.context.cluster.node(name).await {
            Ok(Some(fresh)) => {
                node.labels = fresh.metadata.labels.unwrap_or_default();
                node.taints = fresh.spec.and_then(|spec| spec.taints).unwrap_or_default();
            }
            Ok(None) => node.labels.clear(),
            Err(error) => tracing::warn!(%error, pod = %pod.key, "labels and taints of the node not read again"),
        }
        admit::admit(&pod.pod, &others, &node).map_err(Refusal::Room)
    }

    /// Others leave for a pod that the node must have; it starts when they have ended.
    fn make_room(&self, pod: &DesiredPod, rejection: Rejection) -> Result<Arrival, Rejection> {
        let others = self.others(&pod.uid);
        let leaving = preempt::make_room(&pod.pod, &others, &self.context.node.borrow(), rejection)?;
        let leaving: Vec<_> = leaving.into_iter().filter_map(DesiredPod::new).collect();
        let longest = leaving.iter().map(DesiredPod::grace).max().unwrap_or_default();
        let until = crate::clock::now().mono + preempt::patience(longest);
        for other in &leaving {
            let removal = Removal::preempted(other.grace());
            self.remove(Eviction { uid: other.uid.clone(), removal });
        }
        Ok(Arrival { pod: pod.clone(), leaving: leaving.into_iter().map(|pod| pod.uid).collect(), until })
    }

    /// The pods that may hold devices, one that is being taken among them; `None` until all are known.
    fn active(&self, taken: &PodUid) -> Option<BTreeSet<PodUid>> {
        self.listed.then(|| self.owners(BTreeSet::from([taken.clone()])))
    }

    /// Gives a pod's containers devices, CPUs and memory of their own; how much of each device resource is given out then.
    async fn allocate(&self, pod: &DesiredPod) -> Result<BTreeMap<String, usize>, Rejection> {
        let begun = crate::clock::now().mono;
        catalog::ADMISSIONS.add_one();
        let allocated = self.allocate_aligned(pod).await;
        catalog::ADMISSION_DURATION.observe_millis(begun.elapsed());
        if allocated.is_err() && self.context.managers.as_ref().is_some_and(|managers| managers.aligns()) {
            catalog::ADMISSION_ERRORS.add_one();
        }
        allocated
    }

    async fn allocate_aligned(&self, pod: &DesiredPod) -> Result<BTreeMap<String, usize>, Rejection> {
        let devices = &self.context.devices;
        let mut admission = match &self.context.managers {
            Some(managers) => {
                // Before the list is in, who is missing is not known.
                if self.listed {
                    let keep = self.owners(BTreeSet::from([pod.uid.clone()]));
                    self.release(move |uid| keep.contains(uid)).await;
                }
                Some(managers.begin(&pod.pod, |nodes| devices.pod_hints(&pod.pod, &pod.uid, nodes))?)
            }
            None => None,
        };
        let place = |container: &Container, hints: DeviceHints<'_>| match &mut admission {
            Some(admission) => admission.place(container, hints),
            None => Ok(None),
        };
        let given_out = devices.admit(&pod.pod, &pod.uid, || self.active(&pod.uid), place).await?;
        if let Some(admission) = admission {
            let kept = tokio::task::spawn_blocking(move || admission.keep());
            kept.await.map_err(|panic| cpus::unexpected(&panic))?;
        }
        Ok(given_out)
    }

    /// Uids of the pods that keep what they were given: these, those that wait to be let in, and whoever has a worker and
    /// has not ended.
    fn owners(&self, mut uids: BTreeSet<PodUid>) -> BTreeSet<PodUid> {
        let ended = |uid: &PodUid| self.context.pods.get_uid(uid).is_some_and(|pod| has_ended(&pod));
        uids.extend(self.workers.keys().filter(|uid| !ended(uid)).chain(self.arrivals.keys()).cloned());
        uids
    }

    /// Takes back what pods had that are not to keep it.
    async fn release(&self, keep: impl Fn(&PodUid) -> bool + Send + 'static) {
        let Some(managers) = self.context.managers.clone() else { return };
        let released = tokio::task::spawn_blocking(move || managers.keep_only(|uid| keep(&PodUid::new(uid))));
        if let Err(panic) = released.await {
            tracing::error!(%panic, "CPUs of pods that are gone not taken back");
        }
    }

    /// Takes back what pods had that are over, once all are known.
    async fn release_ended(&self) {
        if self.listed && self.context.managers.is_some() {
            let keep = self.owners(BTreeSet::new());
            self.release(move |uid| keep.contains(uid)).await;
        }
    }

    fn gone(&mut self, mut pod: DesiredPod) {
        pod.gone = true;
        self.context.pods.remove(&pod.uid);
        self.arrivals.remove(&pod.uid);
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
            RuntimeEvent::Lost => self.inputs.runtime_lost.notify_one(),
        }
    }

    /// Statuses of pods show the health of their devices.
    fn devices_changed(&self) {
        for uid in self.context.devices.holders() {
            if let Some(worker) = self.workers.get(&uid) {
                worker.dirty();
            }
        }
    }

    /// A worker that is over has left nothing; if its pod was asked for again meanwhile, a new one starts.
    async fn worker_ended(&mut self, uid: &PodUid) {
        let Some(worker) = self.workers.remove(uid) else { return };
        let desired = worker.desired();
        if desired.gone {
            self.context.pods.remove(uid);
        }
        if let Some(known) = &mut self.in_runtime {
            known.remove(uid);
        }
        if desired.is_static {
            self.sync_static().await;
        } else {
            let (known, uid) = (self.context.known.clone(), uid.clone());
            self.on_disk(move || known.remove(&uid));
        }
        self.release_ended().await;
        self.retry_resizes().await;
    }

    /// Has those workers look whose pod is not as they last saw it. Once the API's list is in, what the runtime holds and
    /// the API does not know is stopped and removed.
    async fn audit(&mut self) {
        self.audit_at = None;
        self.release_ended().await;
        let begun = crate::clock::now();
        if let Some(last) = self.audited.replace(begun.mono) {
            catalog::PLEG_RELIST_INTERVAL.observe_one(begun.mono - last);
        }
        let held = self.context.runtime.pods().await;
        catalog::PLEG_RELIST.observe_one(begun.mono.elapsed());
        catalog::PLEG_LAST_SEEN.set(begun.wall.as_second() as f64);
        match held {
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
                    let known = self.workers.contains_key(&orphan.uid) || self.arrivals.contains_key(&orphan.uid);
                    if !self.listed || known {
                        continue;
                    }
                    tracing::info!(pod = %orphan.key, uid = %orphan.uid, "stopping a pod that the API server does not know");
                    catalog::ORPHANED_PODS.add_one();
                    let beginning = Beginning {
                        pod: DesiredPod::forgotten(orphan.uid.clone(), orphan.key.clone()),
                        memory: Default::default(),
                        fresh: false,
                    };
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

async fn at_time(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Its phase is a last one.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Ended, or on its way to be.
fn is_past(pod: &DesiredPod) -> bool {
    has_ended(&pod.pod) || pod.pod.metadata.deletion_timestamp.is_some()
}

/// The API server's copy of a static pod; it is never run.
fn is_mirror(pod: &DesiredPod) -> bool {
    pod.annotation(CONFIG_MIRROR).is_some()
}

/// A static pod whose manifest is gone stops within its own grace.
fn withdrawn(pod: &DesiredPod) -> DesiredPod {
    let mut object = Pod::clone(&pod.pod);
    object.metadata.deletion_timestamp = Some(Time(crate::clock::now().wall));
    object.metadata.deletion_grace_period_seconds = i64::try_from(pod.grace().as_secs()).ok();
    DesiredPod { pod: Arc::new(object), ..pod.clone() }
}

fn has_pending_resize(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == resize::PENDING)
}
