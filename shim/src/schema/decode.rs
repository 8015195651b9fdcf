//! JSON in: one streaming pass that prunes, checks unknown and duplicate fields, canonicalises quantities and times,
//! drops nulls and omitted zeros, and words refusals as Go's decoder does.

use super::facts::{Alternative, Facts, Field, Rule, Shape, ShapeId, Struct, TypeId, facts};
use super::quantity::Quantity;
use super::time::{self, Precision};
use super::{Decoded, FieldValidation, Schema, SchemaError, syntax};
use base64::Engine;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Go's decoder stops collecting strict errors here (sigs.k8s.io/json).
const MAX_STRICT_ERRORS: usize = 100;

/// Up to here every whole float64 is an integer that reads back as itself (2^53).
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// Decodes a body.
pub(super) fn decode(
    schema: &'static Schema,
    json: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, SchemaError> {
    let mut state = State::new(validation);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = state.node(Shape::Struct(schema.ty)).deserialize(&mut reader);
    match value.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => finish(schema, state, value, Some(json)),
        Err(error) => match syntax::refusal(json) {
            Some(text) => Err(no_type(schema, &text, json)),
            // Go reads bytes that are not UTF-8, and lone surrogates, as U+FFFD.
            None => match String::from_utf8(json.to_vec()) {
                Err(_) => decode(schema, String::from_utf8_lossy(json).as_bytes(), validation),
                Ok(_) => Err(no_type(schema, &error.to_string(), json)),
            },
        },
    }
}

/// The same rules on a value at hand.
pub(super) fn conform(
    schema: &'static Schema,
    value: Value,
    validation: FieldValidation,
) -> Result<Decoded, SchemaError> {
    check_depth(&value)?;
    let mut state = State::new(validation);
    match state.node(Shape::Struct(schema.ty)).deserialize(value) {
        Ok(value) => finish(schema, state, value, None),
        Err(error) => Err(SchemaError::Decode(error.to_string())),
    }
}

/// What is written must be readable again, and the stack is finite: patches and YAML's aliases can nest deeper than any
/// JSON body.
pub(super) fn check_depth(value: &Value) -> Result<(), SchemaError> {
    if deeper_than(value, syntax::MAX_DEPTH) {
        return Err(SchemaError::Decode("exceeded max depth".to_owned()));
    }
    Ok(())
}

/// Whether containers nest beyond `levels`.
fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|item| deeper_than(item, levels - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn finish(schema: &'static Schema, state: State, value: Value, body: Option<&[u8]>) -> Result<Decoded, SchemaError> {
    let mut value = match (value, body) {
        (Value::Object(map), _) => map,
        (other, Some(body)) if state.error.is_some() || other.is_null() => {
            if other.is_null() && state.error.is_none() {
                // Go reads a bare null as an empty object of the expected kind.
                Map::new()
            } else {
                let found = state.top_level.unwrap_or("null");
                let text = format!(
                    "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \
                     \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
                );
                return Err(no_type(schema, &text, body));
            }
        }
        _ => Map::new(),
    };
    if let Some(text) = state.error {
        return Err(SchemaError::Decode(text));
    }
    check_kind(schema, &value)?;
    if schema.has_type_meta() {
        for (key, own) in [("kind", schema.kind.to_owned()), ("apiVersion", schema.api_version())] {
            if !value.contains_key(key) {
                value.insert(key.to_owned(), Value::String(own));
            }
        }
    }
    let warnings = match state.validation {
        FieldValidation::Strict if !state.strict.is_empty() => return Err(SchemaError::Strict(state.strict)),
        FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => state.strict,
    };
    Ok(Decoded { value: Value::Object(value), warnings })
}

/// A body that says it is of a kind nobody knows is refused; options (DeleteOptions, …) exist in every version.
fn check_kind(schema: &Schema, value: &Map<String, Value>) -> Result<(), SchemaError> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = text("kind").unwrap_or(schema.kind);
    let own = schema.api_version();
    let api_version = text("apiVersion").unwrap_or(&own);
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if schema.gv.group == "meta.k8s.io" || (kind == schema.kind && api_version == own) {
        return Ok(());
    }
    if facts().kind(group, version, kind).is_some() {
        return Ok(());
    }
    Err(SchemaError::Decode(format!(
        "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    )))
}

/// The refusal of a JSON body whose kind could not be read.
fn no_type(schema: &Schema, error: &str, body: &[u8]) -> SchemaError {
    unrecognized(schema, &format!("couldn't get version/kind; json parse error: {error}"), body)
}

/// The refusal of a body whose kind could not be read at all.
pub(super) fn unrecognized(schema: &Schema, error: &str, body: &[u8]) -> SchemaError {
    let (kind, summary) = (schema.kind, summary(body));
    SchemaError::Unrecognized(format!(
        "the object provided is unrecognized (must be of type {kind}): {error} ({summary})"
    ))
}

/// The first bytes of a body, as text when it looks like JSON, in hex when not.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let (start, more) = if body.len() > MAX { (&body[..MAX], " ...") } else { (body, "") };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

enum Step {
    Field { of: TypeId, name: &'static str },
    Index(usize),
    Key(String),
}

/// What one decode carries along.
struct State {
    facts: &'static Facts,
    validation: FieldValidation,
    path: Vec<Step>,
    strict: Vec<String>,
    /// The first type error; decoding goes on, as Go's does, but its result is refused.
    error: Option<String>,
    /// What stood where the object was expected.
    top_level: Option<&'static str>,
    /// How many values around this one have unmarshalers of their own, which are never strict.
    lax: usize,
}

impl State {
    fn new(validation: FieldValidation) -> State {
        State { facts: facts(), validation, path: Vec::new(), strict: Vec::new(), error: None, top_level: None, lax: 0 }
    }

    fn node(&mut self, shape: Shape) -> Node<'_> {
        Node { state: self, shape }
    }

    fn fail(&mut self, text: String) {
        self.error.get_or_insert(text);
    }

    /// A JSON `found` where `shape` was expected.
    fn mismatch(&mut self, found: &str, shape: Shape) {
        if self.path.is_empty() {
            self.top_level.get_or_insert(match found {
                "string" => "string",
                "array" => "array",
                "bool" => "bool",
                _ => "number",
            });
        }
        if self.error.is_some() {
            return;
        }
        let go = self.facts.go_type(shape);
        let fields = self.path.iter().filter_map(|step| match step {
            Step::Field { name, .. } => Some(*name),
            Step::Index(_) | Step::Key(_) => None,
        });
        let joined = fields.collect::<Vec<_>>().join(".");
        let owner = self.path.iter().rev().find_map(|step| match step {
            Step::Field { of, .. } => Some(self.facts.ty(*of).go_name()),
            Step::Index(_) | Step::Key(_) => None,
        });
        self.fail(match owner {
            Some(owner) => format!("json: cannot unmarshal {found} into Go struct field {owner}.{joined} of type {go}"),
            None => format!("json: cannot unmarshal {found} into Go value of type {go}"),
        });
    }

    fn strict(&mut self, what: &str, name: &str) {
        if self.validation == FieldValidation::Ignore || self.lax > 0 || self.strict.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(at) => path.push_str(&format!("[{at}]")),
                Step::Field { name, .. } => push_name(&mut path, name),
                Step::Key(name) => push_name(&mut path, name),
            }
        }
        push_name(&mut path, name);
        let text = format!("{what} field \"{path}\"");
        if !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// The value of a `null` inside a list or map: Go leaves the element at its zero value.
fn zero(shape: Shape) -> Value {
    match shape {
        Shape::String { .. } | Shape::Bytes => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 { .. } | Shape::Int64 { .. } | Shape::Float64 | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Duration => Value::from("0s"),
        Shape::Time
        | Shape::MicroTime
        | Shape::Raw
        | Shape::FieldsV1
        | Shape::SchemaOr { .. }
        | Shape::List { .. }
        | Shape::Map { .. } => Value::Null,
        Shape::Struct(_) => Value::Object(Map::new()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Whether an omitempty value of Go's would be left out. Structs never are.
pub(super) fn is_omitted(value: &Value, shape: Shape) -> bool {
    match shape {
        Shape::String { .. } | Shape::Bytes => value.as_str().is_some_and(str::is_empty),
        Shape::Bool => value == &Value::Bool(false),
        Shape::Int32 { .. } | Shape::Int64 { .. } => value.as_i64() == Some(0),
        Shape::Float64 => value.as_f64() == Some(0.0),
        Shape::List { .. } => value.as_array().is_some_and(Vec::is_empty),
        Shape::Map { .. } => value.as_object().is_some_and(Map::is_empty),
        Shape::Quantity
        | Shape::Time
        | Shape::MicroTime
        | Shape::Duration
        | Shape::IntOrString
        | Shape::Raw
        | Shape::FieldsV1
        | Shape::SchemaOr { .. }
        | Shape::Struct(_) => false,
    }
}

/// One value of a known shape.
struct Node<'s> {
    state: &'s mut State,
    shape: Shape,
}

impl Node<'_> {
    fn wrong(self, found: &str) -> Value {
        match self.shape {
            // These read JSON with unmarshalers of their own, which do not know where they are.
            Shape::Quantity => self.text(found),
            Shape::Time | Shape::MicroTime | Shape::Duration => {
                self.state.fail(format!("json: cannot unmarshal {found} into Go value of type string"));
                Value::Null
            }
            Shape::IntOrString => {
                self.state.fail(format!("json: cannot unmarshal {found} into Go value of type int32"));
                Value::Null
            }
            Shape::SchemaOr { other: Alternative::Bool, .. } => {
                self.state.fail("boolean or JSON schema expected".to_owned());
                Value::Null
            }
            // Its unmarshaler looks no further than for what it knows.
            Shape::SchemaOr { .. } => Value::Null,
            shape => {
                self.state.mismatch(found, shape);
                Value::Null
            }
        }
    }

    fn or_fail(self, result: Result<String, String>) -> Value {
        match result {
            Ok(text) => Value::String(text),
            Err(text) => {
                self.state.fail(text);
                Value::Null
            }
        }
    }

    /// A string's content by its shape.
    fn text(self, text: &str) -> Value {
        match self.shape {
            Shape::String { .. } | Shape::IntOrString | Shape::Raw | Shape::FieldsV1 => Value::from(text),
            Shape::Quantity => {
                let parsed = Quantity::parse(text.trim()).map(|q| q.to_string()).map_err(|error| error.to_string());
                self.or_fail(parsed)
            }
            Shape::Time => self.or_fail(time::canonical(text, Precision::Seconds)),
            Shape::MicroTime => self.or_fail(time::canonical(text, Precision::Micros)),
            Shape::Duration => self.or_fail(time::parse_duration(text).map(time::format_duration)),
            Shape::Bytes => self.or_fail(base64_text(text)),
            Shape::Bool
            | Shape::Int32 { .. }
            | Shape::Int64 { .. }
            | Shape::Float64
            | Shape::Struct(_)
            | Shape::SchemaOr { .. }
            | Shape::List { .. }
            | Shape::Map { .. } => self.wrong("string"),
        }
    }

    fn integer(self, number: i128) -> Value {
        let fits = match self.shape {
            Shape::Int32 { .. } | Shape::IntOrString => i32::try_from(number).is_ok(),
            Shape::Int64 { .. } => i64::try_from(number).is_ok(),
            Shape::Float64 | Shape::Raw => true,
            Shape::Quantity => return self.text(&number.to_string()),
            _ => return self.wrong("number"),
        };
        if fits {
            return i64::try_from(number).map_or_else(|_| Value::from(number as f64), Value::from);
        }
        self.wrong(&format!("number {number}"))
    }
}

/// Standard base64 as Go checks it.
fn base64_text(text: &str) -> Result<String, String> {
    // Go's decoder skips line ends.
    let compact: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
    match base64::engine::general_purpose::STANDARD.decode(&compact) {
        Ok(_) => Ok(compact),
        Err(base64::DecodeError::InvalidByte(at, _)) => Err(format!("illegal base64 data at input byte {at}")),
        Err(base64::DecodeError::InvalidLastSymbol { offset: at, .. }) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding) => {
            Err(format!("illegal base64 data at input byte {}", compact.trim_end_matches('=').len() / 4 * 4))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.shape {
            Shape::Raw => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(match self.shape {
            Shape::Bool | Shape::Raw | Shape::SchemaOr { other: Alternative::Bool, .. } => Value::Bool(value),
            Shape::Quantity => self.text(if value { "true" } else { "false" }),
            _ => self.wrong("bool"),
        })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.integer(i128::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.integer(i128::from(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(match self.shape {
            // Go writes a whole float64 without a fraction.
            Shape::Float64 if value.fract() == 0.0 && value.abs() < MAX_WHOLE => Value::from(value as i64),
            Shape::Float64 | Shape::Raw => Value::from(value),
            Shape::Quantity => self.text(&Value::from(value).to_string()),
            Shape::Int32 { .. } | Shape::Int64 { .. } | Shape::IntOrString => {
                self.wrong(&format!("number {}", Value::from(value)))
            }
            _ => self.wrong("number"),
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.text(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(match self.shape {
            Shape::String { .. } => Value::String(value),
            _ => self.text(&value),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let shape = match self.shape {
            Shape::List { item, .. } => self.state.facts.shape(item),
            Shape::SchemaOr { schema, other: Alternative::Schemas } => Shape::Struct(schema),
            Shape::SchemaOr { other: Alternative::Strings, .. } => Shape::String { go: "string" },
            _ => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.wrong("array"));
            }
        };
        let own_unmarshaler = matches!(self.shape, Shape::SchemaOr { .. });
        let state = self.state;
        state.lax += usize::from(own_unmarshaler);
        // Elements that hold no fields cannot have a strict error inside: they need no place in the path.
        let deep = matches!(shape, Shape::Struct(_) | Shape::List { .. } | Shape::Map { .. });
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0));
        loop {
            if deep {
                state.path.push(Step::Index(items.len()));
            }
            let next = seq.next_element_seed(state.node(shape))?;
            if deep {
                state.path.pop();
            }
            match next {
                Some(Value::Null) => items.push(zero(shape)),
                Some(value) => items.push(value),
                None => {
                    state.lax -= usize::from(own_unmarshaler);
                    return Ok(Value::Array(items));
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::Struct(id) => {
                let ty = self.state.facts.ty(id);
                self.state.fields(id, ty, map)
            }
            Shape::SchemaOr { schema, .. } => {
                let state = self.state;
                state.lax += 1;
                let ty = state.facts.ty(schema);
                let value = state.fields(schema, ty, map);
                state.lax -= 1;
                value
            }
            Shape::Map { item, named } => self.state.entries(item, named, map),
            Shape::FieldsV1 => serde::Deserialize::deserialize(serde::de::value::MapAccessDeserializer::new(map)),
            _ => {
                let mut map = map;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.wrong("object"))
            }
        }
    }
}

impl State {
    fn fields<'de, A: MapAccess<'de>>(
        &mut self,
        id: TypeId,
        ty: &'static Struct,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let mut out = Map::new();
        // Which fields were met: a dropped zero met twice is a duplicate too. No struct has more than 64 fields.
        let mut met = 0u64;
        while let Some(key) = map.next_key::<Key>()? {
            let Some(at) = ty.position(&key.0) else {
                self.strict("unknown", &key.0);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = &ty.fields[at];
            if met & (1 << at) != 0 {
                self.strict("duplicate", field.name);
            }
            met |= 1 << at;
            self.path.push(Step::Field { of: id, name: field.name });
            let value = map.next_value_seed(self.node(self.facts.shape(field.shape)))?;
            self.path.pop();
            self.keep(field, value, &mut out);
        }
        Ok(Value::Object(out))
    }

    fn keep(&self, field: &Field, value: Value, out: &mut Map<String, Value>) {
        let shape = self.facts.shape(field.shape);
        let omitted = match field.rule {
            Rule::Drop => is_omitted(&value, shape),
            // An empty list that is always written reads back as null: protobuf, in which upstream stores it, has no empty
            // lists. The items of a list kind are never stored.
            Rule::Always => field.name != "items" && is_empty(&value),
            Rule::Keep | Rule::Null | Rule::DropZero => false,
        };
        match (value, out.get_mut(field.name)) {
            // A null leaves what a duplicate before it had set, except where Go's value can itself be nil.
            (Value::Null, _) => {
                out.remove(field.name);
            }
            // The second of two objects is read into the first, as Go does.
            (Value::Object(new), Some(Value::Object(old))) => old.extend(new),
            (value, _) if omitted => {
                drop(value);
                out.remove(field.name);
            }
            (value, _) => {
                out.insert(field.name.to_owned(), value);
            }
        }
    }

    fn entries<'de, A: MapAccess<'de>>(
        &mut self,
        item: ShapeId,
        named: Option<&'static str>,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let shape = self.facts.shape(item);
        let deep = matches!(shape, Shape::Struct(_) | Shape::List { .. } | Shape::Map { .. });
        let resources = named == Some("v1.ResourceList");
        let mut out = Map::new();
        while let Some(Key(key)) = map.next_key()? {
            if out.contains_key(&*key) {
                self.strict("duplicate", &key);
            }
            if deep {
                self.path.push(Step::Key(key.clone().into_owned()));
            }
            let mut value = map.next_value_seed(self.node(shape))?;
            if deep {
                self.path.pop();
            }
            if value.is_null() {
                value = zero(shape);
            } else if resources {
                value = rounded(value);
            }
            out.insert(key.into_owned(), value);
        }
        Ok(Value::Object(out))
    }
}

/// Upstream rounds the quantities of every ResourceList up to thousandths (SetDefaults_ResourceList).
fn rounded(value: Value) -> Value {
    let finer = |text: &str| text.ends_with(['n', 'u']) || text.contains("e-");
    match &value {
        Value::String(text) if finer(text) => match Quantity::parse(text) {
            Ok(quantity) => Value::String(quantity.rounded_to_milli().to_string()),
            Err(_) => value,
        },
        _ => value,
    }
}

/// An object's key, borrowed from the body where it holds no escape.
struct Key<'de>(std::borrow::Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(key.into()))
            }
            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(key.to_owned().into()))
            }
            fn visit_string<E>(self, key: String) -> Result<Key<'de>, E> {
                Ok(Key(key.into()))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
