//! LimitRanges.

use crate::meta::Object;
use crate::registry::core::pod::validate::container_resource_name;
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::value::{entries, items, items_mut, object_entry, object_mut, text};
use crate::registry::{ResourceDef, Strategy, meta, names};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

pub const DEF: ResourceDef = ResourceDef {
    resource: "limitranges",
    singular: "limitrange",
    kind: "LimitRange",
    short_names: &["limits"],
    storage: "limitranges",
    strategy: &Strategy { default, validate, allow_create_on_update: true, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

/// A container's default limit is its maximum, its default request the default limit or the minimum.
fn default(range: &mut Object) {
    let Some(spec) = object_mut(range, "spec") else { return };
    for limit in items_mut(spec, "limits").filter(|l| l.get("type").map(text) == Some("Container")) {
        let list = |limit: &Map<String, Value>, key: &str| {
            limit.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
        };
        fill(limit, "default", list(limit, "max"));
        fill(limit, "defaultRequest", list(limit, "default"));
        fill(limit, "defaultRequest", list(limit, "min"));
    }
}

fn fill(limit: &mut Map<String, Value>, key: &str, from: Map<String, Value>) {
    if from.is_empty() {
        return;
    }
    let list = object_entry(limit, key);
    for (resource, quantity) in from {
        list.entry(resource).or_insert(quantity);
    }
}

fn validate(range: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(range);
    let mut seen = Vec::new();
    for (index, limit) in items(&range["spec"]["limits"]).iter().enumerate() {
        let path = Path::new("spec").child("limits").index(index);
        let kind = text(&limit["type"]);
        errors.extend(path.child("type").all_invalid(kind, names::qualified_name(kind)));
        if seen.contains(&kind) {
            errors.push(path.child("type").duplicate(kind));
        }
        seen.push(kind);
        one(limit, kind, &path, &mut errors);
    }
    errors
}

fn one(limit: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    let mut resources: BTreeSet<&str> = BTreeSet::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        for (resource, _) in entries(&limit[list]) {
            resources.insert(resource);
            if kind == "Container" {
                container_resource_name(resource, &path.child(list).key(resource), errors);
            }
        }
    }
    if kind == "Pod" {
        for list in ["default", "defaultRequest"] {
            if entries(&limit[list]).next().is_some() {
                errors.push(path.child(list).forbidden("may not be specified when `type` is 'Pod'"));
            }
        }
    }
    if kind == "PersistentVolumeClaim" && limit["min"]["storage"].is_null() && limit["max"]["storage"].is_null() {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(path.child("limits").required(detail));
    }
    for resource in resources {
        compare(limit, resource, path, errors);
    }
}

/// min ≤ default request ≤ default limit ≤ max, for one resource; the values shown are upstream's choice.
fn compare(limit: &Value, resource: &str, path: &Path, errors: &mut Errors) {
    let shown = |list: &str| text(&limit[list][resource]).to_owned();
    let number = |list: &str| Nanos::parse(&limit[list][resource]);
    let mut above = |a: (&str, &str), b: (&str, &str), field: &str, value: &str| {
        if let (Some(low), Some(high)) = (number(a.0), number(b.0))
            && low > high
        {
            let detail = format!("{} value {} is greater than {} value {}", a.1, shown(a.0), b.1, shown(b.0));
            errors.push(path.child(field).key(resource).invalid(shown(value), &detail));
        }
    };
    let (min, max) = (("min", "min"), ("max", "max"));
    let (request, default) = (("defaultRequest", "default request"), ("default", "default"));
    above(min, max, "min", "min");
    above(min, request, "defaultRequest", "defaultRequest");
    above(min, default, "default", "min");
    above(request, max, "defaultRequest", "defaultRequest");
    above(request, ("default", "default limit"), "defaultRequest", "defaultRequest");
    above(default, max, "default", "max");
    if let Some(ratio) = number("maxLimitRequestRatio")
        && ratio.0 < 1_000_000_000
    {
        let (path, ratio) = (path.child("maxLimitRequestRatio").key(resource), shown("maxLimitRequestRatio"));
        errors.push(path.invalid(ratio.as_str(), &format!("ratio {ratio} is less than 1")));
    }
}
