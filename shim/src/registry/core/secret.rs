//! Secrets.

use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, meta_fields};
use crate::selector::Pairs;
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "secrets",
    singular: "secret",
    kind: "Secret",
    storage: "secrets",
    columns: COLUMNS,
    row,
    selectable: &["type"],
    fields,
    ..ResourceDef::BASIC
};

fn fields(secret: &Object) -> Pairs {
    let mut pairs = meta_fields(secret);
    pairs.insert("type".into(), text(&secret["type"]).into());
    pairs
}

fn row(secret: &Object, now: i64) -> Vec<Value> {
    let entries = secret["data"].as_object().map_or(0, |map| map.len());
    vec![secret.name().into(), text(&secret["type"]).into(), entries.into(), age(secret, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Type",
        "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
    ),
    text_column(
        "Data",
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
    ),
    AGE,
];
