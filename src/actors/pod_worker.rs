//! One pod, one task: observe → plan → publish → execute → observe. The worker decides nothing: `decide::plan` does.

mod cleanup;
mod context;
mod hooks;
mod job;
mod look;
mod pace;
mod resize;
mod start;
#[cfg(test)]
mod tests;
mod timing;

pub use self::context::{Services, WorkerContext, WorkerPaths};
pub use self::pace::SandboxPace;

use self::job::{Done, Outcome};
use self::timing::Timing;
use crate::actors::images::ImageFailure;
use crate::actors::status::Shown;
use crate::clock;
use crate::decide::resize as resizing;
use crate::decide::{self, Scene, backoff};
use crate::ids::{ContainerId, PodUid};
use crate::model::memory::{ImageState, PodMemory, Resize, Retry, StartError, StopCause, VolumesState};
use crate::model::observed::ObservedPod;
use crate::model::pod::DesiredPod;
use crate::model::step::{Plan, Stage, Step, StepKey};
use crate::volumes::Placed;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{PodCondition, PodStatus, ResourceRequirements};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// After an observation that failed: the runtime is down, wait for it.
const LOOK_RETRY: Duration = Duration::from_secs(1);
/// Failed steps (volumes, sandbox, cleanup) wait this long, doubling up to `MAX_STEP_RETRY`.
const FIRST_STEP_RETRY: Duration = Duration::from_millis(500);
const MAX_STEP_RETRY: Duration = Duration::from_secs(120);
/// A container that could not be made is tried again after this (the kubelet's sync period with backoff).
const START_RETRY: Duration = Duration::from_secs(10);
/// One that was made and did not start has ended: its crash backoff governs, this only keeps the first retry apart.
const RUN_RETRY: Duration = Duration::from_secs(1);

/// Talks to one worker; both inputs are level-triggered, newest wins: nothing queues.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    desired: watch::Sender<DesiredPod>,
    dirty: Arc<Notify>,
}

impl WorkerHandle {
    /// The object changed, or is gone.
    pub(crate) fn desire(&self, pod: DesiredPod) {
        self.desired.send_replace(pod);
    }

    /// Something of the pod may have changed in the runtime.
    pub(crate) fn dirty(&self) {
        self.dirty.notify_one();
    }

    pub(crate) fn desired(&self) -> DesiredPod {
        self.desired.borrow().clone()
    }

    /// It runs with other resources than its spec asks for.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.desired.borrow().resize.is_some()
    }
}

/// What a worker starts with.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) pod: DesiredPod,
    pub(crate) memory: PodMemory,
    /// The runtime cannot hold anything of it: it need not be asked before the first step.
    pub(crate) fresh: bool,
}

type Job = Abortable<BoxFuture<'static, Done>>;

pub(crate) struct PodWorker {
    context: Arc<WorkerContext>,
    desired: watch::Receiver<DesiredPod>,
    dirty: Arc<Notify>,
    pod: DesiredPod,
    memory: PodMemory,
    seen: Arc<ObservedPod>,
    /// `None`: the snapshot is current. Else when to look, now or after a failure.
    look_at: Option<Instant>,
    placed: Placed,
    jobs: FuturesUnordered<Job>,
    aborts: BTreeMap<StepKey, AbortHandle>,
    messages: look::Messages,
    /// The API object changed since the last publication: others may have touched the status.
    republish: bool,
    stage: Stage,
    timing: Timing,
}

impl PodWorker {
    pub(crate) fn new(context: Arc<WorkerContext>, beginning: Beginning) -> (WorkerHandle, Self) {
        let Beginning { pod, memory, fresh } = beginning;
        let (sender, desired) = watch::channel(pod.clone());
        let dirty = Arc::new(Notify::new());
        let now = clock::now().mono;
        let created = pod.pod.metadata.creation_timestamp.as_ref().filter(|_| fresh).map(|time| time.0);
        let worker = Self {
            context,
            desired,
            dirty: dirty.clone(),
            pod,
            memory,
            seen: Arc::default(),
            look_at: (!fresh).then_some(now),
            placed: Placed::default(),
            jobs: FuturesUnordered::new(),
            aborts: BTreeMap::new(),
            messages: look::Messages::default(),
            republish: true,
            stage: Stage::Sync,
            timing: Timing::new(now, created),
        };
        (WorkerHandle { desired: sender, dirty }, worker)
    }

    /// Runs until nothing of the pod is left.
    pub(crate) async fn run(mut self) {
        while self.stage != Stage::Over {
            self.timing.busy(clock::now().mono);
            let wake = match self.look_at {
                Some(at) if at <= clock::now().mono => self.look_then_pass().await,
                Some(at) => Some(at),
                None => self.pass(),
            };
            let pulling = self.aborts.keys().any(|key| matches!(key, StepKey::Image(_) | StepKey::VolumeImage(_)));
            self.timing.pulls(pulling, clock::now().mono);
            if self.jobs.is_empty() {
                self.timing.idle(clock::now().mono);
            }
            if self.stage != Stage::Over {
                self.wait(wake).await;
            }
        }
        self.context.probes.forget(&self.pod.uid);
        if let Some(shown) = Shown::of(&self.pod) {
            self.context.status.forget(&shown.uid);
        }
    }

    /// Looks, and acts only on what was seen: an error means wait, never "nothing is there".
    async fn look_then_pass(&mut self) -> Option<Instant> {
        match look::look(&self.context, &self.pod, &mut self.messages).await {
            Ok(seen) => {
                self.seen = Arc::new(seen);
                self.look_at = None;
                self.pass()
            }
            Err(error) => {
                tracing::warn!(pod = %self.pod.key, uid = %self.pod.uid, %error, "pod not observed");
                let at = clock::now().mono + LOOK_RETRY;
                self.look_at = Some(at);
                Some(at)
            }
        }
    }

    /// One pass: learn, plan, publish, start steps. Says when to pass again at the latest.
    fn pass(&mut self) -> Option<Instant> {
        let now = clock::now();
        decide::learn(&mut self.memory, &self.pod, &self.seen, now);
        self.context.probes.view(&self.pod.uid, &mut self.memory.probes);
        let node = self.context.node.borrow().clone();
        let (node_ips, delays) = (&*node.ips, self.context.restart_delays);
        let scene = Scene { pod: &self.pod, seen: &self.seen, memory: &self.memory, now, node_ips, delays };
        let plan = decide::plan(scene);
        self.adopt(plan)
    }

    fn adopt(&mut self, plan: Plan) -> Option<Instant> {
        for event in plan.events {
            let path = event.container.map(|name| self.pod.field_path(name.as_str()));
            self.context.recorder.pod(&self.pod.pod, path, event.warning, event.reason, event.message);
        }
        if self.memory.stop.is_none() && plan.stop.is_some() {
            self.drop_unneeded_jobs();
        }
        self.memory.stop = plan.stop;
        if plan.resized {
            self.memory.resize = None;
        }
        self.stage = plan.stage;
        let mut status = plan.status;
        self.context.devices.show(&self.pod.uid, &mut status);
        self.publish(status);
        let stopping = self.memory.stop.is_some();
        self.context.probes.sync(&self.context, &self.pod, &self.seen, &self.memory, stopping);
        for step in plan.steps {
            self.begin(step);
        }
        // What the status says of the resize goes with it, also where nothing else changes.
        if plan.resized { Some(clock::now().mono) } else { plan.wake }
    }

    fn publish(&mut self, status: PodStatus) {
        // The mirror of a static pod stays until that has ended.
        let gone = self.memory.stop.as_ref().is_some_and(|stop| stop.cause == StopCause::Gone) && !self.pod.is_static;
        if status.phase.as_deref() == Some("Running") {
            self.timing.running(clock::now());
        }
        let changed = status != self.memory.status;
        let status = Arc::new(status);
        self.context.pods.update(&self.pod, &status, &self.seen);
        if (changed || self.republish)
            && !gone
            && let Some(shown) = Shown::of(&self.pod)
        {
            self.context.status.publish(&shown, &status);
        }
        self.republish = false;
        self.memory.status = Arc::unwrap_or_clone(status);
    }

    /// A pod that stops needs no images, volumes or hooks any more; calls that make things are let end.
    fn drop_unneeded_jobs(&mut self) {
        for (key, abort) in &self.aborts {
            if matches!(key, StepKey::Image(_) | StepKey::VolumeImage(_) | StepKey::Volumes | StepKey::PostStart(_)) {
                abort.abort();
            }
        }
    }

    fn begin(&mut self, step: Step) {
        let key = step.key();
        if let Some(running) = self.aborts.remove(&key) {
            // Only a kill with a shorter grace replaces a running step.
            running.abort();
        }
        if let Step::StopContainer(stop) | Step::PreStop(stop) = &step {
            self.memory.kills.insert(stop.id.clone(), clock::now().mono + stop.grace);
            if stop.renews {
                self.memory.renewed.insert(stop.id.clone());
            }
        }
        let job = job::run(self.context.clone(), self.pod.clone(), self.placed.clone(), &self.memory, step);
        self.push(key, job);
    }

    fn push(&mut self, key: StepKey, job: BoxFuture<'static, Done>) {
        let (abort, registration) = AbortHandle::new_pair();
        self.memory.running.insert(key.clone());
        self.aborts.insert(key, abort);
        self.jobs.push(Abortable::new(job, registration));
    }

    /// Waits for anything, then takes all that is ready.
    async fn wait(&mut self, wake: Option<Instant>) {
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let dirty = self.dirty.clone();
        // Every arm is cancel-safe: jobs stay in the set, watch and notify keep what was sent.
        tokio::select! {
            Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.take(done.ok()),
            changed = self.desired.changed() => self.input_changed(changed.is_err()),
            () = dirty.notified() => self.runtime_changed(),
            () = timer => {}
        }
        while let Some(Some(done)) = self.jobs.next().now_or_never() {
            self.take(done.ok());
        }
        if self.desired.has_changed().unwrap_or(false) {
            self.input_changed(false);
        }
    }

    fn input_changed(&mut self, handle_dropped: bool) {
        if !handle_dropped {
            let pod = self.desired.borrow_and_update().clone();
            if let Some(resize) = resizing::begins(&self.pod, &pod) {
                self.memory.resize = Some(resize);
            }
            if let Some(removal) = pod.removal.as_ref().filter(|_| self.memory.removal.is_none()) {
                if removal.told {
                    self.context.recorder.removal(&pod.pod, removal);
                }
                self.memory.removal = Some(removal.clone());
            }
            // A static pod that was running before its mirror was known: what users see of it goes on.
            if let (None, Some(mirror)) = (&self.pod.mirror, &pod.mirror)
                && let Some(shown) = mirror.status.as_ref().and_then(|status| status.start_time.clone())
            {
                self.memory.status.start_time = Some(shown);
            }
            // The API server is back: what could not be had without it can be now.
            if let (true, false, VolumesState::Failed(retry)) =
                (self.pod.offline, pod.offline, &mut self.memory.volumes)
            {
                retry.at = clock::now().mono;
            }
            self.forget_images(&pod);
            self.pod = pod;
            self.republish = true;
            self.timing.updated();
        }
    }

    /// Of containers that are to run another image: what came of the one before, or still comes, is of no use.
    fn forget_images(&mut self, next: &DesiredPod) {
        for wanted in next.all_containers() {
            let name = wanted.name();
            if self.pod.container(name.as_str()).is_none_or(|before| before.image() == wanted.image()) {
                continue;
            }
            self.memory.images.remove(&name);
            self.memory.start_errors.remove(&name);
            if let Some(pull) = self.aborts.get(&StepKey::Image(name)) {
                pull.abort();
            }
        }
    }

    /// While a call that makes something runs its own end brings the look: one look then shows all.
    fn runtime_changed(&mut self) {
        let making = self.memory.running.iter().any(|key| matches!(key, StepKey::Start(_) | StepKey::Sandbox));
        if !making {
            self.look_at = Some(clock::now().mono);
        }
    }

    /// Takes an outcome into memory; `None`: the job was aborted and has told its key already.
    fn take(&mut self, done: Option<Done>) {
        let Some(Done { key, outcome }) = done else {
            self.forget_aborted();
            return;
        };
        if self.aborts.remove(&key).is_some() {
            self.memory.running.remove(&key);
        }
        let now = clock::now().mono;
        match outcome {
            Outcome::Volumes(Ok(placed)) => {
                self.placed = placed;
                self.memory.volumes = VolumesState::Placed;
            }
            Outcome::Volumes(Err(message)) => {
                let before = match &self.memory.volumes {
                    VolumesState::Failed(retry) => Some(retry),
                    VolumesState::Unplaced | VolumesState::Placed => None,
                };
                self.memory.volumes = VolumesState::Failed(next_retry(before, message, now));
            }
            Outcome::Image(name, Ok(reference)) => {
                drop(self.memory.images.insert(name, ImageState::Present { reference }));
            }
            Outcome::Image(name, Err(failure)) => {
                let state = failed_pull(self.memory.images.get(&name), failure, now);
                self.memory.images.insert(name, state);
            }
            Outcome::VolumeImage(volume, Ok(reference)) => {
                drop(self.memory.volume_images.insert(volume, ImageState::Present { reference }));
            }
            Outcome::VolumeImage(volume, Err(failure)) => {
                let state = failed_pull(self.memory.volume_images.get(&volume), failure, now);
                self.memory.volume_images.insert(volume, state);
            }
            Outcome::Sandbox(result) => {
                let before = self.memory.sandbox_retry.take();
                self.memory.sandbox_retry = result.err().map(|message| next_retry(before.as_ref(), message, now));
                self.look_now();
            }
            Outcome::Started(name, Ok(started)) => {
                self.memory.start_errors.remove(&name);
                // The next start looks again: the policy may be Always, the image may be gone.
                self.memory.images.remove(&name);
                self.memory.resources.insert(started.id.clone(), started.resources);
                if started.has_hook {
                    self.memory.hooks.insert(started.id.clone());
                    let key = StepKey::PostStart(started.id.clone());
                    let hook = hooks::post_start(self.context.clone(), self.pod.clone(), name, started.id);
                    self.push(key, hook);
                }
                self.look_now();
            }
            Outcome::Started(name, Err(failure)) => {
                self.memory.images.remove(&name);
                let before = self.memory.start_errors.get(&name).map_or(0, |error| error.retry.failures);
                let wait = if failure.reason == "RunContainerError" { RUN_RETRY } else { START_RETRY };
                let retry = Retry { message: failure.message, failures: before + 1, at: now + wait };
                self.memory.start_errors.insert(name, StartError { reason: failure.reason, retry });
                self.look_now();
            }
            Outcome::Hook { container, name, failed } => {
                self.memory.hooks.remove(&container);
                if let Some(message) = failed {
                    let retry = Retry { message, failures: 1, at: now };
                    self.memory.start_errors.insert(name, StartError { reason: "PostStartHookError", retry });
                }
                self.look_now();
            }
            Outcome::PreStopped(container) => drop(self.memory.pre_stopped.insert(container)),
            Outcome::Changed => self.look_now(),
            Outcome::SandboxStopped(id, result) => {
                let before = self.memory.stop_retry.take();
                match result {
                    Ok(()) => drop(self.memory.stopped_sandboxes.insert(id)),
                    Err(message) => self.memory.stop_retry = Some(next_retry(before.as_ref(), message, now)),
                }
                self.look_now();
            }
            Outcome::Failed => self.look_at = Some(now + LOOK_RETRY),
            Outcome::Resized { generation, given, failed } => self.resized(generation, given, failed),
            Outcome::Cleaned(Ok(())) => {
                self.memory.cleaned = true;
                self.memory.cleanup_retry = None;
            }
            Outcome::Cleaned(Err(message)) => {
                self.memory.cleanup_retry = Some(next_retry(self.memory.cleanup_retry.as_ref(), message, now));
            }
            Outcome::Confirmed => self.memory.confirmed = true,
        }
    }

    /// What containers have now; the rest of the resize is tried again later.
    fn resized(
        &mut self,
        generation: Option<i64>,
        given: Vec<(ContainerId, ResourceRequirements)>,
        failed: Option<String>,
    ) {
        self.memory.resources.extend(given);
        let Some(resize) = self.memory.resize.as_mut().filter(|resize| resize.generation == generation) else { return };
        let now = clock::now().mono;
        match failed {
            None => {
                resize.pod_done = true;
                resize.error = None;
            }
            Some(why) => {
                let message = resizing::message("Pod resize error", &self.pod, Some(&why));
                self.context.recorder.pod(&self.pod.pod, None, true, "ResizeError", message);
                resize.error = Some(next_retry(resize.error.as_ref(), why, now));
            }
        }
    }

    /// Keys of aborted jobs leave memory with the first of them that ends.
    fn forget_aborted(&mut self) {
        let memory = &mut self.memory;
        self.aborts.retain(|key, abort| {
            let keep = !abort.is_aborted();
            if !keep {
                memory.running.remove(key);
            }
            keep
        });
    }

    fn look_now(&mut self) {
        self.look_at = Some(clock::now().mono);
    }
}

/// A pull that failed, and when to try again.
fn failed_pull(before: Option<&ImageState>, failure: ImageFailure, now: Instant) -> ImageState {
    let failures = match before {
        Some(ImageState::Failed { retry, .. }) => retry.failures + 1,
        Some(ImageState::Present { .. }) | None => 1,
    };
    let retry = Retry { message: failure.message, failures, at: now + backoff::Delays::default().after(failures) };
    ImageState::Failed { reason: failure.reason, retry, since: now }
}

fn next_retry(before: Option<&Retry>, message: String, now: Instant) -> Retry {
    let failures = before.map_or(0, |retry| retry.failures) + 1;
    let wait = FIRST_STEP_RETRY.saturating_mul(1 << (failures - 1).min(10)).min(MAX_STEP_RETRY);
    Retry { message, failures, at: now + wait }
}

/// What a worker remembers at its start: the API's status, so that nothing it shows is taken back.
pub(crate) fn remembered(pod: &DesiredPod) -> PodMemory {
    let status = pod.shown_as().and_then(|shown| shown.status.clone()).unwrap_or_default();
    let mut memory = PodMemory::default();
    for shown in status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten()) {
        let running = shown.state.as_ref().is_some_and(|state| state.running.is_some());
        let id = shown.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id);
        if let (true, Some(id)) = (running, id) {
            let view = crate::model::memory::ProbeView {
                started: shown.started == Some(true),
                ready: shown.ready,
                failed: None,
            };
            memory.probes.insert(crate::ids::ContainerId::new(id), view);
        }
    }
    let in_progress = |condition: &&PodCondition| condition.type_ == resizing::IN_PROGRESS;
    memory.resize = status.conditions.iter().flatten().find(in_progress).map(|condition| {
        let generation = condition.observed_generation.or(pod.generation());
        Resize { generation, pod_done: false, error: None }
    });
    memory.status = status;
    memory
}

/// Named for logs and maps alike.
pub(crate) fn uid_of(pod: &DesiredPod) -> PodUid {
    pod.uid.clone()
}
