//! A CSI driver on a real node: shown while it is there, its volumes staged and published to pods and taken back after
//! them, be they file systems or devices; a restart of the agent in between changes nothing, and a driver that is away
//! is named and waited for.

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
    let able = [NodeRpcType::StageUnstageVolume, NodeRpcType::GetVolumeStats];
    FakeDriver::new(DRIVER, &PathBuf::from(node.path("disk")), &able)
}

/// A volume `pv-<name>` and a claim that is bound to it.
fn claimed(name: &str, source: Value) -> [Value; 2] {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": ""});
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("pv-{name}")},
        "spec": spec});
    volume["spec"]["capacity"] = json!({"storage": "1Gi"});
    volume["spec"]["claimRef"] = json!({"namespace": "default", "name": name});
    volume["spec"]["csi"] = source;
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": spec});
    claim["spec"]["volumeName"] = json!(format!("pv-{name}"));
    claim["spec"]["resources"] = json!({"requests": {"storage": "1Gi"}});
    [volume, claim]
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
    let stage_secret = json!({"namespace": "kube-system", "name": "disk-key"});
    let [volume, claim] = claimed(
        "c",
        json!({"driver": DRIVER, "volumeHandle": "h-1", "fsType": "ext4",
        "nodeStageSecretRef": stage_secret}),
    );
    let [mut raw_volume, mut raw_claim] = claimed("raw", json!({"driver": DRIVER, "volumeHandle": "h-2"}));
    for object in [&mut raw_volume, &mut raw_claim] {
        object["spec"]["volumeMode"] = json!("Block");
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"key": "sesame"},
        "metadata": {"namespace": "kube-system", "name": "disk-key"}});
    std::fs::create_dir_all(node.path("disk/h-1")).expect("the volume");
    std::fs::write(node.path("disk/h-1/word"), "from the disk").expect("what is in it");
    std::fs::write(node.path("disk/h-2"), [b'x'; 1 << 20]).expect("a disk");
    for object in [describe, secret, volume, claim, raw_volume, raw_claim] {
        node.apply(&object);
    }
    node.apply(&reader("keeper", json!({"name": "data", "persistentVolumeClaim": {"claimName": "c"}})));
    node.wait_ready(&["keeper"]);
    assert_eq!(node.kubectl(&["logs", "keeper"]), "from the disk\n");
    assert_eq!(first.asked(), ["stage h-1", "publish h-1"]);
    assert_eq!(first.staged().expect("a stage").secrets["key"], "sesame");

    // A disk as it is: the container has it as a device of its own name.
    let disks = std::path::Path::new("/dev/loop-control").exists();
    if !disks {
        eprintln!("skipped: a block volume (this machine has no loop devices)");
    }
    let mut raw = shell("raw", "head -c 4 /dev/disk; echo; trap 'exit 0' TERM; sleep 3600 & wait $!");
    raw["spec"]["containers"][0]["volumeDevices"] = json!([{"name": "data", "devicePath": "/dev/disk"}]);
    raw["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "raw"}}]);
    if disks {
        node.apply(&raw);
        node.wait_ready(&["raw"]);
        assert_eq!(node.kubectl(&["logs", "raw"]), "xxxx\n");
        assert_eq!(first.asked(), ["stage h-2", "publish h-2"]);
    }

    // How full they are, their driver says.
    let metrics = format!("/api/v1/nodes/{}/proxy/metrics", node.slot.node_name());
    let metrics = node.kubectl(&["get", "--raw", &metrics]);
    for claim in ["c"].into_iter().chain(disks.then_some("raw")) {
        let labels = format!("{{namespace=\"default\",persistentvolumeclaim=\"{claim}\"}}");
        let series = format!("kubelet_volume_stats_used_bytes{labels} 400\n");
        assert!(metrics.contains(&series), "{series}");
    }

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

    node.kubectl(&["delete", "pod", "late", "keeper", "raw", "--ignore-not-found"]);
    let mut asked = second.asked();
    asked.sort();
    let inline = format!("unpublish {}", published.volume_id);
    let mut wanted = vec![&*inline, "unpublish h-1", "unstage h-1"];
    wanted.extend(disks.then_some(["unpublish h-2", "unstage h-2"]).into_iter().flatten());
    wanted.sort_unstable();
    assert_eq!(asked, wanted);
    assert_eq!(
        std::fs::read_to_string(node.path("disk/h-1/word")).expect("the volume outlives its pod"),
        "from the disk"
    );
}
