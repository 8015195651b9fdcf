//! The pod actors on a real containerd, with a scripted API server: start to Ready, exits, messages, deletion, adoption.

use super::containerd::{Containerd, Line};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use skiff::actors::devices::DevicesHandle;
use skiff::actors::images::{ImagesHandle, PullLimits};
use skiff::actors::pod_worker::{SandboxPace, WorkerContext, WorkerPaths};
use skiff::actors::pods::{Inputs, PodsHandle, PodsTask};
use skiff::actors::probes::ProbesHandle;
use skiff::actors::runtime_watch::runtime_watch;
use skiff::actors::status::StatusHandle;
use skiff::cgroups::Cgroups;
use skiff::clock::crowd::Crowd;
use skiff::cluster::fake::FakeCluster;
use skiff::cluster::{Cluster, KnownPods, Recorder};
use skiff::ids::{PodKey, PodUid};
use skiff::model::dns::NodeDns;
use skiff::model::node::NodeFacts;
use skiff::runtime::Runtime;
use skiff::runtime::cri::CriRuntime;
use skiff::supervisor::Supervisor;
use skiff::volumes::{CsiState, Volumes};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test]
async fn pods_run_on_the_installed_containerd() -> Result<()> {
    pods_run(Line::Installed).await
}

#[tokio::test]
async fn pods_run_on_containerd_1_6() -> Result<()> {
    pods_run(Line::V1_6).await
}

async fn pods_run(line: Line) -> Result<()> {
    let Some(mut containerd) = Containerd::start(line, super::PAUSE)? else { return Ok(()) };
    let runtime = Arc::new(containerd.ready().await?);
    super::import(&runtime, containerd.folder(), line).await?;
    let outcome = story(&runtime, &containerd, line).await;
    outcome.with_context(|| super::tail(&containerd.log()))
}

struct Node {
    cluster: Arc<FakeCluster>,
    runtime: Arc<CriRuntime>,
    cgroup_root: String,
    folder: std::path::PathBuf,
}

/// One life of the pod actors.
struct Life {
    tasks: Supervisor,
    _facts: watch::Sender<NodeFacts>,
}

impl Node {
    fn start(&self) -> Result<Life> {
        let tasks = Supervisor::new();
        let runtime: Arc<dyn Runtime> = self.runtime.clone();
        let cluster: Arc<dyn Cluster> = self.cluster.clone();
        let allocatable = json!({"pods": "10", "cpu": "2", "memory": "4Gi"});
        let facts = NodeFacts {
            ips: vec!["192.0.2.1".parse()?],
            allocatable: serde_json::from_value(allocatable.clone())?,
            capacity: serde_json::from_value(allocatable)?,
            ..Default::default()
        };
        let (facts, node) = watch::channel(facts);
        let (recorder, recording) = Recorder::new(cluster.clone(), "n", 0, 1000, Crowd::none());
        tasks.spawn("recorder", recording);
        let (status, task) = StatusHandle::new(cluster.clone(), Crowd::none());
        tasks.spawn("status", task);
        let (dirty, events, task) = runtime_watch(runtime.clone());
        tasks.spawn("runtime_watch", task);
        let (sender, changes) = mpsc::channel(16);
        let follower = cluster.clone();
        tasks.spawn("pod_watch", async move { follower.follow_pods(sender).await });
        let context = WorkerContext {
            images: ImagesHandle::new(
                runtime.clone(),
                cluster.clone(),
                recorder.clone(),
                PullLimits { parallel: 1, qps: 5, burst: 10 },
            ),
            devices: DevicesHandle::new(&self.folder, tasks.child()),
            probes: ProbesHandle::new(tasks.child(), runtime.clone(), recorder.clone(), dirty),
            services: watch::channel(Some(Arc::default())).1,
            volumes: Volumes::new(
                &self.folder.join("kubelet"),
                "cluster.local",
                cluster.clone(),
                node.clone(),
                CsiState::default(),
            ),
            cgroups: Some(Cgroups::detect(Path::new("/sys/fs/cgroup"), "cgroupfs")?.under(&self.cgroup_root)),
            runtime,
            cluster,
            pace: SandboxPace::new(2),
            recorder,
            status,
            pods: PodsHandle::default(),
            node,
            dns: NodeDns::default(),
            paths: WorkerPaths { pod_logs: self.folder.join("pod-logs") },
            known: KnownPods::new(&self.folder),
            restart_delays: Default::default(),
            managers: None,
            tasks: Supervisor::new(),
        };
        let (_static_pods, static_pods) = watch::channel(Arc::default());
        let (mirrors, _) = watch::channel(Default::default());
        let (_evict, evictions) = mpsc::channel(1);
        let (_distress, distress) = watch::channel(Default::default());
        let inputs = Inputs {
            changes,
            runtime_events: events,
            static_pods,
            evictions,
            mirrors,
            distress,
            runtime_lost: Arc::default(),
        };
        let task = PodsTask::new(Arc::new(context), tasks.child(), inputs);
        tasks.spawn("pods", task.run());
        Ok(Life { tasks, _facts: facts })
    }

    fn put(&self, name: &str, uid: &PodUid, deleting: bool, spec: &Value) -> Result<()> {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": uid.as_str(), "generation": 1},
            "spec": spec,
        });
        pod["spec"]["nodeName"] = json!("n");
        pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(5);
            pod["status"] = self.status(name);
        }
        self.cluster.put_pod(serde_json::from_value(pod)?);
        Ok(())
    }

    fn status(&self, name: &str) -> Value {
        let pod = self.cluster.get_pod(&PodKey::new("d", name));
        pod.and_then(|pod| serde_json::to_value(pod.status.as_ref()).ok()).unwrap_or_default()
    }

    async fn until(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Result<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if holds(&self.status(name)) {
                return Ok(begun.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("pod {name} never came there: {:#}\nevents: {:#?}", self.status(name), self.events())
    }

    fn events(&self) -> Vec<String> {
        let text = |text: Option<String>| text.unwrap_or_default();
        self.cluster.events().into_iter().map(|e| format!("{} {}", text(e.reason), text(e.message))).collect()
    }
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn sleeper(name: &str) -> Value {
    let command = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"];
    json!({"name": name, "image": super::BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": command})
}

async fn story(runtime: &Arc<CriRuntime>, containerd: &Containerd, line: Line) -> Result<()> {
    let node = Node {
        cluster: Arc::default(),
        runtime: runtime.clone(),
        cgroup_root: containerd.cgroup_root(),
        folder: containerd.folder().to_owned(),
    };
    let uid = || PodUid::new(uuid::Uuid::new_v4().to_string());
    let life = node.start()?;
    tokio::time::sleep(Duration::from_millis(200)).await;

    for round in 0..3 {
        let (name, uid) = (format!("ready{round}"), uid());
        let spec = json!({"containers": [sleeper("c")]});
        node.put(&name, &uid, false, &spec)?;
        let took = node.until(&name, is_ready).await?;
        eprintln!("{line:?}: Ready after {took:?}");
        if round < 2 {
            let begun = Instant::now();
            node.put(&name, &uid, true, &spec)?;
            while node.cluster.get_pod(&PodKey::new("d", &name)).is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
                anyhow::ensure!(begun.elapsed() < PATIENCE, "{name} never gone: {:#}", node.status(&name));
            }
            eprintln!("{line:?}: gone after {:?}", begun.elapsed());
        }
    }

    let shell = |name: &str, script: &str| {
        let mut container = sleeper(name);
        container["command"] = json!(["sh", "-c", script]);
        container
    };
    let failing = shell("c", "echo \"it broke $(echo $WHERE)\" > /dev/termination-log; exit 4");
    let mut failing =
        json!({"restartPolicy": "Never", "containers": [failing], "initContainers": [shell("i", "exit 0")]});
    failing["containers"][0]["env"] = json!([{"name": "WHERE", "value": "here"}]);
    node.put("failing", &uid(), false, &failing)?;
    node.until("failing", |s| s["phase"] == "Failed").await?;
    let end = &node.status("failing")["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["exitCode"], &end["message"]), (&json!(4), &json!("it broke here\n")), "{end:#}");

    let mut missing = sleeper("c");
    missing["command"] = json!(["nosuchprogram"]);
    node.put("missing", &uid(), false, &json!({"containers": [missing]}))?;
    node.until("missing", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff").await?;
    let last = node.status("missing")["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert_eq!(last["reason"], "StartError", "{last:#}");

    let mut sidecar = shell("s", "trap 'exit 0' TERM; sleep 1000 & wait");
    sidecar["restartPolicy"] = json!("Always");
    let job = json!({"restartPolicy": "Never", "initContainers": [sidecar], "containers": [shell("m", "sleep 0.3")]});
    node.put("job", &uid(), false, &job)?;
    node.until("job", |s| s["phase"] == "Succeeded").await?;

    let mut probed = sleeper("c");
    probed["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "[ -f /up ]"]}, "periodSeconds": 1});
    probed["command"] = json!(["sh", "-c", "sleep 2; : > /up; sleep 1000"]);
    node.put("probed", &uid(), false, &json!({"containers": [probed]}))?;
    node.until("probed", |s| s["phase"] == "Running").await?;
    assert!(!is_ready(&node.status("probed")));
    node.until("probed", is_ready).await?;

    let before = (node.status("ready2"), node.status("probed"));
    life.tasks.stop().await;
    let life = node.start()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(before, (node.status("ready2"), node.status("probed")), "adopted as they were");
    life.tasks.stop().await;
    Ok(())
}
