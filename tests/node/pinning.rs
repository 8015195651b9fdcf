//! The static CPU and memory policies on a real node: who owns a CPU, who shares the rest, and that a restart keeps it.

use crate::harness::{Containerd, Node};
use crate::pods::sleeper;
use serde_json::{Value, json};

/// The CPUs that a process in the pod may use, once they are these (the shared pool moves while pods come and go).
fn allowed(node: &Node, pod: &str, expected: &str) -> String {
    // 30 s at most: the reconcile period is 10 s.
    let script = "n=0; until [ \"$(sed -n 's/Cpus_allowed_list:.//p' /proc/self/status)\" = \"$0\" ] || [ $n -ge 300 ]; \
                  do sleep 0.1; n=$((n+1)); done; sed -n 's/Cpus_allowed_list:.//p' /proc/self/status";
    node.kubectl(&["exec", pod, "--", "sh", "-c", script, expected]).trim().to_owned()
}

fn state(node: &Node) -> Value {
    read(node, "cpu_manager_state")
}

fn read(node: &Node, checkpoint: &str) -> Value {
    let text = std::fs::read(node.path(&format!("kubelet/{checkpoint}"))).expect("the checkpoint");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn a_guaranteed_pod_owns_its_cpu_through_restarts_and_the_others_share_the_rest() {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("the machine's CPUs");
    let all = online.trim();
    if all == "0" {
        eprintln!("skipped: one CPU is not enough to give one away");
        return;
    }
    let mut node = Node::start_with(
        Containerd::Current,
        &[
            "--cpu-manager-policy=static",
            "--reserved-cpus=0",
            "--memory-manager-policy=Static",
            // What evictionHard keeps by default.
            "--reserved-memory=0:memory=100Mi",
            "--topology-manager-policy=single-numa-node",
        ],
    );
    node.apply(&sleeper("shared"));
    node.wait_ready(&["shared"]);
    assert_eq!(allowed(&node, "shared", all), all);
    assert_eq!(state(&node)["defaultCpuSet"], all);

    let mut owner = sleeper("owner");
    let amounts = json!({"cpu": "1", "memory": "32Mi"});
    owner["spec"]["containers"][0]["resources"] = json!({"requests": amounts, "limits": amounts});
    node.apply(&owner);
    node.wait_ready(&["owner"]);
    let kept = state(&node);
    let uid = node.jsonpath("pod/owner", "{.metadata.uid}");
    let own = kept["entries"][&uid]["c"].as_str().expect("the owner's CPU").to_owned();
    let rest = kept["defaultCpuSet"].as_str().expect("the shared pool").to_owned();
    assert!(own.parse::<u32>().is_ok_and(|cpu| cpu > 0), "{kept}");
    assert_eq!(kept["policyName"], "static");
    let memory = read(&node, "memory_manager_state");
    let block = json!([{"numaAffinity": [0], "type": "memory", "size": 32 << 20}]);
    assert_eq!(memory["entries"][&uid]["c"], block, "{memory}");
    assert_eq!(allowed(&node, "owner", &own), own);
    assert_eq!(allowed(&node, "shared", &rest), rest);

    // Who owns a CPU is not throttled on it, and keeps as many as it has.
    let quota = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    let quota = node.kubectl(&["exec", "owner", "--", "sh", "-c", quota]);
    assert!(["max", "-1"].contains(&quota.split_whitespace().next().unwrap_or_default()), "{quota}");
    let more = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}}]}});
    node.kubectl(&["patch", "pod", "owner", "--subresource=resize", "-p", &more.to_string()]);
    node.kubectl(&["wait", "pod/owner", "--for=condition=PodResizePending", "--timeout=30s"]);
    let words = "{.status.conditions[?(@.type=='PodResizePending')].message}";
    let refused = "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
    assert_eq!(node.jsonpath("pod/owner", words), refused);

    node.kill();
    node.boot();
    assert_eq!(state(&node), kept);
    assert_eq!(read(&node, "memory_manager_state"), memory);
    assert_eq!(allowed(&node, "owner", &own), own);
    assert_eq!(allowed(&node, "shared", &rest), rest);

    node.kubectl(&["delete", "pod", "owner"]);
    assert_eq!(allowed(&node, "shared", all), all);
    assert!(state(&node).get("entries").is_none());
    assert!(read(&node, "memory_manager_state").get("entries").is_none());
}
