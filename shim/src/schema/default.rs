//! The static defaults of the built-in types (`+default=` in Go); conditional ones are the registry's.

use super::Schema;
use super::facts::{Facts, Rule, Shape, Struct, facts};
use serde_json::Value;

/// Fills in what is absent; a value that is there, zero or not, stays.
pub(super) fn apply(schema: &Schema, value: &mut Value) {
    let facts = facts();
    walk(facts, Shape::Struct(schema.ty), value);
}

fn walk(facts: &Facts, shape: Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(id), Value::Object(map)) => {
            let ty = facts.ty(id);
            if !ty.has_defaults {
                return;
            }
            fill(ty, map);
            for field in ty.fields.iter().filter(|field| facts.leads_to_default(field.shape)) {
                if let Some(value) = map.get_mut(field.name) {
                    walk(facts, facts.shape(field.shape), value);
                }
            }
        }
        (Shape::List { item, .. }, Value::Array(items)) if facts.leads_to_default(item) => {
            for value in items {
                walk(facts, facts.shape(item), value);
            }
        }
        (Shape::Map { item, .. }, Value::Object(map)) if facts.leads_to_default(item) => {
            for value in map.values_mut() {
                walk(facts, facts.shape(item), value);
            }
        }
        _ => {}
    }
}

fn fill(ty: &Struct, map: &mut serde_json::Map<String, Value>) {
    for field in &ty.fields {
        let Some(default) = field.default else { continue };
        // Only a pointer can be set to its zero: Go cannot tell an empty value from an absent one.
        let absent = match map.get(field.name) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty() && field.rule != Rule::Keep,
            Some(_) => false,
        };
        if absent && let Ok(default) = serde_json::from_str(default) {
            map.insert(field.name.to_owned(), default);
        }
    }
}
