//! ResourceQuotas.

use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{carry_over, entries, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource};
use serde_json::{Map, Value};

pub const DEF: ResourceDef = ResourceDef {
    resource: "resourcequotas",
    singular: "resourcequota",
    kind: "ResourceQuota",
    short_names: &["quota"],
    storage: "resourcequotas",
    subresources: &[Subresource::core("status", "ResourceQuota", STATUS_VERBS)],
    columns: COLUMNS,
    row,
    strategy: &Strategy { prepare_create, prepare_update, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn prepare_create(quota: &mut Object) {
    root(quota).insert("status".to_owned(), Map::new().into());
}

fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
}

fn row(quota: &Object, now: i64) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in entries(&quota["status"]["hard"]) {
        let used = quota["status"]["used"][resource].as_str().unwrap_or("0");
        let column = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
        column.push(format!("{resource}: {used}/{}", text(hard)));
    }
    vec![quota.name().into(), requests.join(", ").into(), limits.join(", ").into(), age(quota, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
    text_column(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    AGE,
];
