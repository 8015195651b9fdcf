//! Filling in defaults, and dropping the nulls that stand for nothing.

use super::{Structural, is_type_field};
use serde_json::Value;

/// A null that may not be one is taken for an absent value.
fn is_unset(schema: &Structural, value: &Value) -> bool {
    value.is_null() && !schema.nullable
}

/// `resource`: the value is an object with `metadata`, which has no defaults.
pub(super) fn fill(schema: &Structural, value: &mut Value, resource: bool) {
    match value {
        Value::Object(map) => {
            for (name, property) in schema.properties() {
                let Some(default) = property.default.as_deref() else { continue };
                if !(resource && is_type_field(name)) && map.get(name).is_none_or(|value| is_unset(property, value)) {
                    map.insert(name.to_owned(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if resource && is_type_field(name) {
                    continue;
                }
                if let Some(below) = schema.entry(name) {
                    fill_element(below, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                items.iter_mut().for_each(|item| fill_element(below, item));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn fill_element(schema: &Structural, value: &mut Value) {
    if is_unset(schema, value)
        && let Some(default) = schema.default.as_deref()
    {
        *value = default.clone();
    }
    fill(schema, value, schema.embedded);
}

pub(super) fn drop_nulls(schema: &Structural, value: &mut Value, resource: bool) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                let declared = if resource && is_type_field(name) { None } else { schema.entry(name) };
                !declared.is_some_and(|below| below.default.is_none() && is_unset(below, value))
            });
            for (name, value) in map.iter_mut() {
                if let Some(below) = schema.entry(name) {
                    drop_nulls(below, value, below.embedded);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(below, item, below.embedded));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
