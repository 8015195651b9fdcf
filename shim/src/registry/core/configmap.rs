//! ConfigMaps.

use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::{Column, ResourceDef};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "configmaps",
    singular: "configmap",
    kind: "ConfigMap",
    short_names: &["cm"],
    storage: "configmaps",
    columns: COLUMNS,
    row,
    ..ResourceDef::BASIC
};

fn row(object: &Object, now: i64) -> Vec<Value> {
    let entries = |key: &str| object[key].as_object().map_or(0, |map| map.len());
    vec![object.name().into(), (entries("data") + entries("binaryData")).into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Data",
        "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.",
    ),
    AGE,
];
