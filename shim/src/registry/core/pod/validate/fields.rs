//! References to the pod's own fields and resources, by environment variables and downward API volumes.

use crate::registry::field::{Errors, Path};
use crate::registry::names;
use crate::registry::quantity::Nanos;
use crate::registry::value::text;
use serde_json::Value;

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Who refers to a field; each may name others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Referrer {
    Env,
    Volume,
}

/// `validateObjectFieldSelector`.
pub(super) fn field_ref(reference: &Value, referrer: Referrer, path: &Path, errors: &mut Errors) {
    if text(&reference["apiVersion"]).is_empty() {
        errors.push(path.child("apiVersion").required(""));
        return;
    }
    let field = text(&reference["fieldPath"]);
    let path_of_path = path.child("fieldPath");
    if field.is_empty() {
        errors.push(path_of_path.required(""));
        return;
    }
    if text(&reference["apiVersion"]) != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {}", text(&reference["apiVersion"]));
        errors.push(path_of_path.invalid(field, &detail));
        return;
    }
    if let Some((base, subscript)) = subscript(field) {
        match base {
            "metadata.annotations" => {
                let texts = names::qualified_name(&subscript.to_lowercase());
                errors.extend(path.all_invalid(subscript, texts));
            }
            "metadata.labels" => errors.extend(path.all_invalid(subscript, names::qualified_name(subscript))),
            _ => errors.push(path.invalid(base, "does not support subscript")),
        }
        return;
    }
    let (supported, known): (&[&str], bool) = match referrer {
        Referrer::Env => (&ENV_FIELDS, VOLUME_FIELDS.contains(&field)),
        Referrer::Volume => (&VOLUME_FIELDS, ENV_FIELDS.contains(&field)),
    };
    if supported.contains(&field) {
        return;
    }
    if known {
        errors.push(path_of_path.not_supported(field, supported));
    } else {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(path_of_path.invalid(field, &detail));
    }
}

/// `metadata.labels['a']` → (`metadata.labels`, `a`).
fn subscript(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['")
}

/// `validateContainerResourceFieldSelector`.
pub(super) fn resource_ref(reference: &Value, referrer: Referrer, path: &Path, errors: &mut Errors) {
    let resource = text(&reference["resource"]);
    if referrer == Referrer::Volume && text(&reference["containerName"]).is_empty() {
        errors.push(path.child("containerName").required(""));
        return;
    }
    if resource.is_empty() {
        errors.push(path.child("resource").required(""));
        return;
    }
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if !huge && !RESOURCES.contains(&resource) {
        errors.push(path.child("resource").not_supported(resource, &RESOURCES));
        return;
    }
    let divisor = &reference["divisor"];
    let Some(nanos) = Nanos::parse(divisor).map(|n| n.0).filter(|n| *n != 0) else { return };
    let milli = 1_000_000;
    let unit = 1000 * milli;
    let (allowed, detail): (Vec<i128>, &str) = if resource.ends_with(".cpu") {
        (vec![milli, unit], "only divisor's values 1m and 1 are supported with the cpu resource")
    } else {
        let powers = (1..=6u32).flat_map(|n| [1000i128.pow(n), 1024i128.pow(n)]).chain([1]);
        let detail = if resource.ends_with(".memory") {
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
        } else if huge {
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the hugepages resource"
        } else {
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource"
        };
        (powers.map(|p| p * unit).collect(), detail)
    };
    if !allowed.contains(&nanos) {
        errors.push(path.child("divisor").invalid(resource, detail));
    }
}
