//! Events as events.k8s.io/v1 has them: another form of the stored core v1 Event, and the pure conversions.

use crate::meta::Object;
use crate::registry::core::event as core;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::{CORE_V1, EVENTS_V1};
use crate::registry::value::{is_empty, root, text};
use crate::registry::{Conversion, ResourceDef, Strategy, meta};
use serde_json::{Map, Value};

pub const DEF: ResourceDef = ResourceDef {
    gv: EVENTS_V1,
    resource: "events",
    singular: "event",
    kind: "Event",
    short_names: &["ev"],
    storage: "events",
    storage_gv: CORE_V1,
    columns: core::COLUMNS,
    row: core::row,
    selectable: &[
        "reason",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reportingController",
        "type",
    ],
    fields: core::fields,
    conversion: Some(&Conversion { to_storage: to_core, to_served: from_core }),
    strategy: &Strategy { validate, validate_update, allow_create_on_update: true, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

/// Rules of the stored form, for requests in this version: stricter than core v1's.
fn validate(event: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(event);
    core::validate_reference(event, &mut errors);
    if is_empty(&event["eventTime"]) {
        errors.push(Path::new("eventTime").required(""));
    }
    core::validate_reporter(event, "reportingController", &mut errors);
    let kind = text(&event["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Path::new("type").invalid("", &format!("has invalid value: {kind}")));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        let zero = event[field].as_i64() == Some(0);
        if !is_empty(&event[field]) && !zero {
            errors.push(Path::new(field).invalid("", "needs to be unset"));
        }
    }
    errors
}

/// Only the series may change.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingInstance",
    ] {
        meta::immutable(&new[field], &old[field], &Path::new(field), &mut errors);
    }
    let controller = Path::new("reportingController");
    meta::immutable(&new["reportingComponent"], &old["reportingComponent"], &controller, &mut errors);
    errors
}

/// (events.k8s.io/v1 name, core v1 name) of the fields that are called differently.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];
/// Fields that core v1 writes even when empty, and what they are then.
fn core_always() -> [(&'static str, Value); 7] {
    [
        ("involvedObject", Value::Object(Map::new())),
        ("source", Value::Object(Map::new())),
        ("firstTimestamp", Value::Null),
        ("lastTimestamp", Value::Null),
        ("eventTime", Value::Null),
        ("reportingComponent", Value::from("")),
        ("reportingInstance", Value::from("")),
    ]
}
/// … of which events.k8s.io/v1 omits these when empty.
const OMITTED_IN_EVENTS: [&str; 6] = [
    "deprecatedFirstTimestamp",
    "deprecatedLastTimestamp",
    "reportingController",
    "reportingInstance",
    "regarding",
    "deprecatedSource",
];

/// The stored form of an events.k8s.io/v1 event.
pub fn to_core(mut event: Object) -> Object {
    let map = root(&mut event);
    for (events_name, core_name) in RENAMED {
        if let Some(value) = map.remove(events_name) {
            map.insert(core_name.to_owned(), value);
        }
    }
    for (name, empty) in core_always() {
        map.entry(name).or_insert(empty);
    }
    map.insert("apiVersion".to_owned(), "v1".into());
    event
}

/// The events.k8s.io/v1 form of a stored event.
pub fn from_core(mut event: Object) -> Object {
    let map = root(&mut event);
    for (events_name, core_name) in RENAMED {
        if let Some(value) = map.remove(core_name) {
            map.insert(events_name.to_owned(), value);
        }
    }
    for name in OMITTED_IN_EVENTS {
        if map.get(name).is_some_and(|v| v.is_null() || v.as_str() == Some("")) {
            map.remove(name);
        }
    }
    for name in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
        map.entry(name).or_insert(Value::Null);
    }
    map.insert("apiVersion".to_owned(), "events.k8s.io/v1".into());
    event
}
