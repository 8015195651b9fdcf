//! `meta.k8s.io/v1` Tables, from each resource's columns and rows.

use super::encode::metadata_of;
use super::negotiate::Include;
use crate::clock;
use crate::registry::custom::columns::PrinterColumn;
use crate::registry::table::NAME;
use crate::registry::{Column, ResourceDef};
use serde_json::{Value, json};

/// One row; `object` is the storage form, `meta` the version of partial objects.
pub(super) fn row(def: &ResourceDef, object: &Value, include: Include, meta: &str) -> Value {
    let now = clock::now().wall.as_second();
    let cells = match &def.custom {
        Some(custom) => {
            let own = custom.columns().iter().map(|column| column.cell(object, now));
            std::iter::once(object["metadata"]["name"].clone()).chain(own).collect()
        }
        None => (def.row)(object, now),
    };
    let mut row = json!({"cells": cells});
    let conditions = (def.row_conditions)(object);
    if !conditions.is_empty() {
        row["conditions"] = conditions.into();
    }
    row["object"] = match include {
        Include::None => Value::Null,
        Include::Metadata => metadata_of(object, meta),
        Include::Object => crate::pipeline::to_served(def, object.clone()),
    };
    row
}

/// The whole table, in the version `meta`.
pub(super) fn document(def: &ResourceDef, metadata: Value, rows: Vec<Value>, meta: &str) -> Value {
    let built_in = |c: &Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    let own = |c: &PrinterColumn| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    let columns: Vec<Value> = match &def.custom {
        Some(custom) => std::iter::once(built_in(&NAME)).chain(custom.columns().iter().map(own)).collect(),
        None => def.columns.iter().map(built_in).collect(),
    };
    json!({"kind": "Table", "apiVersion": meta, "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

/// A later table of a watch: without the definitions.
pub(super) fn without_columns(metadata: Value, rows: Vec<Value>, meta: &str) -> Value {
    json!({"kind": "Table", "apiVersion": meta, "metadata": metadata, "columnDefinitions": null, "rows": rows})
}
