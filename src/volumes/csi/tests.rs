//! Volumes of a driver behind a real socket, with real mounts where the tests run as root.

use super::*;
use crate::clock::crowd::Crowd;
use crate::cluster::Recorder;
use crate::cluster::fake::FakeCluster;
use crate::ids::PodUid;
use crate::model::node::NodeFacts;
use crate::model::stats::FsUse;
use crate::plugins::csi::fake::FakeDriver;
use crate::plugins::csi::proto::{AccessType, Mode, NodeRpcType};
use crate::supervisor::Supervisor;
use crate::volumes::Use;
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};
use std::fs;
use tonic::Status;

const DRIVER: &str = "d.ex.org";

struct Node {
    root: tempfile::TempDir,
    cluster: Arc<FakeCluster>,
    csi: CsiState,
    facts: watch::Sender<NodeFacts>,
    volumes: Volumes,
    fake: FakeDriver,
    tasks: Supervisor,
}

impl Node {
    fn new(capabilities: &[NodeRpcType]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (cluster, csi) = (Arc::new(FakeCluster::default()), CsiState::default());
        let (facts, reader) = watch::channel(NodeFacts::default());
        let tasks = Supervisor::new();
        let (recorder, recording) = Recorder::new(cluster.clone(), "n", 0, 1, Crowd::none());
        tasks.spawn("recorder", recording);
        let volumes = Volumes::new(root.path(), "cluster.local", cluster.clone(), reader, csi.clone());
        let volumes = volumes.with_events(recorder, true);
        let fake = FakeDriver::new(DRIVER, &root.path().join("disk"), capabilities);
        let socket = root.path().join("csi.sock");
        tasks.spawn("driver", fake.clone().listen(&socket).unwrap());
        csi.drivers.add(DRIVER, &socket);
        Self { root, cluster, csi, facts, volumes, fake, tasks }
    }

    /// The same after the agent's restart.
    fn restart(&mut self) {
        self.volumes = Volumes::new(
            self.root.path(),
            "cluster.local",
            self.cluster.clone(),
            self.facts.subscribe(),
            self.csi.clone(),
        );
    }

    fn describe(&self, spec: Value) {
        self.cluster.put_object("csidrivers", json!({"metadata": {"name": DRIVER}, "spec": spec}));
    }

    /// A claim `c` that is bound to a volume `pv` of the driver.
    fn claim(&self, source: Value) {
        let mut volume = json!({"metadata": {"name": "pv"}, "spec": {
            "claimRef": {"name": "c", "uid": "c-u"}, "accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
            "capacity": {"storage": "2Gi"}, "csi": {"driver": DRIVER, "volumeHandle": "h-1", "fsType": "ext4"}}});
        volume["spec"]["csi"].as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        self.cluster.put_object("persistentvolumes", volume);
        let claim = json!({"metadata": {"namespace": "ns", "name": "c", "uid": "c-u"}, "spec": {"volumeName": "pv"},
            "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}});
        self.cluster.put_object("persistentvolumeclaims", claim);
    }

    async fn remove(&self, uid: &str) -> Result<(), String> {
        self.volumes.remove(&PodUid::new(uid)).await.map_err(|error| error.to_string())
    }

    async fn fails(&self, pod: &Arc<Pod>) -> String {
        self.volumes.place(pod).await.unwrap_err().to_string()
    }

    fn plugins(&self) -> PathBuf {
        self.root.path().join("plugins/kubernetes.io/csi")
    }

    /// What was told so far.
    async fn events(&self, number: usize) -> Vec<String> {
        let told = |cluster: &FakeCluster| cluster.events();
        let wait = async {
            while told(&self.cluster).len() < number {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
        let show = |event: Event| {
            let kind = event.involved_object.kind.unwrap_or_default();
            format!("{kind} {} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
        };
        let mut shown: Vec<String> = told(&self.cluster).into_iter().map(show).collect();
        shown.sort();
        shown
    }

    fn staging(&self) -> PathBuf {
        wanted::staging(self.root.path(), DRIVER, "h-1")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.cancel();
        mounts::unmount_below(self.root.path()).unwrap();
    }
}

fn pod(uid: &str, volume: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": uid},
        "spec": {"nodeName": "n", "serviceAccountName": "robot", "securityContext": {"fsGroup": 2222}, "containers": [],
            "volumes": [volume]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn by_claim(uid: &str) -> Arc<Pod> {
    pod(uid, json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}))
}

fn inline(uid: &str) -> Arc<Pod> {
    pod(uid, json!({"name": "v", "csi": {"driver": DRIVER, "volumeAttributes": {"size": "small"}}}))
}

fn can_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root to mount");
    }
    root
}

#[tokio::test]
async fn a_volume_is_staged_once_and_published_to_each_pod_and_goes_with_the_last() {
    if !can_mount() {
        return;
    }
    let mut node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(
        json!({"volumeAttributes": {"kind": "fast"}, "nodeStageSecretRef": {"namespace": "sys", "name": "key"}}),
    );
    node.cluster.put_secret(
        serde_json::from_value(json!({"metadata": {"namespace": "sys", "name": "key"}, "data": {"k": "cw=="}}))
            .unwrap(),
    );
    let placed = node.volumes.place(&by_claim("u-1")).await.unwrap();
    let path = node.root.path().join("pods/u-1/volumes/kubernetes.io~csi/pv/mount");
    assert_eq!(placed.paths["v"], path);
    assert_eq!(node.fake.asked(), ["stage h-1", "publish h-1"]);
    let staged = node.fake.staged().unwrap();
    assert_eq!(
        (staged.staging_target_path.as_str(), staged.secrets["k"].as_str()),
        (node.staging().to_str().unwrap(), "s")
    );
    assert_eq!(staged.volume_context, Map::from([("kind".to_owned(), "fast".to_owned())]));
    let capability = staged.volume_capability.unwrap();
    assert_eq!(capability.access_mode.unwrap().mode(), Mode::SingleNodeWriter);
    let Some(AccessType::Mount(mount)) = capability.access_type else { panic!("not to be mounted") };
    assert_eq!(
        (mount.fs_type.as_str(), mount.mount_flags, mount.volume_mount_group),
        ("ext4", vec!["noatime".into()], String::new())
    );
    let published = node.fake.published().unwrap();
    assert_eq!((published.target_path.as_str(), published.readonly), (path.to_str().unwrap(), false));
    assert_eq!(published.staging_target_path, node.staging().display().to_string());
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&meta), 2222, "a file system with one writer is the group's");
    fs::write(path.join("kept"), "x").unwrap();
    let record: Value =
        serde_json::from_slice(&fs::read(path.parent().unwrap().join("vol_data.json")).unwrap()).unwrap();
    assert_eq!(
        (&record["driverName"], &record["volumeHandle"], &record["specVolID"], &record["volumeLifecycleMode"]),
        (&json!(DRIVER), &json!("h-1"), &json!("pv"), &json!("Persistent"))
    );

    // A restart changes nothing, and the second pod needs no stage.
    node.restart();
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.asked(), [""; 0]);
    node.volumes.place(&by_claim("u-2")).await.unwrap();
    assert_eq!(node.fake.asked(), ["publish h-1"]);
    node.restart();
    node.remove("u-1").await.unwrap();
    assert_eq!(node.fake.asked(), ["unpublish h-1"]);
    node.restart();

    // Without its driver the volume stays, and so does the pod.
    node.csi.drivers.remove(DRIVER, &node.root.path().join("csi.sock"));
    let stuck = node.remove("u-2").await.unwrap_err();
    assert!(
        stuck.ends_with("Unmounter.TearDownAt failed to get CSI client: driver name d.ex.org not found in the list of registered CSI drivers"),
        "{stuck}"
    );
    node.csi.drivers.add(DRIVER, &node.root.path().join("csi.sock"));
    node.remove("u-2").await.unwrap();
    assert_eq!(node.fake.asked(), ["unpublish h-1", "unstage h-1"]);
    assert!(!node.root.path().join("pods/u-2").exists() && !node.staging().parent().unwrap().exists());
    assert_eq!(fs::read_to_string(node.root.path().join("disk/h-1/kept")).unwrap(), "x");
}

#[tokio::test]
async fn an_inline_volume_is_published_with_what_the_driver_asks_to_know() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume, NodeRpcType::VolumeMountGroup]);
    node.describe(json!({"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"],
        "tokenRequests": [{"audience": "vault", "expirationSeconds": 600}]}));
    node.volumes.place(&inline("u-1")).await.unwrap();
    let published = node.fake.published().unwrap();
    let expected = format!("csi-{}", sha256("u-1v"));
    assert_eq!(node.fake.asked(), [format!("publish {expected}")]);
    assert_eq!(published.staging_target_path, "");
    let mut context = published.volume_context;
    let tokens: Value =
        serde_json::from_str(&context.remove("csi.storage.k8s.io/serviceAccount.tokens").unwrap()).unwrap();
    assert_eq!(tokens["vault"]["token"], "token-for-vault");
    let shown: Vec<String> = context.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        shown,
        [
            "csi.storage.k8s.io/ephemeral=true",
            "csi.storage.k8s.io/pod.name=p",
            "csi.storage.k8s.io/pod.namespace=ns",
            "csi.storage.k8s.io/pod.uid=u-1",
            "csi.storage.k8s.io/serviceAccount.name=robot",
            "size=small",
        ]
    );
    let Some(AccessType::Mount(mount)) = published.volume_capability.unwrap().access_type else { panic!("no mount") };
    assert_eq!(mount.volume_mount_group, "2222", "the driver gives it to the group itself");
    node.remove("u-1").await.unwrap();
    assert_eq!(node.fake.asked(), [format!("unpublish {expected}")]);
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_volume_that_must_be_attached_waits_for_that_and_is_in_use_meanwhile() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.claim(json!({}));
    let unique = "kubernetes.io/csi/d.ex.org^h-1";
    node.facts.send_if_modified(|facts| facts.volumes_in_use.insert(unique.to_owned()));
    let waits = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[v], failed to process volumes=[]: context deadline exceeded";
    assert_eq!(node.fails(&by_claim("u-1")).await, waits);
    assert!(node.csi.in_use.borrow().contains(unique));
    node.remove("u-1").await.unwrap();
    assert!(node.csi.in_use.borrow().is_empty(), "nobody waits for it any more");
    assert_eq!(node.fails(&by_claim("u-1")).await, waits);
    let name = format!("csi-{}", sha256("h-1d.ex.orgn"));
    let attachment = |attached: bool| {
        json!({"metadata": {"name": name}, "spec": {"attacher": DRIVER, "nodeName": "n", "source": {}},
            "status": {"attached": attached, "attachmentMetadata": {"device": "/dev/sdx"}}})
    };
    node.cluster.put_object("volumeattachments", attachment(false));
    assert_eq!(node.fails(&by_claim("u-1")).await, waits);
    assert_eq!(node.fake.asked(), [""; 0]);
    node.cluster.put_object("volumeattachments", attachment(true));
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.staged().unwrap().publish_context["device"], "/dev/sdx");
    let recalled = CsiState::recall(node.root.path()).unwrap();
    assert_eq!(*recalled.in_use.borrow(), BTreeSet::from([unique.to_owned()]), "what a restart finds");
    node.remove("u-1").await.unwrap();
    assert!(node.csi.in_use.borrow().is_empty());
}

#[tokio::test]
async fn a_volume_that_has_grown_is_expanded_and_the_claim_told() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume, NodeRpcType::ExpandVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.asked(), ["stage h-1", "publish h-1"]);
    let claim = node.cluster.get_object("persistentvolumeclaims", "c").unwrap();
    let smaller = |status: Value| {
        let mut claim = claim.clone();
        claim["status"]["capacity"]["storage"] = json!("1Gi");
        claim["status"]["conditions"] = json!([{"type": "FileSystemResizePending", "status": "True"}]);
        claim["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        node.cluster.put_object("persistentvolumeclaims", claim);
    };
    let status = || node.cluster.get_object("persistentvolumeclaims", "c").unwrap()["status"].clone();

    // The controller's turn: nothing is done.
    smaller(
        json!({"allocatedResources": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}}),
    );
    node.volumes.refresh_drivers(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.asked(), [""; 0]);

    // It cannot be: the pod goes on, and the claim and the pod are told.
    smaller(
        json!({"allocatedResources": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}}),
    );
    node.fake.refuse("expand", Some(Status::out_of_range("too large")));
    node.volumes.refresh_drivers(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.asked(), ["expand h-1 to 2147483648"]);
    assert_eq!(status()["allocatedResourceStatuses"]["storage"], "NodeResizeInfeasible");
    let failed = "Expander.NodeExpand failed to expand the volume : rpc error: code = OutOfRange desc = too large";
    assert_eq!(
        node.events(1).await,
        [format!("Pod VolumeResizeFailed NodeExpandVolume.NodeExpandVolume failed for volume \"pv\" : {failed}")]
    );

    // It is done.
    node.fake.refuse("expand", None);
    for told in [json!({}), json!({"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}})] {
        smaller(told);
        node.volumes.refresh_drivers(&by_claim("u-1")).await.unwrap();
        assert_eq!(node.fake.asked(), ["expand h-1 to 2147483648"]);
        let status = status();
        assert_eq!((&status["capacity"]["storage"], &status["conditions"]), (&json!("2Gi"), &json!([])));
        assert_eq!(status.get("allocatedResourceStatuses"), None);
    }
    let succeeded = "FileSystemResizeSuccessful MountVolume.NodeExpandVolume succeeded for volume \"pv\" n";
    assert_eq!(node.events(3).await[..2], [format!("PersistentVolumeClaim {succeeded}"), format!("Pod {succeeded}")]);
    node.volumes.refresh_drivers(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.asked(), [""; 0]);

    // Not while it is in use: it is not asked again, and starts of pods do not wait for it.
    node.fake.refuse("expand", Some(Status::failed_precondition("in use")));
    smaller(json!({}));
    node.volumes.refresh_drivers(&by_claim("u-1")).await.unwrap();
    node.volumes.place(&by_claim("u-2")).await.unwrap();
    assert_eq!(node.fake.asked(), ["expand h-1 to 2147483648", "publish h-1"]);
}

#[tokio::test]
async fn a_driver_that_measures_its_volumes_is_asked_how_full_they_are() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::GetVolumeStats, NodeRpcType::VolumeCondition]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    let fs = FsUse { capacity: 1000, used: 400, available: 600, inodes: 10, inodes_used: 3, inodes_free: 7 };
    let uses = node.volumes.uses(&by_claim("u-1")).await;
    assert_eq!(uses, [("v".to_owned(), Use { fs, abnormal: Some(true) })].into());
    let path = node.root.path().join("pods/u-1/volumes/kubernetes.io~csi/pv/mount");
    let (volume_id, volume_path) = ("h-1".to_owned(), path.display().to_string());
    assert_eq!(node.fake.measured(), [pb::NodeGetVolumeStatsRequest { volume_id, volume_path }]);
    assert_eq!(node.volumes.uses(&by_claim("u-1")).await.len(), 1);
    assert_eq!(node.fake.measured(), [], "not every few seconds");
    assert_eq!(node.events(1).await, ["Pod VolumeConditionAbnormal Volume v: worn out"]);
    node.remove("u-1").await.unwrap();
    assert!(node.volumes.uses(&by_claim("u-1")).await.is_empty());
}

/// Loop devices stand for disks; a machine without them tests what the requests carry.
fn has_loop_devices() -> bool {
    let has = nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !has {
        eprintln!("skipped: needs loop devices");
    }
    has
}

#[tokio::test]
async fn a_block_volume_is_mapped_for_each_pod_under_the_kubelets_names() {
    if !has_loop_devices() {
        return;
    }
    let mut node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    let mut volume = node.cluster.get_object("persistentvolumes", "pv").unwrap();
    volume["spec"]["volumeMode"] = json!("Block");
    node.cluster.put_object("persistentvolumes", volume);
    fs::create_dir_all(node.root.path().join("disk")).unwrap();
    fs::write(node.root.path().join("disk/h-1"), vec![7; 1 << 20]).unwrap();
    let places = node.plugins().join("volumeDevices");
    let (staging, published) = (places.join("staging/pv"), places.join("publish/pv/u-1"));

    let placed = node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.asked(), ["stage h-1", "publish h-1"]);
    let link = node.root.path().join("pods/u-1/volumeDevices/kubernetes.io~csi/pv");
    assert_eq!((placed.paths.len(), &placed.devices["v"]), (0, &link));
    assert_eq!(fs::read_link(&link).unwrap(), published);
    assert_eq!(fs::read(&link).unwrap(), vec![7; 1 << 20]);
    let staged = node.fake.staged().unwrap();
    assert_eq!(staged.staging_target_path, staging.display().to_string());
    assert_eq!(staged.volume_capability.unwrap().access_type, Some(AccessType::Block(pb::Empty {})));
    let request = node.fake.published().unwrap();
    assert_eq!(request.staging_target_path, staging.display().to_string());
    assert_eq!(request.target_path, published.display().to_string());
    let record: Value = serde_json::from_slice(&fs::read(places.join("pv/data/vol_data.json")).unwrap()).unwrap();
    assert_eq!((&record["specVolID"], &record["volumeHandle"]), (&json!("pv"), &json!("h-1")));
    let succeeded = "Pod SuccessfulMountVolume MapVolume.MapPodDevice succeeded for volume \"pv\"";
    assert_eq!(
        node.events(2).await,
        [
            format!("{succeeded} globalMapPath {:?}", places.join("pv/dev")),
            format!("{succeeded} volumeMapPath {:?}", link.parent().unwrap()),
        ]
    );

    // A restart changes nothing; a second pod has the device under its own name.
    node.restart();
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!(node.fake.asked(), [""; 0]);
    node.volumes.place(&by_claim("u-2")).await.unwrap();
    assert_eq!(node.fake.asked(), ["publish h-1"]);
    node.restart();
    node.remove("u-1").await.unwrap();
    assert_eq!(node.fake.asked(), ["unpublish h-1"]);
    node.restart();
    // What a machine's restart leaves: files where devices were bound. The volume is mapped anew.
    let global = places.join("pv/dev/u-2");
    node.volumes.unmount(&PodUid::new("u-2")).await.unwrap();
    assert_eq!(node.fake.asked(), ["unpublish h-1", "unstage h-1"]);
    assert!(!places.join("pv").exists() && !staging.exists());
    node.volumes.place(&by_claim("u-2")).await.unwrap();
    assert!(global.exists());
    node.remove("u-2").await.unwrap();
    assert_eq!(node.fake.asked(), ["stage h-1", "publish h-1", "unpublish h-1", "unstage h-1"]);
    assert!(!places.join("pv").exists() && !node.root.path().join("pods/u-2").exists());
    assert_eq!(fs::read(node.root.path().join("disk/h-1")).unwrap(), vec![7; 1 << 20]);
}

#[tokio::test]
async fn a_device_for_one_pod_is_refused_to_another_while_the_first_has_it() {
    if !has_loop_devices() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    let mut volume = node.cluster.get_object("persistentvolumes", "pv").unwrap();
    volume["spec"]["volumeMode"] = json!("Block");
    volume["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    node.cluster.put_object("persistentvolumes", volume);
    fs::create_dir_all(node.root.path().join("disk")).unwrap();
    fs::write(node.root.path().join("disk/h-1"), vec![7; 1 << 20]).unwrap();
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!(
        node.fails(&by_claim("u-2")).await,
        "MapVolume.SetUpDevice failed for volume \"pv\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod"
    );
    node.remove("u-1").await.unwrap();
    node.volumes.place(&by_claim("u-2")).await.unwrap();
    node.remove("u-2").await.unwrap();
}

/// What is asked of the driver when a pod goes whose volume could not be had.
#[tokio::test]
async fn what_was_refused_for_good_is_not_taken_back_and_what_may_have_been_done_is() {
    if !can_mount() {
        return;
    }
    let (refused, unknown) = (|| Status::invalid_argument("no"), || Status::deadline_exceeded("slow"));
    for (call, refusal, asked, taken_back) in [
        ("stage", refused(), vec!["stage h-1"], vec![]),
        ("stage", unknown(), vec!["stage h-1"], vec!["unstage h-1"]),
        ("publish", refused(), vec!["stage h-1", "publish h-1"], vec!["unstage h-1"]),
        ("publish", unknown(), vec!["stage h-1", "publish h-1"], vec!["unpublish h-1", "unstage h-1"]),
    ] {
        let mut node = Node::new(&[NodeRpcType::StageUnstageVolume]);
        node.describe(json!({"attachRequired": false}));
        node.claim(json!({}));
        node.fake.refuse(call, Some(refusal.clone()));
        node.fails(&by_claim("u-1")).await;
        assert_eq!(node.fake.asked(), asked, "{call} {refusal}");
        node.restart();
        node.remove("u-1").await.unwrap();
        assert_eq!(node.fake.asked(), taken_back, "{call} {refusal}");
        assert!(!node.staging().parent().unwrap().exists() && !node.root.path().join("pods/u-1").exists());
    }
}

#[tokio::test]
async fn a_pod_whose_driver_never_came_goes_without_it() {
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    let socket = node.root.path().join("csi.sock");
    for mode in ["Filesystem", "Block"] {
        node.claim(json!({}));
        let mut volume = node.cluster.get_object("persistentvolumes", "pv").unwrap();
        volume["spec"]["volumeMode"] = json!(mode);
        node.cluster.put_object("persistentvolumes", volume);
        node.csi.drivers.remove(DRIVER, &socket);
        node.fails(&by_claim("u-1")).await;
        node.remove("u-1").await.unwrap();
        assert!(!node.root.path().join("pods/u-1").exists(), "{mode}");
        // One that refused for good need not be there either.
        node.csi.drivers.add(DRIVER, &socket);
        node.fake.refuse("stage", Some(Status::invalid_argument("no")));
        node.fails(&by_claim("u-1")).await;
        node.csi.drivers.remove(DRIVER, &socket);
        node.remove("u-1").await.unwrap();
        assert_eq!(node.fake.asked(), ["stage h-1"], "{mode}");
        assert!(!node.plugins().join("volumeDevices/pv").exists() && !node.staging().exists(), "{mode}");
    }
}

#[tokio::test]
async fn who_dies_between_publication_and_the_change_of_group_begins_there_again() {
    if !can_mount() {
        return;
    }
    let mut node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    let path = node.volumes.place(&by_claim("u-1")).await.unwrap().paths.remove("v").unwrap();
    let file = path.parent().unwrap().join("vol_data.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(record.get("skiffProgress"), None, "as the kubelet writes it");
    let gid = || std::os::unix::fs::MetadataExt::gid(&fs::metadata(&path).unwrap());
    std::os::unix::fs::chown(&path, None, Some(0)).unwrap();
    record["skiffProgress"] = json!("shown");
    fs::write(&file, record.to_string()).unwrap();
    node.fake.asked();
    node.restart();
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!((node.fake.asked(), gid()), (vec!["publish h-1".to_owned()], 2222));
    // What the pod makes of it afterwards is its own affair.
    std::os::unix::fs::chown(&path, None, Some(0)).unwrap();
    node.restart();
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!((node.fake.asked().len(), gid()), (0, 0));
}

#[tokio::test]
async fn a_pod_that_goes_while_its_volume_comes_waits_for_it_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    node.fake.hold(true);
    let (volumes, pod) = (node.volumes.clone(), by_claim("u-1"));
    let asked = async {
        while node.fake.count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        placed = volumes.place(&pod) => panic!("{placed:?} though its driver has not answered"),
        () = asked => {}
    }
    // Its worker has dropped the attempt; the driver still works on it.
    let removed = node.remove("u-1");
    let released = async { node.fake.hold(false) };
    let (removed, ()) = tokio::join!(removed, released);
    removed.unwrap();
    assert_eq!(node.fake.asked(), ["stage h-1", "publish h-1", "unpublish h-1", "unstage h-1"]);
    assert!(!node.root.path().join("pods/u-1").exists() && !node.staging().parent().unwrap().exists());
}

#[tokio::test]
async fn a_driver_that_is_gone_keeps_its_own_volume_and_no_other() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    let other = FakeDriver::new("e.ex.org", &node.root.path().join("other"), &[]);
    let socket = node.root.path().join("other.sock");
    node.tasks.spawn("driver", other.clone().listen(&socket).unwrap());
    node.csi.drivers.add("e.ex.org", &socket);
    node.describe(json!({"attachRequired": false}));
    let spec = json!({"volumeLifecycleModes": ["Ephemeral"]});
    node.cluster.put_object("csidrivers", json!({"metadata": {"name": "e.ex.org"}, "spec": spec}));
    node.claim(json!({}));
    let mut two = serde_json::to_value(&*by_claim("u-1")).unwrap();
    let volumes = two["spec"]["volumes"].as_array_mut().unwrap();
    volumes.insert(0, json!({"name": "a", "csi": {"driver": "e.ex.org"}}));
    two["spec"]["containers"] =
        json!([{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]}]);
    let two: Arc<Pod> = Arc::new(serde_json::from_value(two).unwrap());
    let placed = node.volumes.place(&two).await.unwrap();
    let mounts = node.volumes.mounts(&two, "c", 0, &placed, &[], &[]).await.unwrap();
    assert!(mounts[0].host_path.ends_with("volume-subpaths/v/c/0"));
    // A file system that is still shown somewhere is not let go of.
    let shown =
        |at: &str| mounts::mount_points().unwrap().iter().any(|point| point.starts_with(node.root.path().join(at)));
    assert!(shown("pods/u-1/volume-subpaths"));

    node.csi.drivers.remove("e.ex.org", &socket);
    node.fake.refuse("unstage", Some(Status::internal("busy")));
    node.fake.asked();
    node.remove("u-1").await.unwrap_err();
    assert_eq!(node.fake.asked(), ["unpublish h-1", "unstage h-1"]);
    assert!(!shown("pods/u-1/volume-subpaths"));
    node.fake.refuse("unstage", None);
    node.remove("u-1").await.unwrap_err();
    assert_eq!(node.fake.asked(), ["unpublish h-1", "unstage h-1"]);
    assert!(!node.staging().parent().unwrap().exists() && shown("pods/u-1/volumes/kubernetes.io~csi/a"));
    node.csi.drivers.add("e.ex.org", &socket);
    node.remove("u-1").await.unwrap();
    assert!(!node.root.path().join("pods/u-1").exists());
}

#[tokio::test]
async fn a_record_that_a_power_cut_left_half_written_keeps_no_other_volume() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    let folder = node.root.path().join("pods/u-2/volumes/kubernetes.io~csi/pv");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("vol_data.json"), "").unwrap();
    let recalled = CsiState::recall(node.root.path()).unwrap();
    assert_eq!(recalled.in_use.borrow().len(), 1);
    node.remove("u-1").await.unwrap();
    assert_eq!(node.fake.asked(), ["stage h-1", "publish h-1", "unpublish h-1", "unstage h-1"]);
    node.remove("u-2").await.unwrap();
    assert!(!node.root.path().join("pods/u-2").exists());
}

#[tokio::test]
async fn a_volume_for_one_pod_is_refused_to_another_while_the_first_has_it() {
    if !can_mount() {
        return;
    }
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.describe(json!({"attachRequired": false}));
    node.claim(json!({}));
    let mut volume = node.cluster.get_object("persistentvolumes", "pv").unwrap();
    volume["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    node.cluster.put_object("persistentvolumes", volume);
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    assert_eq!(
        node.fails(&by_claim("u-2")).await,
        "MountVolume.SetUp failed for volume \"pv\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod"
    );
    // Who waits for it does not keep it from who has it.
    mounts::unmount_below(node.root.path()).unwrap();
    node.volumes.place(&by_claim("u-1")).await.unwrap();
    node.remove("u-1").await.unwrap();
    node.volumes.place(&by_claim("u-2")).await.unwrap();
}

#[tokio::test]
async fn a_volume_is_used_as_what_it_is() {
    let node = Node::new(&[]);
    node.describe(json!({"attachRequired": false}));
    let using = |container: Value| {
        let mut pod = serde_json::to_value(&*by_claim("u-1")).unwrap();
        pod["spec"]["containers"] = json!([container]);
        Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
    };
    let refused = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: volume v has volumeMode";
    for (mode, container, why) in [
        (
            "Block",
            json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            "Block, but is specified in volumeMounts",
        ),
        (
            "Filesystem",
            json!({"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/v"}]}),
            "Filesystem, but is specified in volumeDevices",
        ),
    ] {
        node.claim(json!({}));
        let mut volume = node.cluster.get_object("persistentvolumes", "pv").unwrap();
        volume["spec"]["volumeMode"] = json!(mode);
        node.cluster.put_object("persistentvolumes", volume);
        assert_eq!(node.fails(&using(container)).await, format!("{refused} {why}"));
    }
}

#[tokio::test]
async fn what_a_driver_cannot_do_is_said_in_the_kubelets_words() {
    let node = Node::new(&[NodeRpcType::StageUnstageVolume]);
    node.claim(json!({"volumeHandle": "broken"}));
    assert_eq!(
        node.fails(&inline("u-1")).await,
        "MountVolume.SetUp failed for volume \"v\" : kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle \
         mode: volume mode \"Ephemeral\" not supported by driver d.ex.org (no CSIDriver object)"
    );
    node.describe(json!({"attachRequired": false, "volumeLifecycleModes": ["Persistent"]}));
    assert!(
        node.fails(&inline("u-1")).await.ends_with("not supported by driver d.ex.org (only supports [\"Persistent\"])")
    );
    assert_eq!(
        node.fails(&by_claim("u-1")).await,
        "MountVolume.MountDevice failed for volume \"pv\" : rpc error: code = Internal desc = the disk is broken"
    );
    fs::remove_file(node.root.path().join("csi.sock")).unwrap();
    node.csi.drivers.add(DRIVER, &node.root.path().join("csi.sock"));
    let gone = node.fails(&by_claim("u-1")).await;
    assert!(
        gone.contains("code = Unavailable desc = connection error: desc = \"transport: Error while dialing: "),
        "{gone}"
    );
    node.csi.drivers.remove(DRIVER, &node.root.path().join("csi.sock"));
    assert_eq!(
        node.fails(&by_claim("u-1")).await,
        "MountVolume.MountDevice failed for volume \"pv\" : kubernetes.io/csi: attacher.MountDevice failed to create \
         newCsiDriverClient: driver name d.ex.org not found in the list of registered CSI drivers"
    );
}

#[test]
fn the_policy_says_whose_volumes_are_given_to_the_group() {
    let wanted = |fs_type: &str, mode: &str, read_only: bool| {
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": [mode],
            "csi": {"driver": DRIVER, "volumeHandle": "h", "fsType": fs_type}}});
        Wanted::of_volume(&serde_json::from_value(volume).unwrap(), &Default::default(), read_only).unwrap()
    };
    for (policy, fs_type, mode, read_only, taken) in [
        (None, "ext4", "ReadWriteOnce", false, true),
        (None, "", "ReadWriteOnce", false, false),
        (None, "ext4", "ReadWriteOncePod", false, true),
        (None, "ext4", "ReadWriteMany", false, false),
        (None, "ext4", "ReadWriteOnce", true, false),
        (Some("File"), "", "ReadWriteMany", false, true),
        (Some("None"), "ext4", "ReadWriteOnce", false, false),
    ] {
        let driver = policy.map(|policy| {
            serde_json::from_value(json!({"metadata": {"name": DRIVER}, "spec": {"fsGroupPolicy": policy}})).unwrap()
        });
        let wanted = wanted(fs_type, mode, read_only);
        assert_eq!(
            Policy::of(driver.as_ref()).takes_group(&wanted),
            taken,
            "{policy:?} {fs_type:?} {mode} {read_only}"
        );
    }
}

#[test]
fn the_first_access_mode_is_what_the_driver_is_told() {
    for (mode, multi_writer, told) in [
        ("ReadWriteOnce", false, Mode::SingleNodeWriter),
        ("ReadWriteOnce", true, Mode::SingleNodeMultiWriter),
        ("ReadOnlyMany", false, Mode::MultiNodeReaderOnly),
        ("ReadWriteMany", true, Mode::MultiNodeMultiWriter),
        ("ReadWriteOncePod", false, Mode::SingleNodeWriter),
        ("ReadWriteOncePod", true, Mode::SingleNodeSingleWriter),
    ] {
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": [mode],
            "csi": {"driver": DRIVER, "volumeHandle": "h"}}});
        let wanted = Wanted::of_volume(&serde_json::from_value(volume).unwrap(), &Default::default(), false).unwrap();
        let able = Capabilities { multi_writer, ..Capabilities::default() };
        let call = Call { wanted: &wanted, able, attachment: &Map::new(), group: None };
        let request = call.stage(Path::new("/s"), Map::new());
        assert_eq!(request.volume_capability.unwrap().access_mode.unwrap().mode(), told, "{mode} {multi_writer}");
    }
}
