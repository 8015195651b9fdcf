//! JSON → value without a schema: numbers as Go's unstructured reader has them, keys that occur twice by their paths.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Whole numbers up to here are exact in a float (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The value, and a text for each duplicate field; or why it is no JSON.
pub(super) fn read(json: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut duplicates = Vec::new();
    let node = Node { path: String::new(), duplicates: &mut duplicates };
    let value = node.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map(|value| (value, duplicates)).map_err(|error| error.to_string())
}

/// The numbers of a value as `read` has them.
pub(super) fn normalized(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Number(number) => {
                if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
                    *number = whole;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Object(map) => map.values_mut().for_each(walk),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }
    walk(&mut value);
    value
}

/// A float without a fraction is written as an integer.
fn whole(number: f64) -> Option<Number> {
    (number.fract() == 0.0 && number.abs() <= EXACT).then(|| Number::from(number as i64))
}

struct Node<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
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
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::from(value as f64), Value::from))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(whole(value).map_or_else(|| Value::from(value), Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match seq.next_element_seed(Node { path, duplicates: self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let twice = format!("duplicate field \"{path}\"");
            if out.contains_key(&key) && !self.duplicates.contains(&twice) {
                self.duplicates.push(twice);
            }
            let value = map.next_value_seed(Node { path, duplicates: self.duplicates })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}
