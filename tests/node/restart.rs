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

/// Ten running pods, a disturbance, and then: what they are is what they were, in every version that a watcher from
/// before the disturbance is shown, and exec and logs work.
fn disturbs_no_pod(node: &mut Node, disturb: impl FnOnce(&mut Node)) {
    let names: Vec<String> = (0..10).map(|n| format!("p{n}")).collect();
    for name in &names {
        node.apply(&sleeper(name));
    }
    node.wait_ready(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let before = identities(node);
    assert_eq!(before.len(), 10);
    assert!(before.values().all(|what| what.contains(" 0 ") && what.contains("true")), "{before:#?}");
    let list = node.curl("GET", "/api/v1/namespaces/default/pods?limit=1", None);
    let version = list.body["metadata"]["resourceVersion"].as_str().expect("the list's version").to_owned();

    disturb(node);
    let watch = node.watch(&format!("/api/v1/namespaces/default/pods?watch=1&resourceVersion={version}"));
    // A pod made now passes through every part, so when it is Ready the old ones have been looked at too.
    node.apply(&sleeper("marker"));
    let seen = watch.until("Ready marker", |event| {
        event["object"]["metadata"]["name"] == "marker" && has_condition(&event["object"], "Ready")
    });
    for event in seen.iter().filter(|event| event["object"]["metadata"]["name"] != "marker") {
        assert_eq!(event["type"], "MODIFIED", "{event}");
        let (name, what) = identity(&event["object"]);
        assert_eq!(what, before[&name], "every version that a watcher saw");
    }
    let mut after = identities(node);
    after.remove("marker");
    assert_eq!(after, before);
    for name in &names {
        assert_eq!(node.kubectl(&["exec", name, "--", "echo", "alive"]), "alive\n");
        assert_eq!(node.kubectl(&["logs", name]), "up\n");
    }
}

fn kill_skiff(containerd: Containerd) {
    disturbs_no_pod(&mut Node::start(containerd), |node| {
        let containerd = node.containerd_pid();
        node.kill();
        node.boot();
        assert_eq!(node.containerd_pid(), containerd, "the running containerd is adopted");
    });
}

#[test]
fn kill_9_of_skiff_disturbs_no_pod_on_the_current_containerd() {
    kill_skiff(Containerd::Current);
}

#[test]
fn kill_9_of_skiff_disturbs_no_pod_on_containerd_1_6() {
    kill_skiff(Containerd::V1_6);
}

fn kill_containerd(containerd: Containerd) {
    let mut killed = 0;
    let mut node = Node::start(containerd);
    disturbs_no_pod(&mut node, |node| {
        killed = node.containerd_pid();
        crate::harness::run("kill", &["-9", &killed.to_string()]);
    });
    // Only a containerd that is back can have run the last pod.
    assert_ne!(node.containerd_pid(), killed);
}

#[test]
fn kill_9_of_containerd_disturbs_no_pod_on_the_current_containerd() {
    kill_containerd(Containerd::Current);
}

#[test]
fn kill_9_of_containerd_disturbs_no_pod_on_containerd_1_6() {
    kill_containerd(Containerd::V1_6);
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
