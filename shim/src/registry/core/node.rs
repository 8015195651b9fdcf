//! Nodes.

use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, age, or, text_column};
use crate::registry::value::{entries, items, text, truth};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta_fields};
use crate::selector::Pairs;
use serde_json::Value;
use std::collections::BTreeSet;

pub const DEF: ResourceDef = ResourceDef {
    resource: "nodes",
    singular: "node",
    kind: "Node",
    short_names: &["no"],
    namespaced: false,
    storage: "minions",
    subresources: &[
        Subresource::core("proxy", "NodeProxyOptions", &["create", "delete", "get", "patch", "update"]),
        Subresource::core("status", "Node", STATUS_VERBS),
    ],
    columns: COLUMNS,
    row,
    selectable: &["spec.unschedulable"],
    fields,
    strategy: &Strategy { ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn fields(node: &Object) -> Pairs {
    let mut pairs = meta_fields(node);
    let unschedulable = if truth(&node["spec"]["unschedulable"]) { "true" } else { "false" };
    pairs.insert("spec.unschedulable".into(), unschedulable.into());
    pairs
}

fn row(node: &Object, now: i64) -> Vec<Value> {
    let status = &node["status"];
    let info = &status["nodeInfo"];
    let address = |kind: &str| -> Value {
        let found = items(&status["addresses"]).iter().find(|a| text(&a["type"]) == kind);
        found.map_or("<none>", |a| text(&a["address"])).into()
    };
    vec![
        node.name().into(),
        condition(node).into(),
        roles(node).into(),
        age(node, now),
        text(&info["kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        or(&info["osImage"], "<unknown>"),
        or(&info["kernelVersion"], "<unknown>"),
        or(&info["containerRuntimeVersion"], "<unknown>"),
    ]
}

/// `Ready`, `NotReady,SchedulingDisabled`, `Unknown` …
fn condition(node: &Object) -> String {
    let ready = items(&node["status"]["conditions"]).iter().find(|c| text(&c["type"]) == "Ready");
    let mut status = match ready {
        Some(ready) if text(&ready["status"]) == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if truth(&node["spec"]["unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

/// Roles named by `node-role.kubernetes.io/<role>` labels and by the older `kubernetes.io/role: <role>`.
fn roles(node: &Object) -> String {
    let roles: BTreeSet<&str> = entries(&node["metadata"]["labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Status", "The status of the node"),
    text_column("Roles", "The roles of the node"),
    AGE,
    text_column("Version", "Kubelet Version reported by the node."),
    text_column("Internal-IP", "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).").wide(),
    text_column("External-IP", "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).").wide(),
    text_column("OS-Image", "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).").wide(),
    text_column("Kernel-Version", "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).").wide(),
    text_column("Container-Runtime", "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).").wide(),
];
