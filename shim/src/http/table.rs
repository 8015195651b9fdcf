//! `meta.k8s.io/v1` Tables, from each resource's columns and rows.

use super::encode::metadata_of;
use super::negotiate::Include;
use crate::clock;
use crate::registry::custom::columns::PrinterColumn;
use crate::registry::table::NAME;
use crate::registry::{Column, ResourceDef};
use serde_json::{Value, json};

/// One row; `object` is the storage form.
pub(super) fn row(def: &ResourceDef, object: &Value, include: Include) -> Value {
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
        Include::Metadata => metadata_of(object),
        Include::Object => crate::pipeline::to_served(def, object.clone()),
    };
    row
}

/// The whole table; later tables of a watch leave the definitions out.
pub(super) fn document(def: &ResourceDef, metadata: Value, rows: Vec<Value>, with_columns: bool) -> Value {
    let built_in = |c: &Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    let own = |c: &PrinterColumn| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
    let columns: Vec<Value> = match &def.custom {
        Some(custom) => std::iter::once(built_in(&NAME)).chain(custom.columns().iter().map(own)).collect(),
        None => def.columns.iter().map(built_in).collect(),
    };
    let columns = if with_columns { Value::from(columns) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}
