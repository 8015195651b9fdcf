//! ConfigMaps.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{entries, text, truth};
use crate::registry::{Column, ResourceDef, Strategy, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "configmaps",
    singular: "configmap",
    kind: "ConfigMap",
    short_names: &["cm"],
    storage: "configmaps",
    columns: COLUMNS,
    row,
    strategy: &Strategy { validate, validate_update, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

/// Bytes of all values of a config map or secret together.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let mut total = 0;
    for (key, value) in entries(&object["data"]) {
        errors.extend(Path::new("data").key(key).all_invalid(key, names::config_map_key(key)));
        if object["binaryData"].get(key).is_some() {
            let detail = format!("duplicate of key present in binaryData: {key}");
            errors.push(Path::new("data").key(key).invalid(key.as_str(), &detail));
        }
        total += text(value).len();
    }
    for (key, value) in entries(&object["binaryData"]) {
        errors.extend(Path::new("binaryData").key(key).all_invalid(key, names::config_map_key(key)));
        total += decoded_len(text(value));
    }
    if total > MAX_DATA_BYTES {
        errors.push(Path::new("").too_long(MAX_DATA_BYTES));
    }
    errors
}

/// Bytes that a base64 text stands for.
pub fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    immutable(new, old, &["data", "binaryData"], &mut errors);
    errors
}

/// What stays when `immutable` is set, that mark included.
pub fn immutable(new: &Object, old: &Object, fields: &[&str], errors: &mut Errors) {
    if !truth(&old["immutable"]) {
        return;
    }
    let text = "field is immutable when `immutable` is set";
    if !truth(&new["immutable"]) {
        errors.push(Path::new("immutable").forbidden(text));
    }
    for field in fields.iter().filter(|field| new[**field] != old[**field]) {
        errors.push(Path::new(field).forbidden(text));
    }
}

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
