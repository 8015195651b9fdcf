//! StatefulSets.

use crate::meta::{Meta, Object};
use crate::registry::core::persistentvolumeclaim;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::APPS_V1;
use crate::registry::scale::{SCALE, ScalePaths};
use crate::registry::table::{AGE, NAME, age, containers, text_column};
use crate::registry::value::{
    begin, default_text, default_value, items_mut, keep_status_and_count, object_entry, only_status, root, same, text,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: APPS_V1,
    resource: "statefulsets",
    singular: "statefulset",
    kind: "StatefulSet",
    short_names: &["sts"],
    categories: &["all"],
    storage: "statefulsets",
    storage_gv: APPS_V1,
    subresources: &[SCALE, Subresource { name: "status", kind: "StatefulSet", gv: APPS_V1, verbs: STATUS_VERBS }],
    scale: Some(ScalePaths::WORKLOAD),
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: only_status,
        validate,
        validate_update,
        validate_status,
        warnings: template::warnings,
        // Pods are named after it, and their hostnames.
        validate_name: names::dns1123_label,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

fn default(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    default_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object_entry(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").map(text) == Some("RollingUpdate") {
        default_value(object_entry(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = object_entry(spec, "persistentVolumeClaimRetentionPolicy");
    default_text(retention, "whenDeleted", "Retain");
    default_text(retention, "whenScaled", "Retain");
    default_value(spec, "replicas", 1);
    default_value(spec, "revisionHistoryLimit", 10);
    template::default(spec);
    for claim in items_mut(spec, "volumeClaimTemplates") {
        claim.insert("kind".to_owned(), "PersistentVolumeClaim".into());
        claim.insert("apiVersion".to_owned(), "v1".into());
        object_entry(claim, "metadata");
        default_text(object_entry(claim, "status"), "phase", "Pending");
        persistentvolumeclaim::default_spec(object_entry(claim, "spec"));
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate(object, true, names::dns1123_label);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let policy = text(&spec["podManagementPolicy"]);
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.push(path.child("podManagementPolicy").invalid(policy, detail));
    }
    strategy(&spec["updateStrategy"], &path.child("updateStrategy"), &mut errors);
    let (retention, retention_path) =
        (&spec["persistentVolumeClaimRetentionPolicy"], path.child("persistentVolumeClaimRetentionPolicy"));
    for field in ["whenDeleted", "whenScaled"] {
        let when = text(&retention[field]);
        if !matches!(when, "Retain" | "Delete") {
            errors.push(retention_path.child(field).not_supported(when, &["Retain", "Delete"]));
        }
    }
    template::non_negative(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], &path, &mut errors);
    template::non_negative(&spec["ordinals"], &["start"], &path.child("ordinals"), &mut errors);
    template::selector(spec, &path, "statefulset", &mut errors);
    template::selected(spec, &path, "StatefulSet", &mut errors);
    errors
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let (update, path_of_update) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "OnDelete" if update.is_object() => {
            errors.push(path_of_update.invalid(update.clone(), "only allowed for updateStrategy 'RollingUpdate'"));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            template::non_negative(update, &["partition"], &path_of_update, errors);
            let (unavailable, path) = (&update["maxUnavailable"], path_of_update.child("maxUnavailable"));
            if !unavailable.is_null() {
                template::int_or_percent(unavailable, &path, errors);
                if !template::is_some_amount(unavailable) {
                    errors.push(path.invalid(unavailable.clone(), "cannot be 0"));
                }
                template::at_most_all(unavailable, &path, errors);
            }
        }
        _ => errors.push(path.invalid(strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

/// What may change of a spec.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let fixed = |object: &Object| template::without(&object["spec"], &MUTABLE);
    if !same(&fixed(new), &fixed(old)) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(Path::new("spec").forbidden(detail));
    }
    errors
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (status, path) = (&new["status"], Path::new("status"));
    let counts =
        ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration"];
    template::non_negative(status, &counts, &path, &mut errors);
    let over = "cannot be greater than status.replicas";
    let pairs = [
        ("readyReplicas", "replicas", over),
        ("currentReplicas", "replicas", over),
        ("updatedReplicas", "replicas", over),
        ("availableReplicas", "replicas", over),
        ("availableReplicas", "readyReplicas", "cannot be greater than status.readyReplicas"),
    ];
    template::at_most(status, &pairs, &path, &mut errors);
    template::collisions(status, &old["status"], &path, &mut errors);
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let (names, images) = containers(&spec["template"]["spec"]);
    let ready = format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"]));
    vec![object.name().into(), ready.into(), age(object, now), names.into(), images.into()]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Ready", "Number of the pod with ready state"),
    AGE,
    text_column("Containers", "Names of each container in the template.").wide(),
    text_column("Images", "Images referenced by each container in the template.").wide(),
];
