//! A scripted runtime for tests: pods in memory, failures and delays on demand, every call written down.

use super::{
    ContainerInput, ContainerStats, ExecOutput, ImageFs, ImageInfo, Runtime, RuntimeError, RuntimeEvent, RuntimeInfo,
    SandboxInput, StreamOptions,
};
use crate::clock;
use crate::ids::{ContainerId, ContainerName, PodKey, PodUid, SandboxId};
use crate::model::devices::Edits;
use crate::model::observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, RuntimePod};
use crate::model::pod::container_hash;
use crate::model::topology::Pins;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// The fake; tests hold it beside the `Arc<dyn Runtime>` they hand out.
#[derive(Default)]
pub struct FakeRuntime {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<PodUid, (PodKey, ObservedPod)>,
    images: BTreeMap<String, ImageInfo>,
    failures: BTreeMap<&'static str, VecDeque<RuntimeError>>,
    delays: BTreeMap<&'static str, Duration>,
    calls: Vec<String>,
    followers: Vec<mpsc::Sender<RuntimeEvent>>,
    made: u32,
    /// Processes that ignore TERM need their whole grace.
    stubborn: bool,
}

impl FakeRuntime {
    /// The next call of that name (`run_sandbox`, …) fails so; several queue up.
    pub fn fail(&self, call: &'static str, error: RuntimeError) {
        self.state().failures.entry(call).or_default().push_back(error);
    }

    /// Every call of that name takes so long.
    pub fn delay(&self, call: &'static str, time: Duration) {
        self.state().delays.insert(call, time);
    }

    /// Containers ignore TERM from now on.
    pub fn ignore_term(&self) {
        self.state().stubborn = true;
    }

    /// An image that is on the node.
    pub fn put_image(&self, reference: &str) {
        let info = ImageInfo {
            id: format!("sha256:{reference}"),
            tags: vec![reference.to_owned()],
            digests: Vec::new(),
            size: 1,
            pinned: false,
            uid: Some(0),
            username: String::new(),
        };
        self.state().images.insert(reference.to_owned(), info);
    }

    /// The newest container of that name ends; followers hear of it.
    pub fn exit(&self, uid: &PodUid, name: &str, code: i32) {
        let mut state = self.state();
        if let Some((_, pod)) = state.pods.get_mut(uid)
            && let Some(container) = pod.containers.iter_mut().find(|c| c.name.as_str() == name)
        {
            end(container, code);
        }
        state.tell(uid);
    }

    /// The sandbox's process dies with all its containers.
    pub fn kill_sandbox(&self, uid: &PodUid) {
        let mut state = self.state();
        if let Some((_, pod)) = state.pods.get_mut(uid) {
            pod.sandboxes.iter_mut().for_each(|sandbox| {
                sandbox.ready = false;
                sandbox.ips.clear();
            });
            pod.containers.iter_mut().for_each(|container| end(container, 137));
        }
        state.tell(uid);
    }

    /// The pod as the runtime holds it.
    pub fn pod(&self, uid: &PodUid) -> ObservedPod {
        self.state().pods.get(uid).map(|(_, pod)| pod.clone()).unwrap_or_default()
    }

    /// Calls so far that change something, as `name argument`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the call down, waits as scripted, fails as scripted.
    async fn enter(&self, call: &'static str, argument: &str) -> Result<(), RuntimeError> {
        let delay = {
            let mut state = self.state();
            state.calls.push(format!("{call} {argument}"));
            state.delays.get(call).copied()
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.scripted_failure(call)
    }

    fn scripted_failure(&self, call: &'static str) -> Result<(), RuntimeError> {
        match self.state().failures.get_mut(call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl State {
    fn tell(&mut self, uid: &PodUid) {
        self.followers.retain(|follower| match follower.try_send(RuntimeEvent::Dirty(uid.clone())) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    fn next_id(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    fn container(&mut self, id: &ContainerId) -> Result<(PodUid, &mut ObservedContainer), RuntimeError> {
        let found = self.pods.iter_mut().find_map(|(uid, (_, pod))| {
            pod.containers.iter_mut().find(|container| container.id == *id).map(|c| (uid.clone(), c))
        });
        found.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))
    }

    fn pod_of_sandbox(&mut self, id: &SandboxId) -> Result<(PodUid, &mut ObservedPod), RuntimeError> {
        let found = self.pods.iter_mut().find_map(|(uid, (_, pod))| {
            pod.sandboxes.iter().any(|sandbox| sandbox.id == *id).then(|| (uid.clone(), pod))
        });
        found.ok_or_else(|| RuntimeError::NotFound(format!("sandbox {id}")))
    }
}

fn end(container: &mut ObservedContainer, exit_code: i32) {
    if let ContainerState::Running { started_at } = container.state {
        let reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
        let finished_at = clock::now().wall;
        container.state = ContainerState::Exited { started_at, finished_at, exit_code, reason, message: String::new() };
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        Ok(RuntimeInfo {
            name: "fake".to_owned(),
            version: "1".to_owned(),
            runtime_ready: Ok(()),
            network_ready: Ok(()),
            cgroup_driver: None,
            handlers: BTreeMap::new(),
            supplemental_groups_policy: false,
        })
    }

    async fn observe(&self, uid: &PodUid) -> Result<ObservedPod, RuntimeError> {
        self.scripted_failure("observe")?;
        Ok(self.pod(uid))
    }

    async fn pods(&self) -> Result<Vec<RuntimePod>, RuntimeError> {
        self.scripted_failure("pods")?;
        let listed = |(uid, (key, pod)): (&PodUid, &(PodKey, ObservedPod))| RuntimePod {
            uid: uid.clone(),
            key: key.clone(),
            shape: pod.shape(),
            images: pod.containers.iter().map(|container| container.image_ref.clone()).collect(),
        };
        Ok(self.state().pods.iter().map(listed).collect())
    }

    async fn run_sandbox(&self, input: &SandboxInput) -> Result<SandboxId, RuntimeError> {
        self.enter("run_sandbox", &input.attempt.to_string()).await?;
        let meta = &input.pod.metadata;
        let uid = PodUid::new(meta.uid.as_deref().unwrap_or(""));
        let key = PodKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        let mut state = self.state();
        let number = state.next_id();
        let id = SandboxId::new(format!("sandbox{number}"));
        let sandbox = ObservedSandbox {
            id: id.clone(),
            attempt: input.attempt,
            ready: true,
            created_at: clock::now().wall,
            ips: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(number).unwrap_or(255)))],
        };
        state.pods.entry(uid).or_insert_with(|| (key, ObservedPod::default())).1.sandboxes.insert(0, sandbox);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.enter("stop_sandbox", id.as_str()).await?;
        let mut state = self.state();
        let (uid, pod) = state.pod_of_sandbox(id)?;
        for sandbox in pod.sandboxes.iter_mut().filter(|sandbox| sandbox.id == *id) {
            sandbox.ready = false;
            sandbox.ips.clear();
        }
        pod.containers.iter_mut().filter(|c| c.sandbox == *id).for_each(|container| end(container, 137));
        state.tell(&uid);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.enter("remove_sandbox", id.as_str()).await?;
        let mut state = self.state();
        let (uid, pod) = state.pod_of_sandbox(id)?;
        pod.sandboxes.retain(|sandbox| sandbox.id != *id);
        pod.containers.retain(|container| container.sandbox != *id);
        if pod.sandboxes.is_empty() && pod.containers.is_empty() {
            state.pods.remove(&uid);
        }
        Ok(())
    }

    async fn create_container_with(
        &self,
        sandbox: &SandboxId,
        input: &ContainerInput,
        _: &Edits,
    ) -> Result<ContainerId, RuntimeError> {
        self.enter("create_container", &format!("{}#{}", input.name, input.attempt)).await?;
        let spec = input.pod.spec.as_ref();
        let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        let all = init.chain(spec.into_iter().flat_map(|spec| &spec.containers));
        let hash = all.into_iter().find(|container| container.name == input.name).map(container_hash);
        let mut state = self.state();
        let id = ContainerId::new(format!("{}{}", input.name, state.next_id()));
        let (uid, pod) = state.pod_of_sandbox(sandbox)?;
        let annotations = [
            ("io.kubernetes.container.restartCount", input.restart_count.to_string()),
            ("io.kubernetes.container.hash", hash.unwrap_or_default()),
        ];
        pod.containers.insert(
            0,
            ObservedContainer {
                id: id.clone(),
                name: ContainerName::new(&input.name),
                sandbox: sandbox.clone(),
                attempt: input.attempt,
                state: ContainerState::Created,
                created_at: clock::now().wall,
                image: input.image_ref.trim_start_matches("sha256:").to_owned(),
                image_ref: input.image_ref.clone(),
                annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
                log_path: String::new(),
                termination_log: None,
                user: Some((0, 0, vec![0])),
            },
        );
        state.tell(&uid);
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let result = self.enter("start_container", id.as_str()).await;
        let mut state = self.state();
        let (uid, container) = state.container(id)?;
        let now = clock::now().wall;
        container.state = match &result {
            Ok(()) => ContainerState::Running { started_at: now },
            Err(error) => ContainerState::Exited {
                started_at: now,
                finished_at: now,
                exit_code: 128,
                reason: "StartError".to_owned(),
                message: error.to_string(),
            },
        };
        state.tell(&uid);
        result
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.enter("stop_container", &format!("{id} {}s", grace.as_secs())).await?;
        let stubborn = self.state().stubborn;
        if stubborn {
            tokio::time::sleep(grace).await;
        }
        let mut state = self.state();
        let (uid, container) = state.container(id)?;
        end(container, if stubborn { 137 } else { 0 });
        state.tell(&uid);
        Ok(())
    }

    async fn update_container(
        &self,
        id: &ContainerId,
        pod: &Pod,
        container: &str,
        _node_memory: i64,
    ) -> Result<(), RuntimeError> {
        let all = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let limits = all.filter(|c| c.name == container).find_map(|c| c.resources.as_ref()?.limits.as_ref());
        let cpu = limits.and_then(|limits| limits.get("cpu")).map_or("unlimited", |cpu| cpu.0.as_str());
        self.enter("update_container", &format!("{id} {cpu}")).await
    }

    async fn pin_container(&self, id: &ContainerId, pins: &Pins) -> Result<(), RuntimeError> {
        self.enter("pin_container", &format!("{id} {}", pins.cpus)).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter("remove_container", id.as_str()).await?;
        for (_, pod) in self.state().pods.values_mut() {
            pod.containers.retain(|container| container.id != *id);
        }
        Ok(())
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter("reopen_log", id.as_str()).await
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        let state = self.state();
        let by_id = || state.images.values().find(|image| image.id == reference);
        Ok(state.images.get(reference).or_else(by_id).cloned())
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        Ok(self.state().images.values().cloned().collect())
    }

    async fn pull_image(&self, reference: &str, _auth: Option<(String, String)>) -> Result<String, RuntimeError> {
        self.enter("pull_image", reference).await?;
        self.put_image(reference);
        Ok(format!("sha256:{reference}"))
    }

    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        self.state().images.remove(reference);
        Ok(())
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        _timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let failed = self.enter("exec_sync", &format!("{id} {}", command.join(" "))).await.is_err();
        Ok(ExecOutput { stdout: Vec::new(), stderr: Vec::new(), exit_code: i32::from(failed) })
    }

    async fn exec(&self, _id: &ContainerId, _options: &StreamOptions) -> Result<String, RuntimeError> {
        Err(RuntimeError::Unimplemented("exec".to_owned()))
    }

    async fn attach(&self, _id: &ContainerId, _options: &StreamOptions) -> Result<String, RuntimeError> {
        Err(RuntimeError::Unimplemented("attach".to_owned()))
    }

    async fn port_forward(&self, _id: &SandboxId, _ports: &[u16]) -> Result<String, RuntimeError> {
        Err(RuntimeError::Unimplemented("port_forward".to_owned()))
    }

    async fn checkpoint_container(&self, _: &ContainerId, _: &Path, _: i64) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unimplemented("no checkpoints here".into()))
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn image_fs(&self) -> Result<ImageFs, RuntimeError> {
        Ok(ImageFs::default())
    }

    async fn set_pod_cidr(&self, _cidr: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn follow(&self, events: mpsc::Sender<RuntimeEvent>) {
        // A follower that is gone needs nothing.
        let _ = events.send(RuntimeEvent::Relist).await;
        self.state().followers.push(events.clone());
        events.closed().await;
    }
}
