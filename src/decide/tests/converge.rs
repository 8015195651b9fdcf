//! Properties of `plan`, whatever happens in whatever order: no two copies of a container run, a pod that stops never
//! starts anything again and ends with nothing left, and once the runtime answers the pod comes to rest.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What can happen between two passes. The number picks one of what is there, if anything is.
#[derive(Clone, Debug)]
enum Happening {
    /// A step under way does what it should.
    StepDone(usize),
    /// It fails without having done anything.
    StepFails(usize),
    /// It did its work, and the agent did not learn of it.
    StepDoneUnseen(usize),
    Exit(usize, i32),
    SandboxDies,
    /// The worker is told of what changed in the runtime.
    Noticed,
    Seconds(u64),
    Delete(i64),
    /// The object is removed by force.
    Gone,
    /// The agent dies and comes back: it remembers what the API shows.
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        12 => (0..4usize).prop_map(Happening::StepDone),
        2 => (0..4usize).prop_map(Happening::StepFails),
        1 => (0..4usize).prop_map(Happening::StepDoneUnseen),
        3 => ((0..6usize), prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(which, code)| Happening::Exit(which, code)),
        1 => Just(Happening::SandboxDies),
        4 => Just(Happening::Noticed),
        3 => prop_oneof![Just(1u64), Just(11), Just(301)].prop_map(Happening::Seconds),
        1 => prop_oneof![Just(0i64), Just(1), Just(30)].prop_map(Happening::Delete),
        1 => Just(Happening::Gone),
        1 => Just(Happening::Restart),
    ]
}

/// Init containers, sidecars, regular ones; the pod's policy.
fn shape() -> impl Strategy<Value = (usize, usize, usize, &'static str)> {
    (0..3usize, 0..3usize, 1..3usize, prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")])
}

/// The machine, the worker's view of it, and the API's object.
struct World {
    pod: Value,
    gone: bool,
    /// What the runtime holds.
    real: ObservedPod,
    /// What the worker saw when it last looked.
    seen: ObservedPod,
    look: bool,
    memory: PodMemory,
    under_way: BTreeMap<StepKey, Step>,
    now: Now,
    made: u32,
    /// A stop has been decided in this life of the agent.
    stopping: bool,
    stage: Stage,
}

impl World {
    fn new((init, sidecars, regular, policy): (usize, usize, usize, &str)) -> Self {
        let list = |prefix: &str, count: usize| -> Vec<Value> {
            (0..count).map(|n| json!({"name": format!("{prefix}{n}"), "image": "img"})).collect()
        };
        let mut first = list("i", init);
        first.extend(list("s", sidecars).into_iter().map(|mut sidecar| {
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        }));
        let pod = json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 30,
                "initContainers": first, "containers": list("c", regular)},
        });
        Self {
            pod,
            gone: false,
            real: ObservedPod::default(),
            seen: ObservedPod::default(),
            look: true,
            memory: PodMemory::default(),
            under_way: BTreeMap::new(),
            now: Now { wall: time(NOW), mono: Instant::now() },
            made: 0,
            stopping: false,
            stage: Stage::Sync,
        }
    }

    fn desired(&self) -> DesiredPod {
        let pod = serde_json::from_value(self.pod.clone()).expect("a pod");
        DesiredPod { gone: self.gone, ..DesiredPod::new(Arc::new(pod)).expect("a whole pod") }
    }

    fn scene<'a>(&'a self, pod: &'a DesiredPod) -> Scene<'a> {
        let (seen, memory) = (&self.seen, &self.memory);
        Scene { pod, seen, memory, now: self.now, node_ips: &[], delays: Default::default() }
    }

    /// One pass of the worker; its steps get under way. Says when it wants to pass again.
    fn pass(&mut self) -> Option<Instant> {
        if self.look {
            self.seen = self.real.clone();
            self.look = false;
        }
        let pod = self.desired();
        learn(&mut self.memory, &pod, &self.seen, self.now);
        let plan = plan(self.scene(&pod));
        assert!(plan.stage >= self.stage, "a worker's life goes one way: {:?} after {:?}", plan.stage, self.stage);
        assert!(!self.stopping || plan.stop.is_some(), "a pod that stops goes on stopping");
        self.stopping = plan.stop.is_some();
        self.stage = plan.stage;
        self.memory.stop = plan.stop;
        self.memory.status = plan.status;
        for step in plan.steps {
            let starts = matches!(step, Step::StartContainer(_) | Step::RunSandbox { .. } | Step::PlaceVolumes);
            assert!(!(starts && self.stopping), "a pod that stops starts nothing: {step:?}");
            if let Step::StopContainer(stop) | Step::PreStop(stop) = &step {
                self.memory.kills.insert(stop.id.clone(), self.now.mono + stop.grace);
                if stop.renews {
                    self.memory.renewed.insert(stop.id.clone());
                }
            }
            self.memory.running.insert(step.key());
            self.under_way.insert(step.key(), step);
        }
        plan.wake
    }

    fn pick(&mut self, which: usize) -> Option<Step> {
        let key = self.under_way.keys().nth(which % self.under_way.len().max(1))?.clone();
        self.memory.running.remove(&key);
        self.under_way.remove(&key)
    }

    /// What the step does to the machine.
    fn effect(&mut self, step: &Step) {
        match step {
            Step::RunSandbox { attempt } => {
                let ready = self.real.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
                assert_eq!(ready, 0, "two sandboxes at once");
                self.real.sandboxes.insert(0, ObservedSandbox { created_at: self.now.wall, ..sandbox(*attempt) });
                self.real.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.attempt));
            }
            Step::StopSandbox { id } => {
                for sandbox in self.real.sandboxes.iter_mut().filter(|sandbox| sandbox.id == *id) {
                    sandbox.ready = false;
                    sandbox.ips.clear();
                }
                let inside: Vec<_> =
                    self.real.containers.iter().filter(|c| c.sandbox == *id).map(|c| c.id.clone()).collect();
                inside.iter().for_each(|id| self.end(id, 137));
            }
            Step::RemoveSandbox { id } => {
                self.real.sandboxes.retain(|sandbox| sandbox.id != *id);
                self.real.containers.retain(|container| container.sandbox != *id);
            }
            Step::StartContainer(start) => {
                if !self.real.sandboxes.iter().any(|sandbox| sandbox.id == start.sandbox && sandbox.ready) {
                    return;
                }
                let twin = self.real.containers.iter().any(|c| c.name == start.name && is_alive(c));
                assert!(!twin, "two copies of {} run", start.name);
                self.made += 1;
                let state = ContainerState::Running { started_at: self.now.wall };
                let made = ObservedContainer {
                    id: ContainerId::new(format!("{}-{}", start.name, self.made)),
                    sandbox: start.sandbox.clone(),
                    created_at: self.now.wall,
                    ..container(start.name.as_str(), start.attempt, state)
                };
                self.real.containers.insert(0, made);
                let newest_first =
                    |c: &ObservedContainer| (c.name.clone(), std::cmp::Reverse((c.attempt, c.created_at)));
                self.real.containers.sort_by_key(newest_first);
            }
            Step::StopContainer(stop) => self.end(&stop.id, 143),
            Step::RemoveContainer { id } => self.real.containers.retain(|container| container.id != *id),
            Step::PlaceVolumes
            | Step::PreStop(_)
            | Step::EnsureImage { .. }
            | Step::EnsureVolumeImage { .. }
            | Step::Resize { .. }
            | Step::Cleanup
            | Step::Confirm { .. } => {}
        }
    }

    fn end(&mut self, id: &ContainerId, code: i32) {
        let now = self.now.wall;
        if let Some(container) = self.real.containers.iter_mut().find(|c| c.id == *id)
            && let ContainerState::Running { started_at } = container.state
        {
            container.state = ContainerState::Exited {
                started_at,
                finished_at: now,
                exit_code: code,
                reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
                message: String::new(),
            };
        }
    }

    /// The worker takes the outcome, as `PodWorker::take` does.
    fn done(&mut self, step: &Step) {
        self.effect(step);
        match step {
            Step::PlaceVolumes => self.memory.volumes = VolumesState::Placed,
            Step::EnsureImage { container } => {
                let state = ImageState::Present { reference: "sha256:1".to_owned() };
                self.memory.images.insert(container.clone(), state);
            }
            Step::StartContainer(start) => {
                self.memory.images.remove(&start.name);
                self.look = true;
            }
            Step::StopSandbox { id } => {
                self.memory.stopped_sandboxes.insert(id.clone());
                self.look = true;
            }
            Step::PreStop(stop) => drop(self.memory.pre_stopped.insert(stop.id.clone())),
            Step::Cleanup => self.memory.cleaned = true,
            Step::Confirm { delete } => {
                self.memory.confirmed = true;
                self.gone |= delete;
            }
            Step::RunSandbox { .. }
            | Step::RemoveSandbox { .. }
            | Step::StopContainer(_)
            | Step::RemoveContainer { .. } => self.look = true,
            Step::EnsureVolumeImage { .. } | Step::Resize { .. } => {}
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::StepDone(which) => {
                if let Some(step) = self.pick(which) {
                    self.done(&step);
                }
            }
            Happening::StepFails(which) => {
                self.look |= self.pick(which).is_some();
            }
            // Of a kill and the like nobody need hear; a thing made is looked at before the next pass.
            Happening::StepDoneUnseen(which) => {
                if let Some(step) = self.pick(which) {
                    self.effect(&step);
                    self.look = true;
                }
            }
            Happening::Exit(which, code) => {
                let alive: Vec<_> = self.real.containers.iter().filter(|c| is_alive(c)).map(|c| c.id.clone()).collect();
                if let Some(id) = alive.get(which % alive.len().max(1)) {
                    self.end(id, code);
                }
            }
            Happening::SandboxDies => {
                if let Some(id) = self.real.sandboxes.iter().find(|sandbox| sandbox.ready).map(|s| s.id.clone()) {
                    self.effect(&Step::StopSandbox { id });
                }
            }
            Happening::Noticed => self.look = true,
            Happening::Seconds(seconds) => self.advance(Duration::from_secs(seconds)),
            Happening::Delete(grace) => {
                self.pod["metadata"]["deletionTimestamp"] = json!("1970-01-12T00:00:00Z");
                self.pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            }
            Happening::Gone => self.gone = true,
            Happening::Restart => {
                // Calls that make something are let end before the agent goes.
                for step in std::mem::take(&mut self.under_way).into_values() {
                    if matches!(step, Step::RunSandbox { .. } | Step::StartContainer(_)) {
                        self.effect(&step);
                    }
                }
                let status = std::mem::take(&mut self.memory.status);
                self.memory = PodMemory { status, ..PodMemory::default() };
                (self.look, self.stopping, self.stage) = (true, false, Stage::Sync);
            }
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall += jiff::SignedDuration::try_from(time).expect("a short time");
    }

    /// From now on everything works, and init containers succeed. Says whether the pod came to rest.
    fn settles(&mut self) -> bool {
        for _ in 0..200 {
            let init: Vec<_> = self
                .real
                .containers
                .iter()
                .filter(|c| c.name.as_str().starts_with('i') && is_alive(c))
                .map(|c| c.id.clone())
                .collect();
            init.iter().for_each(|id| self.end(id, 0));
            self.look = true;
            let wake = self.pass();
            if self.stage == Stage::Over {
                return true;
            }
            let busy = !self.under_way.is_empty();
            while let Some(step) = self.pick(0) {
                self.done(&step);
            }
            match wake {
                _ if busy => {}
                Some(at) => self.advance(at.saturating_duration_since(self.now.mono) + Duration::from_millis(1)),
                None if init.is_empty() => return true,
                None => {}
            }
        }
        false
    }

    /// What a pod at rest is.
    fn check_rest(&self) {
        let pod = self.desired();
        let phase = self.memory.status.phase.as_deref();
        if self.stage == Stage::Over {
            assert!(self.real.sandboxes.is_empty() && self.real.containers.is_empty(), "{:?}", self.real);
            return;
        }
        assert!(!pod.gone && pod.deletion_grace().is_none(), "a pod that is to go has not gone");
        let ready: Vec<_> = self.real.sandboxes.iter().filter(|sandbox| sandbox.ready).collect();
        if matches!(phase, Some("Succeeded" | "Failed")) {
            assert!(ready.is_empty() && !self.real.containers.iter().any(is_alive), "an ended pod runs on");
            assert_ne!(pod.restart_policy(), crate::model::pod::RestartPolicy::Always);
            return;
        }
        assert_eq!((phase, ready.len()), (Some("Running"), 1));
        for wanted in pod.all_containers() {
            let alive: Vec<_> = self
                .real
                .containers
                .iter()
                .filter(|c| c.name.as_str() == wanted.spec.name && is_alive(c) && c.sandbox == ready[0].id)
                .collect();
            let ended = self
                .seen
                .containers
                .iter()
                .find(|c| c.name.as_str() == wanted.spec.name)
                .is_some_and(|c| containers::has_ended_for_good(&self.scene(&pod), wanted, c));
            let init = wanted.kind == crate::model::pod::ContainerKind::Init;
            assert!(alive.len() == 1 || init || ended, "{} does not run: {:?}", wanted.spec.name, self.real);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_pod_comes_to_rest_as_it_should(shape in shape(), story in vec(happening(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World::new(shape);
            for happening in story {
                if world.stage == Stage::Over {
                    break;
                }
                world.pass();
                world.happen(happening);
            }
            assert!(world.settles(), "no rest: {:?} {:#?}", world.under_way, world.real);
            world.check_rest();
        });
    }

    #[test]
    fn a_pod_that_is_deleted_ends_with_nothing_left(shape in shape(), before in vec(happening(), 0..40), grace in 0..60i64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World::new(shape);
            for happening in before {
                if world.stage == Stage::Over {
                    break;
                }
                world.pass();
                world.happen(happening);
            }
            world.happen(Happening::Delete(grace));
            assert!(world.settles(), "no rest: {:?}", world.under_way);
            assert_eq!(world.stage, Stage::Over);
            world.check_rest();
        });
    }
}
