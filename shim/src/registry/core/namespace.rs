//! Namespaces.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{carry_over, items, keep_all_but_status, object_entry, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, meta_fields, names};
use crate::selector::Pairs;
use serde_json::{Value, json};

pub const DEF: ResourceDef = ResourceDef {
    resource: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    short_names: &["ns"],
    namespaced: false,
    // Upstream serves no deletecollection here: too much would go at once.
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    storage: "namespaces",
    returns_deleted: true,
    subresources: &[
        Subresource::core("finalize", "Namespace", &["update"]),
        Subresource::core("status", "Namespace", STATUS_VERBS),
    ],
    columns: COLUMNS,
    row,
    selectable: &["status.phase", "name"],
    fields,
    strategy: &STRATEGY,
    ..ResourceDef::BASIC
};

const STRATEGY: Strategy = Strategy {
    default,
    prepare_create,
    prepare_update,
    prepare_status,
    validate,
    validate_status,
    validate_name: names::dns1123_label,
    ..Strategy::CLUSTER
};

/// The label by which selectors find a namespace by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn default(namespace: &mut Object) {
    let name = namespace.name().to_owned();
    if !name.is_empty() {
        object_entry(namespace.meta_mut(), "labels").insert(NAME_LABEL.to_owned(), name.into());
    }
}

/// A new namespace is active and is finalized by the namespace controller.
fn prepare_create(namespace: &mut Object) {
    let map = root(namespace);
    map.insert("status".to_owned(), json!({"phase": "Active"}));
    let spec = object_entry(map, "spec");
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if !items(finalizers).iter().any(|f| text(f) == "kubernetes")
        && let Some(list) = finalizers.as_array_mut()
    {
        list.push("kubernetes".into());
    }
}

/// Finalizers go by the finalize subresource only.
fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "spec");
    carry_over(new, old, "status");
}

fn prepare_status(new: &mut Object, old: &Object) {
    keep_all_but_status(new, old);
}

/// `namespaces/finalize`: only `spec.finalizers` changes.
pub fn prepare_finalize(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
}

/// Errors of a finalize request: finalizers are qualified names.
pub fn validate_finalize(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    finalizers(new, &mut errors);
    errors
}

fn finalizers(namespace: &Object, errors: &mut Errors) {
    for finalizer in items(&namespace["spec"]["finalizers"]) {
        meta::validate_finalizer(text(finalizer), &Path::new("spec").child("finalizers"), errors);
    }
}

fn validate(namespace: &Object) -> Errors {
    let mut errors = meta::validate(namespace, false, names::dns1123_label);
    finalizers(namespace, &mut errors);
    errors
}

/// The phase follows the deletion timestamp.
fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("status").child("phase");
    match (new.deletion_timestamp(), text(&new["status"]["phase"])) {
        (None, phase) if phase != "Active" => {
            errors.push(path.invalid(phase, "may only be 'Active' if `deletionTimestamp` is empty"));
        }
        (Some(_), phase) if phase != "Terminating" => {
            errors.push(path.invalid(phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"));
        }
        _ => {}
    }
    errors
}

fn fields(namespace: &Object) -> Pairs {
    let mut pairs = meta_fields(namespace);
    pairs.insert("status.phase".into(), text(&namespace["status"]["phase"]).into());
    // Upstream keeps this older name of metadata.name.
    pairs.insert("name".into(), namespace.name().into());
    pairs
}

fn row(namespace: &Object, now: i64) -> Vec<Value> {
    vec![namespace.name().into(), text(&namespace["status"]["phase"]).into(), age(namespace, now)]
}

const COLUMNS: &[Column] = &[NAME, text_column("Status", "The status of the namespace"), AGE];
