//! PersistentVolumes.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::validate::{node_selector, persistent_source, source_of};
use crate::registry::core::pod::warnings::{OLD_VOLUMES, node_terms};
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::table::{AGE, NAME, access_modes, age, or, text_column};
use crate::registry::value::{
    carry_over, default_text, default_value, entries, is_empty, items, object_entry, object_mut, root, same, text,
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
    strategy: &Strategy {
        default,
        prepare_create,
        prepare_update,
        validate,
        validate_update,
        warnings,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

/// The older annotation that named a volume's or claim's class before the field did.
pub const STORAGE_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// How options of mounting were given before there was a field.
const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

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

/// When the phase last changed, where the client who changes it does not say.
pub fn stamp_phase(new: &mut Object, old: &Object, now: &str) {
    const TIME: &str = "lastPhaseTransitionTime";
    let (status, before) = (&new["status"], &old["status"]);
    let changed = text(&status["phase"]) != text(&before["phase"]);
    let time = match (changed, status[TIME].is_null()) {
        (false, true) => before[TIME].clone(),
        (true, unsaid) if unsaid || status[TIME] == before[TIME] => now.into(),
        _ => return,
    };
    if !time.is_null() {
        object_entry(root(new), "status").insert(TIME.to_owned(), time);
    }
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
    if spec["nodeAffinity"].is_object() {
        let path = path.child("nodeAffinity").child("required");
        if spec["nodeAffinity"]["required"].is_object() {
            node_selector(&spec["nodeAffinity"]["required"], &path, &mut errors);
        } else {
            errors.push(path.required("must specify required node constraints"));
        }
    }
    persistent_source(spec, &path, &mut errors);
    if let Some(class) = spec["volumeAttributesClassName"].as_str() {
        let own = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(own.required("an empty string is disallowed"));
        } else {
            errors.extend(own.all_invalid(class, names::dns1123_subdomain(class, false)));
        }
        if !spec["csi"].is_object() {
            errors.push(path.child("csi").required("has to be specified when using volumeAttributesClassName"));
        }
    }
    errors
}

/// `ValidatePersistentVolumeUpdate`: where the data is stays, and what depends on it; upstream leaves `spec` out of
/// some of the paths.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (spec, before) = (&new["spec"], &old["spec"]);
    let (source, kept) = (source_of(spec), source_of(before));
    if !same(&without_new_expand_secret(source, &kept), &kept) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(Path::new("spec").child("persistentvolumesource").forbidden(detail));
    }
    meta::immutable(&spec["volumeMode"], &before["volumeMode"], &Path::new("volumeMode"), &mut errors);
    if before["nodeAffinity"].is_object() && !same(&spec["nodeAffinity"], &before["nodeAffinity"]) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.push(Path::new("nodeAffinity").invalid(spec["nodeAffinity"].clone(), detail));
    }
    let class = "volumeAttributesClassName";
    if before[class].is_string() && spec[class].is_null() {
        errors.push(Path::new("spec").child(class).forbidden("update from non-nil value to nil is forbidden"));
    }
    errors
}

/// The secret that expanding needs may be given later.
fn without_new_expand_secret(mut source: Value, old: &Value) -> Value {
    if old["csi"].is_object()
        && old["csi"]["controllerExpandSecretRef"].is_null()
        && let Some(csi) = source.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    source
}

/// The older annotations, sources and ways that still work (`GetWarningsForPersistentVolume`).
fn warnings(volume: &Object, _old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    let path = Path::new("metadata").child("annotations");
    for (annotation, since, instead) in
        [(STORAGE_CLASS_ANNOTATION, "v1.8", "storageClassName"), (MOUNT_OPTIONS_ANNOTATION, "v1.31", "mountOptions")]
    {
        if volume["metadata"]["annotations"][annotation].is_string() {
            let path = path.key(annotation);
            warnings.push(format!("{}: deprecated since {since}; use \"{instead}\" attribute instead", path.as_str()));
        }
    }
    let (spec, path) = (&volume["spec"], Path::new("spec"));
    if text(&spec["persistentVolumeReclaimPolicy"]) == "Recycle" {
        warnings.push(format!(
            "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            path.child("persistentVolumeReclaimPolicy").as_str()
        ));
    }
    let terms = path.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    node_terms(&spec["nodeAffinity"]["required"]["nodeSelectorTerms"], &terms, &mut warnings);
    for (kind, text) in OLD_VOLUMES.iter().filter(|(kind, _)| spec[*kind].is_object()) {
        warnings.push(format!("{}: {text}", path.child(kind).as_str()));
    }
    warnings
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

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(spec: Value) -> Object {
        let mut object = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}});
        for (key, value) in entries(&spec) {
            object["spec"][key] = value.clone();
        }
        object
    }

    #[test]
    fn a_volume_stays_where_its_data_is() {
        let host = json!({"hostPath": {"path": "/a", "type": ""}});
        let csi = json!({"csi": {"driver": "d.example.com", "volumeHandle": "h"}});
        let placed = json!({"csi": csi["csi"], "nodeAffinity": {"required": {"nodeSelectorTerms": [{}]}}});
        for (old, new, fields) in [
            (&host, host.clone(), vec![]),
            (&host, json!({"hostPath": {"path": "/b", "type": ""}}), vec!["spec.persistentvolumesource"]),
            (&host, json!({"hostPath": host["hostPath"], "volumeMode": "Block"}), vec!["volumeMode"]),
            (
                &csi,
                json!({"csi": {"driver": "d.example.com", "volumeHandle": "h", "controllerExpandSecretRef": {"name": "s"}}}),
                vec![],
            ),
            (
                &csi,
                json!({"csi": {"driver": "d.example.com", "volumeHandle": "i"}}),
                vec!["spec.persistentvolumesource"],
            ),
            (&csi, placed.clone(), vec![]),
            (&placed, csi.clone(), vec!["nodeAffinity"]),
            (&csi, json!({"csi": csi["csi"], "storageClassName": "other"}), vec![]),
        ] {
            let errors = validate_update(&volume(new.clone()), &volume(old.clone()));
            let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{old} -> {new}");
        }
    }

    #[test]
    fn a_driver_must_know_which_volume_is_meant() {
        for (spec, fields) in [
            (json!({"csi": {"driver": "d", "volumeHandle": "h"}}), vec![]),
            (json!({"csi": {"driver": "d"}}), vec!["spec.csi.volumeHandle"]),
            (
                json!({"csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"name": "s"}}}),
                vec!["spec.csi.nodeStageSecretRef.namespace"],
            ),
            (json!({"hostPath": {"path": "/a"}, "volumeAttributesClassName": "fast"}), vec!["spec.csi"]),
            (json!({"hostPath": {"path": "/a"}, "nodeAffinity": {}}), vec!["spec.nodeAffinity.required"]),
        ] {
            let errors = validate(&volume(spec.clone()));
            let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{spec}");
        }
    }

    #[test]
    fn the_time_of_the_last_phase_is_the_clients_or_ours() {
        let volume = |phase: &str, time: Value| json!({"status": {"phase": phase, "lastPhaseTransitionTime": time}});
        let old = volume("Pending", "then".into());
        for (phase, said, wanted) in [
            ("Pending", Value::Null, "then"),
            ("Bound", Value::Null, "now"),
            ("Bound", "then".into(), "now"),
            ("Bound", "own".into(), "own"),
        ] {
            let mut new = volume(phase, said.clone());
            stamp_phase(&mut new, &old, "now");
            assert_eq!(new["status"]["lastPhaseTransitionTime"], wanted, "{phase} {said}");
        }
    }

    #[test]
    fn old_ways_are_warned_of() {
        let mut old = volume(json!({"cephfs": {}, "persistentVolumeReclaimPolicy": "Recycle"}));
        old["metadata"]["annotations"] = json!({STORAGE_CLASS_ANNOTATION: "fast"});
        assert_eq!(
            warnings(&old, None),
            [
                "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead",
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
                "spec.cephfs: deprecated in v1.28, non-functional in v1.31+",
            ]
        );
    }
}
