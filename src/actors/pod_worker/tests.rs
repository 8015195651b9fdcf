//! Workers on a scripted runtime and cluster: starts, crashes, deletion, restarts of the agent. Time is paused.

use crate::actors::devices::DevicesHandle;
use crate::actors::eviction::Eviction;
use crate::actors::images::{ImagesHandle, PullLimits};
use crate::actors::mirrors::MirrorsTask;
use crate::actors::pod_worker::{SandboxPace, WorkerContext, WorkerPaths};
use crate::actors::pods::{Inputs, PodsHandle, PodsTask};
use crate::actors::probes::ProbesHandle;
use crate::actors::runtime_watch::runtime_watch;
use crate::actors::static_pods::StaticPods;
use crate::actors::status::StatusHandle;
use crate::clock::crowd::Crowd;
use crate::cluster::fake::FakeCluster;
use crate::cluster::{Cluster, KnownPods, Recorder};
use crate::decide::static_pod::{MirrorView, Origin};
use crate::ids::{PodKey, PodUid};
use crate::metrics::catalog;
use crate::model::dns::NodeDns;
use crate::model::eviction::Removal;
use crate::model::node::NodeFacts;
use crate::runtime::fake::FakeRuntime;
use crate::runtime::{Runtime, RuntimeError};
use crate::supervisor::Supervisor;
use crate::volumes::{CsiState, Volumes};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

mod hooks;
mod refusals;

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
    static_pods: watch::Sender<StaticPods>,
    evict: mpsc::Sender<Eviction>,
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
        let (recorder, recording) = Recorder::new(cluster.clone(), "n", 0, 1000, Crowd::none());
        tasks.spawn("recorder", recording);
        let (status, task) = StatusHandle::new(cluster.clone(), Crowd::none());
        tasks.spawn("status", task);
        let (dirty, events, task) = runtime_watch(runtime.clone());
        tasks.spawn("runtime_watch", task);
        let (sender, changes) = mpsc::channel(16);
        let follower = cluster.clone();
        tasks.spawn("pod_watch", async move { follower.follow_pods(sender).await });
        let (_services, services) = watch::channel(Some(Arc::default()));
        let pods = PodsHandle::default();
        let context = WorkerContext {
            images: ImagesHandle::new(
                runtime.clone(),
                cluster.clone(),
                recorder.clone(),
                PullLimits { parallel: 1, qps: 0, burst: 0 },
            ),
            devices: DevicesHandle::new(self.dir.path(), tasks.child()),
            probes: ProbesHandle::new(tasks.child(), runtime.clone(), recorder.clone(), dirty),
            services,
            volumes: Volumes::new(self.dir.path(), "cluster.local", cluster.clone(), node.clone(), CsiState::default()),
            runtime,
            cluster,
            cgroups: None,
            pace: SandboxPace::new(2),
            recorder,
            status,
            pods: pods.clone(),
            node,
            dns: NodeDns::default(),
            paths: WorkerPaths { pod_logs: self.dir.path().join("logs") },
            known: KnownPods::new(self.dir.path()),
            restart_delays: Default::default(),
            managers: None,
            tasks: Supervisor::new(),
        };
        let (static_pods, reader) = watch::channel(Arc::default());
        let (mirrors, view) = watch::channel(MirrorView::default());
        tasks.spawn("mirrors", MirrorsTask::new(self.cluster.clone(), "n", view).run());
        let (evict, evictions) = mpsc::channel(4);
        let (_distress, distress) = watch::channel(Default::default());
        let inputs = Inputs {
            changes,
            runtime_events: events,
            static_pods: reader,
            evictions,
            mirrors,
            distress,
            runtime_lost: Arc::default(),
        };
        let task = PodsTask::new(Arc::new(context), tasks.child(), inputs);
        tasks.spawn("pods", task.run());
        Life { tasks, pods, static_pods, evict, _facts: facts }
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
async fn another_image_does_not_wait_for_the_one_before() {
    for never_comes in [true, false] {
        let world = World::new();
        match never_comes {
            true => world.runtime.delay("pull_image", Duration::from_secs(3600)),
            false => world.runtime.fail("pull_image", RuntimeError::Unavailable("scripted".to_owned())),
        }
        let life = world.start_agent();
        world.put(|pod| pod["spec"]["containers"][0]["image"] = json!("far/away:1"));
        let waits = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
        let reason = if never_comes { "ContainerCreating" } else { "ErrImagePull" };
        world.until("waiting", |s| s["podIP"] == "10.0.0.1" && waits(s) == reason).await;
        world.put(|pod| pod["metadata"]["generation"] = json!(2));
        let begun = tokio::time::Instant::now();
        world.until("ready", is_ready).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        life.tasks.stop().await;
        let made: Vec<_> = world.runtime.calls().into_iter().filter(|call| call.starts_with("create")).collect();
        assert!(made.len() == 1 && !made[0].contains("far/away"), "{made:?}");
    }
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

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_runs_once_and_changes_nothing_of_the_pod() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    let debug = |pod: &mut Value| {
        pod["spec"]["ephemeralContainers"] = json!([{"name": "dbg", "image": "busybox:1", "imagePullPolicy": "Never"}]);
    };
    let of = |status: &Value, state: &str| status["ephemeralContainerStatuses"][0]["state"][state].is_object();
    world.put(debug);
    world.until("debugging", |s| of(s, "running")).await;
    assert!(is_ready(&world.status()));
    world.runtime.exit(&uid(), "dbg", 3);
    world.until("debugged", |s| of(s, "terminated")).await;
    let calls = world.runtime.calls();
    for _ in 0..400 {
        step().await;
    }
    assert_eq!(world.runtime.calls(), calls, "it is not started again");
    assert_eq!(world.status()["phase"], "Running");
    assert_eq!(world.status()["ephemeralContainerStatuses"][0]["started"], Value::Null);
    life.tasks.stop().await;
}

fn cpu(limit: &str) -> impl Fn(&mut Value) {
    move |pod: &mut Value| {
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": limit}, "limits": {"cpu": limit}});
    }
}

fn has_condition(status: &Value, kind: &str) -> bool {
    status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_fits_reaches_the_container_without_a_restart() {
    let world = World::new();
    let life = world.start_agent();
    world.put(cpu("100m"));
    world.until("ready", is_ready).await;
    world.put(|pod| {
        cpu("500m")(pod);
        pod["metadata"]["generation"] = json!(2);
    });
    let shown = |s: &Value| s["containerStatuses"][0]["resources"]["limits"]["cpu"] == "500m";
    world.until("resized", |s| shown(s) && !has_condition(s, "PodResizeInProgress")).await;
    assert_eq!(world.status()["containerStatuses"][0]["restartCount"], 0);
    let updates: Vec<_> = world.runtime.calls().into_iter().filter(|c| c.starts_with("update_container")).collect();
    assert_eq!(updates.len(), 1, "{updates:?}");
    let reasons: Vec<_> = world.cluster.events().into_iter().filter_map(|event| event.reason).collect();
    assert!(reasons.iter().any(|r| r == "ResizeStarted") && reasons.iter().any(|r| r == "ResizeCompleted"));
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_does_not_fit_waits_and_one_that_never_can_is_infeasible() {
    let world = World::new();
    let life = world.start_agent();
    let counted = || catalog::INFEASIBLE_RESIZES.get(["insufficient_node_allocatable"]);
    let before = counted();
    world.put(cpu("100m"));
    world.until("ready", is_ready).await;
    world.put(cpu("3"));
    world.until("pending", |s| has_condition(s, "PodResizePending")).await;
    let pending = |status: &Value| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "PodResizePending").expect("the condition")
    };
    let condition = pending(&world.status());
    assert_eq!(condition["reason"], "Infeasible");
    assert!(counted() > before);
    assert_eq!(condition["message"], "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000");
    assert_eq!(world.status()["containerStatuses"][0]["allocatedResources"]["cpu"], "100m");
    assert!(world.runtime.calls().iter().all(|call| !call.starts_with("update_container")));

    // A restarted agent still knows what was granted.
    life.tasks.stop().await;
    let life = world.start_agent();
    for _ in 0..200 {
        step().await;
    }
    assert_eq!(world.status()["containerStatuses"][0]["allocatedResources"]["cpu"], "100m");
    assert_eq!(pending(&world.status())["reason"], "Infeasible");
    assert!(world.runtime.calls().iter().all(|call| !call.starts_with("update_container")));
    life.tasks.stop().await;
}

fn static_pod(command: &str) -> Arc<Pod> {
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "st"}, "spec": {
        "terminationGracePeriodSeconds": 2,
        "containers": [{"name": "c", "image": "busybox:1", "command": [command]}]}});
    let now = crate::clock::now().wall;
    let mut pods = crate::decide::static_pod::pods(manifest, Origin::File, "/m/st.json", "n", now).expect("a manifest");
    Arc::new(pods.remove(0))
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_runs_without_the_api_and_its_mirror_comes_back_when_deleted() {
    let world = World::new();
    world.cluster.put_node(serde_json::from_value(json!({"metadata": {"name": "n", "uid": "n"}})).expect("a node"));
    let life = world.start_agent();
    let key = PodKey::new("default", "st-n");
    let pod = static_pod("sleep");
    let uid = PodUid::new(pod.metadata.uid.as_deref().expect("a uid"));
    life.static_pods.send_replace(Arc::new(vec![pod]));
    let mirror = || world.cluster.get_pod(&key);
    let shown = || serde_json::to_value(mirror().and_then(|pod| pod.status.clone())).unwrap_or_default();
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        for _ in 0..4000 {
            if holds() {
                return;
            }
            step().await;
        }
        panic!("never {what}: {:#?} {:#?}", mirror(), world.runtime.calls());
    };
    until("shown ready", &|| is_ready(&shown())).await;
    let first = mirror().expect("a mirror");
    assert_eq!(
        first.metadata.annotations.as_ref().map(|a| a["kubernetes.io/config.mirror"].as_str()),
        Some(uid.as_str())
    );
    let made = world.runtime.pod(&uid).containers[0].id.clone();

    world.cluster.drop_pod(&key);
    until("shown again", &|| is_ready(&shown())).await;
    assert_ne!(mirror().expect("a mirror").metadata.uid, first.metadata.uid);
    assert_eq!(world.runtime.pod(&uid).containers[0].id, made, "the container runs on");

    // Another manifest of that name is another pod: the first ends before it starts.
    let next = static_pod("other");
    let next_uid = PodUid::new(next.metadata.uid.as_deref().expect("a uid"));
    life.static_pods.send_replace(Arc::new(vec![next]));
    until("replaced", &|| {
        let shows = mirror().is_some_and(|m| {
            m.metadata.annotations.as_ref().is_some_and(|a| a["kubernetes.io/config.mirror"] == next_uid.as_str())
        });
        shows && is_ready(&shown())
    })
    .await;
    assert!(world.runtime.pod(&uid).sandboxes.is_empty());

    life.static_pods.send_replace(Arc::default());
    until("gone", &|| mirror().is_none() && world.runtime.pod(&next_uid).sandboxes.is_empty()).await;
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_fails_with_the_reason_and_stays_to_be_seen() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|_| {});
    world.until("ready", is_ready).await;
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ".to_owned();
    life.evict.send(Eviction { uid: uid(), removal: Removal::over_limit(message.clone()) }).await.expect("the actor");
    world.until("failed", |s| s["phase"] == "Failed").await;
    assert_eq!((&world.status()["reason"], &world.status()["message"]), (&json!("Evicted"), &json!(message)));
    let told = |event: &k8s_openapi::api::core::v1::Event| event.reason.as_deref() == Some("Evicted");
    assert_eq!(world.cluster.events().iter().filter(|event| told(event)).count(), 1);
    assert!(world.runtime.calls().iter().any(|call| call.starts_with("stop_container") && call.ends_with(" 2s")));
    life.tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn known_pods_run_again_after_a_boot_without_an_api_server() {
    let world = World::new();
    let map = json!({"metadata": {"namespace": "d", "name": "cm"}, "data": {"k": "v"}});
    world.cluster.put_config_map(serde_json::from_value(map).expect("a config map"));
    let life = world.start_agent();
    world.put(|pod| pod["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "cm"}}]));
    world.until("ready", is_ready).await;
    life.tasks.stop().await;

    // The machine boots: nothing runs any more, and nobody answers.
    let after = World { runtime: Arc::default(), cluster: Arc::default(), dir: world.dir };
    after.runtime.put_image("busybox:1");
    after.cluster.hang();
    let life = after.start_agent();
    for _ in 0..4000 {
        if !after.runtime.pod(&uid()).containers.is_empty() {
            break;
        }
        step().await;
    }
    assert_eq!(after.runtime.pod(&uid()).containers.len(), 1, "{:?}", after.runtime.calls());
    life.tasks.stop().await;
}
