//! Protobuf in: messages by their field numbers, in whatever order and however often their fields come.

use super::MAGIC;
use crate::gvr::GroupVersion;
use crate::schema::facts::{Alternative, Facts, Field, Shape, Struct, TypeId, facts};
use crate::schema::time::{self, Instant, Precision};
use crate::schema::{Decoded, FieldValidation, Schema, SchemaError, decode as json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Nested messages beyond this are not ours: no built-in comes near, and the stack is finite.
const MAX_DEPTH: usize = 100;

/// Whether bytes are an object in its envelope.
pub(in crate::schema) fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// apiVersion and kind of an enveloped object.
pub(in crate::schema) fn type_of(bytes: &[u8]) -> Result<(&str, &str), String> {
    Envelope::read(bytes).map(|envelope| (envelope.api_version, envelope.kind))
}

/// Reads an enveloped object.
pub(in crate::schema) fn decode(schema: &'static Schema, bytes: &[u8]) -> Result<Decoded, SchemaError> {
    let envelope = Envelope::read(bytes).map_err(|text| json::unrecognized(schema, &text, bytes))?;
    let reader = Reader { facts: facts() };
    let mut map = Map::new();
    reader.level(envelope.raw, facts().ty(schema.ty), &[], &mut map, MAX_DEPTH).map_err(SchemaError::Decode)?;
    for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() {
            map.insert(key.to_owned(), Value::from(text));
        }
    }
    json::conform(schema, Value::Object(map), FieldValidation::Ignore)
}

/// runtime.Unknown.
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let text = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| text.to_owned())?;
        let mut envelope = Envelope { api_version: "", kind: "", raw: &[] };
        for part in Parts(body) {
            match part? {
                (1, Part::Bytes(type_meta)) => {
                    for part in Parts(type_meta) {
                        match part? {
                            (1, Part::Bytes(text)) => envelope.api_version = utf8(text)?,
                            (2, Part::Bytes(text)) => envelope.kind = utf8(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Part::Bytes(raw)) => envelope.raw = raw,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// One field on the wire.
#[derive(Clone, Copy)]
enum Part<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, as they come.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).map_err(|_| truncated())?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn part(&mut self) -> Result<(u64, Part<'a>), String> {
        let tag = self.varint()?;
        let part = match tag & 7 {
            0 => Part::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                // take(8) gives exactly eight bytes.
                Part::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| truncated())?))
            }
            2 => {
                let length = self.varint()?;
                Part::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Part::Other
            }
            wire => return Err(format!("proto: illegal wireType {wire}")),
        };
        Ok((tag >> 3, part))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u64, Part<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

fn truncated() -> String {
    "unexpected EOF".to_owned()
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "proto: invalid UTF-8 string".to_owned())
}

/// The field of that number that lies in no inlined message: nearly every one there is.
fn plain_field(ty: &Struct, number: u64) -> Option<&Field> {
    let field = |at: &u16| &ty.fields[usize::from(*at)];
    let at = ty.by_number.binary_search_by_key(&number, |at| u64::from(field(at).wire_path()[0])).ok()?;
    Some(field(&ty.by_number[at])).filter(|field| field.depth() == 0)
}

struct Reader {
    facts: &'static Facts,
}

impl Reader {
    /// Reads one message into `map`; `outer` are the numbers of the inlined messages around it.
    fn level(
        &self,
        bytes: &[u8],
        ty: &Struct,
        outer: &[u16],
        map: &mut Map<String, Value>,
        budget: usize,
    ) -> Result<(), String> {
        let budget = budget.checked_sub(1).ok_or_else(|| "proto: message nested too deeply".to_owned())?;
        let depth = outer.len();
        for part in Parts(bytes) {
            let (number, part) = part?;
            if let Some(field) = plain_field(ty, number).filter(|_| depth == 0) {
                self.merge(part, self.facts.shape(field.shape), map.entry(field.name).or_insert(Value::Null), budget)?;
                continue;
            }
            let at_level = |field: &&Field| field.depth() >= depth && field.via[..depth] == *outer;
            let here = |field: &&Field| field.depth() == depth && u64::from(field.number) == number && number != 0;
            if let Some(field) = ty.fields.iter().filter(at_level).find(here) {
                self.merge(part, self.facts.shape(field.shape), map.entry(field.name).or_insert(Value::Null), budget)?;
                continue;
            }
            let inlined = |field: &Field| field.depth() > depth && u64::from(field.via[depth]) == number;
            let Some(field) = ty.fields.iter().filter(at_level).find(|field| inlined(field)) else { continue };
            if let Part::Bytes(inner) = part {
                self.level(inner, ty, &field.via[..=depth], map, budget)?;
            }
        }
        Ok(())
    }

    /// Adds one occurrence of a field to what was read of it before.
    fn merge(&self, part: Part<'_>, shape: Shape, slot: &mut Value, budget: usize) -> Result<(), String> {
        match (shape, part) {
            (Shape::List { item, named: Some(_) }, Part::Bytes(inner)) => {
                *slot = Value::Array(Vec::new());
                for part in Parts(inner) {
                    if let (1, part) = part? {
                        self.push(part, self.facts.shape(item), slot, budget)?;
                    }
                }
                Ok(())
            }
            (Shape::List { item, named: None }, part) => self.push(part, self.facts.shape(item), slot, budget),
            (Shape::Map { item, .. }, Part::Bytes(entry)) => {
                let shape = self.facts.shape(item);
                let (mut key, mut value) = ("", Value::Null);
                for part in Parts(entry) {
                    match part? {
                        (1, Part::Bytes(text)) => key = utf8(text)?,
                        (2, part) => self.merge(part, shape, &mut value, budget)?,
                        _ => {}
                    }
                }
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                slot[key] = value;
                Ok(())
            }
            (shape, part) => {
                *slot = self.single(part, shape, budget)?;
                Ok(())
            }
        }
    }

    fn push(&self, part: Part<'_>, shape: Shape, slot: &mut Value, budget: usize) -> Result<(), String> {
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        let Value::Array(items) = slot else { return Ok(()) };
        match (shape, part) {
            // Numbers may come packed.
            (Shape::Int32 { .. } | Shape::Int64 { .. } | Shape::Bool, Part::Bytes(packed)) => {
                let mut packed = Parts(packed);
                while !packed.0.is_empty() {
                    items.push(self.single(Part::Varint(packed.varint()?), shape, budget)?);
                }
            }
            _ => {
                let mut value = Value::Null;
                self.merge(part, shape, &mut value, budget)?;
                items.push(value);
            }
        }
        Ok(())
    }

    fn single(&self, part: Part<'_>, shape: Shape, budget: usize) -> Result<Value, String> {
        Ok(match (shape, part) {
            (Shape::String { .. }, Part::Bytes(text)) => Value::from(utf8(text)?),
            (Shape::Bool, Part::Varint(value)) => Value::Bool(value != 0),
            (Shape::Int32 { .. }, Part::Varint(value)) => Value::from(value as i32),
            (Shape::Int64 { .. }, Part::Varint(value)) => Value::from(value as i64),
            (Shape::Float64, Part::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
            (Shape::Bytes, Part::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
            (Shape::Quantity, Part::Bytes(inner)) => match first(inner)? {
                Part::Bytes(text) => Value::from(utf8(text)?),
                _ => Value::from("0"),
            },
            (Shape::Time, Part::Bytes(inner)) => time_of(inner, Precision::Seconds)?,
            (Shape::MicroTime, Part::Bytes(inner)) => time_of(inner, Precision::Micros)?,
            (Shape::Duration, Part::Bytes(inner)) => match first(inner)? {
                Part::Varint(nanos) => Value::from(time::format_duration(nanos as i64)),
                _ => Value::from("0s"),
            },
            (Shape::IntOrString, Part::Bytes(inner)) => int_or_string(inner)?,
            (Shape::Raw | Shape::FieldsV1, Part::Bytes(inner)) => match first(inner)? {
                Part::Bytes(raw) => embedded(raw)?,
                _ => Value::Null,
            },
            (Shape::SchemaOr { schema, other }, Part::Bytes(inner)) => self.union(inner, schema, other, budget)?,
            (Shape::Struct(id), Part::Bytes(inner)) => {
                let mut map = Map::new();
                self.level(inner, self.facts.ty(id), &[], &mut map, budget)?;
                Value::Object(map)
            }
            _ => return Err("proto: wrong wireType for a field".to_owned()),
        })
    }

    fn union(&self, message: &[u8], schema: TypeId, other: Alternative, budget: usize) -> Result<Value, String> {
        let (mut found, mut items) = (None, Value::Null);
        for part in Parts(message) {
            match (other, part?) {
                (Alternative::Bool, (1, Part::Varint(allows))) => {
                    found.get_or_insert(Value::Bool(allows != 0));
                }
                (Alternative::Bool, (2, part)) | (Alternative::Schemas | Alternative::Strings, (1, part)) => {
                    found = Some(self.single(part, Shape::Struct(schema), budget)?);
                }
                (Alternative::Schemas, (2, part)) => self.push(part, Shape::Struct(schema), &mut items, budget)?,
                (Alternative::Strings, (2, part)) => {
                    self.push(part, Shape::String { go: "string" }, &mut items, budget)?;
                }
                _ => {}
            }
        }
        Ok(found.unwrap_or(items))
    }
}

/// Field 1 of a message that has only that one.
fn first(message: &[u8]) -> Result<Part<'_>, String> {
    let mut found = Part::Other;
    for part in Parts(message) {
        if let (1, part) = part? {
            found = part;
        }
    }
    Ok(found)
}

/// An empty message is Go's zero time: null.
fn time_of(message: &[u8], precision: Precision) -> Result<Value, String> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let mut at = Instant { seconds: 0, nanos: 0 };
    for part in Parts(message) {
        match part? {
            (1, Part::Varint(seconds)) => at.seconds = seconds as i64,
            (2, Part::Varint(nanos)) => at.nanos = nanos as u32,
            _ => {}
        }
    }
    Ok(Value::from(at.format(precision)))
}

fn int_or_string(message: &[u8]) -> Result<Value, String> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    for part in Parts(message) {
        match part? {
            (1, Part::Varint(kind)) => is_string = kind == 1,
            (2, Part::Varint(value)) => number = value as i32,
            (3, Part::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_string { Value::from(text) } else { Value::from(number) })
}

/// A RawExtension's content: JSON, or an enveloped object of a kind we know.
fn embedded(raw: &[u8]) -> Result<Value, String> {
    if !raw.starts_with(MAGIC) {
        return serde_json::from_slice(raw).map_err(|error| error.to_string());
    }
    let envelope = Envelope::read(raw)?;
    let (group, version) = envelope.api_version.rsplit_once('/').unwrap_or(("", envelope.api_version));
    let known = facts()
        .kind(group, version, envelope.kind)
        .or_else(|| Schema::builtin(GroupVersion { group: "meta.k8s.io", version: "v1" }, envelope.kind));
    let schema = known
        .ok_or_else(|| format!("no kind {:?} is registered for version {:?}", envelope.kind, envelope.api_version))?;
    decode(schema, raw).map(|decoded| decoded.value).map_err(|error| error.to_string())
}
