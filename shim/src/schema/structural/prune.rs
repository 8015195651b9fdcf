//! Removing what a schema does not declare.

use super::{Additional, Structural, is_type_field};
use serde_json::Value;
use std::fmt::Write;

pub(super) fn prune(schema: &Structural, object: &mut Value) -> Vec<String> {
    let mut pruner = Pruner { path: String::new(), removed: Vec::new() };
    pruner.node(Some(schema), object, true);
    pruner.removed.sort();
    pruner.removed
}

struct Pruner {
    path: String,
    removed: Vec<String>,
}

impl Pruner {
    /// `None`: nothing is declared below.
    fn node(&mut self, schema: Option<&Structural>, value: &mut Value, resource: bool) {
        let preserve = schema.is_some_and(|s| s.preserve);
        match value {
            Value::Object(map) => {
                let mut unknown: Vec<String> = Vec::new();
                for (name, value) in map.iter_mut() {
                    if resource && is_type_field(name) {
                        continue;
                    }
                    let below = schema.and_then(|s| s.property(name));
                    let (known, below) = match (below, schema.map(|s| &s.additional)) {
                        (Some(below), _) => (true, Some(below)),
                        (None, Some(Additional::Each(each))) => (true, Some(&**each)),
                        (None, Some(Additional::Any)) => (true, None),
                        (None, Some(Additional::None) | None) => (false, None),
                    };
                    if !known {
                        if !preserve {
                            unknown.push(name.clone());
                        }
                        continue;
                    }
                    let length = self.push(name);
                    self.node(below, value, below.is_some_and(|s| s.embedded));
                    self.path.truncate(length);
                }
                for name in unknown {
                    map.remove(&name);
                    let length = self.push(&name);
                    self.removed.push(self.path.clone());
                    self.path.truncate(length);
                }
            }
            Value::Array(items) => {
                let below = schema.and_then(|s| s.items.as_deref());
                if below.is_none() && preserve {
                    return;
                }
                for (at, item) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    // Writing to a String cannot fail.
                    let _ = write!(self.path, "[{at}]");
                    self.node(below, item, below.is_some_and(|s| s.embedded));
                    self.path.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Goes one key down; gives back the length to truncate to.
    fn push(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }
}
