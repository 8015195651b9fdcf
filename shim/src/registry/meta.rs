//! Rules of `metadata` on create and update: `ValidateObjectMeta` and `ValidateObjectMetaUpdate`.

use super::field::{Errors, Path};
use super::names::{self, NameRule};
use super::value::{entries, items, text, truth};
use super::{Strategy, labels};
use crate::meta::{Meta, Object};
use serde_json::Value;

/// Annotations of one object together, keys and values.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Metadata of a namespaced object whose name is a DNS subdomain.
pub fn validate_namespaced(object: &Object) -> Errors {
    validate(object, true, names::dns1123_subdomain)
}

/// Metadata of a cluster-scoped object whose name is a DNS subdomain.
pub fn validate_cluster(object: &Object) -> Errors {
    validate(object, false, names::dns1123_subdomain)
}

/// Metadata by the scope and name rule of its kind.
pub fn validate(object: &Object, namespaced: bool, rule: NameRule) -> Errors {
    let path = Path::new("metadata");
    let mut errors = Errors::new();
    let generate_name = object.meta_str("generateName");
    if !generate_name.is_empty() {
        errors.extend(path.child("generateName").all_invalid(generate_name, rule(generate_name, true)));
    }
    match object.name() {
        "" => errors.push(path.child("name").required("name or generateName is required")),
        name => errors.extend(path.child("name").all_invalid(name, rule(name, false))),
    }
    let namespace = object.namespace();
    if !namespaced && !namespace.is_empty() {
        errors.push(path.child("namespace").forbidden("not allowed on this type"));
    } else if namespaced && namespace.is_empty() {
        errors.push(path.child("namespace").required(""));
    } else if namespaced {
        errors.extend(path.child("namespace").all_invalid(namespace, names::dns1123_label(namespace, false)));
    }
    shared(&object["metadata"], &path, &mut errors);
    errors
}

/// What create and update check alike.
fn shared(meta: &Value, path: &Path, errors: &mut Errors) {
    if meta["generation"].as_i64().is_some_and(|g| g < 0) {
        errors.push(path.child("generation").invalid(meta["generation"].clone(), "must be greater than or equal to 0"));
    }
    labels::validate(&meta["labels"], &path.child("labels"), errors);
    annotations(&meta["annotations"], &path.child("annotations"), errors);
    owner_references(&meta["ownerReferences"], &path.child("ownerReferences"), errors);
    let finalizers: Vec<&str> = items(&meta["finalizers"]).iter().map(text).collect();
    for (index, finalizer) in finalizers.iter().enumerate() {
        validate_finalizer(finalizer, &path.child("finalizers").index(index), errors);
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        errors.push(
            path.child("finalizers")
                .invalid(meta["finalizers"].clone(), "finalizers orphan and foregroundDeletion cannot be both set"),
        );
    }
}

/// A standard finalizer or a qualified name.
pub fn validate_finalizer(finalizer: &str, path: &Path, errors: &mut Errors) {
    errors.extend(path.all_invalid(finalizer, names::qualified_name(finalizer)));
    if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
        errors.push(path.invalid(finalizer, "name is neither a standard finalizer name nor is it fully qualified"));
    }
}

/// Keys (in any case) and the total size; templates have annotations too.
pub fn annotations(annotations: &Value, path: &Path, errors: &mut Errors) {
    let mut total = 0;
    for (key, value) in entries(annotations) {
        errors.extend(path.all_invalid(key, names::qualified_name(&key.to_lowercase())));
        total += key.len() + text(value).len();
    }
    if total > ANNOTATIONS_MAX_BYTES {
        errors.push(path.too_long(ANNOTATIONS_MAX_BYTES));
    }
}

fn owner_references(references: &Value, path: &Path, errors: &mut Errors) {
    let mut controller: Option<&Value> = None;
    for reference in items(references) {
        let version = text(&reference["apiVersion"]).rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.push(path.child("apiVersion").invalid(text(&reference["apiVersion"]), "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if text(&reference[field]).is_empty() {
                errors.push(path.child(field).invalid("", "must not be empty"));
            }
        }
        if reference["apiVersion"] == "v1" && reference["kind"] == "Event" {
            errors.push(path.invalid(reference.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if !truth(&reference["controller"]) {
            continue;
        }
        if let Some(first) = controller {
            let name = |r: &Value| format!("{}/{}", text(&r["kind"]), text(&r["name"]));
            let detail = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                name(first),
                name(reference)
            );
            errors.push(path.invalid(references.clone(), &detail));
        }
        controller = Some(reference);
    }
}

/// Metadata of an update: what may not change, and all that create checks but the name.
pub fn validate_update(new: &Object, old: &Object) -> Errors {
    let path = Path::new("metadata");
    let (meta, before) = (&new["metadata"], &old["metadata"]);
    let mut errors = Errors::new();
    if old.deletion_timestamp().is_some() {
        let old_finalizers = old.finalizers();
        let added: Vec<String> =
            new.finalizers().iter().filter(|f| !old_finalizers.contains(f)).map(|f| super::field::quoted(f)).collect();
        if !added.is_empty() {
            errors.push(path.child("finalizers").forbidden(&format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            )));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(&meta[field], &before[field], &path.child(field), &mut errors);
    }
    if meta["generation"].as_i64().unwrap_or(0) < before["generation"].as_i64().unwrap_or(0) {
        errors.push(path.child("generation").invalid(meta["generation"].clone(), "must not be decremented"));
    }
    shared(meta, &path, &mut errors);
    errors
}

/// `ValidateImmutableField`.
pub fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let empty = |v: &Value| super::value::is_empty(v);
    if new != old && !(empty(new) && empty(old)) {
        errors.push(path.invalid(new.clone(), "field is immutable"));
    }
}

impl Strategy {
    /// `BASIC` for cluster-scoped kinds.
    pub const CLUSTER: Self = Self { validate: validate_cluster, ..Self::BASIC };
}
