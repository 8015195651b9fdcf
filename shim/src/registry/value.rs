//! Short reads and writes on JSON values that the rules of every kind use.

use crate::meta::{Meta, Object};
use serde_json::{Map, Value};

/// The string, or "" for anything else.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// The items of a list; none for anything else.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The entries of a map; none for anything else.
pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The boolean, false for anything else.
pub fn truth(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

/// Absent, or the empty value of its type.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The object under that key when there is one.
pub fn object_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    value.get_mut(key).and_then(Value::as_object_mut)
}

/// The object under that key, made when absent or of another type.
pub fn object_entry<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    let Value::Object(map) = slot else { unreachable!("made an object above") };
    map
}

/// The map of an API object (anything else is made one).
pub fn root(object: &mut Object) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else { unreachable!("made an object above") };
    map
}

/// The items of a list under that key, to change them.
pub fn items_mut<'a>(map: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Sets a field that is absent, null or an empty string: Go's zero value of a field without pointer.
pub fn default_text(map: &mut Map<String, Value>, key: &str, value: &str) {
    if map.get(key).is_none_or(|v| v.is_null() || v.as_str() == Some("")) {
        map.insert(key.to_owned(), Value::String(value.to_owned()));
    }
}

/// Sets a field that is absent or null.
pub fn default_value(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a field that is absent, null or 0.
pub fn default_number(map: &mut Map<String, Value>, key: &str, value: i64) {
    if map.get(key).is_none_or(|v| v.is_null() || v.as_i64() == Some(0)) {
        map.insert(key.to_owned(), Value::from(value));
    }
}

/// Puts the old object's field in place of the new one's.
pub fn carry_over(new: &mut Object, old: &Object, key: &str) {
    let map = root(new);
    match old.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

/// `metadata.generation` of an update: the old one, one more when `changed`.
pub fn bump_generation(new: &mut Object, old: &Object, changed: bool) {
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + i64::from(changed);
    let meta = new.meta_mut();
    if generation == 0 {
        meta.remove("generation");
    } else {
        meta.insert("generation".to_owned(), Value::from(generation));
    }
}

/// A `/status` write: everything of the new object but status is the old object's; metadata changes pass, as they do
/// upstream, except for what the status strategies reset (labels stay the client's).
pub fn keep_all_but_status(new: &mut Object, old: &Object) {
    let map = root(new);
    let kept = ["metadata", "status", "kind", "apiVersion"];
    map.retain(|key, _| kept.contains(&key.as_str()));
    if let Some(old) = old.as_object() {
        for (key, value) in old.iter().filter(|(key, _)| !kept.contains(&key.as_str())) {
            map.insert(key.clone(), value.clone());
        }
    }
}
