//! Plugins with real sockets in a temporary folder, and a scripted cluster.

use super::*;
use crate::cluster::fake::FakeCluster;
use crate::plugins::csi::fake::FakeDriver;
use crate::plugins::csi::proto as pb;
use crate::plugins::device::fake::FakePlugin;
use crate::plugins::proto::device::DevicePluginOptions;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

struct World {
    root: tempfile::TempDir,
    cluster: Arc<FakeCluster>,
    drivers: Drivers,
    devices: DevicesHandle,
    tasks: Supervisor,
}

impl World {
    fn new() -> Self {
        let cluster = Arc::new(FakeCluster::default());
        cluster.put_node(serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u"}})).unwrap());
        let (root, tasks) = (tempfile::tempdir().unwrap(), Supervisor::new());
        let devices = DevicesHandle::new(root.path(), tasks.child());
        let world = Self { root, cluster, drivers: Drivers::default(), devices, tasks };
        std::fs::create_dir(world.root.path().join("plugins_registry")).unwrap();
        world
    }

    fn watch(&self) {
        let task = PluginsTask {
            root_dir: self.root.path().to_owned(),
            node_name: "n".into(),
            cluster: self.cluster.clone(),
            drivers: self.drivers.clone(),
            devices: self.devices.clone(),
            tasks: self.tasks.child(),
        };
        self.tasks.spawn("plugins", task.run());
    }

    fn driver(&self, name: &str) -> FakeDriver {
        FakeDriver::new(name, &self.root.path().join("disk"), &[])
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.root.path().join("plugins_registry").join(name)
    }

    fn start(&self, driver: &FakeDriver, socket: &str) {
        self.tasks.spawn("driver", driver.clone().listen(&self.socket(socket)).unwrap());
    }

    /// Starts it, and waits to hear what came of it.
    async fn register(&self, driver: &FakeDriver, socket: &str) -> String {
        self.start(driver, socket);
        tokio::time::timeout(LIMIT, driver.told()).await.unwrap()
    }

    fn shown(&self) -> Value {
        self.cluster.get_object("csinodes", "n").map(|node| node["spec"]["drivers"].clone()).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_driver_is_shown_while_its_socket_is_there() {
    let world = World::new();
    let mut driver = world.driver("d.ex.org");
    driver.node.max_volumes_per_node = 7;
    driver.node.accessible_topology = Some(pb::Topology { segments: [("zone".to_owned(), "z".to_owned())].into() });
    // It was there before us.
    world.start(&driver, "d-reg.sock");
    world.watch();
    assert_eq!(tokio::time::timeout(LIMIT, driver.told()).await.unwrap(), "");
    let expected = json!([{
        "name": "d.ex.org", "nodeID": "id-of-d.ex.org", "topologyKeys": ["zone"], "allocatable": {"count": 7},
    }]);
    assert_eq!(world.shown(), expected);
    let node = world.cluster.get_node("n").unwrap().metadata;
    assert_eq!(node.annotations.unwrap()["csi.volume.kubernetes.io/nodeid"], r#"{"d.ex.org":"id-of-d.ex.org"}"#);
    assert_eq!(node.labels.unwrap()["zone"], "z");
    assert!(world.drivers.get("d.ex.org").is_ok());

    std::fs::create_dir(world.socket("more")).unwrap();
    assert_eq!(world.register(&world.driver("e.ex.org"), "more/e.sock").await, "");
    assert_eq!(world.shown().as_array().map(Vec::len), Some(2));

    std::fs::remove_file(world.socket("d-reg.sock")).unwrap();
    // In the order of their names: when the later one is told, the earlier is gone.
    assert_eq!(world.register(&world.driver("f.ex.org"), "f.sock").await, "");
    let names: Vec<Value> = world.shown().as_array().unwrap().iter().map(|driver| driver["name"].clone()).collect();
    assert_eq!(names, [json!("e.ex.org"), json!("f.ex.org")]);
    let gone = world.drivers.get("d.ex.org").err().map(|error| error.to_string());
    assert_eq!(gone.as_deref(), Some("driver name d.ex.org not found in the list of registered CSI drivers"));

    // One that moves to another socket is there all the time.
    assert_eq!(world.register(&world.driver("f.ex.org"), "g.sock").await, "");
    std::fs::remove_file(world.socket("f.sock")).unwrap();
    assert_eq!(world.register(&world.driver("h.ex.org"), "h.sock").await, "");
    assert!(world.drivers.get("f.ex.org").is_ok());
    assert_eq!(world.shown().as_array().map(Vec::len), Some(3));
    world.tasks.stop().await;
}

#[tokio::test]
async fn what_is_no_plugin_of_ours_is_told_so() {
    let world = World::new();
    world.watch();
    let mut driver = world.driver("x");
    driver.kind = "DRAPlugin".to_owned();
    let place = world.socket("x.sock").display().to_string();
    assert_eq!(
        world.register(&driver, "x.sock").await,
        format!("RegisterPlugin error -- no handler registered for plugin type: DRAPlugin at socket {place}")
    );
    let mut nameless = world.driver("y");
    nameless.node.node_id = String::new();
    assert_eq!(
        world.register(&nameless, "y.sock").await,
        "RegisterPlugin error -- plugin registration failed with err: error adding CSI driver node info: driverNodeID must not be empty"
    );
    assert!(world.drivers.is_empty());
    world.tasks.stop().await;
}

#[tokio::test]
async fn a_device_plugin_in_the_folder_is_followed_while_its_socket_is_there() {
    let world = World::new();
    // The checkpoint's, which who listens for registrations makes.
    std::fs::create_dir(world.root.path().join("device-plugins")).unwrap();
    let plugin = FakePlugin::new(&["a", "b"], DevicePluginOptions::default()).of("ex.org/gpu");
    world.tasks.spawn("plugin", plugin.clone().listen(&world.socket("gpu.sock")).unwrap());
    let mut changes = world.devices.changes();
    world.watch();
    let mut shown = async || {
        tokio::time::timeout(LIMIT, changes.changed()).await.unwrap().unwrap();
        let advertised = world.devices.advertised().await;
        (advertised.capacity["ex.org/gpu"], advertised.allocatable["ex.org/gpu"])
    };
    assert_eq!(shown().await, (2, 2));
    std::fs::remove_file(world.socket("gpu.sock")).unwrap();
    assert_eq!(shown().await, (2, 0));
    let again = FakePlugin::new(&["a"], DevicePluginOptions::default()).of("ex.org/gpu");
    world.tasks.spawn("plugin", again.listen(&world.socket("gpu.sock")).unwrap());
    assert_eq!(shown().await, (1, 1));
    world.tasks.stop().await;
}

#[test]
fn device_plugins_speak_our_version_of_an_extended_resource() {
    for (name, versions, want) in [
        ("ex.org/gpu", &["v1beta1"][..], ""),
        ("ex.org/gpu", &["v2", "v1beta1"], ""),
        (
            "ex.org/gpu",
            &["v1alpha1", "v2"],
            "manager version, v1beta1, is not among plugin supported versions [v1alpha1 v2]",
        ),
        ("gpu", &["v1beta1"], "invalid name of device plugin socket: the ResourceName \"gpu\" is invalid"),
    ] {
        let versions = versions.iter().map(|version| (*version).to_owned()).collect();
        let info = PluginInfo { kind: "DevicePlugin".into(), name: name.into(), endpoint: PathBuf::new(), versions };
        assert_eq!(check_device(&info).err().unwrap_or_default(), want);
    }
}

#[test]
fn drivers_speak_version_one() {
    let failed = "kubernetes.io/csi: RegisterPlugin for CSI driver \"d\" failed.";
    for (versions, want) in [
        (vec!["1.0.0"], String::new()),
        (vec!["0.3.0", "v1.5.0"], String::new()),
        (vec![], format!("{failed} Plugin returned an empty list for supported versions")),
        (
            vec!["0.3.0"],
            format!(
                "{failed} None of the versions specified [\"0.3.0\"] are supported. err=none of the CSI versions reported by this driver are supported"
            ),
        ),
    ] {
        let versions = versions.into_iter().map(str::to_owned).collect();
        let info = PluginInfo { kind: "CSIPlugin".into(), name: "d".into(), endpoint: PathBuf::new(), versions };
        assert_eq!(check_versions(&info).err().unwrap_or_default(), want);
    }
}

#[tokio::test]
async fn a_limit_that_changes_is_shown_and_nothing_else_of_the_driver() {
    let world = World::new();
    world.watch();
    let mut driver = world.driver("d.ex.org");
    driver.node.max_volumes_per_node = 7;
    assert_eq!(world.register(&driver, "d.sock").await, "");
    let csi = CsiNode { node_name: "n".into(), cluster: world.cluster.clone() };
    for (seconds, period) in [(None, None), (Some(30), Some(30)), (Some(1), Some(10))] {
        let spec = json!({"nodeAllocatableUpdatePeriodSeconds": seconds});
        world.cluster.put_object("csidrivers", json!({"metadata": {"name": "d.ex.org"}, "spec": spec}));
        assert_eq!(csi.limit_period("d.ex.org").await.unwrap(), period.map(Duration::from_secs), "{seconds:?}");
    }
    driver.node.node_id = "other".to_owned();
    let handlers = Handlers { csi, drivers: world.drivers.clone(), devices: world.devices.clone() };
    for (max, allocatable) in [(9, json!({"count": 9})), (0, Value::Null)] {
        driver.node.max_volumes_per_node = max;
        world.start(&driver, ".changed.sock");
        world.drivers.add("d.ex.org", &world.socket(".changed.sock"));
        handlers.look_at_limit("d.ex.org").await.unwrap();
        let shown = world.shown();
        assert_eq!((&shown[0]["allocatable"], &shown[0]["nodeID"]), (&allocatable, &json!("id-of-d.ex.org")));
    }
    handlers.look_at_limit("e.ex.org").await.unwrap_err();
    world.tasks.stop().await;
}
