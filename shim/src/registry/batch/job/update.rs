//! What may change of a job: `ValidateJobUpdate`.

use crate::meta::Object;
use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, same, text, truth};
use crate::registry::{meta, template};
use serde_json::Value;

pub(super) fn validate(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (spec, before, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    // An indexed job grows and shrinks with its parallelism.
    let elastic = text(&spec["completionMode"]) == "Indexed"
        && text(&before["completionMode"]) == "Indexed"
        && spec["completions"].is_i64()
        && before["completions"].is_i64();
    if !elastic {
        meta::immutable(&spec["completions"], &before["completions"], &path.child("completions"), &mut errors);
    } else if spec["completions"] != before["completions"] && spec["completions"] != spec["parallelism"] {
        let detail = format!("can only be modified in tandem with {}", path.child("parallelism").as_str());
        errors.push(path.child("completions").invalid(spec["completions"].clone(), &detail));
    }
    for field in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        if !same(&spec[field], &before[field]) {
            errors.push(path.child(field).invalid(spec[field].clone(), "field is immutable"));
        }
    }
    pod_template(new, old, &path.child("template"), &mut errors);
    errors
}

/// Where a suspended job's pods will run, and with how much, may change until it first starts.
fn pod_template(new: &Object, old: &Object, path: &Path, errors: &mut Errors) {
    let (template, before) = (&new["spec"]["template"], &old["spec"]["template"]);
    let suspended = items(&old["status"]["conditions"])
        .iter()
        .any(|c| text(&c["type"]) == "Suspended" && text(&c["status"]) == "True");
    let never_started = truth(&old["spec"]["suspend"]) && old["status"]["startTime"].is_null();
    let may_change = never_started || (suspended && truth(&new["spec"]["suspend"]));
    if !may_change {
        if !same(template, before) {
            errors.push(path.invalid(template.clone(), "field is immutable"));
        }
        return;
    }
    // Unsuspending starts the job as it is.
    if truth(&old["spec"]["suspend"]) && !truth(&new["spec"]["suspend"]) && !same(template, before) {
        errors.push(path.invalid(template.clone(), "field is immutable"));
        return;
    }
    if !same(&schedulable(template), &schedulable(before)) {
        errors.push(path.child("spec").invalid(template["spec"].clone(), "field is immutable"));
    }
}

/// The template without its scheduling directives and amounts of resources.
fn schedulable(template: &Value) -> Value {
    let mut spec = template::without(
        &template["spec"],
        &["nodeSelector", "tolerations", "schedulingGates", "affinity", "resourceClaims"],
    );
    let affinity = template::without(&template["spec"]["affinity"], &["nodeAffinity"]);
    if affinity.as_object().is_some_and(|kept| !kept.is_empty()) {
        spec["affinity"] = affinity;
    }
    for list in ["containers", "initContainers"] {
        if let Some(containers) = spec[list].as_array_mut() {
            for container in containers.iter_mut() {
                *container = template::without(container, &["resources"]);
            }
        }
    }
    spec
}
