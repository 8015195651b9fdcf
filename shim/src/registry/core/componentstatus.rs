//! ComponentStatuses: a deprecated view of the parts of a control plane, computed on request and never stored.

use crate::meta::{Meta, Object};
use crate::registry::table::{NAME, text_column};
use crate::registry::value::{items, text};
use crate::registry::{Column, ResourceDef};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "componentstatuses",
    singular: "componentstatus",
    kind: "ComponentStatus",
    short_names: &["cs"],
    namespaced: false,
    verbs: &["get", "list"],
    storage: "componentstatuses",
    columns: COLUMNS,
    row,
    deprecation: Some("v1 ComponentStatus is deprecated in v1.19+"),
    ..ResourceDef::BASIC
};

fn row(object: &Object, _now: i64) -> Vec<Value> {
    let healthy = items(&object["conditions"]).iter().find(|c| text(&c["type"]) == "Healthy");
    let (status, message, error) = match healthy {
        Some(condition) if text(&condition["status"]) == "True" => ("Healthy", text(&condition["message"]), ""),
        Some(condition) => ("Unhealthy", text(&condition["message"]), text(&condition["error"])),
        None => ("Unknown", "", ""),
    };
    vec![object.name().into(), status.into(), message.into(), error.into()]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Status", "Status of the component conditions"),
    text_column("Message", "Message of the component conditions"),
    text_column("Error", "Error of the component conditions"),
];
