//! ResourceQuotas.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::validate::{resource_name, validate_quantity};
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{carry_over, entries, items, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta};
use serde_json::{Map, Value};

pub const DEF: ResourceDef = ResourceDef {
    resource: "resourcequotas",
    singular: "resourcequota",
    kind: "ResourceQuota",
    short_names: &["quota"],
    storage: "resourcequotas",
    returns_deleted: true,
    subresources: &[Subresource::core("status", "ResourceQuota", STATUS_VERBS)],
    columns: COLUMNS,
    row,
    strategy: &Strategy { prepare_create, prepare_update, validate, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn prepare_create(quota: &mut Object) {
    root(quota).insert("status".to_owned(), Map::new().into());
}

fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
}

/// Resources that a quota may limit, besides `count/<resource>.<group>` and qualified names.
const QUOTA_RESOURCES: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

fn validate(quota: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(quota);
    let (spec, path) = (&quota["spec"], Path::new("spec"));
    for (resource, quantity) in entries(&spec["hard"]) {
        let path = path.child("hard").key(resource);
        resource_name(resource, &path, &mut errors);
        if !resource.contains('/') && !QUOTA_RESOURCES.contains(&resource.as_str()) && !resource.contains("hugepages-")
        {
            errors.push(path.invalid(resource.as_str(), "must be a standard resource for quota"));
        }
        validate_quantity(resource, quantity, &path, &mut errors);
        let counted = !["cpu", "memory", "storage"].iter().any(|unit| resource.ends_with(unit));
        if counted && !resource.contains('/') && Nanos::parse(quantity).is_some_and(|n| !n.is_integer()) {
            errors.push(path.invalid(quantity.clone(), "must be an integer"));
        }
    }
    scopes(spec, &path, &mut errors);
    errors
}

fn scopes(spec: &Value, path: &Path, errors: &mut Errors) {
    let list: Vec<&str> = items(&spec["scopes"]).iter().map(text).collect();
    let has = |scope: &str| list.contains(&scope);
    let invalid = |detail: &str| path.child("scopes").invalid(spec["scopes"].clone(), detail);
    for scope in &list {
        if !SCOPES.contains(scope) {
            errors.push(invalid("unsupported scope"));
        } else if *scope == "BestEffort" && entries(&spec["hard"]).any(|(r, _)| r != "pods" && r != "count/pods") {
            errors.push(invalid("unsupported scope applied to resource"));
        }
    }
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        errors.push(invalid("conflicting scopes"));
    }
    let path = path.child("scopeSelector").child("matchExpressions");
    for requirement in items(&spec["scopeSelector"]["matchExpressions"]) {
        let values = items(&requirement["values"]);
        match text(&requirement["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(path.child("values").required(detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                errors.push(path.child("values").invalid(requirement["values"].clone(), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(path.child("operator").invalid(other, "not a valid selector operator")),
        }
        if !SCOPES.contains(&text(&requirement["scopeName"])) {
            errors.push(path.child("scopeName").invalid(text(&requirement["scopeName"]), "unsupported scope"));
        }
    }
}

fn row(quota: &Object, now: i64) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in entries(&quota["status"]["hard"]) {
        let used = quota["status"]["used"][resource].as_str().unwrap_or("0");
        let column = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
        column.push(format!("{resource}: {used}/{}", text(hard)));
    }
    vec![quota.name().into(), requests.join(", ").into(), limits.join(", ").into(), age(quota, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
    text_column(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    AGE,
];
