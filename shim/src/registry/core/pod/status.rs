//! What becomes of a pod's status and generation on writes, its binding to a node, and its grace period.

use super::qos;
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::value::{
    bump_generation, carry_over, items, items_mut, keep_all_but_status, object_entry, root, text,
};
use serde_json::{Map, Value, json};

/// A new pod is pending, whatever the client said.
pub fn prepare_create(pod: &mut Object) {
    // The pipeline has stamped the object already: this is the moment of its creation.
    let now = pod["metadata"]["creationTimestamp"].clone();
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(pod)});
    if !items(&pod["spec"]["schedulingGates"]).is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": now,
            "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    root(pod).insert("status".to_owned(), status);
    // A negative grace period counts as one second.
    if pod["spec"]["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    }
    app_armor(pod);
    pod.meta_mut().insert("generation".to_owned(), 1.into());
}

/// Annotations were how AppArmor profiles were chosen before the field: they fill a field that is not set.
fn app_armor(pod: &mut Object) {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let chosen: Vec<(String, Value)> = (pod.annotations().into_iter().flatten())
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), text(value))))
        .filter_map(|(container, profile)| match profile {
            "runtime/default" => Some((container, json!({"type": "RuntimeDefault"}))),
            "unconfined" => Some((container, json!({"type": "Unconfined"}))),
            _ => {
                let local = profile.strip_prefix("localhost/")?;
                Some((container, json!({"type": "Localhost", "localhostProfile": local})))
            }
        })
        .collect();
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for (name, profile) in chosen {
        for key in ["initContainers", "containers"] {
            for container in items_mut(spec, key).filter(|c| c.get("name").map(text) == Some(name.as_str())) {
                object_entry(container, "securityContext").entry("appArmorProfile").or_insert(profile.clone());
            }
        }
    }
}

/// An update keeps the status; a changed spec is a new generation.
pub fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
    let changed = new["spec"] != old["spec"];
    bump_generation(new, old, changed);
}

/// A status update keeps all but status, labels, annotations and finalizers; `podIP` and `podIPs` agree.
pub fn prepare_status(new: &mut Object, old: &Object) {
    keep_all_but_status(new, old);
    let meta = new.meta_mut();
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "generation"] {
        match old.get("metadata").and_then(|m| m.get(key)) {
            Some(value) => meta.insert(key.to_owned(), value.clone()),
            None => meta.remove(key),
        };
    }
    if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
        && !status.contains_key("qosClass")
        && let Some(class) = old["status"].get("qosClass")
    {
        status.insert("qosClass".to_owned(), class.clone());
    }
}

/// The single address is the first of the list; where they differ the single one wins, as older kubelets expect.
pub(super) fn agree(status: &mut Map<String, Value>) {
    let one = status.get("podIP").map(|v| text(v).to_owned()).unwrap_or_default();
    let first = status.get("podIPs").and_then(|l| l.get(0)).map(|v| text(&v["ip"]).to_owned()).unwrap_or_default();
    if one.is_empty() && !first.is_empty() {
        status.insert("podIP".to_owned(), first.into());
    } else if one != first {
        status.insert("podIPs".to_owned(), json!([{"ip": one}]));
    }
}

/// `CheckGracefulDelete`: nothing runs that would need time when the pod has no node or has ended.
pub fn grace(pod: &Object, requested: Option<i64>) -> i64 {
    let unscheduled = text(&pod["spec"]["nodeName"]).is_empty();
    if unscheduled || matches!(text(&pod["status"]["phase"]), "Failed" | "Succeeded") {
        return 0;
    }
    let seconds = requested.or(pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
    // A negative period is one second.
    if seconds < 0 { 1 } else { seconds }
}

/// Errors of a Binding (`ValidatePodBinding`); upstream answers them with a 500.
pub fn validate_binding(binding: &Object) -> Errors {
    let target = Path::new("target");
    let mut errors = Errors::new();
    let kind = text(&binding["target"]["kind"]);
    if !matches!(kind, "" | "Node") {
        errors.push(target.child("kind").not_supported(kind, &["Node", "<empty>"]));
    }
    if text(&binding["target"]["name"]).is_empty() {
        errors.push(target.child("name").required(""));
    }
    errors
}

/// Why a pod cannot be bound: the cause of the 409 `Operation cannot be fulfilled on pods/binding "x": …`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BindError {
    #[error("pod {0} is being deleted, cannot be assigned to a host")]
    Deleting(String),
    #[error("pod {pod} is already assigned to node {node:?}")]
    Assigned { pod: String, node: String },
    #[error("pod {0} has non-empty .spec.schedulingGates")]
    Gated(String),
}

/// Assigns the pod to the binding's node; `now` is RFC 3339 with seconds.
pub fn bind(pod: &mut Object, binding: &Object, now: &str) -> Result<(), BindError> {
    let name = pod.name().to_owned();
    if pod.deletion_timestamp().is_some() {
        return Err(BindError::Deleting(name));
    }
    let node = text(&pod["spec"]["nodeName"]);
    if !node.is_empty() {
        return Err(BindError::Assigned { pod: name, node: node.to_owned() });
    }
    if !items(&pod["spec"]["schedulingGates"]).is_empty() {
        return Err(BindError::Gated(name));
    }
    let map = root(pod);
    object_entry(map, "spec").insert("nodeName".to_owned(), binding["target"]["name"].clone());
    if let Some(added) = binding.annotations().filter(|a| !a.is_empty()) {
        let annotations = object_entry(pod.meta_mut(), "annotations");
        annotations.extend(added.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let status = object_entry(root(pod), "status");
    let conditions = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    match conditions.as_array_mut() {
        Some(list) => {
            list.retain(|c| text(&c["type"]) != "PodScheduled");
            list.push(scheduled);
        }
        None => *conditions = json!([scheduled]),
    }
    Ok(())
}

/// `ValidatePodStatusUpdate`, as far as it does not concern resource claims.
pub fn validate_status(new: &Object, old: &Object) -> Errors {
    let path = Path::new("status");
    let mut errors = crate::registry::meta::validate_update(new, old);
    let (status, before) = (&new["status"], &old["status"]);
    if status["qosClass"] != before["qosClass"] {
        errors.push(path.child("qosClass").invalid(status["qosClass"].clone(), "field is immutable"));
    }
    if let Some(nominated) = status["nominatedNodeName"].as_str().filter(|n| !n.is_empty()) {
        let texts = crate::registry::names::dns1123_subdomain(nominated, false);
        errors.extend(path.child("nominatedNodeName").all_invalid(nominated, texts));
    }
    terminal_containers(new, old, &path, &mut errors);
    for (list, field) in [("podIPs", "podIPs"), ("hostIPs", "hostIPs")] {
        let path = path.child(field);
        let ips: Vec<&str> = items(&status[list]).iter().map(|ip| text(&ip["ip"])).collect();
        for (index, ip) in ips.iter().enumerate().filter(|(_, ip)| ip.parse::<std::net::IpAddr>().is_err()) {
            errors
                .push(path.index(index).invalid(*ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
        for (index, ip) in ips.iter().enumerate().filter(|(index, ip)| ips[..*index].contains(ip)) {
            errors.push(path.index(index).duplicate(*ip));
        }
    }
    errors
}

/// A container that ended and may not run again stays ended.
fn terminal_containers(new: &Object, old: &Object, path: &Path, errors: &mut Errors) {
    let policy = text(&old["spec"]["restartPolicy"]);
    let specs = || items(&old["spec"]["containers"]).iter().chain(items(&old["spec"]["initContainers"]));
    // The exit of one such container makes all run again.
    let restarts_all = specs()
        .any(|c| items(&c["restartPolicyRules"]).iter().any(|rule| text(&rule["action"]) == "RestartAllContainers"));
    if policy == "Always" || restarts_all {
        return;
    }
    let own_policy = |name: &Value| specs().any(|c| c["name"] == *name && c["restartPolicy"].is_string());
    for list in ["containerStatuses", "initContainerStatuses"] {
        let now = items(&new["status"][list]);
        for (index, before) in items(&old["status"][list]).iter().enumerate() {
            let ended = &before["state"]["terminated"];
            let failed = ended["exitCode"].as_i64().unwrap_or(0) != 0;
            if !ended.is_object() || (failed && policy == "OnFailure") || own_policy(&before["name"]) {
                continue;
            }
            let Some(after) = now.iter().find(|s| s["name"] == before["name"]) else { continue };
            if !after["state"]["terminated"].is_object() {
                errors.push(
                    path.child(list)
                        .index(index)
                        .child("state")
                        .forbidden("may not be transitioned to non-terminated state"),
                );
            }
        }
    }
}
