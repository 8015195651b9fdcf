//! Rules of `x-kubernetes-validations`: each must compile, and select only what its schema declares.

use crate::cel::{LIMIT, Program, unescape};
use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, text, truth};
use serde_json::{Map, Value};

const REASONS: [&str; 4] = ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
const MAX_MESSAGE_BYTES: usize = 2048;

/// Checks the rules of one node.
pub(super) fn check(schema: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("x-kubernetes-validations");
    let list = items(&schema["x-kubernetes-validations"]);
    for (index, rule) in list.iter().enumerate() {
        let path = path.index(index);
        texts(rule, &path, errors);
        let source = text(&rule["rule"]);
        if source.trim().is_empty() {
            errors.push(path.child("rule").required("rule is not specified"));
            continue;
        }
        if list[..index].iter().any(|other| other["rule"] == rule["rule"]) {
            errors.push(path.child("rule").duplicate(source));
        }
        compile(schema, source, "bool", &path.child("rule"), rule, errors);
        let message = text(&rule["messageExpression"]);
        if !message.is_empty() {
            compile(schema, message, "string", &path.child("messageExpression"), rule, errors);
        }
        field_path(schema, text(&rule["fieldPath"]), &path.child("fieldPath"), errors);
    }
}

fn texts(rule: &Value, path: &Path, errors: &mut Errors) {
    let message = text(&rule["message"]);
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(path.child("message").invalid(message, "message must be non-empty if specified"));
    } else if message.trim().contains('\n') {
        errors.push(path.child("message").invalid(message, "message must not contain line breaks"));
    } else if message.len() > MAX_MESSAGE_BYTES {
        errors.push(path.child("message").too_long(MAX_MESSAGE_BYTES));
    } else if message.is_empty() && text(&rule["rule"]).trim().contains('\n') {
        let text = "message must be specified if rule contains line breaks";
        errors.push(path.child("message").required(text));
    }
    if let Some(reason) = rule["reason"].as_str()
        && !REASONS.contains(&reason)
    {
        errors.push(path.child("reason").not_supported(reason, &REASONS));
    }
    if truth(&rule["optionalOldSelf"]) && !text(&rule["rule"]).contains("oldSelf") {
        let text = "must not be set to true if oldSelf is not used in rule";
        errors.push(path.child("optionalOldSelf").invalid(true, text));
    }
}

/// The rule as upstream's internal type shows it in errors.
fn internal(rule: &Value) -> Value {
    let mut shown = Map::new();
    for (field, key) in [("Rule", "rule"), ("Message", "message"), ("MessageExpression", "messageExpression")] {
        shown.insert(field.into(), text(&rule[key]).into());
    }
    shown.insert("Reason".into(), rule["reason"].clone());
    shown.insert("FieldPath".into(), text(&rule["fieldPath"]).into());
    shown.insert("OptionalOldSelf".into(), rule["optionalOldSelf"].clone());
    Value::Object(shown)
}

/// `source` is the rule's expression or that of its message, `path` says which.
fn compile(schema: &Value, source: &str, ty: &str, path: &Path, rule: &Value, errors: &mut Errors) {
    let refused = |why: String| path.invalid(internal(rule), &why);
    let program = match Program::compile(source) {
        Ok(program) => program,
        Err(why) => return errors.push(refused(format!("compilation failed: {why}"))),
    };
    let estimate = program.estimate(schema);
    if estimate > LIMIT {
        let factor = estimate as f64 / LIMIT as f64;
        let factor = if factor > 100.0 { "more than 100x".to_owned() } else { format!("{factor:.1}x") };
        let text = format!(
            "estimated rule cost exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
             maxProperties, and maxLength where arrays, maps, and strings are declared)"
        );
        errors.push(path.forbidden(&text));
    }
    let at = |name: &str, column: usize, what: &str| {
        let marker = ".".repeat(column);
        format!("compilation failed: ERROR: <input>:1:{}: {what} '{name}'\n | {source}\n | {marker}^", column + 1)
    };
    for variable in ["self", "oldSelf"] {
        for selection in program.selections(variable) {
            if let Some(name) = undeclared(schema, &selection) {
                let column = source.find(&format!(".{name}")).unwrap_or(0);
                return errors.push(refused(at(name, column, "undefined field")));
            }
        }
    }
    if program.type_name().is_some_and(|found| found != ty) {
        let text = match ty {
            "bool" => "cel expression must evaluate to a bool",
            _ => "messageExpression must evaluate to a string",
        };
        errors.push(refused(text.to_owned()));
    }
}

/// The first name of a selection that the schema does not declare.
fn undeclared<'s>(schema: &Value, selection: &'s [String]) -> Option<&'s str> {
    let mut schema = schema;
    let mut root = true;
    for name in selection {
        let properties = &schema["properties"];
        let plain = unescape(name).unwrap_or_else(|| name.clone());
        let resource = root || truth(&schema["x-kubernetes-embedded-resource"]);
        if resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") && properties[name].is_null() {
            return None;
        }
        root = false;
        if let Some(property) = properties.get(&plain) {
            schema = property;
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
        } else if text(&schema["type"]) == "object" && !truth(&schema["additionalProperties"]) {
            return Some(name);
        } else {
            return None;
        }
    }
    None
}

/// `.a.b`, `.a['b']`: must lead to a declared field.
fn field_path(schema: &Value, value: &str, path: &Path, errors: &mut Errors) {
    if value.is_empty() {
        return;
    }
    let names: Vec<String> = value
        .replace("['", ".")
        .replace("']", "")
        .split('.')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if !value.starts_with(['.', '[']) {
        errors.push(path.invalid(value, "fieldPath must be a valid path: expected [ or ."));
    } else if undeclared(schema, &names).is_some() {
        errors.push(path.invalid(value, "fieldPath must be a valid path: does not refer to a valid field"));
    }
}
