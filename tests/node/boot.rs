//! Start and stop: what `skiff standalone` brings up, what it leaves, what it adopts.

use crate::harness::{Containerd, Node, image, leaks};
use crate::pods::sleeper;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_fresh_node_has_what_users_and_clients_expect() {
    let node = Node::start(Containerd::Current);
    let mode = std::fs::metadata(node.kubeconfig()).expect("the kubeconfig").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let namespaces = node.kubectl(&["get", "namespaces", "-o", "name"]);
    let wanted = ["default", "kube-node-lease", "kube-public", "kube-system"].map(|name| format!("namespace/{name}\n"));
    assert_eq!(namespaces, wanted.concat());
    for namespace in ["default", "kube-system"] {
        node.kubectl(&["wait", "--for=create", "serviceaccount/default", "-n", namespace, "--timeout=30s"]);
    }
    assert_eq!(node.jsonpath("service/kubernetes", "{.spec.clusterIP}"), "10.43.0.1");
    assert_eq!(node.curl("GET", "/readyz", None).body, json!("ok"));
    let lease = node.kubectl(&["get", "lease", "-n", "kube-node-lease", "-o", "name"]);
    assert_eq!(lease, format!("lease.coordination.k8s.io/{}\n", node.slot.node_name()));
    let conditions = node.jsonpath("nodes", "{range .items[0].status.conditions[*]}{.type}={.status} {end}");
    for condition in ["MemoryPressure=False", "DiskPressure=False", "PIDPressure=False", "Ready=True"] {
        assert!(conditions.contains(condition), "{conditions}");
    }
    for secret in ["data/pki/ca.key", "data/pki/sa.key", "data/pki/apiserver.key"] {
        let mode = std::fs::metadata(node.path(secret)).expect(secret).permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{secret}");
    }
}

#[test]
fn an_archive_that_appears_is_imported() {
    let node = Node::start(Containerd::Current);
    // Written elsewhere and moved, as a careful administrator does; its name in the archive is another.
    let archive = node.path("late.tar");
    image::write(std::path::Path::new(&archive), "docker.io/library/late:1");
    std::fs::rename(&archive, node.path("data/images/late.tar")).expect("a move");
    let mut pod = sleeper("late");
    pod["spec"]["containers"][0]["image"] = json!("docker.io/library/late:1");
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    node.apply(&pod);
    node.wait_ready(&["late"]);
}

#[test]
fn sigterm_leaves_pods_running_and_the_next_start_takes_them_over() {
    let mut node = Node::prepare(Containerd::Current, &[]);
    node.stop_pods = false;
    node.boot();
    node.apply(&sleeper("stays"));
    node.wait_ready(&["stays"]);
    let id = node.jsonpath("pod/stays", "{.status.containerStatuses[0].containerID}");
    let begun = std::time::Instant::now();
    assert!(node.terminate().success(), "{}", node.log_tail());
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    let shims = leaks::processes(&node.path("data")).into_iter().filter(|p| p.command.contains("shim")).count();
    assert!(shims > 0, "its pod goes on without skiff");
    node.stop_pods = true;
    node.boot();
    node.wait_ready(&["stays"]);
    assert_eq!(node.jsonpath("pod/stays", "{.status.containerStatuses[0].containerID}"), id);
    assert_eq!(node.jsonpath("pod/stays", "{.status.containerStatuses[0].restartCount}"), "0");
    assert!(node.terminate().success(), "{}", node.log_tail());
}

#[test]
fn two_nodes_live_side_by_side() {
    let (a, b) = (Node::start(Containerd::Current), Node::start(Containerd::V1_6));
    for node in [&a, &b] {
        node.apply(&sleeper("p"));
    }
    for node in [&a, &b] {
        node.wait_ready(&["p"]);
        assert!(node.jsonpath("pod/p", "{.status.podIP}").starts_with(&node.slot.pod_prefix()));
    }
}

#[test]
fn without_any_network_it_boots_and_runs_pods_all_the_same() {
    let mut node = Node::prepare(Containerd::Current, &[]).without_network();
    node.boot();
    let address = node.jsonpath("nodes", "{.items[0].status.addresses[?(@.type=='InternalIP')].address}");
    assert!(address.starts_with(&node.slot.pod_prefix()), "the pod bridge's gateway: {address}");
    node.apply(&sleeper("alone"));
    node.wait_ready(&["alone"]);
    assert_eq!(node.kubectl(&["exec", "alone", "--", "echo", "alive"]), "alive\n");
}
