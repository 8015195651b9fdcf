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

/// Equal as upstream's semantic equality has it: what is absent, null or an empty list is the same.
pub fn same(a: &Value, b: &Value) -> bool {
    let nothing = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let side = |own: &Map<String, Value>, other: &Map<String, Value>| {
                own.iter().all(|(key, value)| same(value, other.get(key).unwrap_or(&Value::Null)))
            };
            side(a, b) && side(b, a)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || (nothing(a) && nothing(b)),
    }
}

/// A new object has no status yet.
pub fn clear_status(object: &mut Object) {
    root(object).insert("status".to_owned(), Map::new().into());
}

/// A new object's generation.
pub fn first_generation(object: &mut Object) {
    object.meta_mut().insert("generation".to_owned(), 1.into());
}

/// A new object of a kind with status and generation.
pub fn begin(object: &mut Object) {
    clear_status(object);
    first_generation(object);
}

/// An update keeps the status.
pub fn keep_status(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
}

/// An update keeps the status, and a changed spec is a new generation.
pub fn keep_status_and_count(new: &mut Object, old: &Object) {
    keep_status(new, old);
    count_spec(new, old);
}

/// A changed spec is a new generation.
pub fn count_spec(new: &mut Object, old: &Object) {
    let changed = !same(&new["spec"], &old["spec"]);
    bump_generation(new, old, changed);
}

/// Anything changed but metadata is a new generation.
pub fn count_content(new: &mut Object, old: &Object) {
    let body = |object: &Object| {
        let mut body = object.clone();
        root(&mut body).remove("metadata");
        body
    };
    let changed = !same(&body(new), &body(old));
    bump_generation(new, old, changed);
}

/// A `/status` write that keeps the labels too.
pub fn only_status(new: &mut Object, old: &Object) {
    keep_all_but_status(new, old);
    let labels = old["metadata"]["labels"].clone();
    let meta = new.meta_mut();
    if labels.is_null() {
        meta.remove("labels");
    } else {
        meta.insert("labels".to_owned(), labels);
    }
}

/// A `/status` write of the kinds that keep all of the old metadata but its server-managed part (`ResetObjectMetaForStatus`).
pub fn reset_metadata(new: &mut Object, old: &Object) {
    keep_all_but_status(new, old);
    for field in [
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        let kept = old["metadata"][field].clone();
        let meta = new.meta_mut();
        if kept.is_null() {
            meta.remove(field);
        } else {
            meta.insert(field.to_owned(), kept);
        }
    }
}
