//! PersistentVolumeClaims.

use super::persistentvolume::{STORAGE_CLASS_ANNOTATION, validate_common};
use crate::meta::{Meta, Object};
use crate::registry::core::pod::warnings::fractions;
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::table::{AGE, NAME, access_modes, age, or, text_column};
use crate::registry::value::{carry_over, default_text, entries, items, object_mut, root, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, labels, meta, names};
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
        validate_status,
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
    only_known_source(object, None);
    same_sources(object);
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
    only_known_source(new, Some(old));
    same_sources(new);
}

/// `dataSource` may only be a claim or a snapshot; others are named by `dataSourceRef`
/// (`EnforceDataSourceBackwardsCompatibility`). Sources of other namespaces are an alpha feature.
fn only_known_source(claim: &mut Object, old: Option<&Object>) {
    let known = |source: &Value| {
        matches!(
            (text(&source["apiGroup"]), text(&source["kind"])),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    let had = |field: &str| old.is_some_and(|old| old["spec"][field].is_object());
    let (had_source, had_reference) = (had("dataSource"), had("dataSourceRef"));
    let Some(spec) = object_mut(claim, "spec") else { return };
    if spec.get("dataSource").is_some_and(|source| source.is_object() && !known(source)) && !had_source {
        spec.remove("dataSource");
    }
    if let Some(reference) = spec.get_mut("dataSourceRef").and_then(Value::as_object_mut)
        && !had_reference
    {
        reference.remove("namespace");
    }
}

/// The two fields for where the data comes from say the same (`NormalizeDataSources`).
fn same_sources(claim: &mut Object) {
    let Some(spec) = object_mut(claim, "spec") else { return };
    let get = |spec: &Map<String, Value>, field: &str| spec.get(field).filter(|source| source.is_object()).cloned();
    match (get(spec, "dataSource"), get(spec, "dataSourceRef")) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".to_owned(), source);
        }
        (None, Some(reference)) if text(&reference["namespace"]).is_empty() => {
            spec.insert("dataSource".to_owned(), reference);
        }
        _ => {}
    }
}

fn validate(claim: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(claim);
    validate_spec(&claim["spec"], &Path::new("spec"), &mut errors);
    errors
}

/// `ValidatePersistentVolumeClaimSpec`; the volumes of pods may have a template of a claim.
pub fn validate_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    validate_common(spec, path, "at least 1 access mode is required", errors);
    labels::validate_selector(&spec["selector"], &path.child("selector"), errors);
    let (storage, resources) = (&spec["resources"]["requests"]["storage"], path.child("resources"));
    match Nanos::parse(storage) {
        None => errors.push(resources.key("storage").required("")),
        Some(n) if n.0 <= 0 => {
            let path = resources.child("requests").key("storage");
            errors.push(path.invalid(storage.clone(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    for field in ["dataSource", "dataSourceRef"] {
        if spec[field].is_object() {
            data_source(&spec[field], &path.child(field), errors);
        }
    }
    if spec["dataSource"].is_object() && spec["dataSourceRef"].is_object() {
        let bare = |source: &Value| ["apiGroup", "kind", "name"].map(|field| text(&source[field]).to_owned());
        let elsewhere = !text(&spec["dataSourceRef"]["namespace"]).is_empty();
        if elsewhere || bare(&spec["dataSource"]) != bare(&spec["dataSourceRef"]) {
            errors.push(path.invalid(path.child("dataSource").as_str(), "must match dataSourceRef"));
        }
    }
}

fn data_source(source: &Value, path: &Path, errors: &mut Errors) {
    for field in ["name", "kind"].into_iter().filter(|field| text(&source[*field]).is_empty()) {
        errors.push(path.child(field).required(""));
    }
    match (text(&source["apiGroup"]), text(&source["kind"])) {
        ("", "PersistentVolumeClaim") => {}
        ("", kind) => {
            errors.push(path.invalid(kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"));
        }
        (group, _) => {
            errors.extend(path.child("apiGroup").all_invalid(group, names::dns1123_subdomain(group, false)));
        }
    }
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
    let annotation = |object: &Object| object["metadata"]["annotations"][STORAGE_CLASS_ANNOTATION].clone();
    if annotation(new) != annotation(old) {
        let path = Path::new("metadata").child("annotations").key(STORAGE_CLASS_ANNOTATION);
        errors.push(path.invalid(text(&annotation(new)), "field is immutable"));
    }
    // A claim from before there was a default class may be given one.
    if before["storageClassName"].is_null() && annotation(old).is_null() && rest["storageClassName"].is_string() {
        keep(&mut rest, "storageClassName");
    }
    if bound {
        keep(&mut rest, "volumeAttributesClassName");
        if !rest["resources"]["requests"].is_null() {
            rest["resources"]["requests"] = before["resources"]["requests"].clone();
        }
    }
    if rest != *before {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(Path::new("spec").forbidden(detail));
    }
    let size = |spec: &Value| Nanos::parse(&spec["resources"]["requests"]["storage"]);
    let had = Nanos::parse(&old["status"]["capacity"]["storage"]).unwrap_or(Nanos(0));
    if size(&new["spec"]) < size(before) && size(&new["spec"]).is_some_and(|wanted| wanted <= had) {
        let path = Path::new("spec").child("resources").child("requests").child("storage");
        errors.push(path.forbidden("field can not be less than status.capacity"));
    }
    meta::immutable(&new["spec"]["volumeMode"], &before["volumeMode"], &Path::new("volumeMode"), &mut errors);
    let class = "volumeAttributesClassName";
    if before[class].is_string() && new["spec"][class].is_null() {
        errors.push(Path::new("spec").child(class).forbidden("update from non-nil value to nil is forbidden"));
    }
    errors
}

/// `ValidatePersistentVolumeClaimStatusUpdate`: amounts that there are.
fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    if items(&new["spec"]["accessModes"]).is_empty() {
        errors.push(Path::new("Spec").child("accessModes").required(""));
    }
    for field in ["capacity", "allocatedResources"] {
        let path = Path::new("status").child(field);
        for (resource, quantity) in entries(&new["status"][field]) {
            if Nanos::parse(quantity).is_some_and(|n| n.0 < 0) {
                errors.push(path.key(resource).invalid(quantity.clone(), "must be a valid resource quantity"));
            }
        }
    }
    errors
}

fn warnings(claim: &Object, _old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    if claim["metadata"]["annotations"][STORAGE_CLASS_ANNOTATION].is_string() {
        let path = Path::new("metadata").child("annotations").key(STORAGE_CLASS_ANNOTATION);
        warnings.push(format!("{}: deprecated since v1.8; use \"storageClassName\" attribute instead", path.as_str()));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value, phase: &str) -> Object {
        let mut object = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem", "resources": {"requests": {"storage": "10Gi"}}},
            "status": {"phase": phase, "capacity": {"storage": "4Gi"}}});
        for (key, value) in entries(&spec) {
            object["spec"][key] = value.clone();
        }
        object
    }

    #[test]
    fn a_bound_claim_grows_and_a_failed_growth_is_taken_back() {
        let storage = |amount: &str| json!({"resources": {"requests": {"storage": amount}}});
        for (phase, new, fields) in [
            ("Bound", storage("20Gi"), vec![]),
            ("Bound", storage("5Gi"), vec![]),
            ("Bound", storage("4Gi"), vec!["spec.resources.requests.storage"]),
            ("Pending", storage("20Gi"), vec!["spec"]),
            ("Pending", json!({"storageClassName": "c"}), vec![]),
            ("Pending", json!({"volumeMode": "Block"}), vec!["spec", "volumeMode"]),
        ] {
            let errors = validate_update(&claim(new.clone(), phase), &claim(json!({}), phase));
            let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{phase} {new}");
        }
    }

    #[test]
    fn where_data_comes_from_is_said_twice() {
        let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
        let other = json!({"apiGroup": "example.com", "kind": "Backup", "name": "b"});
        for (spec, source, reference) in [
            (json!({"dataSource": snapshot}), &snapshot, &snapshot),
            (json!({"dataSourceRef": other}), &other, &other),
            (json!({"dataSource": other}), &Value::Null, &Value::Null),
        ] {
            let mut made = claim(spec.clone(), "Pending");
            prepare_create(&mut made);
            assert_eq!((&made["spec"]["dataSource"], &made["spec"]["dataSourceRef"]), (source, reference), "{spec}");
            assert!(validate(&made).is_empty(), "{spec}");
        }
        let wrong = claim(json!({"dataSource": {"kind": "Pod", "name": ""}}), "Pending");
        let fields: Vec<String> = validate(&wrong).into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["spec.dataSource.name", "spec.dataSource"]);
    }
}
