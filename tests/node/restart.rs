//! `kill -9` of any part disturbs no running container, and nothing committed is lost.

use crate::harness::{Containerd, Node};
use crate::pods::{has_condition, sleeper};
use serde_json::Value;
use std::collections::BTreeMap;

/// What must not change of a pod: container ID, restart count, start time, readiness, address.
fn identity(pod: &Value) -> (String, String) {
    let status = &pod["status"]["containerStatuses"][0];
    let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
    let what = format!(
        "{} {} {} {} {}",
        status["containerID"],
        status["restartCount"],
        status["state"]["running"]["startedAt"],
        has_condition(pod, "Ready"),
        pod["status"]["podIP"],
    );
    (name, what)
}

fn identities(node: &Node) -> BTreeMap<String, String> {
    let list = node.curl("GET", "/api/v1/namespaces/default/pods", None);
    list.body["items"].as_array().expect("items").iter().map(identity).collect()
}

fn ten_pods(node: &Node) -> (Vec<String>, BTreeMap<String, String>) {
    let names: Vec<String> = (0..10).map(|n| format!("p{n}")).collect();
    for name in &names {
        node.apply(&sleeper(name));
    }
    node.wait_ready(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let before = identities(node);
    assert_eq!(before.len(), 10);
    assert!(before.values().all(|what| what.contains(" 0 ") && what.contains("true")), "{before:#?}");
    (names, before)
}

fn survive_kill(containerd: Containerd) {
    let mut node = Node::start(containerd);
    let (names, before) = ten_pods(&node);
    let containerd_pid = node.containerd_pid();

    node.kill();
    node.boot();
    assert_eq!(node.containerd_pid(), containerd_pid, "the running containerd is adopted");
    let watch = node.watch("/api/v1/namespaces/default/pods?watch=1");
    // A pod made now has passed through every part, so the old ones have been looked at too.
    node.apply(&sleeper("marker"));
    node.wait_ready(&["marker"]);
    for name in &names {
        assert_eq!(node.kubectl(&["exec", name, "--", "echo", "alive"]), "alive\n");
        assert_eq!(node.kubectl(&["logs", name]), "up\n");
    }
    let mut after = identities(&node);
    after.remove("marker");
    assert_eq!(after, before);
    for event in watch.so_far().iter().filter(|event| event["object"]["metadata"]["name"] != "marker") {
        let (name, what) = identity(&event["object"]);
        assert_eq!(what, before[&name], "every version that a watcher saw");
    }
}

#[test]
fn kill_9_of_skiff_disturbs_no_pod_on_the_current_containerd() {
    survive_kill(Containerd::Current);
}

#[test]
fn kill_9_of_skiff_disturbs_no_pod_on_containerd_1_6() {
    survive_kill(Containerd::V1_6);
}

#[test]
fn kill_9_of_containerd_is_repaired_within_seconds() {
    let node = Node::start(Containerd::Current);
    let (names, before) = ten_pods(&node);
    let killed = node.containerd_pid();
    let watch = node.watch("/api/v1/namespaces/default/pods?watch=1");
    crate::harness::run("kill", &["-9", &killed.to_string()]);
    // Only a containerd that is back can run this one.
    node.apply(&sleeper("marker"));
    node.wait_ready(&["marker"]);
    assert_ne!(node.containerd_pid(), killed);
    let mut after = identities(&node);
    after.remove("marker");
    assert_eq!(after, before);
    for event in watch.so_far().iter().filter(|event| event["object"]["metadata"]["name"] != "marker") {
        let (name, what) = identity(&event["object"]);
        assert_eq!(what, before[&name], "every version that a watcher saw");
    }
    assert_eq!(node.kubectl(&["exec", &names[0], "--", "echo", "alive"]), "alive\n");
}

#[test]
fn a_pod_deleted_while_skiff_was_dead_is_gone_after_its_return() {
    let mut node = Node::start(Containerd::Current);
    node.apply(&sleeper("doomed"));
    node.wait_ready(&["doomed"]);
    node.kubectl(&["delete", "pod", "doomed", "--wait=false"]);
    node.kill();
    node.boot();
    node.kubectl(&["wait", "--for=delete", "pod/doomed", "--timeout=60s"]);
    node.apply(&sleeper("doomed"));
    node.wait_ready(&["doomed"]);
}

#[test]
fn writes_acknowledged_before_kill_9_are_there_after_it() {
    let mut node = Node::start(Containerd::Current);
    for n in 0..20 {
        node.kubectl(&["create", "configmap", &format!("kept-{n}"), &format!("--from-literal=n={n}")]);
    }
    node.kill();
    node.boot();
    for n in 0..20 {
        assert_eq!(node.jsonpath(&format!("configmap/kept-{n}"), "{.data.n}"), n.to_string());
    }
}
