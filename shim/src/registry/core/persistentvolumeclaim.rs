//! PersistentVolumeClaims.

use super::persistentvolume::{STORAGE_CLASS_ANNOTATION, validate_common};
use crate::meta::{Meta, Object};
use crate::registry::core::pod::warnings::fractions;
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::table::{AGE, NAME, access_modes, age, or, text_column};
use crate::registry::value::{carry_over, default_text, object_mut, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta};
use serde_json::{Map, Value, json};

pub const DEF: ResourceDef = ResourceDef {
    resource: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    kind: "PersistentVolumeClaim",
    short_names: &["pvc"],
    storage: "persistentvolumeclaims",
    returns_deleted: true,
    subresources: &[Subresource::core("status", "PersistentVolumeClaim", STATUS_VERBS)],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create,
        prepare_update,
        validate,
        validate_update,
        warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

pub use super::persistentvolume::STORAGE_CLASS_ANNOTATION as CLASS_ANNOTATION;

/// Removed by the controller that sees to it that nothing in use is deleted.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

fn default(object: &mut Object) {
    if let Some(spec) = object_mut(object, "spec") {
        default_spec(spec);
    }
}

/// Defaults of a claim's spec, of its own or in a stateful set's template.
pub fn default_spec(spec: &mut Map<String, Value>) {
    default_text(spec, "volumeMode", "Filesystem");
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

fn validate(claim: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(claim);
    let (spec, path) = (&claim["spec"], Path::new("spec"));
    validate_common(spec, &path, "at least 1 access mode is required", &mut errors);
    labels::validate_selector(&spec["selector"], &path.child("selector"), &mut errors);
    let (storage, path) = (&spec["resources"]["requests"]["storage"], path.child("resources"));
    match Nanos::parse(storage) {
        None => errors.push(path.key("storage").required("")),
        Some(n) if n.0 <= 0 => {
            errors.push(path.child("requests").key("storage").invalid(storage.clone(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    errors
}

/// A bound claim may ask for more storage and another attributes class; nothing else changes but the first binding.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (mut rest, before) = (new["spec"].clone(), &old["spec"]);
    let bound = text(&old["status"]["phase"]) == "Bound";
    let keep = |rest: &mut Value, key: &str| {
        if let Some(map) = rest.as_object_mut() {
            match before.get(key) {
                Some(value) => map.insert(key.to_owned(), value.clone()),
                None => map.remove(key),
            };
        }
    };
    if text(&before["volumeName"]).is_empty() {
        keep(&mut rest, "volumeName");
    }
    if bound {
        keep(&mut rest, "volumeAttributesClassName");
        let size = |spec: &Value| Nanos::parse(&spec["resources"]["requests"]["storage"]);
        if size(&new["spec"]) < size(before) && size(&new["spec"]) < Nanos::parse(&old["status"]["capacity"]["storage"])
        {
            let path = Path::new("spec").child("resources").child("requests").child("storage");
            errors.push(path.forbidden("field can not be less than status.capacity"));
        }
        if !rest["resources"]["requests"].is_null() {
            rest["resources"]["requests"] = before["resources"]["requests"].clone();
        }
    }
    if rest != *before {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(Path::new("spec").forbidden(detail));
    }
    errors
}

fn warnings(claim: &Object, _old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    fractions(&claim["spec"]["resources"], &Path::new("spec").child("resources"), &mut warnings);
    warnings
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
