//! Containers, init containers and ephemeral containers: `validateContainers` and its kin.

use super::{claims, env, one_of, ports, probes, resources, security, volumes};
use crate::registry::field::{Errors, Path};
use crate::registry::names;
use crate::registry::value::{entries, items, text};
use serde_json::Value;

/// What containers may refer to in their pod.
pub(super) struct PodFacts<'a> {
    pub(super) spec: &'a Value,
    pub(super) grace_seconds: i64,
}

pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let facts = PodFacts { spec, grace_seconds: spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30) };
    let mut seen: Vec<&str> = Vec::new();
    let containers = items(&spec["containers"]);
    if containers.is_empty() {
        errors.push(path.child("containers").required(""));
    }
    let mut host_ports = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.child("containers").index(index);
        common(container, &path, &facts, &mut seen, errors);
        lifecycle(container, &path, &facts, errors);
        probes::validate(container, &path, &facts, errors);
        restart_policy(container, &path, errors);
    }
    ports::host_ports(containers, &path.child("containers"), &mut host_ports, errors);
    for (index, container) in items(&spec["initContainers"]).iter().enumerate() {
        let path = path.child("initContainers").index(index);
        common(container, &path, &facts, &mut seen, errors);
        restart_policy(container, &path, errors);
        // Only sidecars live long enough for hooks and probes.
        if text(&container["restartPolicy"]) == "Always" {
            lifecycle(container, &path, &facts, errors);
            probes::validate(container, &path, &facts, errors);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container[field].is_object() {
                    let text = "may not be set for init containers without restartPolicy=Always";
                    errors.push(path.child(field).forbidden(text));
                }
            }
        }
        ports::host_ports(std::slice::from_ref(container), &path, &mut Vec::new(), errors);
    }
    for (index, container) in items(&spec["ephemeralContainers"]).iter().enumerate() {
        ephemeral(container, &path.child("ephemeralContainers").index(index), &facts, &mut seen, errors);
    }
    if spec["hostNetwork"].as_bool() == Some(true) {
        for key in ["containers", "initContainers"] {
            ports::host_network(items(&spec[key]), &path.child(key), errors);
        }
    }
}

/// What all three kinds of containers have in common.
fn common<'a>(container: &'a Value, path: &Path, facts: &PodFacts<'_>, seen: &mut Vec<&'a str>, errors: &mut Errors) {
    let name = text(&container["name"]);
    if name.is_empty() {
        errors.push(path.child("name").required(""));
    } else {
        errors.extend(path.child("name").all_invalid(name, names::dns1123_label(name, false)));
        if seen.contains(&name) {
            errors.push(path.child("name").duplicate(name));
        }
        seen.push(name);
    }
    let image = text(&container["image"]);
    if image.is_empty() {
        errors.push(path.child("image").required(""));
    } else if image.trim() != image {
        errors.push(path.child("image").invalid(image, "must not have leading or trailing whitespace"));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(&container["terminationMessagePolicy"], &path.child("terminationMessagePolicy"), &policies, errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(&container["imagePullPolicy"], &path.child("imagePullPolicy"), &policies, errors);
    ports::validate(items(&container["ports"]), &path.child("ports"), errors);
    env::validate(container, path, errors);
    volumes::mounts(container, facts.spec, path, errors);
    resources::container(&container["resources"], &path.child("resources"), errors);
    claims::of_container(&container["resources"], facts.spec, &path.child("resources"), errors);
    resize_policy(container, &path.child("resizePolicy"), errors);
    security::container(container, facts.spec, &path.child("securityContext"), errors);
}

fn restart_policy(container: &Value, path: &Path, errors: &mut Errors) {
    if let Some(policy) = container["restartPolicy"].as_str()
        && !matches!(policy, "Always" | "Never" | "OnFailure")
    {
        errors.push(path.child("restartPolicy").not_supported(policy, &["Always", "Never", "OnFailure"]));
    }
}

fn resize_policy(container: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for policy in items(&container["resizePolicy"]) {
        let resource = text(&policy["resourceName"]);
        if seen.contains(&resource) {
            errors.push(path.duplicate(resource));
        }
        seen.push(resource);
        if !matches!(resource, "cpu" | "memory") {
            errors.push(path.not_supported(resource, &["cpu", "memory"]));
        }
        let restart = text(&policy["restartPolicy"]);
        if !matches!(restart, "NotRequired" | "RestartContainer") {
            errors.push(path.not_supported(restart, &["NotRequired", "RestartContainer"]));
        }
    }
}

fn lifecycle(container: &Value, path: &Path, facts: &PodFacts<'_>, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        let handler = &container["lifecycle"][hook];
        if handler.is_object() {
            probes::handler(handler, &path.child("lifecycle").child(hook), facts, errors);
        }
    }
    if container["lifecycle"]["stopSignal"].is_string() && text(&facts.spec["os"]["name"]).is_empty() {
        let detail = "may not be set for containers with empty `spec.os.name`";
        errors.push(path.child("lifecycle").child("stopSignal").forbidden(detail));
    }
}

/// Fields an ephemeral container may have; all others are forbidden to it.
const EPHEMERAL_FIELDS: [&str; 18] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
    "resources",
];

fn ephemeral<'a>(
    container: &'a Value,
    path: &Path,
    facts: &PodFacts<'_>,
    seen: &mut Vec<&'a str>,
    errors: &mut Errors,
) {
    common(container, path, facts, seen, errors);
    for (field, value) in entries(container) {
        let empty = crate::registry::value::is_empty(value);
        if !empty && (!EPHEMERAL_FIELDS.contains(&field.as_str()) || field == "resources") {
            errors.push(path.child(field).forbidden("cannot be set for an Ephemeral Container"));
        }
    }
    for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let path = path.child("volumeMounts").index(index);
        for field in ["subPath", "subPathExpr"] {
            if !text(&mount[field]).is_empty() {
                errors.push(path.child(field).forbidden("cannot be set for an Ephemeral Container"));
            }
        }
    }
    let target = text(&container["targetContainerName"]);
    let known = ["containers", "initContainers"]
        .iter()
        .any(|key| items(&facts.spec[*key]).iter().any(|c| text(&c["name"]) == target));
    if !target.is_empty() && !known {
        errors.push(path.child("targetContainerName").not_found(target));
    }
}
