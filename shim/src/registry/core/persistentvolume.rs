//! PersistentVolumes.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::validate::{node_selector, persistent_source};
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::table::{AGE, NAME, access_modes, age, or, text_column};
use crate::registry::value::{
    carry_over, default_text, default_value, entries, is_empty, items, object_mut, root, text,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names};
use serde_json::{Value, json};

pub const DEF: ResourceDef = ResourceDef {
    resource: "persistentvolumes",
    singular: "persistentvolume",
    kind: "PersistentVolume",
    short_names: &["pv"],
    namespaced: false,
    storage: "persistentvolumes",
    returns_deleted: true,
    subresources: &[Subresource::core("status", "PersistentVolume", STATUS_VERBS)],
    columns: COLUMNS,
    row,
    strategy: &Strategy { default, prepare_create, prepare_update, validate, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

/// The older annotation that named a volume's or claim's class before the field did.
pub const STORAGE_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Removed by the controller that sees to it that nothing in use is deleted.
const PROTECTION: &str = "kubernetes.io/pv-protection";

fn default(object: &mut Object) {
    if let Some(spec) = object_mut(object, "spec") {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_text(spec, "volumeMode", "Filesystem");
        if let Some(source) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
            default_value(source, "type", "");
        }
    }
}

/// New ones are pending, and stay while something uses them.
fn prepare_create(object: &mut Object) {
    // The pipeline has stamped the object already: this is the moment of its creation.
    let created = object["metadata"]["creationTimestamp"].clone();
    root(object).insert("status".to_owned(), json!({"phase": "Pending", "lastPhaseTransitionTime": created}));
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

/// In the order upstream lists them.
pub const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Access modes, volume mode and class, which claims have too.
pub fn validate_common(spec: &Value, path: &Path, modes_text: &str, errors: &mut Errors) {
    let modes: Vec<&str> = items(&spec["accessModes"]).iter().map(text).collect();
    if modes.is_empty() {
        errors.push(path.child("accessModes").required(modes_text));
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.push(path.child("accessModes").not_supported(*mode, &ACCESS_MODES));
    }
    if modes.len() > 1 && modes.contains(&"ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(path.child("accessModes").forbidden(detail));
    }
    if let Some(mode) = spec["volumeMode"].as_str().filter(|mode| !VOLUME_MODES.contains(mode)) {
        errors.push(path.child("volumeMode").not_supported(mode, &VOLUME_MODES));
    }
    let class = text(&spec["storageClassName"]);
    if !class.is_empty() {
        errors.extend(path.child("storageClassName").all_invalid(class, names::dns1123_subdomain(class, false)));
    }
}

fn validate(volume: &Object) -> Errors {
    let mut errors = meta::validate_cluster(volume);
    let (spec, path) = (&volume["spec"], Path::new("spec"));
    validate_common(spec, &path, "", &mut errors);
    let capacity = path.child("capacity");
    if is_empty(&spec["capacity"]) {
        errors.push(capacity.required(""));
    }
    if spec["capacity"]["storage"].is_null() || entries(&spec["capacity"]).count() > 1 {
        errors.push(capacity.not_supported(spec["capacity"].clone(), &["storage"]));
    }
    for (resource, quantity) in entries(&spec["capacity"]) {
        if Nanos::parse(quantity).is_some_and(|n| n.0 <= 0) {
            errors.push(capacity.key(resource).invalid(quantity.clone(), "must be greater than zero"));
        }
    }
    let policy = text(&spec["persistentVolumeReclaimPolicy"]);
    let policies = ["Delete", "Recycle", "Retain"];
    let path_of_policy = path.child("persistentVolumeReclaimPolicy");
    if !policies.contains(&policy) {
        errors.push(path_of_policy.not_supported(policy, &policies));
    }
    if policy == "Recycle" && text(&spec["hostPath"]["path"]) == "/" {
        errors.push(path_of_policy.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    if spec["nodeAffinity"]["required"].is_object() {
        let path = path.child("nodeAffinity").child("required");
        node_selector(&spec["nodeAffinity"]["required"], &path, &mut errors);
    }
    persistent_source(spec, &path, &mut errors);
    errors
}

fn row(volume: &Object, now: i64) -> Vec<Value> {
    let spec = &volume["spec"];
    let phase = match volume.deletion_timestamp() {
        Some(_) => "Terminating",
        None => text(&volume["status"]["phase"]),
    };
    let claim = match text(&spec["claimRef"]["name"]) {
        "" => String::new(),
        name => format!("{}/{name}", text(&spec["claimRef"]["namespace"])),
    };
    let class = match text(&volume["metadata"]["annotations"][STORAGE_CLASS_ANNOTATION]) {
        "" => text(&spec["storageClassName"]),
        class => class,
    };
    vec![
        volume.name().into(),
        text(&spec["capacity"]["storage"]).into(),
        access_modes(&spec["accessModes"]).into(),
        text(&spec["persistentVolumeReclaimPolicy"]).into(),
        phase.into(),
        claim.into(),
        class.into(),
        or(&spec["volumeAttributesClassName"], "<unset>"),
        text(&volume["status"]["reason"]).into(),
        age(volume, now),
        or(&spec["volumeMode"], "<unset>"),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Capacity", "capacity is the description of the persistent volume's resources and capacity. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity"),
    text_column("Access Modes", "accessModes contains all ways the volume can be mounted. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes"),
    text_column("Reclaim Policy", "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim. Valid options are Retain (default for manually created PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and Recycle (deprecated). Recycle must be supported by the volume plugin underlying this PersistentVolume. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming"),
    text_column("Status", "phase indicates if a volume is available, bound to a claim, or released by a claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase"),
    text_column("Claim", "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the authoritative bind between PV and PVC. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding"),
    text_column("StorageClass", "StorageClass of the pv"),
    text_column("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
    text_column("Reason", "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI."),
    AGE,
    text_column("VolumeMode", "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.").wide(),
];
