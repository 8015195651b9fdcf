//! What workloads share: their pod template and its selector, numbers that may not be negative, and amounts given as
//! a number or a percentage.

use super::core::pod;
use super::field::{Errors, Path};
use super::value::{entries, object_entry, same, text};
use super::{labels, meta, names};
use crate::meta::{Meta, Object};
use serde_json::{Map, Value};

pub const NON_NEGATIVE: &str = "must be greater than or equal to 0";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Defaults of the template of a workload's spec, which is never quite absent in Go.
pub fn default(spec: &mut Map<String, Value>) {
    let template = object_entry(spec, "template");
    object_entry(template, "metadata");
    pod::default::pod_spec(object_entry(template, "spec"), false);
}

/// Each field, when it is there, is no negative number (`ValidateNonnegativeField`).
pub fn non_negative(holder: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    for field in fields {
        if let Some(number) = holder[*field].as_i64().filter(|n| *n < 0) {
            errors.push(path.child(field).invalid(number, NON_NEGATIVE));
        }
    }
}

/// A required selector that is well-formed and not empty.
pub fn selector(spec: &Value, path: &Path, kind: &str, errors: &mut Errors) {
    let (selector, path) = (&spec["selector"], path.child("selector"));
    if selector.is_null() {
        errors.push(path.required(""));
        return;
    }
    labels::validate_selector(selector, &path, errors);
    if labels::is_everything(selector) {
        errors.push(path.invalid(selector.clone(), &format!("empty selector is invalid for {kind}")));
    }
}

/// The template and that the selector selects what it makes: `ValidatePodTemplateSpecForReplicaSet` and its like.
pub fn selected(spec: &Value, path: &Path, kind: &str, errors: &mut Errors) {
    let selector = &spec["selector"];
    match labels::selects(selector, &spec["template"]["metadata"]["labels"]) {
        None => {
            errors.push(path.child("selector").invalid(selector.clone(), "invalid label selector"));
            return;
        }
        Some(false) => mismatch(spec, path, errors),
        Some(true) => {}
    }
    long_running(spec, path, kind, errors);
}

/// An update of a workload: pods that are its own would not be any more under another selector.
pub fn keeps_selector(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("spec").child("selector");
    meta::immutable(&new["spec"]["selector"], &old["spec"]["selector"], &path, &mut errors);
    errors
}

/// The error of a template that its selector does not select.
pub fn mismatch(spec: &Value, path: &Path, errors: &mut Errors) {
    let labels = &spec["template"]["metadata"]["labels"];
    let path = path.child("template").child("metadata").child("labels");
    errors.push(path.invalid(labels.clone(), "`selector` does not match template `labels`"));
}

/// The template of a workload whose pods run until they are stopped.
pub fn long_running(spec: &Value, path: &Path, kind: &str, errors: &mut Errors) {
    let (template, path) = (&spec["template"], path.child("template"));
    pod::validate::template(template, &path, errors);
    let policy = text(&template["spec"]["restartPolicy"]);
    if policy != "Always" {
        errors.push(path.child("spec").child("restartPolicy").not_supported(policy, &["Always"]));
    }
    if template["spec"]["activeDeadlineSeconds"].is_i64() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(path.child("spec").child("activeDeadlineSeconds").forbidden(&detail));
    }
}

/// A number or percentage, not negative (`ValidatePositiveIntOrPercent`).
pub fn int_or_percent(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(shown) if percent(value).is_none() => errors.push(path.invalid(shown.as_str(), PERCENT)),
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.push(path.invalid(value.clone(), NON_NEGATIVE));
        }
        _ => {}
    }
}

/// `IsNotMoreThan100Percent`.
pub fn at_most_all(value: &Value, path: &Path, errors: &mut Errors) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errors.push(path.invalid(value.clone(), "must not be greater than 100%"));
    }
}

/// The number before the `%` of such a string.
pub fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Whether a number or percentage is there and not zero.
pub fn is_some_amount(value: &Value) -> bool {
    percent(value).or_else(|| value.as_i64()).unwrap_or(0) != 0
}

/// Each of these counts of a status is at most another: `(smaller, larger, text)`.
pub fn at_most(status: &Value, pairs: &[(&str, &str, &str)], path: &Path, errors: &mut Errors) {
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    for (smaller, larger, detail) in pairs {
        if number(smaller) > number(larger) {
            errors.push(path.child(smaller).invalid(number(smaller), detail));
        }
    }
}

/// A count of hash collisions only rises.
pub fn collisions(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let count = |status: &Value| status["collisionCount"].as_i64();
    non_negative(new, &["collisionCount"], path, errors);
    if let Some(before) = count(old)
        && count(new).is_none_or(|now| now < before)
    {
        errors.push(path.child("collisionCount").invalid(count(new).unwrap_or(0), "cannot be decremented"));
    }
}

/// A workload's spec as it is compared: what some fields may be changed to is put back first.
pub fn without(spec: &Value, fields: &[&str]) -> Value {
    let kept = entries(spec).filter(|(key, value)| !fields.contains(&key.as_str()) && !value.is_null());
    kept.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
}

/// What clients are warned of in the template of a workload, when its spec is new (`GetWarningsForPodTemplate`).
pub fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none_or(|old| !same(&old["spec"], &new["spec"])) {
        let path = Path::new("spec").child("template");
        pod::warnings::template(&new["spec"]["template"], &path, &mut warnings);
    }
    warnings
}

/// The same for workloads that pods are named after.
pub fn named_warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings: Vec<String> = name_warning(new, old).into_iter().collect();
    warnings.extend(self::warnings(new, old));
    warnings
}

/// The name of a new workload that pods are named after had better be a DNS label.
pub fn name_warning(new: &Object, old: Option<&Object>) -> Option<String> {
    let texts = names::dns1123_label(new.name(), false);
    (old.is_none() && !texts.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            texts.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_numbers_or_percentages() {
        for (value, wanted) in [
            (json!(0), 0),
            (json!(-1), 1),
            (json!("25%"), 0),
            (json!("x"), 1),
            (json!("101%"), 1),
            (json!("-1%"), 1),
            (json!(null), 0),
        ] {
            let mut errors = Errors::new();
            int_or_percent(&value, &Path::new("a"), &mut errors);
            at_most_all(&value, &Path::new("a"), &mut errors);
            assert_eq!(errors.len(), wanted, "{value}");
        }
    }

    #[test]
    fn a_new_workload_whose_pods_cannot_have_its_name_is_warned_of() {
        let object = |name: &str| json!({"metadata": {"name": name}});
        for (new, old, wanted) in
            [(object("a-b"), None, 0), (object("a.b"), None, 1), (object("a.b"), Some(object("a.b")), 0)]
        {
            assert_eq!(named_warnings(&new, old.as_ref()).len(), wanted, "{new}");
        }
    }
}
