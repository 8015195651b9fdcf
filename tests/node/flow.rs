//! The flow that must work exactly, by plain curl with the client certificate of the kubeconfig.

use crate::harness::{Containerd, Node};
use crate::pods::{has_condition, shell, sleeper};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn name_is(name: &str) -> impl Fn(&Value) -> bool {
    move |event| event["object"]["metadata"]["name"] == name
}

/// POST → stored, Pending, unscheduled; a watch shows it; it is bound, runs, is deleted with SIGTERM, then SIGKILL; a
/// second pod of the same name starts at once.
fn whole_life(containerd: Containerd) {
    let node = Node::start(containerd);
    let list = node.curl("GET", PODS, None);
    assert_eq!(list.code, 200, "{list:?}");
    let version = list.body["metadata"]["resourceVersion"].as_str().expect("a resourceVersion").to_owned();
    let watch = node.watch(&format!("{PODS}?watch=1&resourceVersion={version}"));

    // This one ignores SIGTERM.
    let stubborn = shell("p", "trap 'echo term' TERM; echo up; while true; do sleep 3600 & wait $!; done");
    let posted = node.curl("POST", PODS, Some(&stubborn));
    assert_eq!(posted.code, 201, "{posted:?}");
    assert_eq!(posted.body["status"]["phase"], "Pending");
    assert_eq!(posted.body["spec"]["nodeName"], Value::Null);
    let uid = posted.body["metadata"]["uid"].clone();

    let events = watch.until("Running pod", |e| name_is("p")(e) && e["object"]["status"]["phase"] == "Running");
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[0]["object"]["spec"]["nodeName"], Value::Null, "a watch shows it unscheduled first");
    assert_eq!(events[0]["object"]["status"]["phase"], "Pending");
    let last = &events.last().expect("an event")["object"];
    assert_eq!(last["spec"]["nodeName"], json!(node.slot.node_name()));
    assert!(has_condition(last, "PodScheduled"), "{last:#}");
    assert!(has_condition(last, "Ready"), "{last:#}");
    let ip = last["status"]["podIP"].as_str().expect("an address").to_owned();
    assert!(ip.starts_with(&node.slot.pod_prefix()), "{ip}");

    let deleted = node.curl("DELETE", &format!("{PODS}/p?gracePeriodSeconds=1"), None);
    assert_eq!(deleted.code, 200, "{deleted:?}");
    assert_eq!(deleted.body["metadata"]["deletionGracePeriodSeconds"], 1);
    let events = watch.until("deletion", |e| name_is("p")(e) && e["type"] == "DELETED");
    let last = &events.last().expect("an event")["object"];
    let state = &last["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(state["exitCode"], 137, "SIGTERM was trapped, so SIGKILL ended it: {last:#}");
    assert_eq!(node.curl("GET", &format!("{PODS}/p"), None).code, 404);

    let second = node.curl("POST", PODS, Some(&sleeper("p")));
    assert_eq!(second.code, 201, "{second:?}");
    assert_ne!(second.body["metadata"]["uid"], uid);
    watch.until("the second pod to run", |e| {
        name_is("p")(e) && e["object"]["metadata"]["uid"] != uid && e["object"]["status"]["phase"] == "Running"
    });
    assert_eq!(node.curl("DELETE", &format!("{PODS}/p"), None).code, 200);
    let events = watch.until("deletion", |e| name_is("p")(e) && e["type"] == "DELETED");
    let last = &events.last().expect("an event")["object"];
    assert_eq!(last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "SIGTERM was enough");
}

#[test]
fn a_pods_whole_life_on_the_current_containerd() {
    whole_life(Containerd::Current);
}

#[test]
fn a_pods_whole_life_on_containerd_1_6() {
    whole_life(Containerd::V1_6);
}

#[test]
fn without_the_scheduler_a_binding_by_curl_starts_the_pod() {
    let node = Node::start_with(Containerd::Current, &["--controllers=-scheduler"]);
    let posted = node.curl("POST", PODS, Some(&sleeper("bound")));
    assert_eq!(posted.code, 201, "{posted:?}");
    let version = posted.body["metadata"]["resourceVersion"].as_str().expect("a resourceVersion").to_owned();
    let watch = node.watch(&format!("{PODS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dbound"));
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "bound"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node.slot.node_name()},
    });
    let bound = node.curl("POST", &format!("{PODS}/bound/binding"), Some(&binding));
    assert_eq!(bound.code, 201, "{bound:?}");
    assert_eq!(bound.body["status"], "Success");
    let events = watch.until("Running pod", |e| e["object"]["status"]["phase"] == "Running");
    assert_eq!(events[0]["object"]["spec"]["nodeName"], json!(node.slot.node_name()));
    assert!(has_condition(&events[0]["object"], "PodScheduled"));
    let again = node.curl("POST", &format!("{PODS}/bound/binding"), Some(&binding));
    assert_eq!(again.code, 409, "{again:?}");
}

#[test]
fn an_impossible_pod_stays_pending_and_says_why() {
    let node = Node::start(Containerd::Current);
    let mut pod = sleeper("picky");
    pod["spec"]["nodeSelector"] = json!({"disk": "quantum"});
    assert_eq!(node.curl("POST", PODS, Some(&pod)).code, 201);
    let watch = node.watch(&format!("{PODS}?watch=1&fieldSelector=metadata.name%3Dpicky"));
    let events = watch.until("Unschedulable condition", |e| {
        let conditions = e["object"]["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["reason"] == "Unschedulable")
    });
    let conditions = &events.last().expect("an event")["object"]["status"]["conditions"];
    let message = conditions[0]["message"].as_str().expect("a message");
    assert!(
        message.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
        "{message}"
    );
    // A label makes it possible.
    node.kubectl(&["label", "node", &node.slot.node_name(), "disk=quantum"]);
    watch.until("Running pod", |e| e["object"]["status"]["phase"] == "Running");
}

#[test]
fn restart_policies_volumes_and_images_do_what_they_say() {
    let node = Node::start(Containerd::Current);
    node.kubectl(&["create", "configmap", "settings", "--from-literal=mode=fast"]);
    node.kubectl(&["create", "secret", "generic", "keys", "--from-literal=pin=1234"]);
    let mut pod = shell("v", "cat /cfg/mode /sec/pin; echo; echo kept > /scratch/f; cat /host/marker; echo $GREETING");
    pod["spec"]["restartPolicy"] = json!("Never");
    std::fs::create_dir_all(node.path("host")).expect("a folder");
    std::fs::write(node.path("host/marker"), "from the host\n").expect("a file");
    pod["spec"]["volumes"] = json!([
        {"name": "cfg", "configMap": {"name": "settings"}},
        {"name": "sec", "secret": {"secretName": "keys", "defaultMode": 256}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "host", "hostPath": {"path": node.path("host"), "type": "Directory"}},
    ]);
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "WHO", "value": "skiff"}, {"name": "GREETING", "value": "hello $(WHO)"},
    ]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "cfg", "mountPath": "/cfg"}, {"name": "sec", "mountPath": "/sec"},
        {"name": "scratch", "mountPath": "/scratch"}, {"name": "host", "mountPath": "/host", "readOnly": true},
    ]);
    node.apply(&pod);
    node.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/v"]);
    assert_eq!(node.kubectl(&["logs", "v"]), "fast1234\nfrom the host\nhello skiff\n");

    let mut failing = shell("f", "exit 3");
    failing["spec"]["restartPolicy"] = json!("OnFailure");
    node.apply(&failing);
    node.kubectl(&["wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=60s", "pod/f"]);
    let waits = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff";
    node.kubectl(&["wait", waits, "--timeout=60s", "pod/f"]);

    let mut missing = sleeper("m");
    missing["spec"]["containers"][0]["image"] = json!("127.0.0.1:1/no/such:1");
    missing["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    node.apply(&missing);
    let waits = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull";
    node.kubectl(&["wait", waits, "--timeout=60s", "pod/m"]);
}
