//! `x-kubernetes-list-type`: sets have no item twice, maps no key.

use super::validate::{at, counterpart};
use crate::meta::Object;
use crate::registry::field::Errors;
use crate::schema::structural::{ListType, Structural};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Checks every list of an object; on update those that have changed.
pub(super) fn validate(schema: &Structural, object: &Object, old: Option<&Object>, errors: &mut Errors) {
    if schema.any_node(&|node| node.list != ListType::Atomic) {
        walk(schema, object, old, "", errors);
    }
}

fn walk(schema: &Structural, value: &Value, old: Option<&Value>, path: &str, errors: &mut Errors) {
    if old == Some(value) {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(below) = schema.entry(name) {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(below, value, old.and_then(|old| old.get(name)), &path, errors);
                }
            }
        }
        Value::Array(list) => {
            let mut met = BTreeSet::new();
            for (index, item) in list.iter().enumerate() {
                let path = format!("{path}[{index}]");
                let identity = match &schema.list {
                    ListType::Atomic => None,
                    ListType::Set => Some(item.clone()),
                    ListType::Map(keys) => {
                        let key = keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
                        Some(Value::Object(key.collect::<Map<_, _>>()))
                    }
                };
                if let Some(identity) = identity
                    && !met.insert(identity.to_string())
                {
                    errors.push(at(&path).duplicate(identity));
                }
                if let Some(below) = &schema.items {
                    walk(below, item, counterpart(schema, item, old), &path, errors);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
