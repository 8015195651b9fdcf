//! Affinity to nodes and to other pods.

use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, text};
use crate::registry::{labels, names};
use serde_json::Value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate(affinity: &Value, path: &Path, errors: &mut Errors) {
    let (node, node_path) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if node[REQUIRED].is_object() {
        node_selector(&node[REQUIRED], &node_path.child(REQUIRED), errors);
    }
    for (index, term) in items(&node[PREFERRED]).iter().enumerate() {
        let path = node_path.child(PREFERRED).index(index);
        weight(term, &path, errors);
        node_term(&term["preference"], &path.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (pods, path) = (&affinity[kind], path.child(kind));
        for (index, term) in items(&pods[REQUIRED]).iter().enumerate() {
            pod_term(term, &path.child(REQUIRED).index(index), errors);
        }
        for (index, term) in items(&pods[PREFERRED]).iter().enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(term, &path, errors);
            pod_term(&term["podAffinityTerm"], &path.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path, errors: &mut Errors) {
    let weight = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(path.child("weight").invalid(weight, "must be in the range 1-100"));
    }
}

/// `ValidateNodeSelector`.
pub(crate) fn node_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    let (terms, path) = (items(&selector["nodeSelectorTerms"]), path.child("nodeSelectorTerms"));
    if terms.is_empty() {
        errors.push(path.required("must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &path.index(index), errors);
    }
}

fn node_term(term: &Value, path: &Path, errors: &mut Errors) {
    for (index, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = items(&requirement["values"]);
        match text(&requirement["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(path.child("values").required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(path.child("values").forbidden(detail));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(path.child("values").required(detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.push(path.child("operator").invalid(other, "not a valid selector operator")),
        }
        let key = text(&requirement["key"]);
        errors.extend(path.child("key").all_invalid(key, names::qualified_name(key)));
    }
    for (index, requirement) in items(&term["matchFields"]).iter().enumerate() {
        let path = path.child("matchFields").index(index);
        match text(&requirement["operator"]) {
            "In" | "NotIn" => {
                if items(&requirement["values"]).len() != 1 {
                    let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    errors.push(path.child("values").required(detail));
                }
            }
            other => errors.push(path.child("operator").invalid(other, "not a valid selector operator")),
        }
        match text(&requirement["key"]) {
            "metadata.name" => {
                for (index, value) in items(&requirement["values"]).iter().enumerate() {
                    let texts = names::dns1123_subdomain(text(value), false);
                    errors.extend(path.child("values").index(index).all_invalid(text(value), texts));
                }
            }
            other => errors.push(path.child("key").invalid(other, "not a valid field selector key")),
        }
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut Errors) {
    labels::validate_selector(&term["labelSelector"], &path.child("labelSelector"), errors);
    labels::validate_selector(&term["namespaceSelector"], &path.child("namespaceSelector"), errors);
    for (index, namespace) in items(&term["namespaces"]).iter().enumerate() {
        let texts = names::dns1123_label(text(namespace), false);
        errors.extend(path.child("namespaces").index(index).all_invalid(text(namespace), texts));
    }
    let (key, path) = (text(&term["topologyKey"]), path.child("topologyKey"));
    if key.is_empty() {
        errors.push(path.required("can not be empty"));
    }
    errors.extend(path.all_invalid(key, names::qualified_name(key)));
}
