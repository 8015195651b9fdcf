//! ResourceQuotas.

pub mod usage;

use crate::meta::{Meta, Object};
use crate::registry::core::pod::validate::{resource_name, validate_quantity};
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{carry_over, entries, items, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

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
    strategy: &Strategy {
        prepare_create,
        prepare_update,
        validate,
        validate_update,
        validate_status,
        ..Strategy::BASIC
    },
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
const ONLY_EXISTS: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
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
    amounts(&spec["hard"], &path.child("hard"), &mut errors);
    scopes(spec, &path, &mut errors);
    errors
}

fn amounts(list: &Value, path: &Path, errors: &mut Errors) {
    for (resource, quantity) in entries(list) {
        let path = path.key(resource);
        resource_name(resource, &path, errors);
        if !resource.contains('/') && !QUOTA_RESOURCES.contains(&resource.as_str()) && !resource.contains("hugepages-")
        {
            errors.push(path.invalid(resource.as_str(), "must be a standard resource for quota"));
        }
        validate_quantity(resource, quantity, &path, errors);
        let counted = !["cpu", "memory", "storage"].iter().any(|unit| resource.ends_with(unit));
        if counted && !resource.contains('/') && Nanos::parse(quantity).is_some_and(|n| !n.is_integer()) {
            errors.push(path.invalid(quantity.clone(), "must be an integer"));
        }
    }
}

/// What a quota is about stays.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let scopes = |quota: &Object| -> BTreeSet<String> {
        items(&quota["spec"]["scopes"]).iter().map(|scope| text(scope).to_owned()).collect()
    };
    if scopes(new) != scopes(old) {
        let path = Path::new("spec").child("scopes");
        errors.push(path.invalid(new["spec"]["scopes"].clone(), "field is immutable"));
    }
    errors
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    for list in ["hard", "used"] {
        amounts(&new["status"][list], &Path::new("status").child(list), &mut errors);
    }
    errors
}

/// Whether a quota of that scope can limit a resource (`IsResourceQuotaScopeValidForResource`).
fn fits(scope: &str, resource: &str) -> bool {
    const COMPUTE: [&str; 6] = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => resource == "pods" || COMPUTE.contains(&resource),
    }
}

/// The standard resources that a scope cannot limit.
fn unfit<'a>(scope: &'a str, spec: &'a Value) -> impl Iterator<Item = &'a String> {
    let standard = entries(&spec["hard"]).map(|(resource, _)| resource);
    standard.filter(move |resource| QUOTA_RESOURCES.contains(&resource.as_str()) && !fits(scope, resource))
}

fn scopes(spec: &Value, path: &Path, errors: &mut Errors) {
    let list: Vec<&str> = items(&spec["scopes"]).iter().map(text).collect();
    let has = |scope: &str| list.contains(&scope);
    let invalid = |detail: &str| path.child("scopes").invalid(spec["scopes"].clone(), detail);
    for scope in &list {
        if !SCOPES.contains(scope) {
            errors.push(invalid("unsupported scope"));
        } else {
            errors.extend(unfit(scope, spec).map(|_| invalid("unsupported scope applied to resource")));
        }
    }
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        errors.push(invalid("conflicting scopes"));
    }
    let path = path.child("scopeSelector").child("matchExpressions");
    for requirement in items(&spec["scopeSelector"]["matchExpressions"]) {
        let scope = text(&requirement["scopeName"]);
        if SCOPES.contains(&scope) {
            let detail = "unsupported scope applied to resource";
            errors.extend(unfit(scope, spec).map(|_| path.invalid(spec["scopeSelector"].clone(), detail)));
        } else {
            errors.push(path.child("scopeName").invalid(scope, "unsupported scope"));
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
            && SCOPES.contains(&scope)
            && text(&requirement["operator"]) != "Exists"
        {
            errors.push(path.child("operator").invalid(text(&requirement["operator"]), ONLY_EXISTS));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scopes_fit_their_resources_and_stay() {
        let quota = |spec: Value| json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec});
        let selector =
            |scope: &str, operator: &str| json!({"matchExpressions": [{"scopeName": scope, "operator": operator}]});
        for (spec, fields) in [
            (json!({"hard": {"pods": "1", "cpu": "1"}, "scopes": ["NotBestEffort"]}), vec![]),
            (json!({"hard": {"services": "1", "secrets": "1"}, "scopes": ["Terminating"]}), vec!["spec.scopes"; 2]),
            (json!({"hard": {"pods": "1"}, "scopeSelector": selector("PriorityClass", "Exists")}), vec![]),
            (
                json!({"hard": {"pods": "1"}, "scopeSelector": selector("Terminating", "DoesNotExist")}),
                vec!["spec.scopeSelector.matchExpressions.operator"],
            ),
            (
                json!({"hard": {"secrets": "1"}, "scopeSelector": selector("PriorityClass", "Exists")}),
                vec!["spec.scopeSelector.matchExpressions"],
            ),
        ] {
            let found: Vec<String> = validate(&quota(spec.clone())).into_iter().map(|error| error.field).collect();
            assert_eq!(found, fields, "{spec}");
        }
        let (scoped, plain) = (quota(json!({"scopes": ["Terminating"]})), quota(json!({})));
        assert_eq!(validate_update(&scoped, &plain)[0].field, "spec.scopes");
        let status = json!({"metadata": {"name": "q"}, "status": {"used": {"pods": "1.5"}}});
        assert_eq!(validate_status(&status, &status)[0].field, "status.used[pods]");
    }
}
