//! Swagger 2.0 as gnostic's `openapi.v2.Document` message (field numbers from its OpenAPIv2.proto).

use crate::schema::proto::wire;
use serde_json::{Map, Value};

/// A document that is being written, a path and a definition at a time.
pub(super) struct Document {
    info: Vec<u8>,
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

impl Document {
    pub(super) fn new(title: &str, version: &str) -> Self {
        let mut info = Vec::new();
        text(&mut info, 1, title);
        text(&mut info, 2, version);
        Self { info, paths: Vec::new(), definitions: Vec::new() }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        let item = message(|out| path_item(out, item));
        wire::bytes(&mut self.paths, 2, &named(path, &item));
    }

    pub(super) fn definition(&mut self, name: &str, definition: &Value) {
        let definition = message(|out| schema(out, definition));
        wire::bytes(&mut self.definitions, 1, &named(name, &definition));
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.paths.len() + self.definitions.len() + 256);
        text(&mut out, 1, "2.0");
        wire::bytes(&mut out, 2, &self.info);
        wire::bytes(&mut out, 8, &self.paths);
        wire::bytes(&mut out, 9, &self.definitions);
        let requirement = message(|out| wire::bytes(out, 1, &named("BearerToken", b"")));
        wire::bytes(&mut out, 12, &requirement);
        let key = message(|out| {
            text(out, 1, "apiKey");
            text(out, 2, "authorization");
            text(out, 3, "header");
            text(out, 4, "Bearer Token authentication");
        });
        // SecurityDefinitionsItem: the API key is choice 2.
        let item = message(|out| wire::bytes(out, 2, &key));
        let definitions = message(|out| wire::bytes(out, 1, &named("BearerToken", &item)));
        wire::bytes(&mut out, 13, &definitions);
        out
    }
}

fn message(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn text(out: &mut Vec<u8>, number: u16, value: &str) {
    if !value.is_empty() {
        wire::bytes(out, number, value.as_bytes());
    }
}

fn flag(out: &mut Vec<u8>, number: u16, value: &Value) {
    if value == true {
        wire::number(out, number, 1);
    }
}

/// One pair of a map: every `Named…` message has name 1 and value 2.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    message(|out| {
        text(out, 1, name);
        wire::bytes(out, 2, value);
    })
}

fn texts(out: &mut Vec<u8>, number: u16, list: &Value) {
    for item in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
        wire::bytes(out, number, item.as_bytes());
    }
}

/// `Any`: the value as YAML, of which JSON is some.
fn any(value: &Value) -> Vec<u8> {
    message(|out| text(out, 2, &format!("{value}\n")))
}

fn extensions(out: &mut Vec<u8>, number: u16, map: &Map<String, Value>) {
    for (key, value) in map.iter().filter(|(key, _)| key.starts_with("x-")) {
        wire::bytes(out, number, &named(key, &any(value)));
    }
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    let Some(map) = value.as_object() else { return };
    let get = |key: &str| value[key].as_str().unwrap_or_default();
    text(out, 1, get("$ref"));
    text(out, 2, get("format"));
    text(out, 3, get("title"));
    text(out, 4, get("description"));
    text(out, 13, get("pattern"));
    texts(out, 19, &value["required"]);
    for choice in value["enum"].as_array().into_iter().flatten() {
        wire::bytes(out, 20, &any(choice));
    }
    match &value["additionalProperties"] {
        Value::Bool(allowed) => wire::bytes(out, 21, &message(|out| wire::number(out, 2, i64::from(*allowed)))),
        nested @ Value::Object(_) => wire::bytes(out, 21, &of_schema(1, nested)),
        _ => {}
    }
    if !get("type").is_empty() {
        wire::bytes(out, 22, &message(|out| text(out, 1, get("type"))));
    }
    if value["items"].is_object() {
        wire::bytes(out, 23, &of_schema(1, &value["items"]));
    }
    for part in value["allOf"].as_array().into_iter().flatten() {
        wire::bytes(out, 24, &message(|out| schema(out, part)));
    }
    if let Some(fields) = value["properties"].as_object() {
        let list = message(|out| {
            for (name, field) in fields {
                wire::bytes(out, 1, &named(name, &message(|out| schema(out, field))));
            }
        });
        wire::bytes(out, 25, &list);
    }
    extensions(out, 31, map);
}

/// A message that holds only a schema.
fn of_schema(number: u16, value: &Value) -> Vec<u8> {
    let inner = message(|out| schema(out, value));
    message(|out| wire::bytes(out, number, &inner))
}

fn path_item(out: &mut Vec<u8>, item: &Value) {
    for (method, number) in
        [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)]
    {
        if let Some(map) = item[method].as_object() {
            wire::bytes(out, number, &message(|out| operation(out, map)));
        }
    }
    parameters(out, 9, &item["parameters"]);
}

fn operation(out: &mut Vec<u8>, map: &Map<String, Value>) {
    let value = |key: &str| map.get(key).unwrap_or(&Value::Null);
    texts(out, 1, value("tags"));
    text(out, 3, value("description").as_str().unwrap_or_default());
    text(out, 5, value("operationId").as_str().unwrap_or_default());
    texts(out, 6, value("produces"));
    texts(out, 7, value("consumes"));
    parameters(out, 8, value("parameters"));
    let responses = message(|out| {
        for (code, response) in value("responses").as_object().into_iter().flatten() {
            let response = message(|out| {
                text(out, 1, response["description"].as_str().unwrap_or_default());
                if response["schema"].is_object() {
                    wire::bytes(out, 2, &of_schema(1, &response["schema"]));
                }
            });
            let choice = message(|out| wire::bytes(out, 1, &response));
            wire::bytes(out, 1, &named(code, &choice));
        }
    });
    wire::bytes(out, 9, &responses);
    texts(out, 10, value("schemes"));
    extensions(out, 13, map);
}

fn parameters(out: &mut Vec<u8>, number: u16, list: &Value) {
    for parameter in list.as_array().into_iter().flatten() {
        // ParametersItem{parameter: Parameter{…}}
        let parameter = message(|out| wire::bytes(out, 1, &message(|out| choice(out, parameter))));
        wire::bytes(out, number, &parameter);
    }
}

/// `Parameter`: a body, or one of the others by its place.
fn choice(out: &mut Vec<u8>, parameter: &Value) {
    let get = |key: &str| parameter[key].as_str().unwrap_or_default();
    let place = get("in");
    if place == "body" {
        let body = message(|out| {
            text(out, 1, get("description"));
            text(out, 2, get("name"));
            text(out, 3, place);
            flag(out, 4, &parameter["required"]);
            wire::bytes(out, 5, &message(|out| schema(out, &parameter["schema"])));
        });
        return wire::bytes(out, 1, &body);
    }
    // Query and path parameters agree but for `allow_empty_value`, which moves what follows it by one.
    let (kind, shift) = if place == "path" { (4, 0) } else { (3, 1) };
    let sub = message(|out| {
        flag(out, 1, &parameter["required"]);
        text(out, 2, place);
        text(out, 3, get("description"));
        text(out, 4, get("name"));
        text(out, 5 + shift, get("type"));
        text(out, 6 + shift, get("format"));
        flag(out, 19 + shift, &parameter["uniqueItems"]);
    });
    wire::bytes(out, 2, &message(|out| wire::bytes(out, kind, &sub)));
}
