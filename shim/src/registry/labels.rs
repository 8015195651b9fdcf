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
