//! Events as core v1 has them, which is also how events.k8s.io/v1 events are stored.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::table::{NAME, since, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, Strategy, meta, meta_fields, names};
use crate::selector::Pairs;
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "events",
    singular: "event",
    kind: "Event",
    short_names: &["ev"],
    storage: "events",
    columns: COLUMNS,
    row,
    selectable: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    fields,
    strategy: &STRATEGY,
    ..ResourceDef::BASIC
};

const STRATEGY: Strategy = Strategy { validate, allow_create_on_update: true, ..Strategy::BASIC };

fn validate(event: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(event);
    validate_reference(event, &mut errors);
    if !text(&event["eventTime"]).is_empty() {
        validate_reporter(event, "reportingComponent", &mut errors);
    }
    errors
}

/// An event is in the namespace of what it is about, or in `default` when that has none.
pub fn validate_reference(event: &Object, errors: &mut Errors) {
    let about = text(&event["involvedObject"]["namespace"]);
    let own = event.namespace();
    let agree = if about.is_empty() { matches!(own, "" | "default") } else { about == own };
    if !agree {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(path.invalid(about, "does not match event.namespace"));
    }
}

/// What an event with an `eventTime` must say of its reporter; `field` is the controller's name in the request's version.
pub fn validate_reporter(event: &Object, field: &str, errors: &mut Errors) {
    /// Of `reportingInstance`, `action` and `reason`.
    const MAX_BYTES: usize = 128;
    const MESSAGE_MAX_BYTES: usize = 1024;
    let controller = text(&event["reportingComponent"]);
    if controller.is_empty() {
        errors.push(Path::new(field).required(""));
    }
    errors.extend(Path::new(field).all_invalid(controller, names::qualified_name(controller)));
    for field in ["reportingInstance", "action", "reason"] {
        let value = text(&event[field]);
        if value.is_empty() {
            errors.push(Path::new(field).required(""));
        } else if value.len() > MAX_BYTES {
            errors.push(Path::new(field).invalid("", &format!("can have at most {MAX_BYTES} characters")));
        }
    }
    if text(&event["message"]).len() > MESSAGE_MAX_BYTES {
        errors.push(Path::new("message").invalid("", &format!("can have at most {MESSAGE_MAX_BYTES} characters")));
    }
}

/// Fields of a stored event under the names of both served versions, so that one cache entry answers both.
pub fn fields(event: &Object) -> Pairs {
    let mut pairs = meta_fields(event);
    for field in ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"] {
        let value = text(&event["involvedObject"][field]);
        pairs.insert(format!("involvedObject.{field}").into(), value.into());
        pairs.insert(format!("regarding.{field}").into(), value.into());
    }
    let controller = text(&event["reportingComponent"]);
    let source = match text(&event["source"]["component"]) {
        "" => controller,
        component => component,
    };
    for (field, value) in [
        ("reason", text(&event["reason"])),
        ("reportingComponent", controller),
        ("reportingController", controller),
        ("source", source),
        ("type", text(&event["type"])),
    ] {
        pairs.insert(field.into(), value.into());
    }
    pairs
}

/// `printEvent`: times fall back on `eventTime`, counts on the series.
pub fn row(event: &Object, now: i64) -> Vec<Value> {
    let first = match text(&event["firstTimestamp"]) {
        "" => text(&event["eventTime"]),
        first => first,
    };
    let mut last = match text(&event["lastTimestamp"]) {
        "" => first,
        last => last,
    };
    let mut count = event["count"].as_i64().filter(|&c| c != 0).unwrap_or(1);
    if event["series"].is_object() {
        last = text(&event["series"]["lastObservedTime"]);
        count = event["series"]["count"].as_i64().unwrap_or(0);
    }
    let involved = &event["involvedObject"];
    let mut target = text(&involved["kind"]).to_lowercase();
    if !text(&involved["name"]).is_empty() {
        target = format!("{target}/{}", text(&involved["name"]));
    }
    vec![
        since(last, now).into(),
        event["type"].as_str().unwrap_or("").into(),
        text(&event["reason"]).into(),
        target.into(),
        text(&involved["fieldPath"]).into(),
        source(event).into(),
        text(&event["message"]).trim().into(),
        since(first, now).into(),
        count.into(),
        event.name().into(),
    ]
}

fn source(event: &Object) -> String {
    let first = |a: &'static str, b: &'static str| match text(&event["source"][a]) {
        "" => text(&event[b]).to_owned(),
        text => text.to_owned(),
    };
    let (component, instance) = (first("component", "reportingComponent"), first("host", "reportingInstance"));
    if instance.is_empty() { component } else { format!("{component}, {instance}") }
}

/// `printEvent`'s columns.
pub const COLUMNS: &[Column] = &[
    text_column("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
    text_column("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
    text_column("Reason", "This should be a short, machine understandable string that gives the reason for the transition into the object's current status."),
    text_column("Object", "The object that this event is about."),
    text_column("Subobject", "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement, such as desiredState.manifest.containers[2]. For example, if the object reference is to a container within a pod, this would take on a value like: \"spec.containers{name}\" (where \"name\" refers to the name of the container that triggered the event) or if no container name is specified \"spec.containers[2]\" (container with index 2 in this pod). This syntax is chosen only to have some well-defined way of referencing a part of an object.").wide(),
    text_column("Source", "The component reporting this event. Should be a short machine understandable string.").wide(),
    text_column("Message", "A human-readable description of the status of this operation."),
    text_column("First Seen", "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)").wide(),
    text_column("Count", "The number of times this event has occurred.").wide(),
    NAME.wide(),
];
