//! When a job has failed or succeeded, and when a pod is replaced: `validatePodFailurePolicy`, `validateSuccessPolicy`.

use crate::registry::field::{Errors, Path};
use crate::registry::names;
use crate::registry::value::{items, text};
use serde_json::Value;

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_PATTERNS: usize = 20;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

pub(super) fn failure(spec: &Value, path: &Path, errors: &mut Errors) {
    if !spec["podFailurePolicy"].is_object() {
        return;
    }
    let path = path.child("podFailurePolicy").child("rules");
    let rules = items(&spec["podFailurePolicy"]["rules"]);
    if rules.len() > MAX_RULES {
        errors.push(path.too_many(rules.len(), MAX_RULES));
    }
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|key| items(&spec["template"]["spec"][*key]))
        .map(|container| text(&container["name"]))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        match text(&rule["action"]) {
            "" => errors
                .push(path.child("action").required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
            "FailIndex" if spec["backoffLimitPerIndex"].is_null() => {
                errors.push(path.child("action").invalid("FailIndex", "requires the backoffLimitPerIndex to be set"));
            }
            action if !ACTIONS.contains(&action) => errors.push(path.child("action").not_supported(action, &ACTIONS)),
            _ => {}
        }
        let (codes, conditions) = (&rule["onExitCodes"], items(&rule["onPodConditions"]));
        if codes.is_object() {
            exit_codes(codes, &path.child("onExitCodes"), &containers, errors);
        }
        if !conditions.is_empty() {
            patterns(conditions, &path.child("onPodConditions"), errors);
        }
        let detail = match (codes.is_object(), !conditions.is_empty()) {
            (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(path.invalid("", detail));
    }
}

fn exit_codes(codes: &Value, path: &Path, containers: &[&str], errors: &mut Errors) {
    let operators = ["In", "NotIn"];
    let operator = text(&codes["operator"]);
    if operator.is_empty() {
        errors.push(path.child("operator").required("valid values: [\"In\" \"NotIn\"]"));
    } else if !operators.contains(&operator) {
        errors.push(path.child("operator").not_supported(operator, &operators));
    }
    if let Some(name) = codes["containerName"].as_str().filter(|name| !containers.contains(name)) {
        errors.push(
            path.child("containerName")
                .invalid(name, "must be one of the container or initContainer names in the pod template"),
        );
    }
    let (values, path) = (items(&codes["values"]), path.child("values"));
    if values.is_empty() {
        errors.push(path.invalid(codes["values"].clone(), "at least one value is required"));
    } else if values.len() > MAX_EXIT_CODES {
        errors.push(path.too_many(values.len(), MAX_EXIT_CODES));
    }
    let mut ordered = true;
    for (index, value) in values.iter().enumerate() {
        let path = path.index(index);
        if operator == "In" && value.as_i64() == Some(0) {
            errors.push(path.invalid(value.clone(), "must not be 0 for the In operator"));
        }
        if values[..index].contains(value) {
            errors.push(path.duplicate(value.clone()));
        }
        ordered &= index == 0 || values[index - 1].as_i64() <= value.as_i64();
    }
    if !ordered {
        errors.push(path.invalid(codes["values"].clone(), "must be ordered"));
    }
}

fn patterns(conditions: &[Value], path: &Path, errors: &mut Errors) {
    let statuses = ["False", "True", "Unknown"];
    if conditions.len() > MAX_PATTERNS {
        errors.push(path.too_many(conditions.len(), MAX_PATTERNS));
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let path = path.index(index);
        let (kind, status) = (text(&pattern["type"]), text(&pattern["status"]));
        errors.extend(path.child("type").all_invalid(kind, names::qualified_name(kind)));
        if status.is_empty() {
            errors.push(path.child("status").required("valid values: [\"False\" \"True\" \"Unknown\"]"));
        } else if !statuses.contains(&status) {
            errors.push(path.child("status").not_supported(status, &statuses));
        }
    }
}

pub(super) fn success(spec: &Value, path: &Path, errors: &mut Errors) {
    let policy = &spec["successPolicy"];
    if !policy.is_object() {
        return;
    }
    let path = path.child("successPolicy");
    if text(&spec["completionMode"]) != "Indexed" {
        errors.push(path.invalid(policy.clone(), "requires indexed completion mode"));
        return;
    }
    let (rules, path) = (items(&policy["rules"]), path.child("rules"));
    if rules.is_empty() {
        errors.push(path.required("at least one rules must be specified when the successPolicy is specified"));
    } else if rules.len() > MAX_RULES {
        errors.push(path.too_many(rules.len(), MAX_RULES));
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        if rule["succeededCount"].is_null() && rule["succeededIndexes"].is_null() {
            errors.push(path.required("at least one of succeededCount or succeededIndexes must be specified"));
        }
        let mut total = None;
        if let Some(indexes) = rule["succeededIndexes"].as_str() {
            total = count_indexes(indexes, completions);
            if total.is_none() {
                let detail = "error parsing succeededIndexes: cannot convert string to integer for index";
                errors.push(path.child("succeededIndexes").invalid(indexes, detail));
            }
        }
        if let Some(count) = rule["succeededCount"].as_i64() {
            let path = path.child("succeededCount");
            if count < 0 {
                errors.push(path.invalid(count, "must be greater than or equal to 0"));
            }
            if count > completions {
                errors.push(path.invalid(
                    count,
                    &format!("must be less than or equal to {completions} (the number of specified completions)"),
                ));
            }
            if let Some(total) = total.filter(|total| count > *total) {
                errors.push(path.invalid(count, &format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)")));
            }
        }
    }
}

/// How many indexes `1,3-5` names; `None` when it is not of that form, in order and below the number of completions.
pub(super) fn count_indexes(text: &str, completions: i64) -> Option<i64> {
    let (mut total, mut least) = (0, 0);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (i64, i64) = (from.parse().ok()?, to.parse().ok()?);
        if from < least || to < from || to >= completions {
            return None;
        }
        total += to - from + 1;
        least = to + 1;
    }
    Some(total)
}

pub(super) fn replacement(spec: &Value, path: &Path, errors: &mut Errors) {
    let (policy, path) = (text(&spec["podReplacementPolicy"]), path.child("podReplacementPolicy"));
    match policy {
        "" | "Failed" => {}
        "TerminatingOrFailed" if spec["podFailurePolicy"].is_object() => {
            errors.push(path.not_supported(policy, &["Failed"]));
        }
        "TerminatingOrFailed" => {}
        other => errors.push(path.not_supported(other, &["Failed", "TerminatingOrFailed"])),
    }
}

#[cfg(test)]
mod tests {
    use super::count_indexes;

    #[test]
    fn indexes_are_numbers_and_ranges_in_order() {
        for (text, wanted) in
            [("0", Some(1)), ("0,2-4", Some(4)), ("", Some(0)), ("4-2", None), ("3,1", None), ("9", None), ("a", None)]
        {
            assert_eq!(count_indexes(text, 5), wanted, "{text}");
        }
    }
}
