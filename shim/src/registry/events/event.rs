//! Events as events.k8s.io/v1 has them: another form of the stored core v1 Event, and the pure conversions.

use crate::meta::Object;
use crate::registry::ResourceDef;
use crate::registry::core::event as core;
use crate::registry::gv::{CORE_V1, EVENTS_V1};
use crate::registry::value::root;
use serde_json::Value;

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
    strategy: &core::STRATEGY,
    ..ResourceDef::BASIC
};

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
const CORE_ALWAYS: [(&str, fn() -> Value); 7] = [
    ("involvedObject", || Value::Object(Default::default())),
    ("source", || Value::Object(Default::default())),
    ("firstTimestamp", || Value::Null),
    ("lastTimestamp", || Value::Null),
    ("eventTime", || Value::Null),
    ("reportingComponent", || Value::from("")),
    ("reportingInstance", || Value::from("")),
];
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
    for (name, empty) in CORE_ALWAYS {
        map.entry(name).or_insert_with(empty);
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
