//! The device manager between a real plugin's socket and pods.

use super::*;
use crate::model::devices::DeviceMount;
use crate::plugins::device::fake::{self, FakePlugin};
use crate::plugins::proto::device::{self as pb, DevicePluginOptions};
use serde_json::json;
use tempfile::TempDir;

const GPU: &str = "ex.org/gpu";

struct Bench {
    root: TempDir,
    tasks: Supervisor,
    devices: DevicesHandle,
}

impl Bench {
    fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    /// Starts on what is there.
    fn over(root: TempDir) -> Self {
        let tasks = Supervisor::new();
        let devices = DevicesHandle::new(root.path(), tasks.child());
        tasks.spawn("registration", devices.clone().listen());
        Self { root, tasks, devices }
    }

    async fn stop(&self) {
        self.tasks.stop().await;
        // A write that has begun goes on to its end.
        drop(self.devices.0.saving.lock().await);
    }

    fn socket(&self) -> PathBuf {
        self.root.path().join("device-plugins/kubelet.sock")
    }

    /// A plugin at that endpoint, registered and listed.
    async fn plugin(&self, plugin: &FakePlugin, endpoint: &str) {
        let socket = self.root.path().join("device-plugins").join(endpoint);
        self.tasks.spawn("plugin", plugin.clone().listen(&socket).unwrap());
        let mut changes = self.devices.changes();
        fake::register(&self.socket(), GPU, endpoint).await.unwrap();
        changes.changed().await.unwrap();
    }

    async fn shows(&self) -> (usize, usize) {
        let advertised = self.devices.advertised().await;
        (advertised.capacity[GPU], advertised.allocatable[GPU])
    }

    async fn admit(&self, uid: &str, count: usize) -> Result<BTreeMap<String, usize>, String> {
        let active = ["first", "second"].map(PodUid::new).into();
        let admitted = self.devices.admit(&pod(count), &PodUid::new(uid), || Some(active), |_, _| Ok(None)).await;
        admitted.map_err(|rejection| format!("{}: {}", rejection.reason, rejection.message))
    }

    async fn prepare(&self, uid: &str, count: usize) -> Result<Edits, String> {
        let pod = pod(count);
        self.devices.prepare(&pod, &PodUid::new(uid), &pod.spec.as_ref().unwrap().containers[0]).await
    }
}

fn pod(count: usize) -> Pod {
    let limits = json!({GPU: count.to_string()});
    serde_json::from_value(json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}}))
    .unwrap()
}

fn options(pre_start_required: bool, get_preferred_allocation_available: bool) -> DevicePluginOptions {
    DevicePluginOptions { pre_start_required, get_preferred_allocation_available }
}

#[tokio::test]
async fn a_plugin_registers_is_asked_and_gives() {
    let bench = Bench::new();
    let plugin = FakePlugin::new(&["a", "b", "c"], options(true, true));
    let given = Edits {
        mounts: vec![DeviceMount { container_path: "/c".into(), host_path: "/h".into(), read_only: true }],
        ..Default::default()
    };
    plugin.answer(Ok(given.clone()));
    plugin.prefer(&["c"]);
    bench.plugin(&plugin, "p.sock").await;
    assert_eq!(bench.shows().await, (3, 3));
    assert_eq!(bench.admit("first", 2).await, Ok([(GPU.to_owned(), 2)].into()));
    assert_eq!(plugin.asked(), ["prefer 2 of a,b,c with []", "allocate a,c"]);
    assert_eq!(bench.prepare("first", 2).await, Ok(given));
    assert_eq!(plugin.asked(), ["pre-start a,c"]);
    let refused = bench.admit("second", 2).await.unwrap_err();
    assert_eq!(
        refused,
        "UnexpectedAdmissionError: Allocate failed due to requested number of devices unavailable for ex.org/gpu. \
         Requested: 2, Available: 1, which is unexpected"
    );
    plugin.answer(Err("out of order".to_owned()));
    let refused = bench.admit("second", 1).await.unwrap_err();
    assert!(refused.contains("rpc error: code = Unknown desc = out of order, which is unexpected"), "{refused}");
    plugin.answer(Ok(Edits::default()));
    assert_eq!(bench.admit("second", 1).await, Ok([(GPU.to_owned(), 3)].into()), "what was refused is free again");
    bench.tasks.stop().await;
}

#[tokio::test]
async fn health_that_changes_and_a_plugin_that_goes_and_returns_are_shown() {
    let bench = Bench::new();
    let plugin = FakePlugin::new(&["a", "b"], options(false, false));
    bench.plugin(&plugin, "p.sock").await;
    let mut changes = bench.devices.changes();
    plugin.list(vec![fake::device("a", true), fake::device("b", false)]);
    changes.changed().await.unwrap();
    assert_eq!(bench.shows().await, (2, 1));
    plugin.end();
    changes.changed().await.unwrap();
    assert_eq!(bench.shows().await, (2, 0));
    let refused = bench.admit("first", 1).await.unwrap_err();
    assert!(refused.contains("no healthy devices present"), "{refused}");
    let again = FakePlugin::new(&["a", "b"], options(false, false));
    bench.plugin(&again, "again.sock").await;
    assert_eq!(bench.shows().await, (2, 2));
    bench.tasks.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_what_pods_hold_and_removes_the_sockets_of_plugins() {
    let bench = Bench::new();
    let plugin = FakePlugin::new(&["a"], options(false, false));
    let given = Edits { envs: [("K".to_owned(), "v".to_owned())].into(), ..Default::default() };
    plugin.answer(Ok(given.clone()));
    bench.plugin(&plugin, "p.sock").await;
    bench.admit("first", 1).await.unwrap();
    bench.tasks.stop().await;
    let bench = Bench::over(bench.root);
    assert!(!bench.root.path().join("device-plugins/p.sock").exists());
    assert_eq!(bench.shows().await, (0, 0), "until the plugin is back");
    assert_eq!(bench.prepare("first", 1).await, Ok(given), "without its plugin");
    bench.plugin(&plugin, "p.sock").await;
    assert_eq!(bench.shows().await, (1, 1));
    assert!(bench.admit("second", 1).await.unwrap_err().contains("Requested: 1, Available: 0"));
    bench.tasks.stop().await;
}

#[tokio::test]
async fn after_a_boot_a_container_waits_until_its_plugin_has_listed_its_devices() {
    let bench = Bench::new();
    let plugin = FakePlugin::new(&["a", "b"], options(false, false));
    bench.plugin(&plugin, "p.sock").await;
    bench.admit("first", 1).await.unwrap();
    bench.stop().await;
    let file = std::fs::File::open(bench.root.path().join("device-plugins").join(checkpoint::FILE)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let bench = Bench::over(bench.root);
    let refused = async || bench.prepare("first", 1).await.unwrap_err();
    assert_eq!(refused().await, "no healthy devices present; cannot allocate unhealthy devices ex.org/gpu");
    plugin.list(vec![fake::device("b", true)]);
    bench.plugin(&plugin, "p.sock").await;
    assert_eq!(
        refused().await,
        "previously allocated devices are no longer healthy; cannot allocate unhealthy devices ex.org/gpu"
    );
    // What was written since does not hide it from the agent's next start.
    bench.devices.save().await;
    bench.stop().await;
    let bench = Bench::over(bench.root);
    let refused = bench.prepare("first", 1).await.unwrap_err();
    assert_eq!(refused, "no healthy devices present; cannot allocate unhealthy devices ex.org/gpu");
    bench.plugin(&plugin, "p.sock").await;
    let mut changes = bench.devices.changes();
    plugin.list(vec![fake::device("a", true)]);
    changes.changed().await.unwrap();
    assert_eq!(bench.prepare("first", 1).await, Ok(Edits::default()));
    bench.tasks.stop().await;
}

#[tokio::test]
async fn a_plugin_that_cannot_be_taken_is_told_why() {
    let bench = Bench::new();
    let request = |version: &str, name: &str| pb::RegisterRequest {
        version: version.to_owned(),
        endpoint: "none.sock".to_owned(),
        resource_name: name.to_owned(),
        options: None,
    };
    for (request, expected) in [
        (
            request("v1alpha1", GPU),
            "requested API version \"v1alpha1\" is not supported by kubelet. Supported version is [\"v1beta1\"]",
        ),
        (request("v1beta1", "gpu"), "the ResourceName \"gpu\" is invalid"),
    ] {
        let path = "/v1beta1.Registration/Register";
        let error = fake::call::<_, pb::Empty>(&bench.socket(), path, request).await.unwrap_err().to_string();
        assert!(error.starts_with("rpc error: code = Unknown desc = ") && error.contains(expected), "{error}");
    }
    assert!(!bench.root.path().join("device-plugins").join(checkpoint::FILE).exists());
    bench.tasks.stop().await;
}
