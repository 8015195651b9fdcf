//! Parts that die, hang or run full under load: what is wanted runs in the end, once, and the API tells the truth.

use crate::harness::client::Watch;
use crate::harness::{Containerd, Node, leaks, run};
use crate::pods::{has_condition, shell, sleeper};
use serde_json::{Value, json};
use skiff::model::observed::ContainerState;
use skiff::runtime::Runtime;
use skiff::runtime::cri::CriRuntime;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Moments at which the agent is killed.
const KILLS: u32 = 50;

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

fn list(from: u32, to: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": (from..to).map(|n| sleeper(&name(n))).collect::<Vec<_>>()})
}

fn name(number: u32) -> String {
    format!("p{number:03}")
}

#[test]
fn an_agent_killed_at_random_points_while_pods_churn_ends_with_exactly_the_wanted_pods() {
    let mut node = Node::start(Containerd::Current);
    node.apply(&list(0, 20));
    for round in 0..KILLS {
        // Two go, two come, and somewhere on that way the end comes.
        let (old, new) = (2 * round, 20 + 2 * round);
        node.apply(&list(new, new + 2));
        node.kubectl(&["delete", "pod", &name(old), &name(old + 1), "--wait=false"]);
        std::thread::sleep(Duration::from_millis(rand::random_range(0..300)));
        node.kill();
        node.boot();
    }
    let (first, last) = (2 * KILLS, 20 + 2 * KILLS);
    let wanted: Vec<String> = (first..last).map(name).collect();
    let gone: Vec<String> = (0..first).map(|n| format!("pod/{}", name(n))).collect();
    let mut args = vec!["wait", "--for=delete", "--timeout=90s"];
    args.extend(gone.iter().map(String::as_str));
    node.kubectl(&args);
    node.wait_ready(&wanted.iter().map(String::as_str).collect::<Vec<_>>());
    check_truth(&node, &wanted);
    assert!(pods(&node).iter().all(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 0));
}

#[test]
fn a_containerd_killed_under_load_delays_pods_and_doubles_none() {
    let node = Node::start(Containerd::Current);
    node.apply(&list(0, 12));
    for _ in 0..3 {
        run("kill", &["-9", &node.containerd_pid().to_string()]);
        // It is back when it serves again: this pod is made by it.
        node.kubectl(&["delete", "pod", "probe", "--ignore-not-found", "--grace-period=1"]);
        node.apply(&sleeper("probe"));
        node.wait_ready(&["probe"]);
    }
    node.kubectl(&["delete", "pod", "probe", "--grace-period=1"]);
    let wanted: Vec<String> = (0..12).map(name).collect();
    node.wait_ready(&wanted.iter().map(String::as_str).collect::<Vec<_>>());
    check_truth(&node, &wanted);
}

#[test]
fn a_killed_shim_costs_its_pod_a_restart_and_no_other() {
    let node = Node::start(Containerd::Current);
    node.apply(&sleeper("other"));
    node.apply(&sleeper("victim"));
    node.wait_ready(&["other", "victim"]);
    let before = running(&node);
    let sandbox = sandbox_of(&node, "victim");
    let shim = leaks::processes(&format!("-id {sandbox}")).into_iter().find(|p| p.command.contains("containerd-shim"));
    run("kill", &["-9", &shim.expect("the pod's shim").pid.to_string()]);
    let restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    node.kubectl(&["wait", restarted, "--timeout=90s", "pod/victim"]);
    node.wait_ready(&["other", "victim"]);
    assert_eq!(running(&node)["other"], before["other"]);
    check_truth(&node, &["other".to_owned(), "victim".to_owned()]);
}

/// The id of a pod's sandbox.
fn sandbox_of(node: &Node, pod: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let cri = CriRuntime::lazy(Path::new(&node.containerd_socket()));
        let pods = cri.pods().await.expect("pods of the runtime");
        let found = pods.iter().find(|known| &*known.key.name == pod).expect("the pod");
        cri.observe(&found.uid).await.expect("the pod").sandboxes[0].id.to_string()
    })
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

#[test]
fn a_disk_full_of_logs_stops_no_running_pod_and_new_ones_start_once_there_is_room() {
    let mut node = Node::prepare(Containerd::Current, &[]);
    std::fs::create_dir_all(node.path("logs")).expect("a folder");
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", &node.path("logs")]);
    node.boot();
    node.apply(&shell("noisy", "trap 'exit 0' TERM; yes 'a line of a hundred bytes or so, to fill the disk' | head -c 2000000; echo; touch /done; while true; do sleep 3600 & wait $!; done"));
    node.wait_ready(&["noisy"]);
    let full = &["exec", "noisy", "--", "sh", "-c", "while [ ! -e /done ]; do sleep 0.2; done; echo written"];
    assert_eq!(node.kubectl(full), "written\n");
    let before = running(&node);

    let told = events(&node, "late");
    node.apply(&sleeper("late"));
    told.until("failure", |event| {
        let message = event["object"]["message"].as_str().unwrap_or_default();
        event["type"] == "ADDED" && message.contains("no space left on device")
            || message.contains("No space left on device")
    });
    // Room again: as rotation, or an administrator, makes it.
    for log in glob(&node.path("logs")) {
        std::fs::OpenOptions::new().write(true).truncate(true).open(&log).expect("a log");
    }
    node.wait_ready(&["late", "noisy"]);
    assert_eq!(running(&node)["noisy"], before["noisy"]);
    run("umount", &["-l", &node.path("logs")]);
}

/// The log files below a folder.
fn glob(folder: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![std::path::PathBuf::from(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}
