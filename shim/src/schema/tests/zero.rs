//! The zero rules, kind by kind: what becomes of each field when it is absent, null, zero, empty or defaulted, by an
//! oracle of its own that knows only Go's tags.

use super::complete::{Flat, Source, is_special, openapi_name};
use super::*;
use serde_json::Map;
use std::collections::BTreeSet;

/// A step from an object to what lies below.
#[derive(Clone)]
enum Step {
    Field(String),
    Item,
    Key,
}

/// What an absent field of that type is in JSON, when it is written.
fn zero_of(source: &Source, go: &str) -> Value {
    let under = source.underlying(go);
    match under {
        _ if under.starts_with("[]") || under.starts_with("map[") => Value::Null,
        _ if under.ends_with("Quantity") => json!("0"),
        _ if under.ends_with("v1.Duration") => json!("0s"),
        _ if under.ends_with("IntOrString") => json!(0),
        _ if is_special(under) => Value::Null,
        "string" => json!(""),
        "bool" => json!(false),
        "int32" | "int64" | "int" | "float64" => json!(0),
        _ if source.fields(under).is_some() => zero_struct(source, under),
        _ => Value::Null,
    }
}

fn zero_struct(source: &Source, go: &str) -> Value {
    let mut out = Map::new();
    for field in source.fields(go).unwrap_or_default() {
        if let Some(value) = absent(source, &field) {
            out.insert(field.text("name").to_owned(), value);
        }
    }
    Value::Object(out)
}

/// Whether omitempty leaves a zero of that type out: Go never omits structs.
fn is_omittable(source: &Source, go: &str) -> bool {
    let under = source.underlying(go);
    let basic = matches!(under, "string" | "bool" | "int32" | "int64" | "int" | "float64");
    basic || under.starts_with("[]") || under.starts_with("map[")
}

/// How a field that was not given, or null, is written.
fn absent(source: &Source, field: &Flat<'_>) -> Option<Value> {
    let go = field.text("type");
    match (field.fact["pointer"] == true, field.text("omit")) {
        (true, "") => Some(Value::Null),
        (true, _) | (_, "zero") => None,
        (false, "") => Some(zero_of(source, go)),
        (false, _) if is_omittable(source, go) => None,
        (false, _) => Some(zero_of(source, go)),
    }
}

/// What can be sent as the zero, or as the empty value, of a type.
fn given(source: &Source, go: &str) -> Value {
    let under = source.underlying(go);
    match under {
        "[]byte" => json!(""),
        _ if under.starts_with("[]") => json!([]),
        _ if under.starts_with("map[") => json!({}),
        _ if is_special(under) => zero_of(source, go),
        _ if source.fields(under).is_some() => json!({}),
        _ => zero_of(source, go),
    }
}

/// How such a zero is written.
fn kept(source: &Source, field: &Flat<'_>, sent: &Value) -> Option<Value> {
    let go = field.text("type");
    let under = source.underlying(go);
    let written = match sent {
        Value::Object(_) if !under.starts_with("map[") => zero_of(source, go),
        sent => sent.clone(),
    };
    match (field.fact["pointer"] == true, field.text("omit")) {
        _ if sent.is_null() => absent(source, field),
        (true, _) => Some(written),
        // Protobuf, in which upstream stores, has no empty lists; the items of a list kind are never stored.
        (false, "") if sent == &json!([]) && field.text("name") != "items" => Some(Value::Null),
        (false, "empty") if is_omittable(source, go) => None,
        _ => Some(written),
    }
}

/// `inner` below those steps.
fn nested(path: &[Step], inner: Value) -> Value {
    path.iter().rev().fold(inner, |inner, step| match step {
        Step::Field(name) => json!({ name: inner }),
        Step::Item => json!([inner]),
        Step::Key => json!({"k": inner}),
    })
}

fn reach<'a>(path: &[Step], value: &'a Value) -> &'a Value {
    path.iter().fold(value, |value, step| match step {
        Step::Field(name) => &value[name.as_str()],
        Step::Item => &value[0],
        Step::Key => &value["k"],
    })
}

/// Every struct that a kind reaches, each once, with the shortest way to it.
fn structs(source: &Source, root: &str) -> Vec<(String, Vec<Step>)> {
    let mut seen = BTreeSet::from([root.to_owned()]);
    let mut found = vec![(root.to_owned(), Vec::new())];
    let mut at = 0;
    while at < found.len() {
        let (go, path) = found[at].clone();
        at += 1;
        for field in source.fields(&go).unwrap_or_default() {
            let (mut go, mut path) = (source.underlying(field.text("type")), path.clone());
            path.push(Step::Field(field.text("name").to_owned()));
            loop {
                if let Some(item) = go.strip_prefix("[]") {
                    go = source.underlying(item);
                    path.push(Step::Item);
                } else if let Some((_, item)) = go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
                    go = source.underlying(item);
                    path.push(Step::Key);
                } else {
                    break;
                }
            }
            if !is_special(go) && source.fields(go).is_some() && seen.insert(go.to_owned()) {
                found.push((go.to_owned(), path));
            }
        }
    }
    found
}

/// Canonical JSON of a body, and the same by way of protobuf.
fn written(schema: &'static Schema, body: &Value, default: bool) -> Result<(Value, Value), String> {
    let decoded = schema.decode(body.to_string().as_bytes(), FieldValidation::Strict);
    let mut value = decoded.map_err(|error| error.to_string())?.value;
    if default {
        schema.default(&mut value);
    }
    let json = serde_json::from_slice(&schema.encode(&value)).map_err(|error| error.to_string())?;
    let travelled = schema.decode_protobuf(&schema.encode_protobuf(&value)).map_err(|error| error.to_string())?;
    let travelled = serde_json::from_slice(&schema.encode(&travelled.value)).map_err(|error| error.to_string())?;
    Ok((json, travelled))
}

#[test]
fn absent_null_zero_empty_and_default_of_every_field_of_every_stable_kind() {
    let Some(source) = Source::read() else { return };
    let (mut cases, mut wrong) = (0, Vec::new());
    for (root, gvk) in source.kinds() {
        let text = |key: &str| gvk[key].as_str().unwrap();
        let gv = if text("group").is_empty() {
            text("version").to_owned()
        } else {
            format!("{}/{}", text("group"), text("version"))
        };
        let Some(schema) = Schema::named(&gv, text("kind")) else { continue };
        // The kind of a list's items has a turn of its own.
        let depth = if schema.kind().ends_with("List") { 1 } else { usize::MAX };
        for (go, path) in structs(&source, root).into_iter().filter(|(_, path)| path.len() <= depth) {
            let component = &source.schemas.get(&openapi_name(&go)).cloned().unwrap_or_default()["properties"];
            for field in source.fields(&go).unwrap() {
                let name = field.text("name");
                if path.is_empty() && matches!(name, "kind" | "apiVersion") {
                    continue;
                }
                let sent = given(&source, field.text("type"));
                let mut table = vec![
                    ("absent", json!({}), false, absent(&source, &field)),
                    ("null", json!({ name: null }), false, absent(&source, &field)),
                    ("zero", json!({ name: sent }), false, kept(&source, &field, &sent)),
                ];
                let default = &component[name]["default"];
                let real = field.fact["pointer"] == true
                    || ![json!(""), json!(0), json!(false), json!(null)].contains(default);
                if !default.is_null() && default != &json!({}) && real {
                    table.push(("default", json!({}), true, Some(default.clone())));
                    table.push(("defaulted null", json!({ name: null }), true, Some(default.clone())));
                }
                for (what, inner, defaults, expected) in table {
                    cases += 1;
                    let case = || format!("{} {go} .{name} {what}", schema.kind());
                    match written(schema, &nested(&path, inner), defaults) {
                        Err(error) => wrong.push(format!("{}: {error}", case())),
                        Ok((json, travelled)) => {
                            let found = reach(&path, &json).get(name).cloned();
                            if found != expected {
                                wrong.push(format!("{}: {found:?} instead of {expected:?}", case()));
                            } else if travelled != json && !is_null_beside_empty(&travelled, &json) {
                                wrong.push(format!("{}: protobuf makes {travelled} of {json}", case()));
                            }
                        }
                    }
                }
            }
        }
    }
    let shown: Vec<&String> = wrong.iter().take(60).collect();
    assert!(wrong.is_empty(), "{} of {cases}: {shown:#?}", wrong.len());
    assert!(cases > 25_000, "only {cases} cases");
}

/// The items of a list kind, which no store ever holds, are the only empty list that JSON keeps apart from none.
fn is_null_beside_empty(travelled: &Value, json: &Value) -> bool {
    match (travelled, json) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_null_beside_empty(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_null_beside_empty(a, b))
        }
        (Value::Null, b) => b.is_null() || b == &json!([]) || b == &json!({}),
        (a, b) => a == b,
    }
}
