//! The node actor between a fake API server and a runtime that is down, without network, or ready.

use super::status::tests::{config, runtime};
use super::*;
use crate::clock::crowd::Crowd;
use crate::cluster::fake::FakeCluster;
use crate::ids::{ContainerId, PodUid, SandboxId};
use crate::model::devices::Edits;
use crate::model::observed::{ObservedPod, RuntimePod};
use crate::model::topology::Pins;
use crate::runtime::{
    ContainerInput, ContainerStats, ExecOutput, ImageFs, RuntimeError, RuntimeEvent, SandboxInput, StreamOptions,
};
use crate::supervisor::Supervisor;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Mutex;

type Answer<T> = Result<T, RuntimeError>;

/// Only says how it is; the node actor asks nothing else.
struct Health(Mutex<Answer<RuntimeInfo>>);

fn unasked<T>() -> Answer<T> {
    Err(RuntimeError::Unimplemented("not a node's business".into()))
}

#[async_trait]
impl Runtime for Health {
    async fn info(&self) -> Answer<RuntimeInfo> {
        self.0.lock().unwrap().clone()
    }
    async fn images(&self) -> Answer<Vec<ImageInfo>> {
        Ok(Vec::new())
    }
    async fn observe(&self, _: &PodUid) -> Answer<ObservedPod> {
        unasked()
    }
    async fn pods(&self) -> Answer<Vec<RuntimePod>> {
        unasked()
    }
    async fn run_sandbox(&self, _: &SandboxInput) -> Answer<SandboxId> {
        unasked()
    }
    async fn stop_sandbox(&self, _: &SandboxId) -> Answer<()> {
        unasked()
    }
    async fn remove_sandbox(&self, _: &SandboxId) -> Answer<()> {
        unasked()
    }
    async fn create_container_with(&self, _: &SandboxId, _: &ContainerInput, _: &Edits) -> Answer<ContainerId> {
        unasked()
    }
    async fn start_container(&self, _: &ContainerId) -> Answer<()> {
        unasked()
    }
    async fn stop_container(&self, _: &ContainerId, _: Duration) -> Answer<()> {
        unasked()
    }
    async fn update_container(&self, _: &ContainerId, _: &Pod, _: &str, _: i64) -> Answer<()> {
        unasked()
    }
    async fn pin_container(&self, _: &ContainerId, _: &Pins) -> Answer<()> {
        unasked()
    }
    async fn remove_container(&self, _: &ContainerId) -> Answer<()> {
        unasked()
    }
    async fn reopen_log(&self, _: &ContainerId) -> Answer<()> {
        unasked()
    }
    async fn image(&self, _: &str) -> Answer<Option<ImageInfo>> {
        unasked()
    }
    async fn pull_image(&self, _: &str, _: Option<(String, String)>) -> Answer<String> {
        unasked()
    }
    async fn remove_image(&self, _: &str) -> Answer<()> {
        unasked()
    }
    async fn exec_sync(&self, _: &ContainerId, _: &[String], _: Duration) -> Answer<ExecOutput> {
        unasked()
    }
    async fn exec(&self, _: &ContainerId, _: &StreamOptions) -> Answer<String> {
        unasked()
    }
    async fn attach(&self, _: &ContainerId, _: &StreamOptions) -> Answer<String> {
        unasked()
    }
    async fn port_forward(&self, _: &SandboxId, _: &[u16]) -> Answer<String> {
        unasked()
    }
    async fn checkpoint_container(&self, _: &ContainerId, _: &std::path::Path, _: i64) -> Answer<()> {
        unasked()
    }
    async fn stats(&self) -> Answer<Vec<ContainerStats>> {
        unasked()
    }
    async fn image_fs(&self) -> Answer<ImageFs> {
        unasked()
    }
    async fn set_pod_cidr(&self, _: &str) -> Answer<()> {
        unasked()
    }
    async fn follow(&self, _: tokio::sync::mpsc::Sender<RuntimeEvent>) {}
}

struct Bench {
    cluster: Arc<FakeCluster>,
    health: Arc<Health>,
    root: tempfile::TempDir,
}

impl Bench {
    fn new(info: Answer<RuntimeInfo>) -> Self {
        let health = Arc::new(Health(Mutex::new(info)));
        Self { cluster: Arc::default(), health, root: tempfile::tempdir().unwrap() }
    }

    /// The actor with its event recorder, for as long as `until` takes.
    async fn run(&self, until: impl AsyncFnOnce(NodeHandle)) {
        self.run_with(config(), until).await;
    }

    async fn run_with(&self, mut config: AgentConfig, until: impl AsyncFnOnce(NodeHandle)) {
        config.eviction_hard.clear();
        let (recorder, events) = Recorder::new(self.cluster.clone(), "n1", 50, 100, Crowd::none());
        let deps = NodeDeps {
            config: Arc::new(config),
            cluster: self.cluster.clone(),
            runtime: self.health.clone(),
            recorder,
            distress: watch::channel(Default::default()).1,
            volumes_in_use: watch::channel(Default::default()).1,
            devices: DevicesHandle::new(self.root.path(), Supervisor::new()),
        };
        let (handle, task) = new(deps).unwrap();
        tokio::select! {
            () = task => unreachable!("the node actor never ends"),
            () = async { events.await; std::future::pending().await } => {}
            () = until(handle) => {}
        }
    }

    fn reasons(&self) -> Vec<String> {
        self.cluster.events().into_iter().filter_map(|event| event.reason).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_ready_with_its_registration_and_renews_without_writing_status() {
    let bench = Bench::new(Ok(runtime(Ok(()))));
    let started = clock::now().mono;
    bench
        .run(async |mut handle: NodeHandle| {
            assert_eq!(handle.facts.borrow().ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
            handle.ready.wait_for(|ready| *ready).await.unwrap();
            assert_eq!(clock::now().mono, started, "no wait before Ready");
            tokio::time::sleep(Duration::from_secs(95)).await;
            assert!(handle.facts.borrow().recursive_read_only_mounts);
        })
        .await;
    let node = bench.cluster.get_node("n1").unwrap();
    let labels = node.metadata.labels.unwrap();
    assert_eq!((labels["kubernetes.io/hostname"].as_str(), labels["zone"].as_str()), ("n1", "a"));
    assert_eq!(node.spec.unwrap().taints.unwrap()[0].key, "k");
    let calls = bench.cluster.calls();
    let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!((count("create_node"), count("patch_node_status"), count("put_lease")), (1, 0, 10), "{calls:?}");
    assert!(bench.reasons().contains(&"NodeHasSufficientMemory".to_owned()), "{:?}", bench.reasons());
}

#[tokio::test(start_paused = true)]
async fn the_node_turns_ready_soon_after_the_network_and_not_ready_when_the_runtime_dies() {
    let bench = Bench::new(Ok(runtime(Err("NetworkPluginNotReady: cni plugin not initialized".into()))));
    bench.cluster.fail("create_node", ClusterError::Unavailable("starting".into()));
    bench
        .run(async |mut handle: NodeHandle| {
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(!*handle.ready.borrow());
            *bench.health.0.lock().unwrap() = Ok(runtime(Ok(())));
            let ready = handle.ready.wait_for(|ready| *ready);
            drop(tokio::time::timeout(RETRY_LAST, ready).await.unwrap().unwrap());
            *bench.health.0.lock().unwrap() = Err(RuntimeError::Unavailable("gone".into()));
            handle.runtime_lost.notify_one();
            let lost = handle.ready.wait_for(|ready| !*ready);
            drop(tokio::time::timeout(RUNTIME_RESTART + Duration::from_millis(1), lost).await.unwrap().unwrap());
            assert!(handle.runtime.borrow().is_none());
            // The event is on its way to the API server.
            tokio::time::sleep(Duration::from_secs(1)).await;
        })
        .await;
    let reasons = bench.reasons();
    assert!(["NodeReady", "NodeNotReady"].iter().all(|reason| reasons.iter().any(|r| r == reason)), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_others_register_is_awaited_and_kept_current() {
    let bench = Bench::new(Ok(runtime(Ok(()))));
    let mut config = config();
    Arc::make_mut(&mut config.kubelet).register_node = Some(false);
    bench
        .run_with(config, async |mut handle: NodeHandle| {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(bench.cluster.get_node("n1").is_none());
            let node = json!({"metadata": {"name": "n1", "uid": "n1", "labels": {"mine": "1"}}});
            bench.cluster.put_node(serde_json::from_value(node).unwrap());
            let ready = handle.ready.wait_for(|ready| *ready);
            drop(tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap().unwrap());
        })
        .await;
    assert!(bench.cluster.calls().iter().all(|call| !call.starts_with("create_node")), "{:?}", bench.cluster.calls());
    assert_eq!(bench.cluster.get_node("n1").unwrap().metadata.labels, Some([("mine".into(), "1".into())].into()));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_there_keeps_what_others_gave_it() {
    let bench = Bench::new(Ok(runtime(Ok(()))));
    // Of an earlier start.
    std::fs::create_dir(bench.root.path().join("device-plugins")).unwrap();
    std::fs::write(bench.root.path().join("device-plugins/kubelet.sock"), "").unwrap();
    bench.cluster.put_node(
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "uid": "old", "labels": {"mine": "1", "kubernetes.io/os": "plan9"}},
            "status": {"capacity": {"example.com/foo": "5"}, "conditions": [{"type": "NetworkUnavailable", "status": "False"}]},
        }))
        .unwrap(),
    );
    bench
        .run(async |mut handle: NodeHandle| {
            drop(handle.ready.wait_for(|ready| *ready).await.unwrap());
            assert_eq!(handle.facts.borrow().allocatable["example.com/foo"].0, "5");
        })
        .await;
    let node = bench.cluster.get_node("n1").unwrap();
    assert_eq!(node.metadata.uid.as_deref(), Some("old"));
    let labels = node.metadata.labels.unwrap();
    assert_eq!((labels["mine"].as_str(), labels["kubernetes.io/os"].as_str()), ("1", "linux"));
    let types: Vec<String> = node.status.unwrap().conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert_eq!(types, ["NetworkUnavailable", "MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_made_anew_shows_none_of_its_devices_until_they_are_there() {
    let bench = Bench::new(Ok(runtime(Ok(()))));
    let status =
        json!({"capacity": {"example.com/foo": "5", "hugepages-3Mi": "0"}, "allocatable": {"example.com/foo": "5"}});
    let node = json!({"metadata": {"name": "n1", "uid": "old"}, "status": status});
    bench.cluster.put_node(serde_json::from_value(node).unwrap());
    bench
        .run(async |mut handle: NodeHandle| {
            drop(handle.ready.wait_for(|ready| *ready).await.unwrap());
            assert_eq!(handle.facts.borrow().allocatable["example.com/foo"].0, "0");
            // Whoever gives it anew is believed.
            let status = json!({"status": {"capacity": {"example.com/foo": "3"}}});
            bench.cluster.patch_node_status("n1", &status).await.unwrap();
            let given = handle.facts.wait_for(|facts| facts.allocatable["example.com/foo"].0 == "3");
            drop(tokio::time::timeout(Duration::from_secs(60), given).await.unwrap().unwrap());
        })
        .await;
}

#[test]
fn a_dual_stack_node_has_an_address_of_each_family_and_the_unspecified_one_is_the_default_routes() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let check = |first: Option<&str>, second: Option<&str>, expected: &[&str]| {
        let mut config = config();
        (config.node_ip, config.second_node_ip) = (first.map(ip), second.map(ip));
        let default_of = |like: IpAddr| Some(ip(if like.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }));
        let found = addresses(&config, || Some(ip("192.0.2.1")), default_of).unwrap();
        assert_eq!(found, expected.iter().map(|text| ip(text)).collect::<Vec<_>>());
    };
    check(None, None, &["192.0.2.1"]);
    check(Some("10.0.0.1"), None, &["10.0.0.1"]);
    check(Some("fd00::1"), Some("10.0.0.1"), &["fd00::1", "10.0.0.1"]);
    check(Some("::"), Some("0.0.0.0"), &["2001:db8::1", "192.0.2.1"]);
    let lost = addresses(&AgentConfig { node_ip: None, ..config() }, || None, |_| None);
    assert!(matches!(lost, Err(NodeError::NoAddress)));
}
