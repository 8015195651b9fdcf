//! Writes pod statuses to the API server: newest wins, one request a pod at a time, never in a worker's way.

use crate::clock;
use crate::clock::crowd::Crowd;
use crate::cluster::{Cluster, ClusterError};
use crate::decide::patch::status_patch;
use crate::ids::{PodKey, PodUid};
use crate::metrics::catalog;
use crate::model::pod::DesiredPod;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Requests at once: enough to hide latency, few enough to leave the API server to others.
const MAX_IN_FLIGHT: usize = 16;
/// A failed write waits this long, doubling up to `MAX_RETRY`.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// While more pods are to be started than processors can, what changes on a pod's way to Running is told at most so late:
/// mostly with what comes next.
const GIVE_WAY: Duration = Duration::from_secs(1);

/// The object at the API server that shows a pod: the pod itself, or a static pod's mirror.
#[derive(Clone, Debug)]
pub struct Shown {
    pub uid: PodUid,
    pub key: PodKey,
    pub object: Arc<Pod>,
}

impl Shown {
    /// `None`: a static pod without a mirror, which nobody sees.
    pub fn of(pod: &DesiredPod) -> Option<Self> {
        let object = pod.shown_as()?;
        let uid = PodUid::new(object.metadata.uid.as_deref()?);
        Some(Self { uid, key: pod.key.clone(), object: object.clone() })
    }
}

/// Publishes statuses; cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct StatusHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

/// Bounded by the number of pods: one entry each.
#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<PodUid, Update>,
    /// The objects that our last writes gave back.
    written: BTreeMap<PodUid, Arc<Pod>>,
}

#[derive(Debug)]
struct Update {
    key: PodKey,
    /// The object as the worker last saw it.
    pod: Arc<Pod>,
    status: Arc<PodStatus>,
    /// DELETE with grace 0 once the status is there.
    delete: bool,
    done: Vec<oneshot::Sender<()>>,
    failures: u32,
    not_before: Option<Instant>,
    /// The API server refused it: it may take another.
    refused: bool,
    /// When the first change that is not written yet came.
    since: Instant,
}

impl Update {
    /// The pod has not run, neither as it was nor as it is now.
    fn is_on_the_way(&self) -> bool {
        let shown = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !self.delete && shown.is_none_or(|phase| phase == "Pending") && self.status.phase.as_deref() == Some("Pending")
    }
}

impl StatusHandle {
    /// The handle, and the task that writes (run it under the supervisor).
    /// Statuses of pods that are being started give way to `crowd`.
    pub fn new(cluster: Arc<dyn Cluster>, crowd: Crowd) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared::default());
        let task = StatusTask { shared: shared.clone(), cluster, crowd, busy: BTreeSet::new() };
        (Self { shared }, task.run())
    }

    /// This is the pod's status now; an older one that was not written yet is forgotten.
    pub fn publish(&self, shown: &Shown, status: &Arc<PodStatus>) {
        self.put(shown, status, false, None);
    }

    /// Publishes the last status and, if asked, deletes the object; completes when the API server has both.
    pub async fn confirm(&self, shown: &Shown, status: &Arc<PodStatus>, delete: bool) {
        let (done, confirmed) = oneshot::channel();
        self.put(shown, status, delete, Some(done));
        // The sender is only dropped with the task: then the agent is stopping.
        drop(confirmed.await);
    }

    /// The pod is gone: nothing of it needs to be kept.
    pub fn forget(&self, uid: &PodUid) {
        self.state().written.remove(uid);
    }

    fn put(&self, shown: &Shown, status: &Arc<PodStatus>, delete: bool, done: Option<oneshot::Sender<()>>) {
        let Shown { uid, key, object: pod } = shown;
        let mut state = self.state();
        let update = state.pending.entry(uid.clone()).or_insert_with(|| Update {
            key: key.clone(),
            pod: pod.clone(),
            status: status.clone(),
            delete: false,
            done: Vec::new(),
            failures: 0,
            not_before: None,
            refused: false,
            since: clock::now().mono,
        });
        if update.refused && update.status != *status {
            (update.refused, update.not_before) = (false, None);
        }
        update.pod = pod.clone();
        update.status = status.clone();
        update.delete |= delete;
        update.done.extend(done);
        drop(state);
        self.shared.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Entries are replaced whole: a poisoned lock holds a consistent map.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StatusTask {
    shared: Arc<Shared>,
    cluster: Arc<dyn Cluster>,
    crowd: Crowd,
    /// Pods with a request under way: the next one waits for its end.
    busy: BTreeSet<PodUid>,
}

type Sent = (PodUid, Update, Result<(), ClusterError>);

impl StatusTask {
    async fn run(mut self) {
        let shared = self.shared.clone();
        let mut requests: FuturesUnordered<BoxFuture<'static, Sent>> = FuturesUnordered::new();
        loop {
            let retry = self.start_due(&mut requests);
            let retry = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // All arms are cancel-safe: a notification and a finished request stay for the next turn.
            tokio::select! {
                () = shared.wake.notified() => {}
                Some(sent) = requests.next(), if !requests.is_empty() => self.finish(sent),
                () = retry => {}
            }
        }
    }

    /// Starts what is due; says when the next retry is.
    fn start_due(&mut self, requests: &mut FuturesUnordered<BoxFuture<'static, Sent>>) -> Option<Instant> {
        let now = clock::now().mono;
        let mut state = self.shared.state();
        let crowded = self.crowd.is_there();
        let mut next: Option<Instant> = None;
        let mut due = Vec::new();
        for (uid, update) in &state.pending {
            if self.busy.contains(uid) {
                continue;
            }
            let gives_way = (crowded && update.is_on_the_way()).then(|| update.since + GIVE_WAY);
            match update.not_before.max(gives_way).filter(|at| *at > now) {
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None if self.busy.len() + due.len() < MAX_IN_FLIGHT => due.push(uid.clone()),
                None => {}
            }
        }
        for uid in due {
            let Some(update) = state.pending.remove(&uid) else { continue };
            let known = state.written.get(&uid).cloned();
            self.busy.insert(uid.clone());
            requests.push(Box::pin(send(self.shared.clone(), self.cluster.clone(), uid, update, known)));
        }
        next
    }

    fn finish(&mut self, (uid, mut update, result): Sent) {
        self.busy.remove(&uid);
        let mut state = self.shared.state();
        match result {
            // Who no longer waits does not need to know.
            Ok(()) => {
                catalog::POD_STATUS_SYNC.observe_one(update.since.elapsed());
                update.done.into_iter().for_each(|done| {
                    let _ = done.send(());
                });
            }
            Err(error) => {
                update.failures += 1;
                let wait = FIRST_RETRY.saturating_mul(1 << update.failures.min(10)).min(MAX_RETRY);
                tracing::warn!(%uid, pod = %update.key, error = %error, failures = update.failures, "pod status not written");
                update.not_before = Some(clock::now().mono + wait);
                update.refused = matches!(error, ClusterError::Rejected(_));
                match state.pending.get_mut(&uid) {
                    // A newer one came meanwhile: it inherits what waits for this.
                    Some(newer) => {
                        newer.delete |= update.delete;
                        newer.done.append(&mut update.done);
                        newer.failures = update.failures;
                        newer.not_before = update.not_before.filter(|_| !update.refused);
                    }
                    None => drop(state.pending.insert(uid, update)),
                }
            }
        }
    }
}

async fn send(
    shared: Arc<Shared>,
    cluster: Arc<dyn Cluster>,
    uid: PodUid,
    update: Update,
    known: Option<Arc<Pod>>,
) -> Sent {
    let result = write(&shared, &*cluster, &uid, &update, known).await;
    (uid, update, result)
}

async fn write(
    shared: &Shared,
    cluster: &dyn Cluster,
    uid: &PodUid,
    update: &Update,
    known: Option<Arc<Pod>>,
) -> Result<(), ClusterError> {
    let base = newest(&update.pod, known.as_ref());
    let empty = PodStatus::default();
    if let Some(patch) = status_patch(base.status.as_ref().unwrap_or(&empty), &update.status) {
        let patch = serde_json::json!({ "metadata": { "uid": uid.as_str() }, "status": patch });
        match cluster.patch_pod_status(&update.key, uid, &patch).await? {
            Some(pod) => drop(shared.state().written.insert(uid.clone(), pod)),
            None => return Ok(()),
        }
    }
    if update.delete {
        cluster.delete_pod(&update.key, uid).await?;
    }
    Ok(())
}

/// A watch may be behind what our own last write gave back: the higher resourceVersion counts.
fn newest<'a>(seen: &'a Arc<Pod>, written: Option<&'a Arc<Pod>>) -> &'a Arc<Pod> {
    let version = |pod: &Pod| pod.metadata.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
    match written {
        Some(written) if version(written) >= version(seen) => written,
        Some(_) | None => seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::crowd::Door;
    use crate::cluster::fake::FakeCluster;
    use crate::supervisor::Supervisor;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn on_the_way_to_running_a_status_gives_way_to_those_that_are_to_be_started() {
        let fake = Arc::new(FakeCluster::default());
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}})).unwrap();
        fake.put_pod(pod.clone());
        let shown = Shown { uid: PodUid::new("u"), key: PodKey::new("n", "p"), object: Arc::new(pod) };
        let status = |phase: &str, message: &str| {
            Arc::new(PodStatus {
                phase: Some(phase.to_owned()),
                message: Some(message.to_owned()),
                ..PodStatus::default()
            })
        };
        let door = Door::default();
        let (handle, task) = StatusHandle::new(fake.clone(), door.crowd());
        let seen = async |after: Duration| {
            tokio::time::sleep(after).await;
            let pod = fake.pod(&shown.key).await.unwrap().expect("the pod");
            pod.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default()
        };
        let publishing = async {
            let _waiting = door.wait();
            handle.publish(&shown, &status("Pending", "one"));
            assert_eq!(seen(GIVE_WAY / 2).await, "");
            handle.publish(&shown, &status("Pending", "two"));
            assert_eq!(seen(GIVE_WAY / 2 + Duration::from_millis(1)).await, "two", "counted from the first");
            handle.publish(&shown, &status("Pending", "three"));
            handle.publish(&shown, &status("Running", "four"));
            assert_eq!(seen(Duration::from_millis(1)).await, "four", "who runs waits for nobody");
        };
        tokio::select! { () = task => unreachable!("it never ends"), () = publishing => {} }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_a_refused_status_does_not_wait_for_it() {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": []}});
        let cluster = Arc::new(FakeCluster::default());
        cluster.put_pod(serde_json::from_value(pod.clone()).unwrap());
        let (handle, task) = StatusHandle::new(cluster.clone(), Crowd::none());
        let tasks = Supervisor::new();
        tasks.spawn("status", task);
        let shown = Shown::of(&DesiredPod::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()).unwrap();
        let status = |phase: &str| Arc::new(PodStatus { phase: Some(phase.to_owned()), ..Default::default() });
        for (error, waits) in
            [(ClusterError::Rejected("no".to_owned()), false), (ClusterError::Unavailable("away".to_owned()), true)]
        {
            cluster.fail("patch_pod_status", error);
            handle.publish(&shown, &status("Pending"));
            // Long enough for the first try, not for the second.
            tokio::time::sleep(FIRST_RETRY).await;
            let begun = clock::now().mono;
            handle.confirm(&shown, &status("Running"), false).await;
            assert_eq!(begun.elapsed() > Duration::ZERO, waits);
        }
        tasks.stop().await;
    }
}
