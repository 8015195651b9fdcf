//! A CSI driver on a real node: shown while it is there, its volumes staged and published to pods and taken back after
//! them; a restart of the agent in between changes nothing, and a driver that is away is named and waited for.

use crate::harness::{Containerd, Node};
use crate::pods::{shell, sleeper};
use serde_json::{Value, json};
use skiff::plugins::csi::fake::FakeDriver;
use skiff::plugins::csi::proto::NodeRpcType;
use std::path::PathBuf;
use tokio::runtime::Runtime;

const DRIVER: &str = "disk.ex.org";

/// The driver's process: dropping it is its death.
struct Process(Runtime);

impl Process {
    /// Starts the driver and waits until the agent has taken it.
    fn start(node: &Node, driver: &FakeDriver) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        {
            let _inside = runtime.enter();
            runtime.spawn(driver.clone().listen(&socket(node)).expect("its socket"));
        }
        let told = runtime.block_on(async { tokio::time::timeout(crate::harness::DEADLINE, driver.told()).await });
        assert_eq!(told.as_deref(), Ok(""), "it is taken\n{}", node.log_tail());
        Self(runtime)
    }

    fn end(self, node: &Node) {
        self.0.shutdown_background();
        std::fs::remove_file(socket(node)).expect("its socket");
    }
}

fn socket(node: &Node) -> PathBuf {
    PathBuf::from(node.path("kubelet/plugins_registry/disk-reg.sock"))
}

fn driver(node: &Node) -> FakeDriver {
    FakeDriver::new(DRIVER, &PathBuf::from(node.path("disk")), &[NodeRpcType::StageUnstageVolume])
}

/// A pod that says what it finds in the volume.
fn reader(name: &str, volume: Value) -> Value {
    let mut pod = shell(name, "cat /data/word; echo; trap 'exit 0' TERM; sleep 3600 & wait $!");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod["spec"]["volumes"] = json!([volume]);
    pod
}

#[test]
fn a_drivers_volumes_come_and_go_with_their_pods() {
    let mut node = Node::start(Containerd::Current);
    let first = driver(&node);
    let process = Process::start(&node, &first);
    let shown = node.jsonpath(&format!("csinode/{}", node.slot.node_name()), "{.spec.drivers[*].name}");
    assert_eq!(shown, DRIVER);

    let describe = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
        "spec": {"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Persistent", "Ephemeral"]}});
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "claimRef": {"namespace": "default", "name": "c"},
        "csi": {"driver": DRIVER, "volumeHandle": "h-1", "fsType": "ext4",
            "nodeStageSecretRef": {"namespace": "kube-system", "name": "disk-key"}}}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"key": "sesame"},
        "metadata": {"namespace": "kube-system", "name": "disk-key"}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": "pv",
        "resources": {"requests": {"storage": "1Gi"}}}});
    std::fs::create_dir_all(node.path("disk/h-1")).expect("the volume");
    std::fs::write(node.path("disk/h-1/word"), "from the disk").expect("what is in it");
    for object in [describe, secret, volume, claim] {
        node.apply(&object);
    }
    node.apply(&reader("keeper", json!({"name": "data", "persistentVolumeClaim": {"claimName": "c"}})));
    node.wait_ready(&["keeper"]);
    assert_eq!(node.kubectl(&["logs", "keeper"]), "from the disk\n");
    assert_eq!(first.asked(), ["stage h-1", "publish h-1"]);
    assert_eq!(first.staged().expect("a stage").secrets["key"], "sesame");

    node.kill();
    node.boot();
    node.apply(&sleeper("marker"));
    node.wait_ready(&["marker"]);
    assert_eq!(first.asked(), [""; 0], "a restart of the agent moves no volume");
    process.end(&node);

    // Of a driver that is away a pod says so, and it starts once the driver is back.
    let events = node.watch("/api/v1/namespaces/default/events?watch=1&fieldSelector=involvedObject.name=late");
    node.apply(&reader("late", json!({"name": "data", "csi": {"driver": DRIVER}})));
    let away = format!("driver name {DRIVER} not found in the list of registered CSI drivers");
    events.until(&away, |event| {
        let object = &event["object"];
        object["reason"] == "FailedMount" && object["message"].as_str().is_some_and(|text| text.ends_with(&away))
    });
    drop(events);
    let second = driver(&node);
    let _process = Process::start(&node, &second);
    node.wait_ready(&["late"]);
    let published = second.published().expect("a volume of its own");
    assert_eq!(published.volume_context["csi.storage.k8s.io/pod.name"], "late");
    assert_eq!(second.asked(), [format!("publish {}", published.volume_id)]);

    node.kubectl(&["delete", "pod", "late", "keeper"]);
    let mut asked = second.asked();
    asked.sort();
    assert_eq!(asked, ["unpublish ".to_owned() + &published.volume_id, "unpublish h-1".into(), "unstage h-1".into()]);
    assert_eq!(
        std::fs::read_to_string(node.path("disk/h-1/word")).expect("the volume outlives its pod"),
        "from the disk"
    );
}
