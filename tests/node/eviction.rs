//! Pressure that is real: pods that fill small file systems and a bounded cgroup leave the node, with the right words.

use crate::harness::{Containerd, Node, image, run};
use crate::pods::{has_condition, shell, sleeper};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SPARE: &str = "docker.io/library/spare:1";
/// What all pods together may have of the memory.
const PODS_MEMORY: u64 = 800 << 20;

/// A node whose pods have 800 MiB of memory, whose own files lie on 64 MiB and whose images and layers on 200 MiB.
fn small_node() -> Node {
    let mut node = Node::prepare(Containerd::Current, &[]);
    let (kubelet, containerd) = (node.path("kubelet"), node.path("data/containerd"));
    run("umount", &[&kubelet]);
    run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &kubelet]);
    run("mount", &["--make-rshared", &kubelet]);
    std::fs::create_dir_all(&containerd).expect("a folder");
    run("mount", &["-t", "tmpfs", "-o", "size=200m", "tmpfs", &containerd]);
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("MemTotal");
    let total: u64 = total.trim().trim_end_matches(" kB").parse().expect("a number");
    let reserved = (total << 10) - PODS_MEMORY;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "systemReserved": {"memory": reserved.to_string()},
        // Of two looks in a row the second may already collect.
        "imageMinimumGCAge": "1ms",
    });
    std::fs::write(node.path("kubelet.yaml"), config.to_string()).expect("a file");
    node.flag(format!("--config={}", node.path("kubelet.yaml")));
    node.eviction_hard = "memory.available<300Mi,nodefs.available<20Mi,imagefs.available<100Mi".to_owned();
    node.boot();
    node
}

/// An image that nobody keeps: containerd's own client does not pin what it imports.
fn import_spare(node: &Node) {
    let archive = node.path("spare.tar");
    image::write(std::path::Path::new(&archive), SPARE);
    run("ctr", &["--address", &node.containerd_socket(), "--namespace", "k8s.io", "images", "import", &archive]);
}

fn images(node: &Node) -> Vec<String> {
    let socket = node.containerd_socket();
    let output = std::process::Command::new("ctr")
        .args(["--address", &socket, "--namespace", "k8s.io", "images", "list", "--quiet"])
        .output()
        .expect("ctr");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// A burstable pod that runs `script` once the file `/go/<after>` is there, and stays.
fn waiting(name: &str, folder: &str, after: &str, script: &str) -> Value {
    let mut pod = shell(
        name,
        &format!(
            "trap 'exit 0' TERM; until [ -e /go/{after} ]; do sleep 0.1; done; {script}; while true; do sleep 3600 & wait $!; done"
        ),
    );
    let spec = &mut pod["spec"];
    spec["containers"][0]["resources"] = json!({"requests": {"memory": "1Mi"}});
    spec["containers"][0]["volumeMounts"] =
        json!([{"name": "go", "mountPath": "/go"}, {"name": "scratch", "mountPath": "/scratch"}]);
    spec["volumes"] = json!([{"name": "go", "hostPath": {"path": folder}}, {"name": "scratch", "emptyDir": {}}]);
    pod
}

/// The same with some disk that it asked for: others go before it.
fn asking(mut pod: Value) -> Value {
    pod["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("10Mi");
    pod
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().expect("conditions");
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

#[test]
fn the_pods_that_use_too_much_leave_and_the_others_stay() {
    let mut node = small_node();
    import_spare(&node);
    let go = node.path("go");
    std::fs::create_dir(&go).expect("a folder");
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000});
    node.apply(&class);
    // One after the other, so that the node is short of memory, then of disk, then of room for layers. dd holds its whole
    // block while nobody reads on.
    let hog = "(dd if=/dev/zero bs=550M count=1 | (head -c 1 >/scratch/byte; touch /go/hogged; sleep 3600)) & true";
    let hog = waiting("hog", &go, "now", hog);
    let limited = "dd if=/dev/zero of=/scratch/file bs=1M count=3; touch /go/limited";
    let mut limited = asking(waiting("limited", &go, "hogged", limited));
    limited["spec"]["volumes"][1]["emptyDir"] = json!({"sizeLimit": "1Mi"});
    let filler = waiting("filler", &go, "limited", "dd if=/dev/zero of=/scratch/file bs=1M count=50; touch /go/filled");
    let small = waiting("small", &go, "filled", "dd if=/dev/zero of=/file bs=1M count=30; touch /go/small");
    let mut layer = waiting("layer", &go, "small", "dd if=/dev/zero of=/file bs=1M count=110");
    layer["spec"]["priorityClassName"] = json!("high");
    let calm = asking(waiting("calm", &go, "now", "true"));
    for pod in [&hog, &limited, &filler, &small, &layer, &calm] {
        node.apply(pod);
    }
    node.wait_ready(&["hog", "limited", "filler", "small", "layer", "calm"]);
    assert!(images(&node).iter().any(|name| name == SPARE));
    let list = node.curl("GET", "/api/v1/namespaces/default/pods?limit=1", None);
    let version = list.body["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let watch = node.watch(&format!("/api/v1/namespaces/default/pods?watch=1&resourceVersion={version}"));
    std::fs::write(node.path("go/now"), "").expect("a file");

    let mut failed: BTreeMap<String, Value> = BTreeMap::new();
    watch.until("five evicted pods", |event| {
        let pod = &event["object"];
        if pod["status"]["phase"] == "Failed" {
            failed.insert(pod["metadata"]["name"].as_str().expect("a name").to_owned(), pod.clone());
        }
        failed.len() == 5
    });
    let told = |name: &str| {
        let pod = failed.get(name).unwrap_or_else(|| panic!("{name} stayed: {:?}", failed.keys()));
        assert_eq!(pod["status"]["reason"], "Evicted", "{pod:#}");
        pod["status"]["message"].as_str().expect("a message").to_owned()
    };
    for (name, resource, threshold) in [
        ("hog", "memory", "300Mi"),
        ("filler", "ephemeral-storage", "20Mi"),
        ("small", "ephemeral-storage", "100Mi"),
        ("layer", "ephemeral-storage", "100Mi"),
    ] {
        let message = told(name);
        let low = format!("The node was low on resource: {resource}. Threshold quantity: {threshold}, available: ");
        assert!(message.starts_with(&low), "{name}: {message}");
        if name == "hog" {
            assert!(message.contains(". Container c was using "), "{message}");
            assert!(message.ends_with(", request is 1Mi, has larger consumption of memory. "), "{message}");
        }
        let disruption = condition(&failed[name], "DisruptionTarget");
        assert_eq!((&disruption["status"], &disruption["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
        assert_eq!(disruption["message"], message.as_str());
    }
    assert_eq!(told("limited"), "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ");
    assert_eq!(condition(&failed["limited"], "DisruptionTarget"), &Value::Null);

    // Before the second pod went for its layer, the node gave up what nobody used, and only that.
    let left = images(&node);
    assert!(!left.iter().any(|name| name == SPARE), "{left:?}");
    assert!(left.iter().any(|name| name == image::BUSYBOX), "{left:?}");
    assert!(left.iter().any(|name| name.starts_with("skiff.local/pause")), "{left:?}");

    let calm = node.curl("GET", "/api/v1/namespaces/default/pods/calm", None).body;
    assert!(has_condition(&calm, "Ready"), "{calm:#}");
    let object = node.curl("GET", &format!("/api/v1/nodes/{}", node.slot.node_name()), None).body;
    for (kind, reason) in
        [("MemoryPressure", "KubeletHasInsufficientMemory"), ("DiskPressure", "KubeletHasDiskPressure")]
    {
        let condition = condition(&object, kind);
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!(reason)), "{object:#}");
    }

    // What comes while it lasts is refused.
    let mut late = sleeper("late");
    late["spec"]["nodeName"] = json!(node.slot.node_name());
    late["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    node.apply(&late);
    node.kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s", "pod/late"]);
    let message = node.jsonpath("pod/late", "{.status.reason}: {.status.message}");
    assert!(message.starts_with("Evicted: Pod was rejected: The node had condition: ["), "{message}");

    let events = node.curl("GET", "/api/v1/events", None).body;
    let events: Vec<&Value> = events["items"].as_array().expect("events").iter().collect();
    let count = |reason: &str, name: &str| {
        let of = |event: &&&Value| event["reason"] == reason && event["involvedObject"]["name"] == name;
        events.iter().filter(of).count()
    };
    for name in ["hog", "limited", "filler", "small", "layer"] {
        assert_eq!(count("Evicted", name), 1, "{name}");
    }
    for reason in ["EvictionThresholdMet", "NodeHasInsufficientMemory", "NodeHasDiskPressure"] {
        assert!(count(reason, &node.slot.node_name()) > 0, "{reason}");
    }
    assert!(node.terminate().success());
    run("umount", &[&node.path("data/containerd")]);
}
