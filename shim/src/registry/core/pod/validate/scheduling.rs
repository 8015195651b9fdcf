//! What else steers the scheduler: tolerations, spread constraints, gates.

use super::one_of;
use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, text};
use crate::registry::{labels, names};
use serde_json::Value;

pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    tolerations(items(&spec["tolerations"]), &path.child("tolerations"), errors);
    spread(spec, &path.child("topologySpreadConstraints"), errors);
    for (index, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let kind = text(&gate["conditionType"]);
        let path = path.child("readinessGates").index(index).child("conditionType");
        errors.extend(path.all_invalid(kind, names::qualified_name(kind)));
    }
    let mut seen = Vec::new();
    for (index, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let name = text(&gate["name"]);
        let path = path.child("schedulingGates").index(index);
        errors.extend(path.all_invalid(name, names::qualified_name(name)));
        if seen.contains(&name) {
            errors.push(path.duplicate(name));
        }
        seen.push(name);
    }
    if !items(&spec["schedulingGates"]).is_empty() && !text(&spec["nodeName"]).is_empty() {
        errors.push(path.child("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    if let Some(policy) = spec["preemptionPolicy"].as_str() {
        let supported = ["PreemptLowerPriority", "Never"];
        one_of(&Value::from(policy), &path.child("preemptionPolicy"), &supported, errors);
    }
}

/// `ValidateTolerations`.
pub(crate) fn tolerations(tolerations: &[Value], path: &Path, errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, operator) = (text(&toleration["key"]), text(&toleration["operator"]));
        if !key.is_empty() {
            errors.extend(path.child("key").all_invalid(key, names::qualified_name(key)));
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(path.child("operator").invalid(operator, detail));
        }
        let effect = text(&toleration["effect"]);
        if toleration["tolerationSeconds"].is_i64() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(path.child("effect").invalid(effect, detail));
        }
        let value = text(&toleration["value"]);
        match operator {
            "Equal" | "" => {
                let texts = names::label_value(value);
                if !texts.is_empty() {
                    errors.push(path.child("operator").invalid(value, &texts.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.push(path.child("operator").invalid(toleration.clone(), detail));
                }
            }
            other => errors.push(path.child("operator").not_supported(other, &["Equal", "Exists"])),
        }
        if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            errors.push(path.child("effect").not_supported(effect, &supported));
        }
    }
}

fn spread(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, constraint) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let path = path.index(index);
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(path.child("maxSkew").invalid(skew, "must be greater than zero"));
        }
        let key = text(&constraint["topologyKey"]);
        if key.is_empty() {
            errors.push(path.child("topologyKey").required("can not be empty"));
        } else {
            errors.extend(path.child("topologyKey").all_invalid(key, names::qualified_name(key)));
        }
        let action = text(&constraint["whenUnsatisfiable"]);
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            let supported = ["DoNotSchedule", "ScheduleAnyway"];
            errors.push(path.child("whenUnsatisfiable").not_supported(action, &supported));
        }
        if seen.contains(&(key, action)) {
            errors.push(path.duplicate(format!("{{{key}, {action}}}")));
        }
        seen.push((key, action));
        if let Some(domains) = constraint["minDomains"].as_i64() {
            if domains <= 0 {
                errors.push(path.child("minDomains").invalid(domains, "must be greater than 0"));
            } else if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(path.child("minDomains").invalid(domains, &detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = constraint[field].as_str().filter(|p| !matches!(*p, "Honor" | "Ignore")) {
                errors.push(path.child(field).not_supported(policy, &["Honor", "Ignore"]));
            }
        }
        labels::validate_selector(&constraint["labelSelector"], &path.child("labelSelector"), errors);
    }
}
