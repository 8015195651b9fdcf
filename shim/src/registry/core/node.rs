//! Nodes.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::table::{AGE, NAME, age, or, text_column};
use crate::registry::value::{carry_over, entries, items, object_entry, object_mut, root, text, truth};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, ip, meta, meta_fields, names};
use crate::selector::Pairs;
use serde_json::{Value, json};
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
    strategy: &STRATEGY,
    ..ResourceDef::BASIC
};

const STRATEGY: Strategy = Strategy { default, prepare_update, validate, validate_update, ..Strategy::CLUSTER };

/// `podCIDR` is the first of `podCIDRs`; allocatable is the capacity unless given.
fn default(node: &mut Object) {
    if let Some(spec) = object_mut(node, "spec") {
        let one = spec.get("podCIDR").map(|v| text(v).to_owned()).unwrap_or_default();
        let first = spec.get("podCIDRs").and_then(|l| l.get(0)).map(|v| text(v).to_owned()).unwrap_or_default();
        if one.is_empty() && !first.is_empty() {
            spec.insert("podCIDR".to_owned(), first.into());
        } else if one != first {
            spec.insert("podCIDRs".to_owned(), json!([one]));
        }
    }
    if let Some(status) = object_mut(node, "status")
        && status.get("allocatable").is_none_or(crate::registry::value::is_empty)
        && let Some(capacity) = status.get("capacity").filter(|c| !crate::registry::value::is_empty(c)).cloned()
    {
        status.insert("allocatable".to_owned(), capacity);
    }
}

/// The status is the kubelet's, by its subresource.
fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
}

/// TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.
pub fn admit_create(node: &mut Object) {
    let spec = object_entry(root(node), "spec");
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let same = |t: &Value| t["key"] == taint["key"] && t["effect"] == taint["effect"];
    if !items(taints).iter().any(same)
        && let Some(list) = taints.as_array_mut()
    {
        list.push(taint);
    }
}

fn validate(node: &Object) -> Errors {
    let mut errors = meta::validate_cluster(node);
    // Upstream names this path, though taints are in the spec.
    let path = Path::new("metadata").child("taints");
    let mut seen = Vec::new();
    for (index, taint) in items(&node["spec"]["taints"]).iter().enumerate() {
        let path = path.index(index);
        let (key, value, effect) = (text(&taint["key"]), text(&taint["value"]), text(&taint["effect"]));
        errors.extend(path.child("key").all_invalid(key, names::qualified_name(key)));
        errors.extend(path.child("value").all_invalid(value, names::label_value(value)));
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        match effect {
            "" => errors.push(path.child("effect").required("")),
            effect if !effects.contains(&effect) => errors.push(path.child("effect").not_supported(effect, &effects)),
            _ => {}
        }
        if seen.contains(&(key, effect)) {
            let mut error = path.duplicate(taint.clone());
            error.message.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
        seen.push((key, effect));
    }
    for (index, cidr) in items(&node["spec"]["podCIDRs"]).iter().enumerate() {
        ip::validate_cidr(text(cidr), &Path::new("spec").child("podCIDRs").index(index), &mut errors);
    }
    errors
}

/// `podCIDR` and `providerID` are set once.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (spec, before) = (&new["spec"], &old["spec"]);
    if !items(&before["podCIDRs"]).is_empty() && spec["podCIDRs"] != before["podCIDRs"] {
        errors.push(
            Path::new("spec")
                .child("podCIDRs")
                .forbidden("node updates may not change podCIDR except from \"\" to valid"),
        );
    }
    if !text(&before["providerID"]).is_empty() && spec["providerID"] != before["providerID"] {
        errors.push(
            Path::new("spec")
                .child("providerID")
                .forbidden("node updates may not change providerID except from \"\" to valid"),
        );
    }
    errors
}

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
