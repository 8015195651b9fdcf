//! Workers on a scripted runtime and cluster: starts, crashes, deletion, restarts of the agent. Time is paused.

use crate::actors::images::ImagesHandle;
use crate::actors::pod_worker::{WorkerContext, WorkerPaths};
use crate::actors::pods::{PodsHandle, PodsTask};
use crate::actors::probes::ProbesHandle;
use crate::actors::runtime_watch::runtime_watch;
use crate::actors::status::StatusHandle;
use crate::cluster::fake::FakeCluster;
use crate::cluster::{Cluster, Recorder};
use crate::ids::{PodKey, PodUid};
use crate::model::dns::NodeDns;
use crate::model::node::NodeFacts;
use crate::runtime::fake::FakeRuntime;
use crate::runtime::{Runtime, RuntimeError};
use crate::supervisor::Supervisor;
use crate::volumes::Volumes;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The parts that outlive an agent: the machine and the API server.
struct World {
    runtime: Arc<FakeRuntime>,
    cluster: Arc<FakeCluster>,
    dir: tempfile::TempDir,
}

/// One life of the agent's pod actors.
struct Life {
    tasks: Supervisor,
    pods: PodsHandle,
    // Receivers live as long as their senders.
    _facts: watch::Sender<NodeFacts>,
}

impl World {
    fn new() -> Self {
        let world = Self {
            runtime: Arc::default(),
            cluster: Arc::default(),
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        world.runtime.put_image("busybox:1");
        world.cluster.put_services(Vec::new());
        world
    }

    fn start_agent(&self) -> Life {
        let tasks = Supervisor::new();
        let runtime: Arc<dyn Runtime> = self.runtime.clone();
        let cluster: Arc<dyn Cluster> = self.cluster.clone();
        let pods_allowed =
            [("pods".to_owned(), Quantity("10".to_owned())), ("cpu".to_owned(), Quantity("2".to_owned()))];
        let facts = NodeFacts {
            ips: vec!["192.0.2.1".parse().expect("an address")],
            allocatable: pods_allowed.into(),
            ..Default::default()
        };
        let (facts, node) = watch::channel(facts);
        let (recorder, recording) = Recorder::new(cluster.clone(), "n", 0, 1000);
        tasks.spawn("recorder", recording);
        let (status, task) = StatusHandle::new(cluster.clone());
        tasks.spawn("status", task);
        let (dirty, events, task) = runtime_watch(runtime.clone());
        tasks.spawn("runtime_watch", task);
        let (sender, changes) = mpsc::channel(16);
        let follower = cluster.clone();
        tasks.spawn("pod_watch", async move { follower.follow_pods(sender).await });
        let (_services, services) = watch::channel(Some(Arc::default()));
        let pods = PodsHandle::default();
        let context = WorkerContext {
            images: ImagesHandle::new(runtime.clone(), cluster.clone(), recorder.clone(), true),
            probes: ProbesHandle::new(tasks.child(), runtime.clone(), recorder.clone(), dirty),
            services,
            volumes: Volumes::new(self.dir.path(), "cluster.local", cluster.clone(), node.clone()),
            runtime,
            cluster,
            cgroups: None,
            recorder,
            status,
            pods: pods.clone(),
            node,
            dns: NodeDns::default(),
            paths: WorkerPaths { pod_logs: self.dir.path().join("logs") },
            tasks: Supervisor::new(),
        };
        let task = PodsTask::new(Arc::new(context), tasks.child(), changes, events);
        tasks.spawn("pods", task.run());
        Life { tasks, pods, _facts: facts }
    }

    fn put(&self, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u1", "generation": 1},
            "spec": {"nodeName": "n", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent"}]},
        });
        change(&mut pod);
        self.cluster.put_pod(serde_json::from_value(pod).expect("a pod"));
    }

    fn pod(&self) -> Option<Arc<Pod>> {
        self.cluster.get_pod(&PodKey::new("d", "p"))
    }

    fn status(&self) -> Value {
        let pod = self.pod();
        pod.and_then(|pod| serde_json::to_value(pod.status.as_ref()).ok()).unwrap_or_default()
    }

    /// Waits (in paused time) until the API shows it.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        for _ in 0..4000 {
            if holds(&self.status()) {
                return;
            }
            step().await;
        }
        panic!("never {what}: {:#}\n{:#?}", self.status(), self.runtime.calls());
    }

    async fn until_gone(&self) {
        for _ in 0..8000 {
            if self.pod().is_none() {
                return;
            }
            step().await;
        }
        panic!("never gone: {:#}", self.status());
    }
}

/// Paused time moves on by itself once every task waits; volumes work on real threads, which need real time.
async fn step() {
    tokio::task::spawn_blocking(std::thread::yield_now).await.expect("a thread");
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn uid() -> PodUid {
    PodUid::new("u1")
}

#[tokio::test(start_paused = true)]
async fn a_pod_becomes_ready_and_its_deletion_leaves_nothing() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    assert_eq!(world.status()["phase"], "Running");
    assert_eq!(world.status()["podIP"], "10.0.0.1");
    assert!(life.pods.get(&PodKey::new("d", "p")).is_some());
    world.put(|pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    });
    world.until_gone().await;
    for _ in 0..100 {
        step().await;
    }
    assert!(world.runtime.pod(&uid()).sandboxes.is_empty());
    assert!(life.pods.list().is_empty());
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_restarted_at_once_and_then_backs_off() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    world.runtime.exit(&uid(), "c", 1);
    world.until("restarted", |s| s["containerStatuses"][0]["restartCount"] == 1 && is_ready(s)).await;
    world.runtime.exit(&uid(), "c", 1);
    world.until("backing off", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff").await;
    assert_eq!(
        world.status()["containerStatuses"][0]["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=p_d(u1)"
    );
    assert_eq!(world.status()["phase"], "Running");
    world.until("restarted again", |s| s["containerStatuses"][0]["restartCount"] == 2 && is_ready(s)).await;
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_running_pods_and_takes_nothing_back() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    let before = world.status();
    life.tasks.stop().await;
    let calls = world.runtime.calls();

    let (sender, mut changes) = mpsc::channel(64);
    let cluster = world.cluster.clone();
    let watcher = Supervisor::new();
    watcher.spawn("watcher", async move { cluster.follow_pods(sender).await });
    let life = world.start_agent();
    for _ in 0..200 {
        step().await;
    }
    assert_eq!(world.runtime.calls(), calls, "nothing was stopped or started");
    while let Ok(change) = changes.try_recv() {
        if let crate::cluster::PodChange::Applied(pod) = change {
            assert_eq!(serde_json::to_value(&pod.status).expect("a status"), before, "a watcher saw no change");
        }
    }
    assert_eq!(world.status(), before);
    life.tasks.stop().await;
    watcher.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_cannot_be_read_is_waited_for_not_acted_on() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    life.tasks.stop().await;
    let calls = world.runtime.calls();
    for _ in 0..3 {
        world.runtime.fail("observe", RuntimeError::Unavailable("down".to_owned()));
    }
    let life = world.start_agent();
    for _ in 0..400 {
        step().await;
    }
    assert_eq!(world.runtime.calls(), calls);
    assert!(is_ready(&world.status()));
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deletion_does_not_wait_for_a_pull() {
    let world = World::new();
    world.runtime.delay("pull_image", Duration::from_secs(3600));
    let life = world.start_agent();
    world.put(|pod| pod["spec"]["containers"][0]["image"] = json!("far/away:1"));
    world.until("creating", |s| s["podIP"] == "10.0.0.1").await;
    world.put(|pod| {
        pod["spec"]["containers"][0]["image"] = json!("far/away:1");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    });
    let begun = tokio::time::Instant::now();
    world.until_gone().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_sandbox_is_replaced_and_counts_as_a_restart() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    world.runtime.kill_sandbox(&uid());
    world
        .until("back", |s| s["containerStatuses"][0]["restartCount"] == 1 && is_ready(s) && s["podIP"] != "10.0.0.1")
        .await;
    assert_eq!(world.status()["podIPs"].as_array().map(Vec::len), Some(1));
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_api_does_not_know_is_stopped_and_removed() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    life.tasks.stop().await;
    world.cluster.drop_pod(&PodKey::new("d", "p"));
    let life = world.start_agent();
    for _ in 0..400 {
        step().await;
    }
    assert!(world.runtime.pod(&uid()).sandboxes.is_empty(), "{:?}", world.runtime.calls());
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_cuts_a_running_termination_short() {
    let world = World::new();
    world.runtime.ignore_term();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    let delete = |grace: i64| {
        move |pod: &mut Value| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        }
    };
    let begun = tokio::time::Instant::now();
    world.put(delete(3600));
    for _ in 0..50 {
        step().await;
    }
    world.put(delete(1));
    world.until_gone().await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    life.tasks.stop().await;
}
