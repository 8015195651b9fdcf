//! DaemonSets.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::APPS_V1;
use crate::registry::table::{AGE, NAME, age, containers, format_labels, integer, text_column};
use crate::registry::value::{
    begin, bump_generation, default_text, default_value, keep_status, object_entry, only_status, root, same, text,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: APPS_V1,
    resource: "daemonsets",
    singular: "daemonset",
    kind: "DaemonSet",
    short_names: &["ds"],
    categories: &["all"],
    storage: "daemonsets",
    storage_gv: APPS_V1,
    subresources: &[Subresource { name: "status", kind: "DaemonSet", gv: APPS_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create,
        prepare_update,
        prepare_status: only_status,
        validate,
        validate_update: template::keeps_selector,
        validate_status,
        warnings: template::warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

/// Where apps/v1 keeps the generation of the template, a field of older versions.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn default(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    let strategy = object_entry(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").map(text) == Some("RollingUpdate") {
        let update = object_entry(strategy, "rollingUpdate");
        default_value(update, "maxUnavailable", 1);
        default_value(update, "maxSurge", 0);
    }
    default_value(spec, "revisionHistoryLimit", 10);
    template::default(spec);
    set_template_generation(object, template_generation(object));
}

fn template_generation(object: &Object) -> i64 {
    object.annotations().and_then(|a| a.get(TEMPLATE_GENERATION)?.as_str()?.parse().ok()).unwrap_or(0)
}

fn set_template_generation(object: &mut Object, generation: i64) {
    let annotations = object_entry(object.meta_mut(), "annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
}

fn prepare_create(object: &mut Object) {
    begin(object);
    let generation = template_generation(object).max(1);
    set_template_generation(object, generation);
}

fn prepare_update(new: &mut Object, old: &Object) {
    keep_status(new, old);
    let template_changed = !same(&new["spec"]["template"], &old["spec"]["template"]);
    set_template_generation(new, template_generation(old) + i64::from(template_changed));
    let changed = !same(&new["spec"], &old["spec"]);
    bump_generation(new, old, changed);
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    labels::validate_selector(&spec["selector"], &path.child("selector"), &mut errors);
    if labels::selects(&spec["selector"], &spec["template"]["metadata"]["labels"]) == Some(false) {
        template::mismatch(spec, &path, &mut errors);
    }
    if !spec["selector"].is_null() && labels::is_everything(&spec["selector"]) {
        let detail = "empty selector is invalid for daemonset";
        errors.push(path.child("selector").invalid(spec["selector"].clone(), detail));
    }
    template::long_running(spec, &path, "DaemonSet", &mut errors);
    template::non_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, &mut errors);
    strategy(&spec["updateStrategy"], &path.child("updateStrategy"), &mut errors);
    errors
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" if !strategy["rollingUpdate"].is_object() => {
            errors.push(path.child("rollingUpdate").required(""));
        }
        "RollingUpdate" => {
            let (update, path) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
            let (unavailable, surge) = (&update["maxUnavailable"], &update["maxSurge"]);
            let (path_of_unavailable, path_of_surge) = (path.child("maxUnavailable"), path.child("maxSurge"));
            for (value, path) in [(unavailable, &path_of_unavailable), (surge, &path_of_surge)] {
                template::int_or_percent(value, path, errors);
                template::at_most_all(value, path, errors);
            }
            match (template::is_some_amount(unavailable), template::is_some_amount(surge)) {
                (true, true) => {
                    errors.push(path_of_surge.invalid(surge.clone(), "may not be set when maxUnavailable is non-zero"))
                }
                (false, false) => errors.push(path_of_unavailable.required("cannot be 0 when maxSurge is 0")),
                (true, false) | (false, true) => {}
            }
        }
        other => errors.push(path.child("type").not_supported(other, &["RollingUpdate", "OnDelete"])),
    }
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (status, path) = (&new["status"], Path::new("status"));
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
    ];
    template::non_negative(status, &counts, &path, &mut errors);
    template::collisions(status, &old["status"], &path, &mut errors);
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |field: &str| Value::from(status[field].as_i64().unwrap_or(0));
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        object.name().into(),
        number("desiredNumberScheduled"),
        number("currentNumberScheduled"),
        number("numberReady"),
        number("updatedNumberScheduled"),
        number("numberAvailable"),
        format_labels(&spec["template"]["spec"]["nodeSelector"]).into(),
        age(object, now),
        names.into(),
        images.into(),
        labels::selector_cell(&spec["selector"]).into(),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    integer("Desired", "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/"),
    integer("Current", "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/"),
    integer("Ready", "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition."),
    integer("Up-to-date", "The total number of nodes that are running updated daemon pod"),
    integer("Available", "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)"),
    text_column("Node Selector", "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/"),
    AGE,
    text_column("Containers", "Names of each container in the template.").wide(),
    text_column("Images", "Images referenced by each container in the template.").wide(),
    text_column("Selector", "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];
