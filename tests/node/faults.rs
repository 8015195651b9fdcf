//! Parts that fail: what is wanted runs in the end, once, and the API tells the truth.

use crate::harness::client::Watch;
use crate::harness::{Containerd, Node};
use crate::pods::{has_condition, sleeper};
use serde_json::Value;
use skiff::model::observed::ContainerState;
use skiff::runtime::Runtime;
use skiff::runtime::cri::CriRuntime;
use std::collections::BTreeMap;
use std::path::Path;

/// Ids of the running containers of each pod (by name), as the runtime has them.
fn running(node: &Node) -> BTreeMap<String, Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let cri = CriRuntime::lazy(Path::new(&node.containerd_socket()));
        let mut found = BTreeMap::new();
        for pod in cri.pods().await.expect("pods of the runtime") {
            let seen = cri.observe(&pod.uid).await.expect("a pod of the runtime");
            let alive = seen.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
            let ids: Vec<String> = alive.map(|container| container.id.to_string()).collect();
            if !ids.is_empty() {
                found.insert(pod.key.name.to_string(), ids);
            }
        }
        found
    })
}

fn pods(node: &Node) -> Vec<Value> {
    node.curl("GET", "/api/v1/namespaces/default/pods", None).body["items"].as_array().expect("items").clone()
}

/// The API's pods are Ready and are exactly what the runtime runs: one container each, the one that the status names.
fn check_truth(node: &Node, wanted: &[String]) {
    let runs = running(node);
    let shown: BTreeMap<String, Vec<String>> = pods(node)
        .iter()
        .map(|pod| {
            assert!(has_condition(pod, "Ready"), "{pod:#}");
            let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("an id");
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            (name, vec![id.trim_start_matches("containerd://").to_owned()])
        })
        .collect();
    assert_eq!(shown, runs, "what the API shows is what runs");
    assert_eq!(shown.keys().cloned().collect::<Vec<_>>(), wanted);
}

/// Watches the events of a pod.
fn events(node: &Node, pod: &str) -> Watch {
    node.watch(&format!("/api/v1/namespaces/default/events?watch=1&fieldSelector=involvedObject.name%3D{pod}"))
}

#[test]
fn a_network_that_fails_is_shown_and_a_pod_starts_once_it_is_back() {
    let node = Node::start(Containerd::Current);
    node.apply(&sleeper("before"));
    node.wait_ready(&["before"]);
    let conf = std::fs::read_dir(node.path("cni")).expect("the CNI configuration").flatten().next().expect("a file");
    let good = std::fs::read_to_string(conf.path()).expect("the CNI configuration");
    std::fs::write(conf.path(), good.replace("\"bridge\"", "\"no-such-plugin\"")).expect("a broken configuration");

    let told = events(&node, "late");
    node.apply(&sleeper("late"));
    let seen = told.until("failure", |event| {
        let object = &event["object"];
        object["reason"] == "FailedCreatePodSandBox"
            && object["message"].as_str().is_some_and(|message| message.contains("no-such-plugin"))
    });
    assert!(!seen.is_empty());
    std::fs::write(conf.path(), good).expect("the good configuration");
    node.wait_ready(&["before", "late"]);
    check_truth(&node, &["before".to_owned(), "late".to_owned()]);
}
