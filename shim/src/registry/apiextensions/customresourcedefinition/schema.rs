//! Rules of a version: its schema must be structural, its columns, selectable fields and scale paths must be paths.

mod rules;

use crate::registry::custom::jsonpath::JsonPath;
use crate::registry::custom::value_errors;
use crate::registry::field::{Errors, FieldError, Path};
use crate::registry::value::{entries, items, text, truth};
use crate::schema::structural::Structural;
use regex::Regex;
use serde_json::{Value, json};

/// Selectable fields a version may have.
const MAX_SELECTABLE: usize = 8;
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What OpenAPI v3 has and Kubernetes does not.
const UNSUPPORTED: [&str; 6] = ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];
/// What only the outer schema may say, not the value validations nested in it.
const STRUCTURE: [&str; 9] = [
    "type",
    "title",
    "description",
    "default",
    "additionalProperties",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-list-type",
];

/// The rules of all versions. As in upstream's internal type, what is the same in all of them is the spec's own, and is
/// looked at, and complained of, once.
pub(super) fn versions(versions: &[Value], spec: &Path, errors: &mut Errors) {
    let Some(first) = versions.first() else { return };
    let shared = |field: &str| versions.iter().all(|version| version[field] == first[field]);
    // Where each version's field is, or the spec's where they share it: under that name, with that version.
    let each = |field: &str, lifted: &str| -> Vec<(Path, &Value)> {
        if shared(field) {
            return vec![(spec.child(lifted), first)];
        }
        let own = |index: usize| spec.child("versions").index(index).child(field);
        versions.iter().enumerate().map(|(index, version)| (own(index), version)).collect()
    };
    for (index, version) in versions.iter().enumerate() {
        if !schema_of(version).is_object() {
            let path = spec.child("versions").index(index).child("schema").child("openAPIV3Schema");
            errors.push(path.required(""));
        }
    }
    for (path, version) in each("schema", "validation") {
        let schema = schema_of(version);
        if schema.is_object() {
            node(schema, Level::Root, &path.child("openAPIV3Schema"), errors);
        }
    }
    for (path, version) in each("subresources", "subresources") {
        scale(&version["subresources"]["scale"], &path.child("scale"), errors);
    }
    for (path, version) in each("additionalPrinterColumns", "additionalPrinterColumns") {
        for (index, column) in items(&version["additionalPrinterColumns"]).iter().enumerate() {
            printer_column(column, &path.index(index), errors);
        }
    }
    // Those that fit the schema of one version need not fit another's.
    let same = |a: &Value, b: &Value| a["schema"] == b["schema"] && a["selectableFields"] == b["selectableFields"];
    for (index, version) in versions.iter().enumerate() {
        if !versions[..index].iter().any(|earlier| same(earlier, version)) {
            let own = spec.child("versions").index(index);
            let holder = if shared("selectableFields") { spec } else { &own };
            selectable(version, &holder.child("selectableFields"), errors);
        }
    }
}

fn schema_of(version: &Value) -> &Value {
    &version["schema"]["openAPIV3Schema"]
}

/// Where in its schema a node is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

fn node(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    rules::check(schema, path, errors);
    let ty = text(&schema["type"]);
    let flag = |key: &str| truth(&schema[key]);
    let int_or_string = flag("x-kubernetes-int-or-string");
    let preserve = flag("x-kubernetes-preserve-unknown-fields");
    if ty.is_empty() && !int_or_string && (!preserve || level == Level::Root) {
        errors.push(path.child("type").required(match level {
            Level::Root => "must not be empty at the root",
            Level::Field => "must not be empty for specified object fields",
            Level::Item => "must not be empty for specified array items",
        }));
    } else if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.push(path.child("type").not_supported(ty, &TYPES));
    } else if level == Level::Root && ty != "object" {
        errors.push(path.child("type").invalid(ty, "must be object at the root"));
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        errors.push(path.child("x-kubernetes-preserve-unknown-fields").invalid(false, "must be true or undefined"));
    }
    if int_or_string && !ty.is_empty() {
        errors.push(path.child("type").forbidden("must be empty if x-kubernetes-int-or-string is true"));
    }
    embedded(schema, path, errors);
    if !schema["default"].is_null() {
        default(schema, path, errors);
    }
    if level == Level::Root {
        metadata(&schema["properties"]["metadata"], path, errors);
    }
    common(schema, path, errors);
    list_type(schema, path, errors);
    if ty == "array" && !schema["items"].is_object() {
        errors.push(path.child("items").required("must be specified"));
    }
    match &schema["additionalProperties"] {
        Value::Bool(false) => {
            errors.push(path.child("additionalProperties").forbidden("additionalProperties cannot be set to false"));
        }
        Value::Object(_) | Value::Bool(true) if entries(&schema["properties"]).next().is_some() => errors.push(
            path.child("additionalProperties").forbidden("additionalProperties and properties are mutual exclusive"),
        ),
        each @ Value::Object(_) => node(each, Level::Field, &path.child("additionalProperties"), errors),
        _ => {}
    }
    for (name, property) in entries(&schema["properties"]) {
        node(property, Level::Field, &path.child("properties").key(name), errors);
    }
    if schema["items"].is_object() {
        node(&schema["items"], Level::Item, &path.child("items"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, nested) in items(&schema[key]).iter().enumerate() {
            value_validation(nested, schema, &path.child(key).index(index), errors);
        }
    }
    if schema["not"].is_object() {
        value_validation(&schema["not"], schema, &path.child("not"), errors);
    }
}

/// What holds of structural nodes and of nested validations alike.
fn common(schema: &Value, path: &Path, errors: &mut Errors) {
    for key in UNSUPPORTED {
        let value = &schema[key];
        if !value.is_null() && value != "" {
            errors.push(path.child(key).forbidden(&format!("{key} is not supported")));
        }
    }
    if truth(&schema["uniqueItems"]) {
        errors.push(
            path.child("uniqueItems")
                .forbidden("uniqueItems cannot be set to true since the runtime complexity becomes quadratic"),
        );
    }
    if schema["items"].is_array() {
        errors.push(path.child("items").forbidden("items must be a schema object and not an array"));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = Regex::new(pattern)
    {
        let why = error.to_string().lines().last().unwrap_or_default().to_owned();
        errors.push(
            path.child("pattern").invalid(pattern, &format!("must be a valid regular expression, but isn't: {why}")),
        );
    }
    for (least, most) in [("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")] {
        for key in [least, most] {
            if schema[key].as_i64().is_some_and(|n| n < 0) {
                errors.push(path.child(key).invalid(schema[key].clone(), "must be greater than or equal to 0"));
            }
        }
    }
}

fn embedded(schema: &Value, path: &Path, errors: &mut Errors) {
    if !truth(&schema["x-kubernetes-embedded-resource"]) {
        return;
    }
    let ty = text(&schema["type"]);
    if ty != "object" {
        errors.push(path.child("type").invalid(ty, "must be object if x-kubernetes-embedded-resource is true"));
    }
    if !schema["additionalProperties"].is_null() {
        let text = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(path.child("additionalProperties").forbidden(text));
    }
    let bare = entries(&schema["properties"]).next().is_none();
    if bare && !truth(&schema["x-kubernetes-preserve-unknown-fields"]) {
        let text =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(path.child("properties").required(text));
    }
    metadata(&schema["properties"]["metadata"], path, errors);
}

/// Of metadata only the names may be restricted.
fn metadata(schema: &Value, path: &Path, errors: &mut Errors) {
    if !schema.is_object() {
        return;
    }
    let path = path.child("properties").key("metadata");
    if text(&schema["type"]) != "object" {
        errors.push(path.child("type").invalid(text(&schema["type"]), "must be object"));
    }
    let names_only = entries(&schema["properties"]).all(|(name, _)| matches!(name.as_str(), "name" | "generateName"));
    let plain = entries(schema).all(|(key, _)| matches!(key.as_str(), "type" | "properties" | "description"));
    if !names_only || !plain {
        errors.push(path.forbidden(
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        ));
    }
}

/// A default must be what its own schema allows, with nothing that would be pruned.
fn default(schema: &Value, path: &Path, errors: &mut Errors) {
    let (path, tree) = (path.child("default"), Structural::parse(schema));
    let mut pruned = json!({"default": schema["default"]});
    let holder = Structural::parse(&json!({"type": "object", "properties": {"default": schema}}));
    if !holder.prune(&mut pruned).is_empty() {
        errors.push(path.invalid(schema["default"].clone(), "must not have unknown fields"));
    }
    for error in value_errors(&tree, &schema["default"]) {
        let field = match error.field.as_str() {
            "<nil>" => path.as_str().to_owned(),
            field => path.child(field).as_str().to_owned(),
        };
        errors.push(FieldError { field, ..error });
    }
}

fn list_type(schema: &Value, path: &Path, errors: &mut Errors) {
    let ty = text(&schema["type"]);
    if let Some(map_type) = schema["x-kubernetes-map-type"].as_str() {
        let path = path.child("x-kubernetes-map-type");
        if ty != "object" {
            errors.push(path.invalid(ty, "must be object if x-kubernetes-map-type is specified"));
        }
        if !matches!(map_type, "atomic" | "granular") {
            errors.push(path.not_supported(map_type, &["atomic", "granular"]));
        }
    }
    let list = schema["x-kubernetes-list-type"].as_str();
    let keys = &schema["x-kubernetes-list-map-keys"];
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if let Some(list) = list {
        if ty != "array" {
            errors.push(path.child("type").invalid(ty, "must be array if x-kubernetes-list-type is specified"));
        }
        if !matches!(list, "atomic" | "set" | "map") {
            errors.push(path.child("x-kubernetes-list-type").not_supported(list, &["atomic", "set", "map"]));
        }
    }
    match (list, items(keys)) {
        (Some("map"), []) => {
            errors.push(keys_path.required("must not be empty if x-kubernetes-list-type is map"));
        }
        (Some("map"), names) => map_keys(&schema["items"], names, &keys_path, path, errors),
        (_, []) => {}
        (list, _) => errors.push(
            path.child("x-kubernetes-list-type")
                .invalid(list.unwrap_or(""), "must be map if x-kubernetes-list-map-keys is non-empty"),
        ),
    }
    if list == Some("set") {
        let item = &schema["items"];
        let atomic = match text(&item["type"]) {
            "array" => matches!(item["x-kubernetes-list-type"].as_str(), None | Some("atomic")),
            "object" => item["x-kubernetes-map-type"] == "atomic",
            _ => true,
        };
        if !atomic {
            errors.push(path.child("items").child("x-kubernetes-map-type").invalid(
                text(&item["x-kubernetes-map-type"]),
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            ));
        }
        if truth(&item["nullable"]) {
            errors.push(
                path.child("items")
                    .child("nullable")
                    .forbidden("cannot be nullable when x-kubernetes-list-type is set"),
            );
        }
    }
}

/// Each key must be a scalar property of the items that is always there.
fn map_keys(item: &Value, keys: &[Value], keys_path: &Path, path: &Path, errors: &mut Errors) {
    let ty = text(&item["type"]);
    if ty != "object" {
        let path = path.child("items").child("type");
        errors.push(path.invalid(ty, "must be object if parent array's x-kubernetes-list-type is map"));
        return;
    }
    let required = items(&item["required"]);
    for (index, key) in keys.iter().enumerate() {
        let name = text(key);
        let property = &item["properties"][name];
        let at = path.child("items").child("properties").key(name);
        if property.is_null() {
            errors.push(keys_path.index(index).invalid(name, "entries must all be names of item properties"));
        } else if matches!(text(&property["type"]), "array" | "object") {
            let text = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(at.child("type").invalid(property["type"].clone(), text));
        } else if property["default"].is_null() && !required.contains(key) {
            let text =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(at.child("default").required(text));
        }
        if keys[..index].contains(key) {
            errors.push(keys_path.index(index).duplicate(name));
        }
    }
}

/// A schema below `allOf` and its like validates; it may not add to the structure.
fn value_validation(schema: &Value, outer: &Value, path: &Path, errors: &mut Errors) {
    let int_or_string = truth(&outer["x-kubernetes-int-or-string"]);
    for key in STRUCTURE {
        let value = &schema[key];
        let allowed = value.is_null() || (key == "type" && int_or_string);
        if !allowed {
            errors.push(path.child(key).forbidden("must be empty to be structural"));
        }
    }
    common(schema, path, errors);
    for (name, property) in entries(&schema["properties"]) {
        let declared = &outer["properties"][name.as_str()];
        let path_below = path.child("properties").key(name);
        if declared.is_null() && !truth(&outer["x-kubernetes-preserve-unknown-fields"]) {
            let at = Path::new(&path_below.as_str().replacen(&format!("{}.", path.as_str()), "", 1));
            let outer = path.as_str().rsplit_once('.').map_or("", |(outer, _)| outer);
            let text = format!("because it is defined in {}", path_below.as_str());
            errors.push(Path::new(outer).child(at.as_str()).required(&text));
        }
        value_validation(property, declared, &path_below, errors);
    }
    if schema["items"].is_object() {
        value_validation(&schema["items"], &outer["items"], &path.child("items"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, nested) in items(&schema[key]).iter().enumerate() {
            value_validation(nested, outer, &path.child(key).index(index), errors);
        }
    }
    if schema["not"].is_object() {
        value_validation(&schema["not"], outer, &path.child("not"), errors);
    }
}

fn scale(scale: &Value, path: &Path, errors: &mut Errors) {
    if !scale.is_object() {
        return;
    }
    let fields = [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", "", false),
    ];
    for (field, below, required) in fields {
        let value = text(&scale[field]);
        let path = path.child(field);
        if value.is_empty() {
            if required {
                errors.push(path.required(""));
            }
            continue;
        }
        let inside =
            value.starts_with(below) || (!required && (value.starts_with(".spec.") || value.starts_with(".status.")));
        if !value.starts_with('.') {
            errors.push(path.invalid(value, "must be a simple json path starting with ."));
        } else if !inside || (!required && !value.starts_with(".spec.") && !value.starts_with(".status.")) {
            let place = match field {
                "specReplicasPath" => "should be a json path under .spec",
                "statusReplicasPath" => "should be a json path under .status",
                _ => "should be a json path under either .spec or .status",
            };
            errors.push(path.invalid(value, place));
        } else if value.contains('[') {
            errors.push(path.invalid(value, "must be a json path in the dot notation"));
        }
    }
}

fn printer_column(column: &Value, path: &Path, errors: &mut Errors) {
    const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if text(&column["name"]).is_empty() {
        errors.push(path.child("name").required(""));
    }
    match text(&column["type"]) {
        "" => errors.push(path.child("type").required(&format!("must be one of {}", COLUMN_TYPES.join(",")))),
        ty if COLUMN_TYPES.contains(&ty) => {}
        ty => errors.push(path.child("type").invalid(ty, &format!("must be one of {}", COLUMN_TYPES.join(",")))),
    }
    let format = text(&column["format"]);
    if !format.is_empty() && !FORMATS.contains(&format) {
        errors.push(path.child("format").invalid(format, &format!("must be one of {}", FORMATS.join(","))));
    }
    let path = path.child("JSONPath");
    match text(&column["jsonPath"]) {
        "" => errors.push(path.required("")),
        text if !text.starts_with('.') => errors.push(path.invalid(text, "must be a simple json path starting with .")),
        text => {
            if let Err(why) = JsonPath::parse(text) {
                errors.push(path.invalid(text, &why));
            }
        }
    }
}

fn selectable(version: &Value, path: &Path, errors: &mut Errors) {
    let fields = items(&version["selectableFields"]);
    if fields.len() > MAX_SELECTABLE {
        errors.push(path.too_many(fields.len(), MAX_SELECTABLE));
    }
    for (index, field) in fields.iter().enumerate() {
        let value = text(&field["jsonPath"]);
        let path = path.index(index).child("jsonPath");
        let parsed = JsonPath::parse(value);
        let names = parsed.as_ref().ok().and_then(JsonPath::fields);
        match (value, names) {
            ("", _) => errors.push(path.required("")),
            (_, None) => errors.push(path.invalid(value, "is an invalid path: must be a simple path of fields")),
            (_, Some(names)) => {
                let root = &version["schema"]["openAPIV3Schema"];
                let schema = names.iter().fold(root, |schema, name| &schema["properties"][*name]);
                if names.first() == Some(&"metadata") {
                    errors.push(path.invalid(value, "must not point to fields in metadata"));
                } else if !matches!(text(&schema["type"]), "string" | "boolean" | "integer") {
                    let text = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                    errors.push(path.invalid(value, text));
                }
            }
        }
        if fields[..index].iter().any(|other| other["jsonPath"] == field["jsonPath"]) {
            errors.push(path.duplicate(value));
        }
    }
}
