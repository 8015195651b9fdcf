//! Probes containers: one task for each probe of each running container; what changes wakes the pod's worker.

use crate::actors::pod_worker::WorkerContext;
use crate::clock;
use crate::cluster::Recorder;
use crate::decide::probes;
use crate::ids::{ContainerId, PodUid};
use crate::metrics::{DEFAULT_BUCKETS, Distribution};
use crate::model::memory::{PodMemory, ProbeFailure, ProbeView};
use crate::model::observed::{ContainerState, ObservedContainer, ObservedPod};
use crate::model::pod::DesiredPod;
use crate::probe::{self, Verdict};
use crate::runtime::{Runtime, RuntimeEvent};
use crate::supervisor::Supervisor;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Tries of one probe that cannot be run (`maxProbeRetries`).
const MAX_TRIES: u32 = 3;

/// Starts, stops and remembers probes; cheap to clone.
#[derive(Clone)]
pub struct ProbesHandle {
    supervisor: Supervisor,
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    /// When the agent did.
    began: Instant,
    /// The same channel as the runtime's own events: a probe that changed its mind makes its pod dirty.
    changed: mpsc::Sender<RuntimeEvent>,
    state: Arc<Mutex<BTreeMap<ContainerId, Probed>>>,
    /// Bounded by the probes of the pods there are, times three results.
    counts: Arc<Mutex<BTreeMap<Counted, u64>>>,
    /// How long they took; `result` says nothing there. Bounded likewise.
    durations: Arc<Mutex<BTreeMap<Counted, Distribution>>>,
}

/// What probes are counted by (`prober_probe_total`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    pub uid: PodUid,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// `Liveness`, `Readiness` or `Startup`.
    pub probe: &'static str,
    /// `successful`, `failed` or `unknown`.
    pub result: &'static str,
}

/// One container under probe.
struct Probed {
    pod: PodUid,
    view: ProbeView,
    /// `view.started`, for the probes that wait for it.
    started: watch::Sender<bool>,
    tasks: Supervisor,
    /// Liveness and startup end when the pod stops; readiness goes on.
    restarts: Supervisor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

impl ProbesHandle {
    pub fn new(
        supervisor: Supervisor,
        runtime: Arc<dyn Runtime>,
        recorder: Recorder,
        changed: mpsc::Sender<RuntimeEvent>,
    ) -> Self {
        Self {
            supervisor,
            runtime,
            recorder,
            began: clock::now().mono,
            changed,
            state: Arc::default(),
            counts: Arc::default(),
            durations: Arc::default(),
        }
    }

    /// Writes what probes have shown of the pod's containers into `views`.
    pub(crate) fn view(&self, pod: &PodUid, views: &mut BTreeMap<ContainerId, ProbeView>) {
        for (id, probed) in self.state().iter().filter(|(_, probed)| probed.pod == *pod) {
            views.insert(id.clone(), probed.view.clone());
        }
    }

    /// Starts the probes of containers that run, stops those of containers that do not. Containers adopted from an
    /// earlier run begin with what the API showed of them, which `memory` holds.
    pub(crate) fn sync(
        &self,
        context: &WorkerContext,
        pod: &DesiredPod,
        seen: &ObservedPod,
        memory: &PodMemory,
        stopping: bool,
    ) {
        let wants = |container: &Container| {
            container.startup_probe.is_some()
                || container.liveness_probe.is_some()
                || container.readiness_probe.is_some()
        };
        let mut state = self.state();
        for (id, probed) in state.iter().filter(|(_, probed)| probed.pod == pod.uid) {
            let runs = seen.containers.iter().any(|c| c.id == *id && is_running(c));
            if !runs {
                probed.tasks.cancel();
            } else if stopping {
                probed.restarts.cancel();
            }
        }
        state
            .retain(|id, probed| probed.pod != pod.uid || seen.containers.iter().any(|c| c.id == *id && is_running(c)));
        if stopping {
            return;
        }
        for container in &seen.containers {
            let Some(since) = running_since(container) else { continue };
            let Some(wanted) = pod.container(container.name.as_str()).filter(|wanted| wants(wanted.spec)) else {
                continue;
            };
            if state.contains_key(&container.id) || memory.hooks.contains(&container.id) {
                continue;
            }
            let view = memory.probes.get(&container.id).cloned().unwrap_or_default();
            let probed = self.begin(context, pod, wanted.spec, (container, since), seen, view);
            state.insert(container.id.clone(), probed);
        }
    }

    /// How often each probe of the pods there are had each result.
    pub fn counts(&self) -> BTreeMap<Counted, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long each probe of the pods there are took (`result` is empty).
    pub fn durations(&self) -> BTreeMap<Counted, Distribution> {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pod is over.
    pub(crate) fn forget(&self, pod: &PodUid) {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).retain(|counted, _| counted.uid != *pod);
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).retain(|counted, _| counted.uid != *pod);
        self.state().retain(|_, probed| {
            let keep = probed.pod != *pod;
            if !keep {
                probed.tasks.cancel();
            }
            keep
        });
    }

    fn begin(
        &self,
        context: &WorkerContext,
        pod: &DesiredPod,
        spec: &Container,
        (container, since): (&ObservedContainer, Timestamp),
        seen: &ObservedPod,
        view: ProbeView,
    ) -> Probed {
        let tasks = self.supervisor.child();
        let restarts = tasks.child();
        let node_ip = context.node.borrow().ips.first().copied();
        let sandbox_ip = seen.sandboxes.iter().find(|s| s.id == container.sandbox).and_then(|s| s.ips.first().copied());
        let ip = if pod.host_network() { node_ip } else { sandbox_ip };
        let started = view.started || spec.startup_probe.is_none();
        let (gate, gated) = watch::channel(started);
        let probes = [
            (Kind::Startup, &spec.startup_probe, &restarts),
            (Kind::Liveness, &spec.liveness_probe, &restarts),
            (Kind::Readiness, &spec.readiness_probe, &tasks),
        ];
        for (kind, probe, supervisor) in probes {
            let Some(probe) = probe else { continue };
            let prober = Prober {
                handle: self.clone(),
                kind,
                probe: probe.clone(),
                pod: pod.clone(),
                spec: spec.clone(),
                id: container.id.clone(),
                since,
                ip,
                started: gated.clone(),
            };
            supervisor.spawn("probe", prober.run());
        }
        Probed { pod: pod.uid.clone(), view: ProbeView { started, ..view }, started: gate, tasks, restarts }
    }

    /// Changes one container's view; wakes the worker if that changed anything.
    fn change(&self, id: &ContainerId, change: impl FnOnce(&mut ProbeView)) {
        let mut state = self.state();
        let Some(probed) = state.get_mut(id) else { return };
        let before = probed.view.clone();
        change(&mut probed.view);
        probed.started.send_replace(probed.view.started);
        if probed.view != before {
            // Full: a relist is on its way, which looks at every pod.
            let _ = self.changed.try_send(RuntimeEvent::Dirty(probed.pod.clone()));
        }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Probed>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_running(container: &ObservedContainer) -> bool {
    running_since(container).is_some()
}

fn running_since(container: &ObservedContainer) -> Option<Timestamp> {
    match container.state {
        ContainerState::Running { started_at } => Some(started_at),
        _ => None,
    }
}

/// One probe of one container, until it is cancelled or has given its container up.
struct Prober {
    handle: ProbesHandle,
    kind: Kind,
    probe: Probe,
    pod: DesiredPod,
    spec: Container,
    id: ContainerId,
    /// When the container started.
    since: Timestamp,
    ip: Option<IpAddr>,
    /// Whether the startup probe, if there is one, has succeeded.
    started: watch::Receiver<bool>,
}

impl Prober {
    async fn run(mut self) {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
        };
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let agent = self.handle.began.elapsed();
        tokio::time::sleep(probes::first(delay, period, self.age(), agent, self.lot())).await;
        let mut in_row = (0_i32, 0_i32);
        loop {
            let begun = clock::now().mono;
            let started = *self.started.borrow();
            if self.kind == Kind::Startup || started {
                let verdict = self.settled(timeout).await;
                self.count(&verdict, begun.elapsed());
                if self.judge(verdict, &mut in_row) {
                    return;
                }
            } else if self.kind == Kind::Readiness {
                // What waits to be ready is asked as soon as it has started, not a period later; without a sender the
                // container is gone, and so is this task in a moment.
                if self.started.wait_for(|started| *started).await.is_ok() {
                    continue;
                }
            }
            tokio::time::sleep_until(begun + period).await;
        }
    }

    /// How long the container has run. A start that lies in the future is a clock set back: whatever ran then has settled.
    fn age(&self) -> Duration {
        Duration::try_from(clock::now().wall.duration_since(self.since)).unwrap_or(probes::SETTLING)
    }

    /// A number for this probe by which those that begin together are spread.
    fn lot(&self) -> u32 {
        let mut hasher = DefaultHasher::new();
        (self.id.as_str(), self.kind.title()).hash(&mut hasher);
        // The lower half is as good as any.
        hasher.finish() as u32
    }

    /// The first verdict that counts: a container that has just started is asked again.
    async fn settled(&self, timeout: Duration) -> Verdict {
        let mut tries = 0;
        loop {
            let verdict = self.tried(timeout).await;
            match probes::again(self.probe.exec.is_some(), self.age(), tries) {
                Some(wait) if matches!(verdict, Verdict::Failed(_)) => tokio::time::sleep(wait).await,
                Some(_) | None => return verdict,
            }
            tries += 1;
        }
    }

    /// One that could not be run is run again at once.
    async fn tried(&self, timeout: Duration) -> Verdict {
        let mut verdict = self.once(timeout).await;
        for _ in 1..MAX_TRIES {
            if !matches!(verdict, Verdict::Unknown(_)) {
                break;
            }
            verdict = self.once(timeout).await;
        }
        verdict
    }

    async fn once(&self, timeout: Duration) -> Verdict {
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            return probe::exec::run(&*self.handle.runtime, &self.id, &command, timeout).await;
        }
        let Some(ip) = self.ip else { return Verdict::Failed("the pod has no address".to_owned()) };
        if let Some(http) = &self.probe.http_get {
            let target = match probe::http::Target::of(http, &self.spec, ip) {
                Ok(target) => target,
                Err(error) => return Verdict::Unknown(error),
            };
            return probe::http::verdict(probe::http::get(&target, probe::http::Caller::Probe, timeout).await);
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            return match probe::port(&tcp.port, &self.spec) {
                Ok(port) => {
                    let host = tcp.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string());
                    probe::tcp::run(&host, port, timeout).await
                }
                Err(error) => Verdict::Unknown(error),
            };
        }
        if let Some(grpc) = &self.probe.grpc {
            return match u16::try_from(grpc.port) {
                Ok(port) => probe::grpc::run(ip, port, grpc.service.as_deref().unwrap_or_default(), timeout).await,
                Err(_) => Verdict::Failed(format!("invalid port number: {}", grpc.port)),
            };
        }
        Verdict::Failed("missing probe handler".to_owned())
    }

    fn count(&self, verdict: &Verdict, took: Duration) {
        let counted = Counted {
            uid: self.pod.uid.clone(),
            namespace: self.pod.key.namespace.to_string(),
            pod: self.pod.key.name.to_string(),
            container: self.spec.name.clone(),
            probe: self.kind.title(),
            result: match verdict {
                Verdict::Passed | Verdict::Warned(_) => "successful",
                Verdict::Failed(_) => "failed",
                Verdict::Unknown(_) => "unknown",
            },
        };
        let timed = Counted { result: "", ..counted.clone() };
        let mut durations = self.handle.durations.lock().unwrap_or_else(PoisonError::into_inner);
        durations.entry(timed).or_default().observe(DEFAULT_BUCKETS, took.as_secs_f64());
        *self.handle.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(counted).or_default() += 1;
    }

    /// Applies the thresholds; true when this probe has nothing more to say.
    fn judge(&self, verdict: Verdict, (passed, failed): &mut (i32, i32)) -> bool {
        let warn = |reason, message: String| {
            let path = Some(self.pod.field_path(&self.spec.name));
            self.handle.recorder.pod(&self.pod.pod, path, true, reason, message);
        };
        let unhealthy = |message: String| warn("Unhealthy", message);
        if let Verdict::Warned(message) = &verdict {
            warn("ProbeWarning", format!("{} probe warning: {message}", self.kind.title()));
        }
        match verdict {
            Verdict::Unknown(error) => {
                let title = self.kind.title();
                unhealthy(format!("{title} probe errored and resulted in unknown state: {error}"));
                false
            }
            Verdict::Passed | Verdict::Warned(_) => {
                (*passed, *failed) = (passed.saturating_add(1), 0);
                if *passed < self.probe.success_threshold.unwrap_or(1) {
                    return false;
                }
                match self.kind {
                    Kind::Startup => self.handle.change(&self.id, |view| view.started = true),
                    Kind::Readiness => self.handle.change(&self.id, |view| view.ready = true),
                    Kind::Liveness => {}
                }
                self.kind == Kind::Startup
            }
            Verdict::Failed(output) => {
                (*passed, *failed) = (0, failed.saturating_add(1));
                unhealthy(format!("{} probe failed: {output}", self.kind.title()));
                if *failed < self.probe.failure_threshold.unwrap_or(3) {
                    return false;
                }
                let grace =
                    self.probe.termination_grace_period_seconds.map(|s| Duration::from_secs(s.max(0).unsigned_abs()));
                match self.kind {
                    Kind::Readiness => self.handle.change(&self.id, |view| view.ready = false),
                    Kind::Liveness => self.handle.change(&self.id, |view| {
                        view.failed = Some(ProbeFailure { probe: "liveness", grace });
                    }),
                    Kind::Startup => self.handle.change(&self.id, |view| {
                        view.failed = Some(ProbeFailure { probe: "startup", grace });
                    }),
                }
                self.kind != Kind::Readiness
            }
        }
    }
}
