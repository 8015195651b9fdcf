//! The metrics of an autoscaler: their rules, and how a table shows them.

use super::horizontalpodautoscaler::reference;
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::value::{items, text};
use crate::registry::{labels, names};
use serde_json::Value;

/// (type, field of its source)
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

pub(super) fn validate(metrics: &[Value], path: &Path, errors: &mut Errors) {
    for (index, metric) in metrics.iter().enumerate() {
        let path = path.index(index);
        let kind = text(&metric["type"]);
        if kind.is_empty() {
            errors.push(path.child("type").required("must specify a metric source type"));
        } else if !SOURCES.iter().any(|(name, _)| *name == kind) {
            errors.push(path.child("type").not_supported(kind, &SOURCES.map(|(name, _)| name)));
        }
        let present: Vec<&str> =
            SOURCES.iter().map(|(_, field)| *field).filter(|field| metric[*field].is_object()).collect();
        for field in &present[present.len().min(1)..] {
            errors.push(path.child(field).forbidden("must populate the given metric source only"));
        }
        if let Some((_, field)) = SOURCES.iter().find(|(name, _)| *name == kind)
            && !metric[*field].is_object()
        {
            errors.push(path.child(field).required("must populate information for the given metric source"));
        }
        for field in present {
            source(field, &metric[field], &path.child(field), errors);
        }
    }
}

fn source(kind: &str, source: &Value, path: &Path, errors: &mut Errors) {
    let (target, path_of_target) = (&source["target"], path.child("target"));
    let set = |field: &str| !target[field].is_null();
    let mut needs_one_of = |fields: &[&str], detail: &str| {
        if !fields.iter().any(|field| !target[*field].is_null()) {
            errors.push(path_of_target.child(fields[0]).required(detail));
        }
    };
    match kind {
        "object" | "external" => {
            let detail = if kind == "object" {
                "must set either a target value for metric or a metric per-pod target"
            } else {
                "must set either a target value for metric or a per-pod target"
            };
            needs_one_of(&["averageValue", "value"], detail);
        }
        "pods" => {
            let positive = Nanos::parse(&target["averageValue"]).is_some_and(|n| n.0 > 0);
            if !positive {
                let path = path_of_target.child("averageValue");
                errors.push(path.required("must specify a positive target averageValue"));
            }
        }
        _ => needs_one_of(
            &["averageUtilization", "averageValue"],
            "must set either a target raw value or a target utilization",
        ),
    }
    if matches!(kind, "resource" | "containerResource") {
        if text(&source["name"]).is_empty() {
            errors.push(path.child("name").required("must specify a resource name"));
        }
        if kind == "containerResource" && text(&source["container"]).is_empty() {
            errors.push(path.child("container").required("must specify a container"));
        }
    } else {
        metric(&source["metric"], &path.child("metric"), errors);
    }
    if kind == "object" {
        reference(&source["describedObject"], &path.child("describedObject"), errors);
    }
    if set("averageUtilization") && set("averageValue") && !matches!(kind, "object" | "external") {
        errors.push(
            path_of_target
                .child("averageValue")
                .forbidden("may not set both a target raw value and a target utilization"),
        );
    }
    if set("value") && set("averageValue") && matches!(kind, "object" | "external") {
        errors.push(
            path_of_target.child("value").forbidden("may not set both a target value for metric and a per-pod target"),
        );
    }
    self::target(target, &path_of_target, errors);
}

fn target(target: &Value, path: &Path, errors: &mut Errors) {
    let kinds = ["AverageValue", "Utilization", "Value"];
    match text(&target["type"]) {
        "" => errors.push(path.child("type").required("must specify a metric target type")),
        kind if !kinds.contains(&kind) => {
            errors.push(path.child("type").invalid(kind, "must be either Utilization, Value, or AverageValue"))
        }
        _ => {}
    }
    for field in ["value", "averageValue"] {
        if Nanos::parse(&target[field]).is_some_and(|n| n.0 <= 0) {
            errors.push(path.child(field).invalid(target[field].clone(), "must be positive"));
        }
    }
    if let Some(percent) = target["averageUtilization"].as_i64().filter(|percent| *percent < 1) {
        errors.push(path.child("averageUtilization").invalid(percent, "must be greater than 0"));
    }
}

fn metric(metric: &Value, path: &Path, errors: &mut Errors) {
    match text(&metric["name"]) {
        "" => errors.push(path.child("name").required("must specify a metric name")),
        name => errors.extend(path.child("name").all_invalid(name, names::path_segment(name, false))),
    }
    labels::validate_selector(&metric["selector"], &path.child("selector"), errors);
}

/// `formatHPAMetrics`: at most two, then how many more.
pub(super) fn cell(specs: &[Value], statuses: &[Value]) -> String {
    const SHOWN: usize = 2;
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> =
        specs.iter().take(SHOWN).enumerate().map(|(index, spec)| one(spec, statuses.get(index))).collect();
    let shown = shown.join(", ");
    if specs.len() > SHOWN { format!("{shown} + {} more...", specs.len() - SHOWN) } else { shown }
}

fn one(spec: &Value, status: Option<&Value>) -> String {
    let kind = text(&spec["type"]);
    let Some((_, field)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        return "<unknown type>".to_owned();
    };
    let target = &spec[*field]["target"];
    let current = status.map_or(&Value::Null, |status| &status[*field]["current"]);
    let value = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        number => Some(number.to_string()),
    };
    let unknown = || "<unknown>".to_owned();
    let average = |suffix: &str| {
        let now = value(&current["averageValue"]).unwrap_or_else(unknown);
        format!("{now}/{}{suffix}", value(&target["averageValue"]).unwrap_or_default())
    };
    match kind {
        "Resource" | "ContainerResource" => {
            let name = text(&spec[*field]["name"]);
            let shown = if target["averageValue"].is_null() {
                let wanted = value(&target["averageUtilization"]).map_or("<auto>".to_owned(), |n| format!("{n}%"));
                let now = value(&current["averageUtilization"]).map_or_else(unknown, |n| format!("{n}%"));
                format!("{now}/{wanted}")
            } else {
                average("")
            };
            format!("{name}: {shown}")
        }
        "Pods" => average(""),
        _ if !target["averageValue"].is_null() => average(" (avg)"),
        _ => {
            let now = value(&current["value"]).unwrap_or_else(unknown);
            format!("{now}/{}", value(&target["value"]).unwrap_or_default())
        }
    }
}

/// Whether a metric is the utilization of the processor, which v1 has a field for.
pub(super) fn is_cpu_utilization(metric: &Value) -> bool {
    let resource = &metric["resource"];
    text(&metric["type"]) == "Resource"
        && text(&resource["name"]) == "cpu"
        && !(resource["target"]["averageUtilization"].is_null() && resource["current"]["averageUtilization"].is_null())
}

/// The first such metric.
pub(super) fn cpu_utilization(metrics: &Value) -> Option<usize> {
    items(metrics).iter().position(is_cpu_utilization)
}
