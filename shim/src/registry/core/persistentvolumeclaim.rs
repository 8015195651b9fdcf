//! PersistentVolumeClaims.

use super::persistentvolume::STORAGE_CLASS_ANNOTATION;
use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, access_modes, age, or, text_column};
use crate::registry::value::{carry_over, default_text, object_mut, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource};
use serde_json::{Value, json};

pub const DEF: ResourceDef = ResourceDef {
    resource: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    kind: "PersistentVolumeClaim",
    short_names: &["pvc"],
    storage: "persistentvolumeclaims",
    subresources: &[Subresource::core("status", "PersistentVolumeClaim", STATUS_VERBS)],
    columns: COLUMNS,
    row,
    strategy: &Strategy { default, prepare_create, prepare_update, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

/// Removed by the controller that sees to it that nothing in use is deleted.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

fn default(object: &mut Object) {
    if let Some(spec) = object_mut(object, "spec") {
        default_text(spec, "volumeMode", "Filesystem");
    }
}

/// New ones are pending, and stay while something uses them.
fn prepare_create(object: &mut Object) {
    root(object).insert("status".to_owned(), json!({"phase": "Pending"}));
    let finalizers = object.meta_mut().entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|f| text(f) == PROTECTION)
    {
        list.push(PROTECTION.into());
    }
}

fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
}

fn row(claim: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    let phase = match claim.deletion_timestamp() {
        Some(_) => "Terminating",
        None => text(&status["phase"]),
    };
    let class = match text(&claim["metadata"]["annotations"][STORAGE_CLASS_ANNOTATION]) {
        "" => text(&spec["storageClassName"]),
        class => class,
    };
    let bound = !text(&spec["volumeName"]).is_empty();
    vec![
        claim.name().into(),
        phase.into(),
        text(&spec["volumeName"]).into(),
        if bound { text(&status["capacity"]["storage"]).into() } else { "".into() },
        if bound { access_modes(&status["accessModes"]).into() } else { "".into() },
        class.into(),
        or(&spec["volumeAttributesClassName"], "<unset>"),
        age(claim, now),
        or(&spec["volumeMode"], "<unset>"),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Status", "phase represents the current phase of PersistentVolumeClaim."),
    text_column("Volume", "volumeName is the binding reference to the PersistentVolume backing this claim."),
    text_column("Capacity", "capacity represents the actual resources of the underlying volume."),
    text_column("Access Modes", "accessModes contains the actual access modes the volume backing the PVC has. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1"),
    text_column("StorageClass", "StorageClass of the pvc"),
    text_column("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
    AGE,
    text_column("VolumeMode", "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.").wide(),
];
