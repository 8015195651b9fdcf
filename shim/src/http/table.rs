//! `meta.k8s.io/v1` Tables, from each resource's columns and rows.

use super::encode::metadata_of;
use super::negotiate::Include;
use crate::clock;
use crate::registry::ResourceDef;
use serde_json::{Value, json};

/// One row; `object` is the storage form.
pub(super) fn row(def: &ResourceDef, object: &Value, include: Include) -> Value {
    let mut row = json!({"cells": (def.row)(object, clock::now().wall.as_second())});
    let conditions = (def.row_conditions)(object);
    if !conditions.is_empty() {
        row["conditions"] = conditions.into();
    }
    row["object"] = match include {
        Include::None => Value::Null,
        Include::Metadata => metadata_of(object),
        Include::Object => crate::pipeline::to_served(def, object.clone()),
    };
    row
}

/// The whole table; later tables of a watch leave the definitions out.
pub(super) fn document(def: &ResourceDef, metadata: Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let columns: Vec<Value> = def
        .columns
        .iter()
        .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}))
        .collect();
    let columns = if with_columns { Value::from(columns) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}
