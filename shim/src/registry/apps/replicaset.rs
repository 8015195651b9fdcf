//! ReplicaSets.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::APPS_V1;
use crate::registry::scale::{SCALE, ScalePaths};
use crate::registry::table::{AGE, NAME, age, containers, integer, text_column};
use crate::registry::value::{begin, default_value, keep_status_and_count, object_entry, only_status, root};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: APPS_V1,
    resource: "replicasets",
    singular: "replicaset",
    kind: "ReplicaSet",
    short_names: &["rs"],
    categories: &["all"],
    storage: "replicasets",
    storage_gv: APPS_V1,
    subresources: &[SCALE, Subresource { name: "status", kind: "ReplicaSet", gv: APPS_V1, verbs: STATUS_VERBS }],
    scale: Some(ScalePaths::WORKLOAD),
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: begin,
        prepare_update: keep_status_and_count,
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
    template::default(spec);
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    template::non_negative(spec, &["replicas", "minReadySeconds"], &path, &mut errors);
    // Upstream says "deployment" here too.
    template::selector(spec, &path, "deployment", &mut errors);
    template::selected(spec, &path, "ReplicaSet", &mut errors);
    errors
}

/// The counts of replicas fit together; replication controllers have the same.
pub fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (status, path) = (&new["status"], Path::new("status"));
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    template::non_negative(status, &counts, &path, &mut errors);
    let over = "cannot be greater than status.replicas";
    let pairs = [
        ("fullyLabeledReplicas", "replicas", over),
        ("readyReplicas", "replicas", over),
        ("availableReplicas", "replicas", over),
        ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
    ];
    template::at_most(status, &pairs, &path, &mut errors);
    errors
}

/// The row of a replica set or replication controller.
pub fn row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        object.name().into(),
        number(&spec["replicas"]).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age(object, now),
        names.into(),
        images.into(),
        labels::selector_cell(&spec["selector"]).into(),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    integer("Desired", "Replicas is the number of desired pods. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset"),
    integer("Current", "Replicas is the most recently observed number of non-terminating pods. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset"),
    integer("Ready", "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition."),
    AGE,
    text_column("Containers", "Names of each container in the template.").wide(),
    text_column("Images", "Images referenced by each container in the template.").wide(),
    text_column("Selector", "Selector is a label query over pods that should match the replica count. Label keys and values that must match in order to be controlled by this replica set. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];
