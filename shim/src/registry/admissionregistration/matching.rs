//! What requests a webhook or policy is about: rules, selectors and conditions.

use crate::cel::Program;
use crate::registry::field::{Errors, Path};
use crate::registry::labels;
use crate::registry::names;
use crate::registry::value::{default_text, default_value, items, items_mut, text};
use serde_json::{Map, Value};

const MAX_CONDITIONS: usize = 64;
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];

/// Policy and selectors of a webhook or of a policy's constraints.
pub(super) fn default(holder: &mut Map<String, Value>) {
    default_text(holder, "matchPolicy", "Equivalent");
    default_value(holder, "namespaceSelector", Map::new());
    default_value(holder, "objectSelector", Map::new());
}

/// Rules are about namespaced and other objects alike.
pub(super) fn default_scope(holder: &mut Map<String, Value>, list: &str) {
    for rule in items_mut(holder, list) {
        default_text(rule, "scope", "*");
    }
}

pub(super) fn selectors(holder: &Value, path: &Path, errors: &mut Errors) {
    if let Some(policy) = holder["matchPolicy"].as_str().filter(|p| !matches!(*p, "Equivalent" | "Exact")) {
        errors.push(path.child("matchPolicy").not_supported(policy, &["Equivalent", "Exact"]));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        labels::validate_selector(&holder[field], &path.child(field), errors);
    }
}

/// `failurePolicy` of either.
pub(super) fn failure_policy(holder: &Value, path: &Path, errors: &mut Errors) {
    if let Some(policy) = holder["failurePolicy"].as_str().filter(|p| !matches!(*p, "Fail" | "Ignore")) {
        errors.push(path.child("failurePolicy").not_supported(policy, &["Fail", "Ignore"]));
    }
}

/// A rule with operations, groups, versions, resources and a scope.
pub(super) fn rule(rule: &Value, allow_mixed_wildcards: bool, path: &Path, errors: &mut Errors) {
    let operations = items(&rule["operations"]);
    if operations.is_empty() {
        errors.push(path.child("operations").required(""));
    }
    all_or_some(rule, "operations", path, errors);
    for (index, operation) in operations.iter().map(text).enumerate() {
        if !OPERATIONS.contains(&operation) {
            errors.push(path.child("operations").index(index).not_supported(operation, &OPERATIONS));
        }
    }
    for field in ["apiGroups", "apiVersions"] {
        if items(&rule[field]).is_empty() {
            errors.push(path.child(field).required(""));
        }
        all_or_some(rule, field, path, errors);
    }
    for (index, version) in items(&rule["apiVersions"]).iter().enumerate() {
        if text(version).is_empty() {
            errors.push(path.child("apiVersions").index(index).required(""));
        }
    }
    resources(rule, allow_mixed_wildcards, path, errors);
    if let Some(scope) = rule["scope"].as_str().filter(|scope| !SCOPES.contains(scope)) {
        errors.push(path.child("scope").not_supported(scope, &SCOPES));
    }
}

fn all_or_some(rule: &Value, field: &str, path: &Path, errors: &mut Errors) {
    let list = items(&rule[field]);
    if list.len() > 1 && list.iter().any(|v| text(v) == "*") {
        let what = match field {
            "operations" => "operations",
            "apiGroups" => "API groups",
            _ => "API versions",
        };
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(path.child(field).invalid(rule[field].clone(), &detail));
    }
}

fn resources(rule: &Value, allow_mixed: bool, path: &Path, errors: &mut Errors) {
    let (list, path) = (items(&rule["resources"]), path.child("resources"));
    if list.is_empty() {
        errors.push(path.required(""));
    }
    let has = |wanted: &str| list.iter().any(|r| text(r) == wanted);
    for (index, resource) in list.iter().map(text).enumerate() {
        let path = path.index(index);
        if resource.is_empty() {
            errors.push(path.required(""));
        }
        let (name, sub) = resource.split_once('/').unwrap_or((resource, ""));
        if !name.is_empty() && resource != "*/*" && !sub.is_empty() {
            let detail = if has("*/*") {
                "if '*/*' is present, must not specify other resources".to_owned()
            } else if name != "*" && sub != "*" && has(&format!("{name}/*")) {
                format!("if '{name}/*' is present, must not specify {resource}")
            } else if name != "*" && sub != "*" && has(&format!("*/{sub}")) {
                format!("if '*/{sub}' is present, must not specify {resource}")
            } else {
                continue;
            };
            errors.push(path.invalid(resource, &detail));
        }
    }
    if list.len() > 1 && has("*/*") {
        errors.push(path.invalid(rule["resources"].clone(), "if '*/*' is present, must not specify other resources"));
    }
    let whole = list.iter().filter(|r| !text(r).contains('/')).count();
    if !allow_mixed && has("*") && whole > 1 {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(path.invalid(rule["resources"].clone(), detail));
    }
}

/// `matchConditions`: named expressions, of these variables.
pub(super) fn conditions(holder: &Value, variables: &[&str], path: &Path, errors: &mut Errors) {
    let (list, path) = (items(&holder["matchConditions"]), path.child("matchConditions"));
    if list.len() > MAX_CONDITIONS {
        errors.push(path.too_many(list.len(), MAX_CONDITIONS));
    }
    for (index, condition) in list.iter().enumerate() {
        let path = path.index(index);
        let name = text(&condition["name"]);
        if name.is_empty() {
            errors.push(path.child("name").required(""));
        } else {
            errors.extend(path.child("name").all_invalid(name, names::qualified_name(name)));
            if list[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
                errors.push(path.child("name").duplicate(name));
            }
        }
        expression(&condition["expression"], variables, &["bool"], &path.child("expression"), errors);
    }
}

/// An expression must be there, compile with these variables, and be of one of these types (any, where none is named).
pub(super) fn expression(expression: &Value, variables: &[&str], types: &[&str], path: &Path, errors: &mut Errors) {
    let source = text(expression);
    if source.trim().is_empty() {
        return errors.push(path.required(""));
    }
    let program = match Program::compile(source) {
        Ok(program) => program,
        Err(why) => return errors.push(path.invalid(source, &format!("compilation failed: {why}"))),
    };
    if let Some(name) = program.undeclared(variables) {
        // The first line of the source that has it, and where.
        let (line, column) =
            source.lines().enumerate().find_map(|(line, text)| Some((line, text.find(&name)?))).unwrap_or_default();
        let shown = source.lines().nth(line).unwrap_or_default();
        let text = format!(
            "compilation failed: ERROR: <input>:{}:{}: undeclared reference to '{name}' (in container '')\n | {shown}\n | {}^",
            line + 1,
            column + 1,
            ".".repeat(column)
        );
        return errors.push(path.invalid(source, &text));
    }
    if let Some(found) = program.type_name().filter(|found| !types.is_empty() && !types.contains(found)) {
        errors.push(path.invalid(source, &format!("must evaluate to {} but got {found}", types.join(" or "))));
    }
}

/// What an expression may name, in every place where one may be.
pub(super) const REQUEST: [&str; 5] = ["object", "oldObject", "request", "authorizer", "namespaceObject"];
