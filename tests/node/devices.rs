//! A device plugin on a real node: its resource is shown, a pod gets what it gives, and no second pod does; the agent's
//! restart changes nothing of that.

use crate::harness::{Containerd, Node};
use crate::pods::shell;
use serde_json::{Value, json};
use skiff::model::devices::{DeviceMount, DeviceNode, Edits};
use skiff::plugins::device::fake::{self, FakePlugin};
use skiff::plugins::proto::device::DevicePluginOptions;
use skiff::plugins::proto::podresources as pb;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

const THING: &str = "ex.org/thing";

/// The plugin's process: dropping it is its death.
struct Plugin(Runtime);

impl Plugin {
    /// It registers itself.
    fn start(node: &Node, plugin: &FakePlugin) -> Self {
        let dir = PathBuf::from(node.path("kubelet/device-plugins"));
        let process = Self::listen(plugin, &dir.join("thing.sock"));
        process.0.block_on(fake::register(&dir.join("kubelet.sock"), THING, "thing.sock")).expect("it is taken");
        process
    }

    /// It waits to be found.
    fn start_watched(node: &Node, plugin: &FakePlugin) -> Self {
        Self::listen(plugin, &PathBuf::from(node.path("kubelet/plugins_registry/thing-reg.sock")))
    }

    fn listen(plugin: &FakePlugin, socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _inside = runtime.enter();
        runtime.spawn(plugin.clone().listen(socket).expect("its socket"));
        Self(runtime)
    }

    /// Asks the pod resources API.
    fn ask<Q: prost::Message + 'static, A: prost::Message + Default + 'static>(
        &self,
        node: &Node,
        method: &'static str,
        request: Q,
    ) -> A {
        let socket = PathBuf::from(node.path("kubelet/pod-resources/kubelet.sock"));
        self.0.block_on(fake::call(&socket, method, request)).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Pods with devices, each with their ids.
    fn holders(&self, node: &Node) -> Vec<String> {
        let method = "/v1.PodResourcesLister/List";
        let list: pb::ListPodResourcesResponse = self.ask(node, method, pb::ListPodResourcesRequest {});
        let pods = list.pod_resources.iter().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c)));
        let devices = pods.flat_map(|(pod, container)| container.devices.iter().map(move |d| (pod, container, d)));
        let show = |(pod, container, d): (&pb::PodResources, &pb::ContainerResources, &pb::ContainerDevices)| {
            format!("{}/{}/{} {} {:?}", pod.namespace, pod.name, container.name, d.resource_name, d.device_ids)
        };
        devices.map(show).collect()
    }
}

/// A pod with one device, which says what it was given.
fn user(name: &str) -> Value {
    let mut pod = shell(
        name,
        "trap 'exit 0' TERM; head -c 2 /dev/thing | od -An -tx1; cat /given/word; echo $THING; sleep 3600 & wait $!",
    );
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {THING: "1"}});
    pod
}

fn wait_for(node: &Node, what: &str, path: &str, value: &str) {
    node.kubectl(&["wait", &format!("--for=jsonpath={path}={value}"), what, "--timeout=60s"]);
}

#[test]
fn a_plugins_device_goes_to_one_pod_at_a_time_and_stays_with_it_through_a_restart() {
    let mut node = Node::start(Containerd::Current);
    let shown = format!("node/{}", node.slot.node_name());
    std::fs::write(node.path("word"), "hello\n").expect("a file to mount");
    let plugin = FakePlugin::new(
        &["t0"],
        DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true },
    )
    .of(THING);
    plugin.answer(Ok(Edits {
        envs: [("THING".to_owned(), "number-0".to_owned())].into(),
        mounts: vec![DeviceMount {
            container_path: "/given/word".to_owned(),
            host_path: node.path("word"),
            read_only: true,
        }],
        nodes: vec![DeviceNode {
            container_path: "/dev/thing".to_owned(),
            host_path: "/dev/zero".to_owned(),
            permissions: "rw".to_owned(),
        }],
        ..Default::default()
    }));

    let process = Plugin::start(&node, &plugin);
    wait_for(&node, &shown, r"{.status.allocatable.ex\.org/thing}", "1");
    node.apply(&user("first"));
    node.wait_ready(&["first"]);
    assert_eq!(plugin.asked(), ["prefer 1 of t0 with []", "allocate t0", "pre-start t0"]);
    assert_eq!(
        node.kubectl(&["exec", "first", "--", "sh", "-c", "ls /dev/thing; echo $THING"]),
        "/dev/thing\nnumber-0\n"
    );
    assert_eq!(node.kubectl(&["logs", "first"]), " 00 00\nhello\nnumber-0\n");

    let health = "{.status.containerStatuses[0].allocatedResourcesStatus}";
    assert_eq!(
        node.jsonpath("pod/first", health),
        r#"[{"name":"ex.org/thing","resources":[{"health":"Healthy","resourceID":"t0"}]}]"#
    );
    let one = "{.status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health}";
    for (healthy, shown) in [(false, "Unhealthy"), (true, "Healthy")] {
        plugin.list(vec![fake::device("t0", healthy)]);
        wait_for(&node, "pod/first", one, shown);
    }

    // One that names its node itself is refused by the node, one that does not by the scheduler.
    let mut second = user("second");
    second["spec"]["nodeName"] = json!(node.slot.node_name());
    node.apply(&second);
    wait_for(&node, "pod/second", "{.status.reason}", "UnexpectedAdmissionError");
    assert_eq!(
        node.jsonpath("pod/second", "{.status.phase}: {.status.message}"),
        "Failed: Pod was rejected: Allocate failed due to requested number of devices unavailable for ex.org/thing. \
         Requested: 1, Available: 0, which is unexpected"
    );
    node.apply(&user("third"));
    wait_for(&node, "pod/third", r#"{.status.conditions[?(@.type=="PodScheduled")].reason}"#, "Unschedulable");

    let held = [r#"default/first/c ex.org/thing ["t0"]"#];
    assert_eq!(process.holders(&node), held);
    let all: pb::AllocatableResourcesResponse =
        process.ask(&node, "/v1.PodResourcesLister/GetAllocatableResources", pb::AllocatableResourcesRequest {});
    assert_eq!(all.devices.len(), 1);

    let container = node.jsonpath("pod/first", "{.status.containerStatuses[0].containerID}");
    node.kill();
    node.boot();
    drop(process);
    // Its socket was removed, by which a plugin sees that it must register again.
    assert!(!PathBuf::from(node.path("kubelet/device-plugins/thing.sock")).exists());
    // The agent that was killed said 1.
    wait_for(&node, &shown, r"{.status.allocatable.ex\.org/thing}", "0");
    // As good: it lies in the watched folder.
    let process = Plugin::start_watched(&node, &plugin);
    wait_for(&node, &shown, r"{.status.allocatable.ex\.org/thing}", "1");
    assert_eq!(process.holders(&node), held);
    assert_eq!(node.jsonpath("pod/first", "{.status.containerStatuses[0].containerID}"), container);
    assert_eq!(plugin.asked(), [""; 0], "nothing is given anew");

    node.kubectl(&["delete", "pod", "first"]);
    node.wait_ready(&["third"]);
    assert_eq!(process.holders(&node), [r#"default/third/c ex.org/thing ["t0"]"#]);

    drop(process);
    wait_for(&node, &shown, r"{.status.allocatable.ex\.org/thing}", "0");
    assert_eq!(node.jsonpath(&shown, r"{.status.capacity.ex\.org/thing}"), "1");
}
