//! Nodes.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::validate::validate_quantity;
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

const STRATEGY: Strategy = Strategy {
    default,
    prepare_update,
    validate,
    validate_update,
    // Upstream has one set of rules for both.
    validate_status: validate_update,
    warnings,
    ..Strategy::CLUSTER
};

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
    amounts(node, &mut errors);
    let (cidrs, path) = (items(&node["spec"]["podCIDRs"]), Path::new("spec").child("podCIDRs"));
    for (index, cidr) in cidrs.iter().enumerate() {
        ip::validate_cidr(text(cidr), &path.index(index), &mut errors);
    }
    let families: Vec<bool> = cidrs.iter().filter_map(|cidr| Some(ip::parse_cidr(text(cidr))?.0.is_ipv4())).collect();
    if families.len() > 2 || matches!(families[..], [one, other] if one == other) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(path.invalid(node["spec"]["podCIDRs"].clone(), detail));
    }
    errors
}

/// `ValidateNodeResources`; the path has the resource's name as if it were a field.
fn amounts(node: &Object, errors: &mut Errors) {
    for list in ["capacity", "allocatable"] {
        for (resource, quantity) in entries(&node["status"][list]) {
            let path = Path::new("status").child(list).child(resource);
            validate_quantity(resource, quantity, &path, errors);
        }
    }
}

fn warnings(node: &Object, _old: Option<&Object>) -> Vec<String> {
    match text(&node["spec"]["externalID"]) {
        "" => Vec::new(),
        _ => vec!["spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned()],
    }
}

/// `podCIDR` and `providerID` are set once.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    amounts(new, &mut errors);
    let addresses = items(&new["status"]["addresses"]);
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            errors.push(Path::new("status").child("addresses").index(index).duplicate(address.clone()));
        }
    }
    let (spec, before) = (&new["spec"], &old["spec"]);
    if text(&spec["externalID"]) != text(&before["externalID"]) {
        errors.push(Path::new("spec").child("externalID").forbidden("may not be updated"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn node(spec: Value, status: Value) -> Object {
        json!({"metadata": {"name": "n"}, "spec": spec, "status": status})
    }

    #[test]
    fn a_node_has_one_range_of_each_family_and_amounts_that_can_be() {
        for (spec, status, fields) in [
            (json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}), json!({}), vec![]),
            (json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}), json!({}), vec!["spec.podCIDRs"]),
            (json!({}), json!({"capacity": {"cpu": "-1"}}), vec!["status.capacity.cpu"]),
            (json!({}), json!({"allocatable": {"example.com/a": "500m"}}), vec!["status.allocatable.example.com/a"]),
        ] {
            let found: Vec<String> = validate(&node(spec.clone(), status)).into_iter().map(|e| e.field).collect();
            assert_eq!(found, fields, "{spec}");
        }
    }

    #[test]
    fn what_identifies_a_node_stays_and_addresses_are_said_once() {
        let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let old = node(json!({"externalID": "a"}), json!({}));
        let new = node(json!({"externalID": "b"}), json!({"addresses": [address, address]}));
        let found: Vec<String> = validate_update(&new, &old).into_iter().map(|e| e.field).collect();
        assert_eq!(found, ["status.addresses[1]", "spec.externalID"]);
        assert_eq!(warnings(&new, None).len(), 1);
    }
}
