//! Label selectors as fields of an object, and the maps of labels they match: `ValidateLabels`, `ValidateLabelSelector`.

use super::field::{Errors, Path};
use super::names;
use super::value::{entries, items, text};
use serde_json::Value;

/// Keys and values of a labels map; errors are about the map as a whole, as upstream's.
pub fn validate(labels: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in entries(labels) {
        errors.extend(path.all_invalid(key, names::qualified_name(key)));
        errors.extend(path.all_invalid(text(value), names::label_value(text(value))));
    }
}

/// A `LabelSelector`.
pub fn validate_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    validate(&selector["matchLabels"], &path.child("matchLabels"), errors);
    for (index, requirement) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = items(&requirement["values"]);
        match text(&requirement["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(path.child("values").required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(
                    path.child("values")
                        .forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(path.child("operator").invalid(other, "not a valid selector operator")),
        }
        let key = text(&requirement["key"]);
        errors.extend(path.child("key").all_invalid(key, names::qualified_name(key)));
        for (index, value) in values.iter().enumerate() {
            let texts = names::label_value(text(value));
            errors.extend(path.child("values").index(index).all_invalid(text(value), texts));
        }
    }
}

/// Whether a `LabelSelector` selects those labels (`LabelSelectorAsSelector`): null selects nothing, an empty one
/// everything; `None` when it is not well-formed.
pub fn selects(selector: &Value, labels: &Value) -> Option<bool> {
    let mut errors = Errors::new();
    validate_selector(selector, &Path::new(""), &mut errors);
    if !errors.is_empty() {
        return None;
    }
    if selector.is_null() {
        return Some(false);
    }
    let all = entries(&selector["matchLabels"]).all(|(key, value)| labels.get(key) == Some(value))
        && items(&selector["matchExpressions"]).iter().all(|requirement| {
            let value = labels.get(text(&requirement["key"]));
            let listed = value.is_some_and(|value| items(&requirement["values"]).contains(value));
            match text(&requirement["operator"]) {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        });
    Some(all)
}

/// A selector without any requirement.
pub fn is_everything(selector: &Value) -> bool {
    entries(&selector["matchLabels"]).next().is_none() && items(&selector["matchExpressions"]).is_empty()
}

/// A `LabelSelector`, or the plain map of a replication controller, in the words of a query (`FormatLabelSelector`).
pub fn format_selector(selector: &Value) -> String {
    let is_selector = selector.get("matchLabels").is_some_and(Value::is_object)
        || selector.get("matchExpressions").is_some_and(Value::is_array);
    let map = if is_selector { &selector["matchLabels"] } else { selector };
    let mut parts: Vec<(String, String)> =
        entries(map).filter_map(|(key, value)| Some((key.clone(), format!("{key}={}", value.as_str()?)))).collect();
    for requirement in items(&selector["matchExpressions"]) {
        let key = text(&requirement["key"]);
        let mut values: Vec<&str> = items(&requirement["values"]).iter().map(text).collect();
        values.sort_unstable();
        let values = values.join(",");
        let shown = match text(&requirement["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort();
    parts.into_iter().map(|(_, shown)| shown).collect::<Vec<_>>().join(",")
}

/// The same for a table cell: `<none>` for no requirement.
pub fn selector_cell(selector: &Value) -> String {
    match format_selector(selector) {
        empty if empty.is_empty() => "<none>".to_owned(),
        shown => shown,
    }
}
