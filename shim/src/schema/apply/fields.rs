//! The fields that an applied object names, and what in it does not fit its type.

use super::element;
use super::set::{Node, Set};
use super::types::{Form, Scalar, Typed, elements, item_element, items};
use serde_json::Value;

/// Every field that the object has.
pub fn fields<'s, T: Typed<'s>>(of: T, object: &Value) -> Set {
    node(of, object).below
}

fn node<'s, T: Typed<'s>>(of: T, value: &Value) -> Node {
    let mut out = Node::default();
    match of.form().of(Some(value), Some(value)) {
        Form::Scalar(_) | Form::AtomicList(_) | Form::AtomicMap | Form::Opaque | Form::Deduced => return Node::leaf(),
        Form::Map => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let Some(entry) = of.entry(name) else { continue };
                let mut below = node(entry.of, value);
                let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                below.member |= empty || !entry.declared;
                out.below.put(element::field(name), below);
            }
        }
        Form::Set(item) => list(None, item, value, &mut out),
        Form::Keyed(keys, item) => list(Some(keys), item, value, &mut out),
    }
    out
}

fn list<'s, T: Typed<'s>>(keys: Option<&[Box<str>]>, of: T, value: &Value, out: &mut Node) {
    for (element, item) in elements(keys, of, items(Some(value))) {
        // An element that is there twice is owned, not what is in it.
        let mut below = if out.below.has(&element) { Node::default() } else { node(of, item) };
        below.member = true;
        out.below.put(element, below);
    }
}

/// Why the object is not of its type, as structured-merge-diff words it; `None` when it is.
pub fn misfits<'s, T: Typed<'s>>(of: T, object: &Value, allow_duplicates: bool) -> Option<String> {
    let mut check = Check { allow_duplicates, path: String::new(), errors: Vec::new() };
    check.node(of, object);
    match &check.errors[..] {
        [] => None,
        [only] => Some(only.clone()),
        several => {
            Some(format!("errors:\n{}", several.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n")))
        }
    }
}

struct Check {
    allow_duplicates: bool,
    path: String,
    errors: Vec<String>,
}

impl Check {
    fn fail(&mut self, text: &str) {
        self.errors.push(if self.path.is_empty() { text.to_owned() } else { format!("{}: {text}", self.path) });
    }

    fn below(&mut self, element: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(&element::shown(element));
        check(self);
        self.path.truncate(length);
    }

    fn node<'s, T: Typed<'s>>(&mut self, of: T, value: &Value) {
        if value.is_null() {
            return;
        }
        match of.form() {
            Form::Deduced | Form::Opaque => {}
            Form::Scalar(kind) => self.scalar(kind, value),
            Form::AtomicList(item) => match value {
                Value::Array(items) => {
                    for (at, value) in items.iter().enumerate() {
                        self.below(&element::index(at), |check| check.node(item, value));
                    }
                }
                other => self.fail(&format!("expected list, got &{{{}}}", go_value(other))),
            },
            Form::AtomicMap | Form::Map => match value {
                Value::Object(map) => {
                    for (name, value) in map {
                        let element = element::field(name);
                        match of.entry(name) {
                            Some(entry) => self.below(&element, |check| check.node(entry.of, value)),
                            None => self.below(&element, |check| check.fail("field not declared in schema")),
                        }
                    }
                }
                other => self.fail(&format!("expected map, got &{{{}}}", go_value(other))),
            },
            Form::Set(item) => self.list(None, item, value),
            Form::Keyed(keys, item) => self.list(Some(keys), item, value),
        }
    }

    fn list<'s, T: Typed<'s>>(&mut self, keys: Option<&[Box<str>]>, of: T, value: &Value) {
        let Value::Array(items) = value else {
            return self.fail(&format!("expected list, got &{{{}}}", go_value(value)));
        };
        let mut met = std::collections::BTreeSet::new();
        for (at, item) in items.iter().enumerate() {
            match item_element(keys, of, item) {
                Err(why) => self.fail(&format!("element {at}: {why}")),
                Ok(element) => {
                    self.below(&element, |check| check.node(of, item));
                    if !self.allow_duplicates && met.contains(&element) {
                        self.fail(&format!("duplicate entries for key {}", element::shown(&element)));
                    }
                    met.insert(element);
                }
            }
        }
    }

    fn scalar(&mut self, kind: Scalar, value: &Value) {
        let fits = match kind {
            Scalar::String => value.is_string(),
            Scalar::Number => value.is_number(),
            Scalar::Bool => value.is_boolean(),
            Scalar::Any => !value.is_array() && !value.is_object(),
        };
        if fits {
            return;
        }
        let text = match kind {
            Scalar::String => format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value)),
            Scalar::Number => format!("expected numeric (int or float), got {}", go_type(value)),
            Scalar::Bool => format!("expected boolean, got &{{{}}}", go_value(value)),
            Scalar::Any => format!("expected any scalar, got &{{{}}}", go_value(value)),
        };
        self.fail(&text);
    }
}

/// `%T` of a decoded JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `%#v` of one.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(k, v)| format!("{k:?}:{}", go_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// `%v` of one.
fn go_value(value: &Value) -> String {
    crate::schema::merge::go_value(value)
}
