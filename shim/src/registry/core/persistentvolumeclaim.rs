//! PersistentVolumeClaims.

use super::persistentvolume::STORAGE_CLASS_ANNOTATION;
use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, access_modes, age, or, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Subresource};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    kind: "PersistentVolumeClaim",
    short_names: &["pvc"],
    storage: "persistentvolumeclaims",
    subresources: &[Subresource::core("status", "PersistentVolumeClaim", STATUS_VERBS)],
    columns: COLUMNS,
    row,
    ..ResourceDef::BASIC
};

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
