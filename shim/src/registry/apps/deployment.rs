//! Deployments.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::APPS_V1;
use crate::registry::scale::{SCALE, ScalePaths};
use crate::registry::table::{AGE, NAME, age, containers, text_column};
use crate::registry::value::{
    begin, bump_generation, default_text, default_value, keep_status, object_entry, only_status, root, same, text,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: APPS_V1,
    resource: "deployments",
    singular: "deployment",
    kind: "Deployment",
    short_names: &["deploy"],
    categories: &["all"],
    storage: "deployments",
    storage_gv: APPS_V1,
    subresources: &[SCALE, Subresource { name: "status", kind: "Deployment", gv: APPS_V1, verbs: STATUS_VERBS }],
    scale: Some(ScalePaths::WORKLOAD),
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: begin,
        prepare_update,
        prepare_status: only_status,
        validate,
        validate_update: template::keeps_selector,
        validate_status,
        warnings: template::named_warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

fn default(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    default_value(spec, "replicas", 1);
    let strategy = object_entry(spec, "strategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").map(text) == Some("RollingUpdate") {
        let update = object_entry(strategy, "rollingUpdate");
        default_value(update, "maxUnavailable", "25%");
        default_value(update, "maxSurge", "25%");
    }
    default_value(spec, "revisionHistoryLimit", 10);
    default_value(spec, "progressDeadlineSeconds", 600);
    template::default(spec);
}

/// Annotations count too: rollbacks and rollout history are driven by them.
fn prepare_update(new: &mut Object, old: &Object) {
    keep_status(new, old);
    let annotations = |object: &Object| object["metadata"]["annotations"].clone();
    let changed = !same(&new["spec"], &old["spec"]) || !same(&annotations(new), &annotations(old));
    bump_generation(new, old, changed);
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    template::non_negative(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], &path, &mut errors);
    template::selector(spec, &path, "deployment", &mut errors);
    template::selected(spec, &path, "ReplicaSet", &mut errors);
    strategy(&spec["strategy"], &path.child("strategy"), &mut errors);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64() {
        template::non_negative(spec, &["progressDeadlineSeconds"], &path, &mut errors);
        if deadline <= spec["minReadySeconds"].as_i64().unwrap_or(0) {
            errors
                .push(path.child("progressDeadlineSeconds").invalid(deadline, "must be greater than minReadySeconds"));
        }
    }
    errors
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let (update, path_of_update) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "Recreate" if update.is_object() => {
            errors.push(path_of_update.forbidden("may not be specified when strategy `type` is 'Recreate'"));
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (&update["maxUnavailable"], &update["maxSurge"]);
            let path = path_of_update.child("maxUnavailable");
            template::int_or_percent(unavailable, &path, errors);
            template::int_or_percent(surge, &path_of_update.child("maxSurge"), errors);
            if !template::is_some_amount(unavailable) && !template::is_some_amount(surge) {
                errors.push(path.invalid(unavailable.clone(), "may not be 0 when `maxSurge` is 0"));
            }
            template::at_most_all(unavailable, &path, errors);
        }
        _ => errors.push(path.not_supported(strategy.clone(), &["Recreate", "RollingUpdate"])),
    }
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (status, path) = (&new["status"], Path::new("status"));
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
    ];
    template::non_negative(status, &counts, &path, &mut errors);
    let over = "cannot be greater than status.replicas";
    let pairs = [
        ("updatedReplicas", "replicas", over),
        ("readyReplicas", "replicas", over),
        ("availableReplicas", "replicas", over),
        ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
    ];
    template::at_most(status, &pairs, &path, &mut errors);
    template::collisions(status, &old["status"], &path, &mut errors);
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        object.name().into(),
        format!("{}/{}", number("readyReplicas"), spec["replicas"].as_i64().unwrap_or(0)).into(),
        number("updatedReplicas").into(),
        number("availableReplicas").into(),
        age(object, now),
        names.into(),
        images.into(),
        labels::selector_cell(&spec["selector"]).into(),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Ready", "Number of the pod with ready state"),
    text_column("Up-to-date", "Total number of non-terminating pods targeted by this deployment that have the desired template spec."),
    text_column("Available", "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment."),
    AGE,
    text_column("Containers", "Names of each container in the template.").wide(),
    text_column("Images", "Images referenced by each container in the template.").wide(),
    text_column("Selector", "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment. It must match the pod template's labels.").wide(),
];
