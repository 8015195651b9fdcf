//! `openAPIV3Schema` → tree.

use super::{Additional, Bound, Checks, ListType, Rule, Structural, Type};
use serde_json::Value;

pub(super) fn node(schema: &Value) -> Structural {
    let flag = |key: &str| schema[key].as_bool() == Some(true);
    let mut properties: Vec<(Box<str>, Structural)> =
        entries(&schema["properties"]).map(|(name, schema)| (name.as_str().into(), node(schema))).collect();
    properties.sort_by(|a, b| a.0.cmp(&b.0));
    Structural {
        ty: match schema["type"].as_str().unwrap_or("") {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => Type::Any,
        },
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        preserve: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        atomic_map: schema["x-kubernetes-map-type"] == "atomic",
        properties: properties.into(),
        additional: match &schema["additionalProperties"] {
            Value::Bool(true) => Additional::Any,
            each @ Value::Object(_) => Additional::Each(Box::new(node(each))),
            _ => Additional::None,
        },
        items: schema["items"].is_object().then(|| Box::new(node(&schema["items"]))),
        list: match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map(texts(&schema["x-kubernetes-list-map-keys"])),
            _ => ListType::Atomic,
        },
        default: schema.get("default").filter(|value| !value.is_null()).map(|value| Box::new(value.clone())),
        checks: Some(checks(schema)).filter(|checks| *checks != Checks::default()).map(Box::new),
        rules: items(&schema["x-kubernetes-validations"]).iter().map(rule).collect(),
    }
}

fn checks(schema: &Value) -> Checks {
    let count = |key: &str| schema[key].as_u64().and_then(|n| usize::try_from(n).ok());
    let text = |key: &str| schema[key].as_str().filter(|text| !text.is_empty()).map(Into::into);
    let bound = |key: &str, exclusive: &str| {
        schema[key].as_number().map(|value| Bound { value: value.clone(), exclusive: schema[exclusive] == true })
    };
    let nodes = |key: &str| items(&schema[key]).iter().map(node).collect();
    Checks {
        required: texts(&schema["required"]),
        allowed: items(&schema["enum"]).into(),
        maximum: bound("maximum", "exclusiveMaximum"),
        minimum: bound("minimum", "exclusiveMinimum"),
        multiple_of: schema["multipleOf"].as_number().cloned(),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: text("pattern"),
        format: text("format"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        unique_items: schema["uniqueItems"] == true,
        max_properties: count("maxProperties"),
        min_properties: count("minProperties"),
        all_of: nodes("allOf"),
        any_of: nodes("anyOf"),
        one_of: nodes("oneOf"),
        not: schema["not"].is_object().then(|| Box::new(node(&schema["not"]))),
    }
}

fn rule(rule: &Value) -> Rule {
    let text = |key: &str| rule[key].as_str().unwrap_or("").into();
    Rule {
        rule: text("rule"),
        message: text("message"),
        message_expression: text("messageExpression"),
        reason: text("reason"),
        field_path: text("fieldPath"),
        optional_old_self: rule["optionalOldSelf"] == true,
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn texts(value: &Value) -> Box<[Box<str>]> {
    items(value).iter().filter_map(|text| text.as_str().map(Into::into)).collect()
}
