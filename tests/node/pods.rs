//! Pod manifests that the tests share.

use serde_json::{Value, json};

pub const IMAGE: &str = "docker.io/library/busybox:1.36";

/// A pod of one container `c` that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", script]}],
        },
    })
}

/// A pod that stays, and ends at once on SIGTERM.
pub fn sleeper(name: &str) -> Value {
    shell(name, "trap 'exit 0' TERM; echo up; while true; do sleep 3600 & wait $!; done")
}

/// Whether a pod has this condition with status True.
pub fn has_condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}
