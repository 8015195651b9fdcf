//! Parts that die, hang or run full under load: what is wanted runs in the end, once, nothing else is left, and the API
//! tells the truth.

use crate::harness::client::Watch;
use crate::harness::split::Split;
use crate::harness::{Containerd, DEADLINE, Node, leaks, run};
use crate::pods::{has_condition, shell, sleeper};
use serde_json::{Value, json};
use skiff::model::observed::{ContainerState, ObservedPod};
use skiff::runtime::Runtime;
use skiff::runtime::cri::CriRuntime;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// Moments at which the agent is killed while pods come and go.
const KILLS: usize = 50;
/// How long an agent lives at most: its start takes a good part of it, so that many die on the way.
const LIFE_MS: u64 = 500;
/// Pods that there are at any time.
const CHURNING: usize = 20;

/// How often the runtime is asked whether something is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// For how long the API server is away.
const SHORT_OUTAGE: Duration = Duration::from_secs(5);
const LONG_OUTAGE: Duration = Duration::from_secs(65);

/// All that the runtime holds, by name of the pod.
fn held(node: &Node) -> BTreeMap<String, Vec<ObservedPod>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let cri = CriRuntime::lazy(Path::new(&node.containerd_socket()));
        let mut found: BTreeMap<String, Vec<ObservedPod>> = BTreeMap::new();
        for pod in cri.pods().await.expect("pods of the runtime") {
            let seen = cri.observe(&pod.uid).await.expect("a pod of the runtime");
            found.entry(pod.key.name.to_string()).or_default().push(seen);
        }
        found
    })
}

/// Ids of the running containers of each pod.
fn running(node: &Node) -> BTreeMap<String, Vec<String>> {
    let alive = |pod: &ObservedPod| {
        let running = pod.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        running.map(|container| container.id.to_string()).collect::<Vec<_>>()
    };
    held(node).into_iter().map(|(name, pods)| (name, pods.iter().flat_map(alive).collect())).collect()
}

fn pods(node: &Node) -> Vec<Value> {
    node.curl("GET", "/api/v1/namespaces/default/pods", None).body["items"].as_array().expect("items").clone()
}

/// The API's pods are Ready and are exactly what the runtime runs: one container each, the one that the status names,
/// in one ready sandbox. Nothing on the machine belongs to any other pod.
fn check_truth(node: &Node, wanted: &[String]) {
    let shown = pods(node);
    let expected: BTreeMap<String, Vec<String>> = shown
        .iter()
        .map(|pod| {
            assert!(has_condition(pod, "Ready"), "{pod:#}");
            let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("an id");
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            (name, vec![id.trim_start_matches("containerd://").to_owned()])
        })
        .collect();
    assert_eq!(expected, running(node), "what the API shows is what runs");
    assert_eq!(expected.keys().cloned().collect::<Vec<_>>(), wanted);
    for (name, pods) in held(node) {
        let ready: Vec<_> = pods.iter().flat_map(|pod| &pod.sandboxes).filter(|sandbox| sandbox.ready).collect();
        assert_eq!(ready.len(), 1, "{name}: {pods:#?}");
    }

    let sandboxes: Vec<_> = held(node).into_values().flatten().flat_map(|pod| pod.sandboxes).collect();
    let is_wanted = |shim: &leaks::Process| sandboxes.iter().any(|s| s.ready && shim.command.contains(s.id.as_str()));
    // A caller that dies within RunPodSandbox makes containerd forget a shim that holds nothing (`end_empty` ends it).
    let full = leaks::shims(node).into_iter().filter(leaks::Process::has_children);
    let (wanted_shims, others): (Vec<_>, Vec<_>) = full.partition(is_wanted);
    assert_eq!(wanted_shims.len(), wanted.len(), "a shim a pod");
    // Those of pods that have just gone are about to end.
    others.iter().for_each(leaks::Process::wait_end);
    assert_eq!(leaks::ports(&node.slot).len(), wanted.len(), "an interface a pod");
    let uids: BTreeSet<&str> = shown.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).collect();
    let foreign = |path: &String| !uids.iter().any(|uid| path.contains(uid));
    let left: Vec<String> = leaks::of_pods(node).into_iter().filter(foreign).collect();
    assert_eq!(left, Vec::<String>::new(), "of pods that are gone");
}

fn name(number: usize) -> String {
    format!("p{number:03}")
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(name).collect()
}

fn wait_ready(node: &Node, pods: &[String]) {
    node.wait_ready(&pods.iter().map(String::as_str).collect::<Vec<_>>());
}

fn wait_gone(node: &Node, pods: &[String]) {
    let args = ["wait", "--for=delete", "--timeout=90s"].map(str::to_owned);
    let args = args.into_iter().chain(pods.iter().map(|pod| format!("pod/{pod}"))).collect::<Vec<_>>();
    node.kubectl(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The sandbox of a pod goes after its object: whoever was killed in between leaves it to the next, and the API does not
/// tell when that is done.
fn wait_removed(node: &Node, wanted: &[String]) {
    let end = Instant::now() + DEADLINE;
    while let Some(left) = held(node).into_keys().find(|pod| !wanted.contains(pod)) {
        assert!(Instant::now() < end, "{left} is still there after {DEADLINE:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn create(node: &Node, pod: &str) {
    let mut object = sleeper(pod);
    object["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let answer = node.curl("POST", "/api/v1/namespaces/default/pods", Some(&object));
    assert_eq!(answer.code, 201, "{answer:?}");
}

fn delete(node: &Node, pod: &str) {
    let answer = node.curl("DELETE", &format!("/api/v1/namespaces/default/pods/{pod}"), None);
    assert_eq!(answer.code, 200, "{answer:?}");
}

/// Watches the events of a pod.
fn events(node: &Node, pod: &str) -> Watch {
    node.watch(&format!("/api/v1/namespaces/default/events?watch=1&fieldSelector=involvedObject.name%3D{pod}"))
}

#[test]
fn an_agent_killed_at_random_points_while_pods_churn_ends_with_exactly_the_wanted_pods() {
    let mut node = Node::start(Containerd::Current);
    let mut parts = Split::of(&mut node);
    names(0..CHURNING).iter().for_each(|pod| create(&node, pod));
    for round in 0..KILLS {
        // One goes, one comes, and somewhere on that way the end comes.
        delete(&node, &name(round));
        create(&node, &name(round + CHURNING));
        std::thread::sleep(Duration::from_millis(rand::random_range(0..LIFE_MS)));
        parts.kill_agent();
        parts.start_agent(&node);
    }
    wait_gone(&node, &names(0..KILLS));
    let wanted = names(KILLS..KILLS + CHURNING);
    wait_ready(&node, &wanted);
    wait_removed(&node, &wanted);
    check_truth(&node, &wanted);
    let statuses = pods(&node).into_iter().map(|mut pod| pod["status"]["containerStatuses"][0].take());
    let restarted: Vec<_> = statuses.filter(|status| status["restartCount"] != 0).collect();
    assert!(restarted.is_empty(), "{restarted:#?}");
    parts.join(&mut node);
}

#[test]
fn an_api_server_that_is_away_disturbs_no_pod_and_is_told_of_what_happened_meanwhile() {
    let mut node = Node::start(Containerd::Current);
    let mut parts = Split::of(&mut node);
    node.apply(&sleeper("stays"));
    node.apply(&sleeper("dies"));
    wait_ready(&node, &["stays".to_owned(), "dies".to_owned()]);
    let before = running(&node);
    parts.kill_server();
    // A container ends while nobody can be told.
    let victim = before["dies"][0].as_str();
    let cgroup = leaks::of_pods(&node).into_iter().find(|path| path.ends_with(victim)).expect("its cgroup");
    let pids = std::fs::read_to_string(Path::new(&cgroup).join("cgroup.procs")).expect("its processes");
    // The first is the container's own; the others end with it.
    run("kill", &["-9", pids.lines().next().expect("a process")]);
    // What the agent does then does not depend on how long it lasts; `SKIFF_FAULTS=long` waits the whole minute.
    let long = std::env::var("SKIFF_FAULTS").is_ok_and(|size| size == "long");
    std::thread::sleep(if long { LONG_OUTAGE } else { SHORT_OUTAGE });
    assert_eq!(running(&node)["stays"], before["stays"]);
    assert_ne!(running(&node)["dies"], before["dies"], "it restarts all the same");
    parts.start_server(&node);
    let restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    node.kubectl(&["wait", restarted, "--timeout=90s", "pod/dies"]);
    wait_ready(&node, &["stays".to_owned(), "dies".to_owned()]);
    assert_eq!(running(&node)["stays"], before["stays"]);
    check_truth(&node, &["dies".to_owned(), "stays".to_owned()]);
    parts.join(&mut node);
}

#[test]
fn a_containerd_killed_under_load_delays_pods_and_doubles_none() {
    let node = Node::start(Containerd::Current);
    let mut made = 0;
    for _ in 0..3 {
        names(made..made + 4).iter().for_each(|pod| create(&node, pod));
        made += 4;
        std::thread::sleep(Duration::from_millis(rand::random_range(0..LIFE_MS)));
        run("kill", &["-9", &node.containerd_pid().to_string()]);
        // It is back when it serves again: this pod is made by it.
        create(&node, "probe");
        wait_ready(&node, &["probe".to_owned()]);
        delete(&node, "probe");
        wait_gone(&node, &["probe".to_owned()]);
    }
    let wanted = names(0..made);
    wait_ready(&node, &wanted);
    check_truth(&node, &wanted);
}

#[test]
fn a_killed_shim_costs_its_pod_a_restart_and_no_other() {
    let node = Node::start(Containerd::Current);
    node.apply(&sleeper("other"));
    node.apply(&sleeper("victim"));
    wait_ready(&node, &["other".to_owned(), "victim".to_owned()]);
    let before = running(&node);
    let sandbox = held(&node)["victim"][0].sandboxes[0].id.to_string();
    let shim = leaks::shims(&node).into_iter().find(|shim| shim.command.contains(&sandbox));
    run("kill", &["-9", &shim.expect("the pod's shim").pid.to_string()]);
    let restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    node.kubectl(&["wait", restarted, "--timeout=90s", "pod/victim"]);
    wait_ready(&node, &["other".to_owned(), "victim".to_owned()]);
    assert_eq!(running(&node)["other"], before["other"]);
    check_truth(&node, &["other".to_owned(), "victim".to_owned()]);
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
    // Room for the first pod (three folders and a file) and for no second one.
    run("mount", &["-t", "tmpfs", "-o", "size=1m,nr_inodes=4", "tmpfs", &node.path("logs")]);
    node.boot();
    let fill = "trap 'exit 0' TERM; yes 'to fill the disk' | head -c 2000000; touch /done; \
                while true; do sleep 3600 & wait $!; done";
    node.apply(&shell("noisy", fill));
    node.wait_ready(&["noisy"]);
    let full = &["exec", "noisy", "--", "sh", "-c", "while [ ! -e /done ]; do sleep 0.2; done; echo written"];
    assert_eq!(node.kubectl(full), "written\n");
    let before = running(&node);

    let told = events(&node, "late");
    node.apply(&sleeper("late"));
    told.until("failure", |event| {
        let message = event["object"]["message"].as_str().unwrap_or_default();
        event["object"]["type"] == "Warning" && message.contains("no space left on device")
    });
    run("mount", &["-o", "remount,size=4m,nr_inodes=100", &node.path("logs")]);
    node.wait_ready(&["late", "noisy"]);
    assert_eq!(running(&node)["noisy"], before["noisy"]);
    check_truth(&node, &["late".to_owned(), "noisy".to_owned()]);
    assert!(node.terminate().success());
    run("umount", &[&node.path("logs")]);
}
