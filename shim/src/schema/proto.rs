//! Protobuf both ways, generic from the field numbers, in the `k8s\0` envelope of runtime.Unknown: written here, read in
//! `read`.
//!
//! Bytes are those of Go's generated code: fields by number, values written even when zero, pointers only when set.

mod read;

pub(super) use read::{decode, is_enveloped, type_of};

use super::Schema;
use super::facts::{Alternative, Facts, Field, Rule, Shape, Struct, TypeId, facts};
use super::time::{self, Instant, Precision};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

const MAGIC: &[u8] = b"k8s\0";

/// The object in its envelope.
pub(super) fn encode(schema: &Schema, value: &Value) -> Vec<u8> {
    let text = |key: &str, own: String| match value.get(key).and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None if schema.has_type_meta() => own,
        None => String::new(),
    };
    let mut out = Writer { facts: facts(), out: MAGIC.to_vec() };
    out.nested(1, |out| {
        out.bytes(1, text("apiVersion", schema.api_version()).as_bytes());
        out.bytes(2, text("kind", schema.kind.to_owned()).as_bytes());
    });
    out.nested(2, |out| out.fields(value.as_object(), facts().ty(schema.ty)));
    // contentEncoding and contentType: values, written though empty.
    out.bytes(3, b"");
    out.bytes(4, b"");
    out.out
}

/// A WatchEvent as protobuf streams frame it: without an envelope of its own, around an enveloped object.
pub fn encode_watch_event(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Writer { facts: facts(), out: Vec::with_capacity(object.len() + 32) };
    out.bytes(1, event.as_bytes());
    out.nested(2, |out| out.bytes(1, object));
    out.out
}

/// The wire format itself.
pub(super) mod wire {
    pub(in crate::schema) fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    pub(in crate::schema) fn tag(out: &mut Vec<u8>, number: u16, wire: u8) {
        varint(out, u64::from(number) << 3 | u64::from(wire));
    }

    pub(in crate::schema) fn number(out: &mut Vec<u8>, number: u16, value: i64) {
        tag(out, number, 0);
        // Negative numbers are sign-extended to ten bytes, int32 as well.
        varint(out, value as u64);
    }

    pub(in crate::schema) fn bytes(out: &mut Vec<u8>, number: u16, bytes: &[u8]) {
        tag(out, number, 2);
        varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

struct Writer {
    facts: &'static Facts,
    out: Vec<u8>,
}

impl Writer {
    fn tag(&mut self, number: u16, wire: u8) {
        wire::tag(&mut self.out, number, wire);
    }

    fn number(&mut self, number: u16, value: i64) {
        wire::number(&mut self.out, number, value);
    }

    fn bytes(&mut self, number: u16, bytes: &[u8]) {
        wire::bytes(&mut self.out, number, bytes);
    }

    fn nested(&mut self, number: u16, body: impl FnOnce(&mut Writer)) {
        self.tag(number, 2);
        let start = self.out.len();
        body(self);
        let length = self.out.len() - start;
        // The length goes before the body: write it behind, then turn it to the front.
        wire::varint(&mut self.out, length as u64);
        self.out[start..].rotate_left(length);
    }

    fn fields(&mut self, map: Option<&Map<String, Value>>, ty: &Struct) {
        self.level(map, ty, &ty.by_number, 0);
    }

    /// The fields of one message; inlined messages are runs of fields that share their outer number.
    fn level(&mut self, map: Option<&Map<String, Value>>, ty: &Struct, order: &[u16], depth: usize) {
        let field = |at: &u16| &ty.fields[usize::from(*at)];
        let inlined = |field: &Field| field.depth() > depth;
        let together = |a: &u16, b: &u16| {
            let (a, b) = (field(a), field(b));
            inlined(a) && inlined(b) && a.via[depth] == b.via[depth]
        };
        for run in order.chunk_by(together) {
            let field = field(&run[0]);
            if inlined(field) {
                self.nested(field.via[depth], |out| out.level(map, ty, run, depth + 1));
            } else {
                let value = map.and_then(|map| map.get(field.name)).filter(|value| !value.is_null());
                let shape = self.facts.shape(field.shape);
                if value.is_some() || !matches!(field.rule, Rule::Keep | Rule::Null) {
                    self.value(field.number, value, shape);
                }
            }
        }
    }

    /// A value, or Go's zero of one; lists and maps write nothing when empty.
    fn value(&mut self, number: u16, value: Option<&Value>, shape: Shape) {
        let text = || value.and_then(Value::as_str).unwrap_or_default();
        match shape {
            Shape::String { .. } => self.bytes(number, text().as_bytes()),
            Shape::Bool => self.number(number, i64::from(value.and_then(Value::as_bool).unwrap_or_default())),
            Shape::Int32 { .. } | Shape::Int64 { .. } => {
                self.number(number, value.and_then(Value::as_i64).unwrap_or_default())
            }
            Shape::Float64 => {
                self.tag(number, 1);
                self.out.extend(value.and_then(Value::as_f64).unwrap_or_default().to_le_bytes());
            }
            Shape::Bytes => {
                // Canonical values hold valid base64; nil and empty differ in Go only here.
                if value.is_some() {
                    self.bytes(number, &STANDARD.decode(text()).unwrap_or_default());
                }
            }
            Shape::Quantity => {
                let text = if text().is_empty() { "0" } else { text() };
                self.nested(number, |out| out.bytes(1, text.as_bytes()));
            }
            Shape::Time => self.time(number, text(), Precision::Seconds),
            Shape::MicroTime => self.time(number, text(), Precision::Micros),
            Shape::Duration => {
                let nanos = time::parse_duration(text()).unwrap_or_default();
                self.nested(number, |out| out.number(1, nanos));
            }
            Shape::IntOrString => self.nested(number, |out| {
                out.number(1, i64::from(value.is_some_and(Value::is_string)));
                out.number(2, value.and_then(Value::as_i64).unwrap_or_default());
                out.bytes(3, value.and_then(Value::as_str).unwrap_or_default().as_bytes());
            }),
            Shape::Raw | Shape::FieldsV1 => self.nested(number, |out| {
                if let Some(value) = value {
                    out.bytes(1, value.to_string().as_bytes());
                }
            }),
            Shape::Struct(id) => {
                let ty = self.facts.ty(id);
                self.nested(number, |out| out.fields(value.and_then(Value::as_object), ty));
            }
            Shape::SchemaOr { schema, other } => self.nested(number, |out| out.union(value, schema, other)),
            Shape::List { item, named } => {
                let (items, shape) = (value.and_then(Value::as_array), self.facts.shape(item));
                let each = |out: &mut Writer, number| {
                    for item in items.into_iter().flatten() {
                        out.value(number, Some(item), shape);
                    }
                };
                match named {
                    Some(_) => self.nested(number, |out| each(out, 1)),
                    None => each(self, number),
                }
            }
            Shape::Map { item, .. } => {
                let shape = self.facts.shape(item);
                for (key, item) in value.and_then(Value::as_object).into_iter().flatten() {
                    self.nested(number, |out| {
                        out.bytes(1, key.as_bytes());
                        out.value(2, Some(item), shape);
                    });
                }
            }
        }
    }

    /// A message with a place for the schema and one for what may stand instead.
    fn union(&mut self, value: Option<&Value>, schema: TypeId, other: Alternative) {
        let shape = Shape::Struct(schema);
        let object = value.filter(|value| value.is_object());
        let items = value.and_then(Value::as_array).into_iter().flatten();
        match other {
            Alternative::Bool => {
                let allows = object.is_some() || value == Some(&Value::Bool(true));
                self.number(1, i64::from(allows));
                if object.is_some() {
                    self.value(2, object, shape);
                }
            }
            Alternative::Schemas | Alternative::Strings => {
                if object.is_some() {
                    self.value(1, object, shape);
                }
                let shape = if other == Alternative::Schemas { shape } else { Shape::String { go: "string" } };
                items.for_each(|item| self.value(2, Some(item), shape));
            }
        }
    }

    fn time(&mut self, number: u16, text: &str, precision: Precision) {
        self.nested(number, |out| {
            if let Ok(Instant { seconds, nanos }) = time::parse(text, precision) {
                out.number(1, seconds);
                out.number(2, i64::from(nanos));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gvr::GroupVersion;

    #[test]
    fn broken_bytes_are_refused_without_a_panic() {
        let schema = Schema::builtin(GroupVersion { group: "", version: "v1" }, "Pod").unwrap();
        let value = serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let bytes = schema.encode_protobuf(&value);
        for end in 0..bytes.len() {
            drop(schema.decode_protobuf(&bytes[..end]));
        }
        let error = schema.decode_protobuf(b"{}").unwrap_err().to_string();
        assert_eq!(
            error,
            "the object provided is unrecognized (must be of type Pod): provided data does not appear to be a protobuf \
             message, expected prefix [107 56 115 0] ({})"
        );
    }
}
