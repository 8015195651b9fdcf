//! ObjectMeta access on a dynamic object (`serde_json::Value`).

use serde_json::{Map, Value};

/// A decoded API object: always a JSON object with `kind`, `apiVersion` and `metadata`.
pub type Object = Value;

/// Reads and writes of `metadata` that never panic on a malformed object.
pub trait Meta {
    fn name(&self) -> &str;
    fn namespace(&self) -> &str;
    fn uid(&self) -> &str;
    fn meta_str(&self, field: &str) -> &str;
    fn labels(&self) -> Option<&Map<String, Value>>;
    fn annotations(&self) -> Option<&Map<String, Value>>;
    fn deletion_timestamp(&self) -> Option<&str>;
    fn finalizers(&self) -> Vec<&str>;
    /// The metadata map, created when absent.
    fn meta_mut(&mut self) -> &mut Map<String, Value>;
}

impl Meta for Value {
    fn name(&self) -> &str {
        self.meta_str("name")
    }
    fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }
    fn uid(&self) -> &str {
        self.meta_str("uid")
    }
    fn meta_str(&self, field: &str) -> &str {
        self.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
    }
    fn labels(&self) -> Option<&Map<String, Value>> {
        self.get("metadata").and_then(|m| m.get("labels")).and_then(Value::as_object)
    }
    fn annotations(&self) -> Option<&Map<String, Value>> {
        self.get("metadata").and_then(|m| m.get("annotations")).and_then(Value::as_object)
    }
    fn deletion_timestamp(&self) -> Option<&str> {
        self.get("metadata").and_then(|m| m.get("deletionTimestamp")).and_then(Value::as_str)
    }
    fn finalizers(&self) -> Vec<&str> {
        self.get("metadata")
            .and_then(|m| m.get("finalizers"))
            .and_then(Value::as_array)
            .map(|a| a.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }
    fn meta_mut(&mut self) -> &mut Map<String, Value> {
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        let Value::Object(map) = self else { unreachable!("made an object above") };
        let meta = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if !meta.is_object() {
            *meta = Value::Object(Map::new());
        }
        let Value::Object(meta) = meta else { unreachable!("made an object above") };
        meta
    }
}
