//! The node authorizer: an agent reaches its own Node and Lease, and what pods bound to its node use.

use super::{Attributes, Decision, Related};
use serde_json::Value;

const READ: [&str; 3] = ["get", "list", "watch"];

/// Decides for `system:node:<node>`.
pub fn decide(node: &str, a: &Attributes<'_>, related: Related<'_>) -> Decision {
    if !a.is_resource {
        return Decision::Deny(String::new());
    }
    match (a.group, a.resource, a.subresource) {
        ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes", "") => used(node, a, related),
        // A node that has made a claim's file system grow says so.
        ("", "persistentvolumeclaims", "status") if matches!(a.verb, "get" | "patch" | "update") => {
            by_relation(node, a, related)
        }
        ("storage.k8s.io", "volumeattachments", "") if a.verb == "get" => by_relation(node, a, related),
        ("", "serviceaccounts", "") if a.verb == "get" => by_relation(node, a, related),
        ("", "serviceaccounts", "token") if a.verb == "create" => by_relation(node, a, related),
        ("coordination.k8s.io", "leases", "") => lease(node, a),
        ("", "nodes", "") => node_object(node, a),
        ("", "pods", "") if matches!(a.verb, "create" | "delete") || READ.contains(&a.verb) => Decision::Allow,
        ("", "pods" | "nodes", "status") if matches!(a.verb, "patch" | "update") => Decision::Allow,
        ("", "pods", "eviction") if a.verb == "create" => Decision::Allow,
        ("" | "events.k8s.io", "events", "") if matches!(a.verb, "create" | "patch" | "update") => Decision::Allow,
        ("", "services" | "endpoints", "") if READ.contains(&a.verb) => Decision::Allow,
        ("discovery.k8s.io", "endpointslices", "") if READ.contains(&a.verb) => Decision::Allow,
        ("node.k8s.io", "runtimeclasses", "") if READ.contains(&a.verb) => Decision::Allow,
        ("storage.k8s.io", "csidrivers", "") if READ.contains(&a.verb) => Decision::Allow,
        // `system:node`, and what kubeadm binds to system:nodes: a node renews its own certificate.
        ("certificates.k8s.io", "certificatesigningrequests", "") if a.verb == "create" || READ.contains(&a.verb) => {
            Decision::Allow
        }
        ("certificates.k8s.io", "certificatesigningrequests", "selfnodeclient") if a.verb == "create" => {
            Decision::Allow
        }
        ("storage.k8s.io", "csinodes", "") => own_csi_node(node, a),
        ("authentication.k8s.io", "tokenreviews", "")
        | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "")
            if a.verb == "create" =>
        {
            Decision::Allow
        }
        _ => Decision::Deny(String::new()),
    }
}

fn used(node: &str, a: &Attributes<'_>, related: Related<'_>) -> Decision {
    if !READ.contains(&a.verb) {
        return Decision::Deny("can only read resources of this type".into());
    }
    if a.name.is_empty() {
        return Decision::Deny("No Object name found".into());
    }
    by_relation(node, a, related)
}

fn by_relation(node: &str, a: &Attributes<'_>, related: Related<'_>) -> Decision {
    if related(node, a) {
        Decision::Allow
    } else {
        Decision::Deny(format!("no relationship found between node '{node}' and this object"))
    }
}

fn lease(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Decision::Deny("can only get, create, update, patch, or delete a node lease".into());
    }
    if a.namespace != "kube-node-lease" {
        return Decision::Deny("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if a.verb != "create" && a.name != node {
        return Decision::Deny("can only access node lease with the same name as the requesting node".into());
    }
    Decision::Allow
}

fn node_object(node: &str, a: &Attributes<'_>) -> Decision {
    match a.verb {
        "create" | "update" | "patch" => Decision::Allow,
        "get" | "list" | "watch" if a.name == node => Decision::Allow,
        "get" => Decision::Deny(format!("node '{node}' cannot read '{}', only its own Node object", a.name)),
        "list" | "watch" => Decision::Deny(format!("node '{node}' cannot read all nodes, only its own Node object")),
        _ => Decision::Deny(String::new()),
    }
}

fn own_csi_node(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Decision::Deny("can only get, create, update, patch, or delete a CSINode".into());
    }
    if a.verb != "create" && a.name != node {
        return Decision::Deny("can only access CSINode with the same name as the requesting node".into());
    }
    Decision::Allow
}

/// Whether a pod's spec refers to that object: volumes (projected ones too), environment, image pull secrets, claims, its account.
pub fn pod_uses(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is = |value: &Value| value.as_str() == Some(name);
    let volumes = list(&spec["volumes"]);
    match resource {
        "serviceaccounts" => is(&spec["serviceAccountName"]),
        "persistentvolumeclaims" => volumes.iter().any(|v| {
            // The claim that is made for an ephemeral volume of the pod.
            let of_pod = || Some(format!("{}-{}", pod["metadata"]["name"].as_str()?, v["name"].as_str()?));
            is(&v["persistentVolumeClaim"]["claimName"])
                || (v["ephemeral"].is_object() && of_pod().as_deref() == Some(name))
        }),
        "secrets" => {
            volumes.iter().any(|v| {
                is(&v["secret"]["secretName"])
                    || list(&v["projected"]["sources"]).iter().any(|s| is(&s["secret"]["name"]))
                    || is(&v["csi"]["nodePublishSecretRef"]["name"])
            }) || list(&spec["imagePullSecrets"]).iter().any(|s| is(&s["name"]))
                || in_environment(spec, "secretKeyRef", "secretRef", name)
        }
        "configmaps" => {
            volumes.iter().any(|v| {
                is(&v["configMap"]["name"])
                    || list(&v["projected"]["sources"]).iter().any(|s| is(&s["configMap"]["name"]))
            }) || in_environment(spec, "configMapKeyRef", "configMapRef", name)
        }
        _ => false,
    }
}

/// The claim, by namespace and name, whose volume's driver is given that secret on a node.
pub fn claim_with_secret(volume: &Value, namespace: &str, name: &str) -> Option<(String, String)> {
    let csi = &volume["spec"]["csi"];
    let mut secrets =
        ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"].iter().map(|key| &csi[*key]);
    let given = secrets.any(|secret| secret["namespace"] == namespace && secret["name"] == name);
    let claim = |field: &str| volume["spec"]["claimRef"][field].as_str().map(str::to_owned);
    claim("namespace").zip(claim("name")).filter(|_| given)
}

fn in_environment(spec: &Value, key_ref: &str, whole_ref: &str, name: &str) -> bool {
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| {
        spec[*list].as_array().into_iter().flatten().any(|container| {
            let env = container["env"].as_array().into_iter().flatten();
            let from = container["envFrom"].as_array().into_iter().flatten();
            env.map(|e| &e["valueFrom"][key_ref]["name"]).chain(from.map(|f| &f[whole_ref]["name"])).any(|n| n == name)
        })
    })
}
