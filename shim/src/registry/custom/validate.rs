//! Value validations of a schema on an object, worded as kube-openapi's validator; on update, values that have not
//! changed are not held against it (CRDValidationRatcheting).

use super::format;
use crate::meta::{Meta, Object};
use crate::registry::field::{Cause, Errors, FieldError, Path};
use crate::registry::value::items;
use crate::registry::{labels, names};
use crate::schema::structural::{Bound, Checks, ListType, Structural, Type};
use regex::Regex;
use serde_json::{Map, Number, Value};

/// Checks an object against its schema.
pub(super) fn validate(schema: &Structural, object: &Object, old: Option<&Object>, errors: &mut Errors) {
    Validator { errors }.node(schema, object, old, "");
}

struct Validator<'e> {
    errors: &'e mut Errors,
}

/// What an error of the whole document is about, as Go prints a nil path.
const NO_PATH: &str = "<nil>";

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// An error's path: that of the root is a nil one.
pub(super) fn at(path: &str) -> Path {
    Path::new(if path.is_empty() { NO_PATH } else { path })
}

/// What a value is, as errors name it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if is_whole(number) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

/// The counterpart of an item in the old list: lists of maps know theirs by key, others have none.
pub(super) fn counterpart<'v>(schema: &Structural, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
    let ListType::Map(keys) = &schema.list else { return None };
    let same = |other: &&Value| keys.iter().all(|key| other.get(&**key) == item.get(&**key));
    items(old?).iter().find(same)
}

impl Validator<'_> {
    fn node(&mut self, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) {
        if old == Some(value) {
            return;
        }
        self.type_matches(schema, value, path);
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(below) = schema.entry(name) {
                        let old = old.and_then(|old| old.get(name));
                        self.node(below, value, old, &join(path, name));
                    }
                }
            }
            Value::Array(list) => {
                if let Some(below) = &schema.items {
                    for (index, item) in list.iter().enumerate() {
                        self.node(below, item, counterpart(schema, item, old), &format!("{path}[{index}]"));
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        if let Some(checks) = &schema.checks {
            self.checks(checks, value, path);
        }
    }

    fn type_matches(&mut self, schema: &Structural, value: &Value, path: &str) {
        let fits = match (schema.ty, value) {
            (_, Value::Null) if schema.nullable => return,
            _ if schema.int_or_string => match value {
                Value::String(_) => true,
                Value::Number(number) => is_whole(number),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
            },
            (Type::Any, _) => true,
            (Type::Integer, Value::Number(number)) => is_whole(number),
            (Type::Object, Value::Object(_))
            | (Type::Array, Value::Array(_))
            | (Type::String, Value::String(_))
            | (Type::Number, Value::Number(_))
            | (Type::Boolean, Value::Bool(_)) => true,
            (
                Type::Object | Type::Array | Type::String | Type::Integer | Type::Number | Type::Boolean,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_),
            ) => false,
        };
        if !fits {
            let (found, wanted) =
                (type_of(value), if schema.int_or_string { "integer,string" } else { schema.ty.name() });
            self.type_error(path, found, format!("{path} in body must be of type {wanted}: \"{found}\""));
        }
        if let (Type::Integer, Value::Number(number)) = (schema.ty, value) {
            let format = schema.checks.as_ref().and_then(|checks| checks.format.as_deref());
            let in_range = match format {
                Some("int32") => float(number).abs() <= f64::from(i32::MAX) + 1.0 && float(number) != 2_147_483_648.0,
                Some(_) | None => true,
            };
            if !is_whole(number) || !in_range {
                let shown = match format {
                    Some(format) => format!("with format {format}"),
                    None => "(default format)".to_owned(),
                };
                let text = format!("Checked value must be of type integer {shown} in {path}");
                self.errors.push(Path::new(NO_PATH).invalid("", &text));
            }
        }
    }

    /// A wrong type, shown as such.
    fn type_error(&mut self, path: &str, found: &str, text: String) {
        let mut error = at(path).invalid(found, &text);
        error.cause = Cause::TypeInvalid;
        self.errors.push(error);
    }

    fn invalid(&mut self, path: &str, value: &Value, text: &str) {
        self.errors.push(at(path).invalid(value.clone(), &format!("{path} in body {text}")));
    }

    fn checks(&mut self, checks: &Checks, value: &Value, path: &str) {
        match value {
            Value::Object(map) => self.object(checks, map, value, path),
            Value::Array(list) => self.array(checks, list, value, path),
            Value::String(text) => self.string(checks, text, value, path),
            Value::Number(number) => self.number(checks, number, value, path),
            Value::Null | Value::Bool(_) => {}
        }
        if !checks.allowed.is_empty() && !value.is_null() && !checks.allowed.contains(value) {
            let supported: Vec<String> = checks
                .allowed
                .iter()
                .map(|allowed| allowed.as_str().map_or_else(|| allowed.to_string(), str::to_owned))
                .collect();
            let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
            self.errors.push(at(path).not_supported(value.clone(), &supported));
        }
        self.junctors(checks, value, path);
    }

    fn object(&mut self, checks: &Checks, map: &Map<String, Value>, value: &Value, path: &str) {
        if let Some(min) = checks.min_properties.filter(|min| map.len() < *min) {
            self.invalid(path, value, &format!("should have at least {min} properties"));
        }
        if let Some(max) = checks.max_properties.filter(|max| map.len() > *max) {
            self.errors.push(at(path).too_many(map.len(), max));
        }
        for name in checks.required.iter().filter(|name| !map.contains_key(&***name)) {
            self.errors.push(at(&join(path, name)).required(""));
        }
    }

    fn array(&mut self, checks: &Checks, list: &[Value], value: &Value, path: &str) {
        if let Some(min) = checks.min_items.filter(|min| list.len() < *min) {
            self.invalid(path, value, &format!("should have at least {min} items"));
        }
        if let Some(max) = checks.max_items.filter(|max| list.len() > *max) {
            self.errors.push(at(path).too_many(list.len(), max));
        }
    }

    fn string(&mut self, checks: &Checks, text: &str, value: &Value, path: &str) {
        let length = text.chars().count();
        if let Some(max) = checks.max_length.filter(|max| length > *max) {
            self.errors.push(at(path).too_long(max));
        }
        if let Some(min) = checks.min_length.filter(|min| length < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = &checks.pattern
            && !Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
        {
            self.invalid(path, value, &format!("should match '{pattern}'"));
        }
        if let Some(format) = &checks.format
            && !format::is_valid(format, text)
        {
            self.type_error(path, text, format!("{path} in body must be of type {format}: {value}"));
        }
    }

    fn number(&mut self, checks: &Checks, number: &Number, value: &Value, path: &str) {
        let found = float(number);
        let beyond = |bound: &Bound, outside: bool| outside || (bound.exclusive && found == float(&bound.value));
        let words = |bound: &Bound, word: &str| {
            let or_equal = if bound.exclusive { "" } else { " or equal to" };
            format!("should be {word} than{or_equal} {}", shown(&bound.value))
        };
        if let Some(factor) = &checks.multiple_of {
            let quotient = found / float(factor);
            if quotient.fract() != 0.0 {
                self.invalid(path, value, &format!("should be a multiple of {}", shown(factor)));
            }
        }
        if let Some(max) = checks.maximum.as_ref().filter(|max| beyond(max, found > float(&max.value))) {
            self.invalid(path, value, &words(max, "less"));
        }
        if let Some(min) = checks.minimum.as_ref().filter(|min| beyond(min, found < float(&min.value))) {
            self.invalid(path, value, &words(min, "greater"));
        }
    }

    /// Errors of a nested schema.
    fn nested(schema: &Structural, value: &Value, path: &str) -> Errors {
        let mut errors = Errors::new();
        Validator { errors: &mut errors }.node(schema, value, None, path);
        errors
    }

    fn junctors(&mut self, checks: &Checks, value: &Value, path: &str) {
        let name = Value::from(path);
        if !checks.any_of.is_empty() {
            let tried: Vec<Errors> = checks.any_of.iter().map(|schema| Self::nested(schema, value, path)).collect();
            if !tried.iter().any(Vec::is_empty) {
                self.whole(format!("{name} must validate at least one schema (anyOf)"));
                self.errors.extend(nearest(tried));
            }
        }
        if !checks.one_of.is_empty() {
            let tried: Vec<Errors> = checks.one_of.iter().map(|schema| Self::nested(schema, value, path)).collect();
            let text = format!("{name} must validate one and only one schema (oneOf)");
            match tried.iter().filter(|errors| errors.is_empty()).count() {
                0 => {
                    self.whole(format!("{text}. Found none valid"));
                    self.errors.extend(nearest(tried));
                }
                1 => {}
                valid => self.whole(format!("{text}. Found {valid} valid alternatives")),
            }
        }
        if !checks.all_of.is_empty() {
            let tried: Vec<Errors> = checks.all_of.iter().map(|schema| Self::nested(schema, value, path)).collect();
            let none = !tried.iter().any(Vec::is_empty);
            let failed = tried.iter().any(|errors| !errors.is_empty());
            self.errors.extend(tried.into_iter().flatten());
            if failed {
                let none = if none { ". None validated" } else { "" };
                self.whole(format!("{name} must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = &checks.not
            && Self::nested(not, value, path).is_empty()
        {
            self.whole(format!("{name} must not validate the schema (not)"));
        }
    }

    /// An error that upstream's validator reports without a path.
    fn whole(&mut self, text: String) {
        self.errors.push(Path::new(NO_PATH).invalid("", &text));
    }
}

/// The errors of the alternative that came nearest.
fn nearest(tried: Vec<Errors>) -> Errors {
    tried.into_iter().next().unwrap_or_default()
}

/// A bound as Go prints a float64.
fn shown(number: &Number) -> String {
    match number.as_f64() {
        Some(n) if n.fract() == 0.0 && n.abs() < 1e21 => format!("{n:.0}"),
        _ => number.to_string(),
    }
}

/// What embedded resources must have: an apiVersion, a kind, and sound metadata.
pub(super) fn embedded(schema: &Structural, object: &Object, errors: &mut Errors) {
    fn walk(schema: &Structural, value: &Value, path: &str, errors: &mut Errors) {
        match value {
            Value::Object(map) => {
                if schema.embedded {
                    resource(value, path, errors);
                }
                for (name, value) in map {
                    if let Some(below) = schema.entry(name) {
                        walk(below, value, &join(path, name), errors);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(below) = &schema.items {
                    for (index, item) in list.iter().enumerate() {
                        walk(below, item, &format!("{path}[{index}]"), errors);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    if schema.any_node(&|node| node.embedded) {
        walk(schema, object, "", errors);
    }
}

fn resource(value: &Object, path: &str, errors: &mut Errors) {
    let path = at(path);
    for field in ["apiVersion", "kind"] {
        match &value[field] {
            Value::Null => errors.push(path.child(field).required("must not be empty")),
            Value::String(text) if text.is_empty() => errors.push(path.child(field).invalid("", "must not be empty")),
            Value::String(kind) if field == "kind" => {
                let wrong = names::dns1035_label(&kind.to_lowercase(), false);
                if !wrong.is_empty() {
                    let text = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                    errors.push(path.child(field).invalid(kind.as_str(), &text));
                }
            }
            Value::String(version) if version.matches('/').count() > 1 => {
                let text = format!("unexpected GroupVersion string: {version}");
                errors.push(path.child(field).invalid(version.as_str(), &text));
            }
            Value::String(_) => {}
            other => {
                let wrong = FieldError {
                    cause: Cause::TypeInvalid,
                    ..path.child(field).invalid(other.clone(), "must be a string")
                };
                errors.push(wrong);
            }
        }
    }
    let metadata = &value["metadata"];
    let path = path.child("metadata");
    if !value.name().is_empty() {
        errors.extend(path.child("name").all_invalid(value.name(), names::path_segment(value.name(), false)));
    }
    labels::validate(&metadata["labels"], &path.child("labels"), errors);
    crate::registry::meta::annotations(&metadata["annotations"], &path.child("annotations"), errors);
}
