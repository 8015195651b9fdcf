//! Canonical JSON out: fields in Go's declared order, map keys sorted, zero rules applied.

use super::Schema;
use super::decode::is_omitted;
use super::facts::{Facts, Field, Rule, Shape, ShapeId, Struct, facts};
use serde_json::{Map, Value};
use std::io::Write;

/// The object's canonical bytes.
pub(super) fn encode(schema: &Schema, value: &Value) -> Vec<u8> {
    // Most objects are a few KiB: one allocation for the small ones, two or three for the rest.
    let mut writer = Writer { facts: facts(), out: Vec::with_capacity(2048) };
    writer.value(Some(value), Shape::Struct(schema.ty));
    writer.out
}

/// Makes the value what reading its canonical bytes would give: omitted zeros go, what is always written comes.
pub(super) fn canonical(schema: &Schema, value: &mut Value) {
    normalize(facts(), Shape::Struct(schema.ty), value);
}

fn normalize(facts: &Facts, shape: Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(id) | Shape::SchemaOr { schema: id, .. }, Value::Object(map)) => {
            for field in &facts.ty(id).fields {
                let shape = facts.shape(field.shape);
                let held = map.get_mut(field.name).filter(|value| !value.is_null());
                if !is_written(field, shape, held.as_deref()) {
                    map.remove(field.name);
                } else if let Some(held) = held {
                    normalize(facts, shape, held);
                } else if field.rule == Rule::Null {
                    map.insert(field.name.to_owned(), Value::Null);
                } else {
                    map.insert(field.name.to_owned(), zero_value(facts, shape));
                }
            }
        }
        (Shape::SchemaOr { schema, .. }, Value::Array(items)) => {
            for value in items {
                normalize(facts, Shape::Struct(schema), value);
            }
        }
        (Shape::List { item, .. }, Value::Array(items)) if holds_structs(facts, item) => {
            for value in items {
                normalize(facts, facts.shape(item), value);
            }
        }
        (Shape::Map { item, .. }, Value::Object(map)) if holds_structs(facts, item) => {
            for value in map.values_mut() {
                normalize(facts, facts.shape(item), value);
            }
        }
        _ => {}
    }
}

/// Whether there is anything to normalize below.
fn holds_structs(facts: &Facts, shape: ShapeId) -> bool {
    match facts.shape(shape) {
        Shape::Struct(_) | Shape::SchemaOr { .. } => true,
        Shape::List { item, .. } | Shape::Map { item, .. } => holds_structs(facts, item),
        _ => false,
    }
}

/// What `Writer::zero` writes, as a value.
fn zero_value(facts: &Facts, shape: Shape) -> Value {
    match shape {
        Shape::String { .. } => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 { .. } | Shape::Int64 { .. } | Shape::Float64 | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Duration => Value::from("0s"),
        Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Raw | Shape::FieldsV1 => Value::Null,
        Shape::List { .. } | Shape::Map { .. } | Shape::SchemaOr { .. } => Value::Null,
        Shape::Struct(_) => {
            let mut value = Value::Object(Map::new());
            normalize(facts, shape, &mut value);
            value
        }
    }
}

struct Writer {
    facts: &'static Facts,
    out: Vec<u8>,
}

impl Writer {
    /// A value of a known shape; `None` or null writes Go's zero value.
    fn value(&mut self, value: Option<&Value>, shape: Shape) {
        match (value, shape) {
            (None | Some(Value::Null), _) => self.zero(shape),
            (Some(Value::Object(map)), Shape::Struct(id) | Shape::SchemaOr { schema: id, .. }) => {
                self.fields(map, self.facts.ty(id));
            }
            (Some(Value::Array(items)), Shape::SchemaOr { schema, .. }) => {
                let shape = Shape::Struct(schema);
                self.sequence(items.iter(), |writer, item| writer.value(Some(item), shape), b'[', b']');
            }
            (Some(Value::Array(items)), Shape::List { item, .. }) => {
                let shape = self.facts.shape(item);
                self.sequence(items.iter(), |writer, item| writer.value(Some(item), shape), b'[', b']');
            }
            (Some(Value::Object(map)), Shape::Map { item, .. }) => {
                let shape = self.facts.shape(item);
                self.map(map, |writer, item| writer.value(Some(item), shape));
            }
            // What the schema does not know is written as it is.
            (Some(value), _) => self.any(value),
        }
    }

    fn fields(&mut self, map: &Map<String, Value>, ty: &Struct) {
        self.out.push(b'{');
        let mut known = 0;
        let mut first = true;
        for field in &ty.fields {
            let value = map.get(field.name);
            known += usize::from(value.is_some());
            let shape = self.facts.shape(field.shape);
            if is_written(field, shape, value) {
                self.comma(&mut first);
                // Field names are plain identifiers: nothing to escape.
                self.out.push(b'"');
                self.out.extend_from_slice(field.name.as_bytes());
                self.out.extend_from_slice(b"\":");
                if value.is_none_or(Value::is_null) && field.rule == Rule::Null {
                    self.out.extend_from_slice(b"null");
                } else {
                    self.value(value, shape);
                }
            }
        }
        if known < map.len() {
            for (key, value) in map.iter().filter(|(key, _)| ty.position(key).is_none()) {
                self.comma(&mut first);
                self.string(key);
                self.out.push(b':');
                self.any(value);
            }
        }
        self.out.push(b'}');
    }

    /// Go's zero value of a shape.
    fn zero(&mut self, shape: Shape) {
        let text: &[u8] = match shape {
            Shape::String { .. } => b"\"\"",
            Shape::Bool => b"false",
            Shape::Int32 { .. } | Shape::Int64 { .. } | Shape::Float64 | Shape::IntOrString => b"0",
            Shape::Quantity => b"\"0\"",
            Shape::Duration => b"\"0s\"",
            Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Raw | Shape::FieldsV1 => b"null",
            Shape::SchemaOr { .. } => b"null",
            Shape::List { .. } | Shape::Map { .. } => b"null",
            Shape::Struct(id) => return self.fields(&Map::new(), self.facts.ty(id)),
        };
        self.out.extend_from_slice(text);
    }

    fn any(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => self.sequence(items.iter(), |writer, item| writer.any(item), b'[', b']'),
            Value::Object(map) => self.map(map, Writer::any),
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Bool(true) => self.out.extend_from_slice(b"true"),
            Value::Bool(false) => self.out.extend_from_slice(b"false"),
            // Writing to a Vec cannot fail.
            Value::Number(number) => drop(write!(self.out, "{number}")),
        }
    }

    fn map(&mut self, map: &Map<String, Value>, each: impl Fn(&mut Writer, &Value)) {
        let entry = |writer: &mut Writer, (key, value): (&String, &Value)| {
            writer.string(key);
            writer.out.push(b':');
            each(writer, value);
        };
        // serde_json's map is a BTreeMap here (no preserve_order): its keys come sorted.
        self.sequence(map.iter(), entry, b'{', b'}');
    }

    fn sequence<T>(&mut self, items: impl Iterator<Item = T>, each: impl Fn(&mut Writer, T), open: u8, close: u8) {
        self.out.push(open);
        let mut first = true;
        for item in items {
            self.comma(&mut first);
            each(self, item);
        }
        self.out.push(close);
    }

    fn comma(&mut self, first: &mut bool) {
        if !*first {
            self.out.push(b',');
        }
        *first = false;
    }

    fn string(&mut self, text: &str) {
        // Writing a string to a Vec cannot fail.
        drop(serde_json::to_writer(&mut self.out, text));
    }
}

/// The zero rules.
fn is_written(field: &Field, shape: Shape, value: Option<&Value>) -> bool {
    let value = value.filter(|value| !value.is_null());
    match field.rule {
        Rule::Keep | Rule::DropZero => value.is_some(),
        Rule::Null | Rule::Always => true,
        Rule::Drop => match value {
            Some(value) => !is_omitted(value, shape),
            // omitempty means nothing to Go's structs, and these are structs.
            None => match shape {
                Shape::Struct(_)
                | Shape::SchemaOr { .. }
                | Shape::Quantity
                | Shape::Time
                | Shape::MicroTime
                | Shape::Duration
                | Shape::IntOrString
                | Shape::Raw
                | Shape::FieldsV1 => true,
                Shape::String { .. }
                | Shape::Bool
                | Shape::Int32 { .. }
                | Shape::Int64 { .. }
                | Shape::Float64
                | Shape::Bytes
                | Shape::List { .. }
                | Shape::Map { .. } => false,
            },
        },
    }
}
