//! The facts table against its sources: nothing that a generally available kind reaches is missing or otherwise.

use super::super::facts::{Field, Rule, facts};
use super::*;
use serde_json::Map;
use std::collections::{BTreeMap, BTreeSet};

/// fields.json, and what of OpenAPI belongs to each of its types.
pub(super) struct Source {
    types: Map<String, Value>,
    /// OpenAPI component → its schema, of the documents of stable versions.
    pub schemas: BTreeMap<String, Value>,
    /// OpenAPI component → Go name.
    go: BTreeMap<String, String>,
}

/// A field with inlined structs resolved.
pub(super) struct Flat<'a> {
    pub fact: &'a Value,
    /// Protobuf numbers, those of inlined messages first.
    pub numbers: Vec<u64>,
}

impl Flat<'_> {
    pub(super) fn text(&self, key: &str) -> &str {
        self.fact[key].as_str().unwrap_or_default()
    }
}

impl Source {
    pub(super) fn read() -> Option<Source> {
        let types = std::fs::read(shared("k8s-1.36/fields.json")?).unwrap();
        let types: Map<String, Value> = serde_json::from_slice(&types).unwrap();
        let go = types.keys().map(|go| (openapi_name(go), go.clone())).collect();
        let mut schemas = BTreeMap::new();
        for file in std::fs::read_dir(shared("k8s-1.36/openapi-v3")?).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().trim_end_matches("_openapi.json");
            let version = name.rsplit("__").next().unwrap();
            if !version.strip_prefix('v').is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_digit())) {
                continue;
            }
            let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
                schemas.insert(name.clone(), schema.clone());
            }
        }
        Some(Source { types, schemas, go })
    }

    /// Go's name of a component that is a kind, and the kind.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.schemas.iter().filter_map(|(name, schema)| {
            let gvk = schema["x-kubernetes-group-version-kind"].as_array()?.first()?;
            Some((self.go.get(name)?.as_str(), gvk))
        })
    }

    /// A struct's fields; `None` for what is no struct.
    pub(super) fn fields(&self, go: &str) -> Option<Vec<Flat<'_>>> {
        match self.types.get(go) {
            Some(Value::Array(fields)) => Some(self.flat(fields, &[], true)),
            Some(Value::String(other)) => {
                self.fields(other).filter(|_| !other.starts_with('[') && !other.starts_with("map"))
            }
            _ => None,
        }
    }

    fn flat<'a>(&'a self, fields: &'a [Value], via: &[u64], travels: bool) -> Vec<Flat<'a>> {
        let mut out = Vec::new();
        for fact in fields {
            let number = fact["num"].as_u64().unwrap_or_default();
            if fact["inline"] == true {
                let Some(Value::Array(inner)) = self.types.get(fact["type"].as_str().unwrap()) else { continue };
                let via: Vec<u64> = via.iter().copied().chain((number != 0).then_some(number)).collect();
                out.extend(self.flat(inner, &via, travels && number != 0));
            } else if !matches!(fact["name"].as_str().unwrap(), "" | "-") {
                let numbers = via.iter().copied().chain([if travels { number } else { 0 }]).collect();
                out.push(Flat { fact, numbers });
            }
        }
        out
    }

    /// What a Go type is underneath its name.
    pub(super) fn underlying<'a>(&'a self, go: &'a str) -> &'a str {
        match self.types.get(go) {
            Some(Value::String(under)) => self.underlying(under),
            // Named strings of a package that has no table.
            _ if go.starts_with("k8s.io/apimachinery/pkg/types.") => "string",
            _ => go,
        }
    }

    /// As Go's reflection prints a type.
    fn spoken(&self, go: &str, repeated: bool) -> String {
        if let Some(item) = go.strip_prefix("[]").filter(|item| *item != "byte") {
            return format!("[]{}", self.spoken(item, false));
        }
        if let Some((_, item)) = go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            return format!("map[string]{}", self.spoken(item, false));
        }
        match (go, self.types.get(go)) {
            ("int", _) => "int64".to_owned(),
            ("[]byte", _) => "[]uint8".to_owned(),
            ("*ast.InterfaceType", _) => "runtime.RawExtension".to_owned(),
            (name, _) if name.ends_with("apiextensions/v1.JSON") => "runtime.RawExtension".to_owned(),
            // A named list that is repeated on the wire is a plain list to us.
            (_, Some(Value::String(list))) if repeated && list.starts_with("[]") => self.spoken(list, false),
            (name, _) => name.rsplit('/').next().unwrap().to_owned(),
        }
    }

    /// The struct types that a type holds.
    pub(super) fn held<'a>(&'a self, go: &'a str) -> Option<&'a str> {
        let under = self.underlying(go);
        let item = under
            .strip_prefix("[]")
            .or_else(|| under.strip_prefix("map[").and_then(|rest| rest.split_once(']')).map(|(_, item)| item));
        match item {
            Some(item) => self.held(item),
            None => self.types.get(under).filter(|fields| fields.is_array()).map(|_| under),
        }
    }
}

/// `k8s.io/api/core/v1.Pod` → `io.k8s.api.core.v1.Pod`
pub(super) fn openapi_name(go: &str) -> String {
    let (host, path) = go.split_once('/').unwrap_or((go, ""));
    let host: Vec<&str> = host.rsplit('.').collect();
    format!("{}.{}", host.join("."), path.replace('/', "."))
}

fn described(field: &Field) -> String {
    let via: Vec<u16> = field.via.iter().copied().filter(|via| *via != 0).chain([field.number]).collect();
    let go = facts().go_type(facts().shape(field.shape));
    let (merge_key, merges, replaces) = (field.merge_key, field.merges, field.replaces);
    format!(
        "{} {go} {via:?} {:?} merge {merge_key:?} {merges} {replaces} default {:?}",
        field.name, field.rule, field.default
    )
}

fn expected(source: &Source, field: &Flat<'_>, property: &Value) -> String {
    let rule = match (field.fact["pointer"] == true, field.text("omit")) {
        (_, "zero") => Rule::DropZero,
        (true, "") => Rule::Null,
        (true, _) => Rule::Keep,
        (false, "") => Rule::Always,
        (false, _) => Rule::Drop,
    };
    let go = source.spoken(field.text("type"), field.text("label") == "rep");
    let numbers: Vec<u64> = if field.numbers.ends_with(&[0]) { vec![0] } else { field.numbers.clone() };
    let strategy = field.text("strategy");
    let (merges, replaces) = (strategy.contains("merge"), strategy == "replace");
    // A zero default on a value is an artefact of OpenAPI's; on a pointer it is a real one.
    let default = property.get("default").filter(|default| **default != json!({}));
    let is_zero = |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value == "" || value == 0;
    let default = default.filter(|value| field.fact["pointer"] == true || !is_zero(value)).map(Value::to_string);
    let merge_key = field.fact["mergeKey"].as_str();
    format!(
        "{} {go} {numbers:?} {rule:?} merge {merge_key:?} {merges} {replaces} default {default:?}",
        field.text("name")
    )
}

#[test]
fn every_field_that_a_stable_kind_reaches_is_in_the_facts() {
    let Some(source) = Source::read() else { return };
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    let mut pending: Vec<&str> = source.kinds().map(|(go, _)| go).collect();
    assert!(pending.len() > 120, "only {} kinds", pending.len());
    while let Some(go) = pending.pop() {
        let Some(fields) = source.fields(go).filter(|_| seen.insert(go)) else { continue };
        let name = openapi_name(go);
        // Types with encodings of their own are shapes, not structs.
        let Some(ty) = facts().type_named(&name) else {
            if !is_special(go) {
                wrong.push(format!("{name} is not in the facts"));
            }
            continue;
        };
        let nothing = Value::Null;
        let schema = source.schemas.get(&name).unwrap_or(&nothing);
        let ours: Vec<String> = ty.fields.iter().map(described).collect();
        let theirs: Vec<String> =
            fields.iter().map(|field| expected(&source, field, &schema["properties"][field.text("name")])).collect();
        for (ours, theirs) in ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs) {
            wrong.push(format!("{name}: {ours}\n    instead of {theirs}"));
        }
        if ours.len() != theirs.len() {
            wrong.push(format!("{name} has {} fields instead of {}", ours.len(), theirs.len()));
        }
        pending.extend(fields.iter().filter_map(|field| source.held(field.fact["type"].as_str().unwrap())));
    }
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), seen.len(), wrong.join("\n"));
    assert!(seen.len() > 550, "only {} types were compared", seen.len());
}

/// Whether JSON of that Go type is not its fields.
pub(super) fn is_special(go: &str) -> bool {
    ["Quantity", "v1.Time", "v1.MicroTime", "v1.Duration", "IntOrString", "RawExtension", "v1.FieldsV1", "v1.JSON"]
        .iter()
        .any(|name| go.ends_with(name))
        || go.contains("JSONSchemaPropsOr")
}

#[test]
fn every_stable_kind_has_a_schema_of_its_version() {
    let Some(source) = Source::read() else { return };
    let text = |gvk: &Value, key: &str| gvk[key].as_str().unwrap().to_owned();
    let missing: Vec<String> = source
        .kinds()
        .filter(|(_, gvk)| {
            let gv = match text(gvk, "group").as_str() {
                "" => text(gvk, "version"),
                group => format!("{group}/{}", text(gvk, "version")),
            };
            let kind = text(gvk, "kind");
            Schema::named(&gv, &kind).or_else(|| facts().kind("meta.k8s.io", "v1", &kind)).is_none()
        })
        .map(|(go, _)| go.to_owned())
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
