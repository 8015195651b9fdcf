//! Namespaces.

use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta_fields, names};
use crate::selector::Pairs;
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    short_names: &["ns"],
    namespaced: false,
    // Upstream serves no deletecollection here: too much would go at once.
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    storage: "namespaces",
    subresources: &[
        Subresource::core("finalize", "Namespace", &["update"]),
        Subresource::core("status", "Namespace", STATUS_VERBS),
    ],
    columns: COLUMNS,
    row,
    selectable: &["status.phase", "name"],
    fields,
    strategy: &Strategy { validate_name: names::dns1123_label, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn fields(namespace: &Object) -> Pairs {
    let mut pairs = meta_fields(namespace);
    pairs.insert("status.phase".into(), text(&namespace["status"]["phase"]).into());
    // Upstream keeps this older name of metadata.name.
    pairs.insert("name".into(), namespace.name().into());
    pairs
}

fn row(namespace: &Object, now: i64) -> Vec<Value> {
    vec![namespace.name().into(), text(&namespace["status"]["phase"]).into(), age(namespace, now)]
}

const COLUMNS: &[Column] = &[NAME, text_column("Status", "The status of the namespace"), AGE];
