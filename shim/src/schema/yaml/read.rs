//! The first document of a YAML text as JSON.

use super::scalar::{self, Meaning};
use crate::schema::decode::check_depth;
use base64::Engine;
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// Nodes that aliases may multiply a document to (yaml.v2's alias ratio starts to bite at this many).
const MAX_ALIASED_NODES: usize = 400_000;

/// A document as JSON, and what strict reading has to say against it.
#[derive(Debug, PartialEq)]
pub struct Converted {
    pub value: Value,
    /// yaml.v2's complaint about keys that were set twice, whole.
    pub duplicates: Option<String>,
}

/// Reads the first document; the later of two equal keys wins.
///
/// # Errors
/// The text of the refusal, as yaml.v2 begins it (`yaml: …`).
pub fn to_json(yaml: &[u8]) -> Result<Converted, String> {
    let text = std::str::from_utf8(yaml).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| format!("yaml: line {}: {}", error.marker().line(), error.info()))?;
        if builder.event(event, span)? {
            break;
        }
    }
    let duplicates = match &builder.duplicates[..] {
        [] => None,
        lines => Some(format!("yaml: unmarshal errors:\n{}", lines.join("\n"))),
    };
    let value = builder.root.unwrap_or(Value::Null);
    check_depth(&value).map_err(|error| format!("yaml: {error}"))?;
    Ok(Converted { value, duplicates })
}

/// A container that is being read.
enum Open {
    List { items: Vec<Value>, start: Start, nodes: usize },
    Map { fields: Map<String, Value>, merged: Map<String, Value>, key: Option<Key>, start: Start, nodes: usize },
}

/// Where a node begins.
#[derive(Clone, Copy)]
struct Start {
    /// 0: no anchor.
    anchor: usize,
    line: usize,
}

enum Key {
    Text(String),
    Merge,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Value>,
    /// What each anchor stands for, and how many nodes that is.
    anchors: HashMap<usize, (Value, usize)>,
    aliased: usize,
    duplicates: Vec<String>,
}

impl Builder {
    /// Takes one event in; true when the document is whole.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<bool, String> {
        let at = |anchor| Start { anchor, line: span.start.line() };
        match event {
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open::List { items: Vec::new(), start: at(anchor), nodes: 1 });
            }
            Event::MappingStart(_, anchor, _) => {
                let (fields, merged) = (Map::new(), Map::new());
                self.open.push(Open::Map { fields, merged, key: None, start: at(anchor), nodes: 1 });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { items, start, nodes }) => self.value(Value::Array(items), start, nodes)?,
                Some(Open::Map { mut fields, merged, start, nodes, .. }) => {
                    for (key, value) in merged {
                        fields.entry(key).or_insert(value);
                    }
                    self.value(Value::Object(fields), start, nodes)?;
                }
                None => return Err("yaml: unbalanced document".to_owned()),
            },
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, tag.as_deref(), at(anchor))?,
            Event::Alias(id) => {
                let Some((value, nodes)) = self.anchors.get(&id).cloned() else {
                    return Err("yaml: unknown anchor referenced".to_owned());
                };
                self.aliased += nodes;
                if self.aliased > MAX_ALIASED_NODES {
                    return Err("yaml: document contains excessive aliasing".to_owned());
                }
                self.value(value, at(0), nodes)?;
            }
            Event::DocumentEnd | Event::StreamEnd => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        start: Start,
    ) -> Result<(), String> {
        let plain = style == ScalarStyle::Plain;
        let tag = tag.and_then(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:"));
        let value = match tag.as_deref() {
            Some("str") => Value::String(text.into_owned()),
            Some("binary") => {
                let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(compact)
                    .map_err(|_| "yaml: !!binary value contains invalid base64 data".to_owned())?;
                Value::String(String::from_utf8_lossy(&bytes).into_owned())
            }
            other if plain || other.is_some() => match scalar::resolve(&text) {
                Some(Meaning::Json(value)) => value,
                Some(Meaning::Merge) if self.awaits_key() => {
                    self.set_key(Key::Merge);
                    return Ok(());
                }
                Some(Meaning::NotJson) => return Err(format!("json: unsupported value: {text}")),
                Some(Meaning::Merge) | None => Value::String(text.into_owned()),
            },
            _ => Value::String(text.into_owned()),
        };
        self.value(value, start, 1)
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn set_key(&mut self, new: Key) {
        if let Some(Open::Map { key, .. }) = self.open.last_mut() {
            *key = Some(new);
        }
    }

    /// A node is whole: it is a key, a value, an item or the document.
    fn value(&mut self, value: Value, start: Start, size: usize) -> Result<(), String> {
        if start.anchor != 0 {
            self.anchors.insert(start.anchor, (value.clone(), size));
        }
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List { items, nodes, .. }) => {
                *nodes += size;
                items.push(value);
            }
            Some(Open::Map { fields, merged, key, nodes, .. }) => {
                *nodes += size;
                match key.take() {
                    None => *key = Some(Key::Text(key_text(value)?)),
                    Some(Key::Merge) => merge(merged, value)?,
                    Some(Key::Text(name)) => {
                        let quoted = Value::String(name.clone());
                        if fields.insert(name, value).is_some() {
                            self.duplicates.push(format!("  line {}: key {quoted} already set in map", start.line));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// JSON's keys are strings; YAML's scalars become some.
fn key_text(key: Value) -> Result<String, String> {
    match key {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null => Err("unsupported map key of type: <nil>".to_owned()),
        Value::Array(_) | Value::Object(_) => Err("yaml: invalid map key".to_owned()),
    }
}

/// `<<`: a map or several; what is there stays.
fn merge(into: &mut Map<String, Value>, value: Value) -> Result<(), String> {
    let maps = match value {
        Value::Object(map) => vec![Value::Object(map)],
        Value::Array(items) => items,
        _ => return Err("yaml: map merge requires map or sequence of maps as the value".to_owned()),
    };
    for map in maps {
        let Value::Object(map) = map else {
            return Err("yaml: map merge requires map or sequence of maps as the value".to_owned());
        };
        for (key, value) in map {
            into.entry(key).or_insert(value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_becomes_json_with_anchors_merges_and_tags_resolved() {
        let yaml = "a: &a {x: 1, z: 0}\nb:\n  <<: *a\n  w: 2\n  x: 3\nc: [*a, !!str 5, '6', 7]\nd: |\n  text\n1: yes\n---\nnext: 1\n";
        let read = to_json(yaml.as_bytes()).unwrap();
        assert_eq!(
            read.value,
            json!({"a": {"x": 1, "z": 0}, "b": {"w": 2, "x": 3, "z": 0}, "c": [{"x": 1, "z": 0}, "5", "6", 7], "d": "text\n", "1": true})
        );
        assert_eq!(read.duplicates, None);
        assert_eq!(to_json(b"").unwrap().value, Value::Null);
        assert_eq!(to_json(b"{\"kind\": \"Pod\"}").unwrap().value, json!({"kind": "Pod"}));
    }

    #[test]
    fn a_key_set_twice_is_told_with_its_line_and_the_later_wins() {
        let read = to_json(b"data: {a: x}\nextra: 1\ndata: {b: z}\n").unwrap();
        assert_eq!(read.value, json!({"data": {"b": "z"}, "extra": 1}));
        assert_eq!(
            read.duplicates.as_deref(),
            Some("yaml: unmarshal errors:\n  line 3: key \"data\" already set in map")
        );
    }

    #[test]
    fn what_is_no_yaml_is_refused_and_aliases_cannot_explode() {
        assert!(to_json(b"a: [1").unwrap_err().starts_with("yaml: line "));
        assert!(to_json(b"a: b: c").unwrap_err().starts_with("yaml: line 1: "));
        assert!(to_json(b"\xff").is_err());
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(",")));
        }
        assert_eq!(to_json(bomb.as_bytes()), Err("yaml: document contains excessive aliasing".to_owned()));
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for level in 1..300 {
            chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert_eq!(to_json(chain.as_bytes()), Err("yaml: exceeded max depth".to_owned()));
    }
}
