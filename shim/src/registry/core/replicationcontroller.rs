//! ReplicationControllers: replica sets with a plain map for a selector.

use crate::meta::{Meta, Object};
use crate::registry::apps::replicaset;
use crate::registry::field::{Errors, Path};
use crate::registry::scale::{SCALE, ScalePaths};
use crate::registry::table::{AGE, NAME, integer, text_column};
use crate::registry::value::{
    begin, default_value, entries, is_empty, keep_status_and_count, object_entry, only_status, root,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, meta_fields, template};
use crate::selector::Pairs;

pub const DEF: ResourceDef = ResourceDef {
    resource: "replicationcontrollers",
    singular: "replicationcontroller",
    kind: "ReplicationController",
    short_names: &["rc"],
    categories: &["all"],
    storage: "controllers",
    subresources: &[SCALE, Subresource::core("status", "ReplicationController", STATUS_VERBS)],
    scale: Some(ScalePaths::WORKLOAD),
    columns: COLUMNS,
    row: replicaset::row,
    selectable: &["status.replicas"],
    fields,
    orphans_by_default: true,
    strategy: &Strategy {
        default,
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: only_status,
        validate,
        validate_status: replicaset::validate_status,
        warnings: template::named_warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

/// It is also found by how many replicas it has.
fn fields(object: &Object) -> Pairs {
    let mut pairs = meta_fields(object);
    let replicas = object["status"]["replicas"].as_i64().unwrap_or(0);
    pairs.insert("status.replicas".into(), replicas.to_string().into());
    pairs
}

/// Selector and labels are the template's where there are none.
fn default(object: &mut Object) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if !is_empty(&labels) {
        if is_empty(&object["spec"]["selector"]) {
            object_entry(root(object), "spec").insert("selector".to_owned(), labels.clone());
        }
        if is_empty(&object["metadata"]["labels"]) {
            object.meta_mut().insert("labels".to_owned(), labels);
        }
    }
    let spec = object_entry(root(object), "spec");
    default_value(spec, "replicas", 1);
    if spec.get("template").is_some_and(|template| template.is_object()) {
        template::default(spec);
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    template::non_negative(spec, &["minReadySeconds", "replicas"], &path, &mut errors);
    if is_empty(&spec["selector"]) {
        errors.push(path.child("selector").required(""));
    }
    if !spec["template"].is_object() {
        errors.push(path.child("template").required(""));
        return errors;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if !entries(&spec["selector"]).all(|(key, value)| labels.get(key) == Some(value)) {
        template::mismatch(spec, &path, &mut errors);
    }
    template::long_running(spec, &path, "ReplicationController", &mut errors);
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    integer("Desired", "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller"),
    integer("Current", "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller"),
    integer("Ready", "The number of ready replicas for this replication controller."),
    AGE,
    text_column("Containers", "Names of each container in the template.").wide(),
    text_column("Images", "Images referenced by each container in the template.").wide(),
    text_column("Selector", "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors").wide(),
];
