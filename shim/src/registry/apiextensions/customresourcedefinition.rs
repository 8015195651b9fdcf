//! CustomResourceDefinitions: defaults, what updates may change, and the rules of everything but the schemas.

mod approval;
pub mod names;
mod schema;
#[cfg(test)]
mod tests;

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::APIEXTENSIONS_V1;
use crate::registry::meta::{immutable, validate_cluster, validate_update as validate_meta_update};
use crate::registry::names::{dns1035_label, dns1123_subdomain};
use crate::registry::value::{
    bump_generation, carry_over, default_text, default_value, items, object_entry, root, text, truth,
};
use crate::registry::{ResourceDef, STATUS_VERBS, Strategy, Subresource};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Holds a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// A deprecation warning of a version may be this long.
const MAX_WARNING_BYTES: usize = 256;

pub const DEF: ResourceDef = ResourceDef {
    gv: APIEXTENSIONS_V1,
    resource: "customresourcedefinitions",
    singular: "customresourcedefinition",
    kind: "CustomResourceDefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    storage: "apiextensions.k8s.io/customresourcedefinitions",
    storage_gv: APIEXTENSIONS_V1,
    subresources: &[Subresource {
        name: "status",
        kind: "CustomResourceDefinition",
        gv: APIEXTENSIONS_V1,
        verbs: STATUS_VERBS,
    }],
    strategy: &Strategy {
        default,
        prepare_create,
        prepare_update,
        prepare_status,
        validate,
        validate_update,
        validate_status,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

fn default(object: &mut Object) {
    let map = root(object);
    let spec = object_entry(map, "spec");
    default_value(spec, "conversion", json!({"strategy": "None"}));
    let webhook =
        spec.get_mut("conversion").and_then(|conversion| conversion.pointer_mut("/webhook/clientConfig/service"));
    if let Some(service) = webhook.and_then(Value::as_object_mut) {
        default_value(service, "port", 443);
    }
    let names = object_entry(spec, "names");
    let kind = names.get("kind").map(text).unwrap_or("").to_owned();
    if !kind.is_empty() {
        default_text(names, "singular", &kind.to_lowercase());
        default_text(names, "listKind", &format!("{kind}List"));
    }
}

fn storage_version(spec: &Value) -> Option<&str> {
    items(&spec["versions"]).iter().find(|version| truth(&version["storage"])).map(|version| text(&version["name"]))
}

/// A version that objects are stored in from now on is remembered.
fn remember_storage(object: &mut Object) {
    let Some(version) = storage_version(&object["spec"]).map(str::to_owned) else { return };
    let status = object_entry(root(object), "status");
    match status.get_mut("storedVersions").and_then(Value::as_array_mut) {
        Some(stored) if stored.iter().any(|known| *known == version) => {}
        Some(stored) => stored.push(version.into()),
        None => drop(status.insert("storedVersions".into(), json!([version]))),
    }
}

fn prepare_create(object: &mut Object) {
    root(object).insert("status".into(), json!({"acceptedNames": {"plural": "", "kind": ""}}));
    object.meta_mut().insert("generation".into(), 1.into());
    remember_storage(object);
}

fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
    let changed = new["spec"] != old["spec"];
    bump_generation(new, old, changed);
    remember_storage(new);
}

fn prepare_status(new: &mut Object, old: &Object) {
    carry_over(new, old, "spec");
    let managed = new["metadata"]["managedFields"].clone();
    carry_over(new, old, "metadata");
    if !managed.is_null() {
        new.meta_mut().insert("managedFields".into(), managed);
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = validate_cluster(object);
    let spec = &object["spec"];
    // Of updates these are not asked: names cannot change, approvals are held against `old`.
    if object["metadata"]["resourceVersion"].is_null() {
        let name = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
        if object.name() != name && !object.name().is_empty() {
            let path = Path::new("metadata").child("name");
            errors.push(path.invalid(object.name(), "must be spec.names.plural+\".\"+spec.group"));
        }
        approval::rules(object, None, &mut errors);
    }
    spec_rules(spec, &Path::new("spec"), &mut errors);
    names::rules(&object["status"]["acceptedNames"], &Path::new("status").child("acceptedNames"), &mut errors);
    stored_versions(object, &mut errors);
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = validate_meta_update(new, old);
    let (spec, before) = (&new["spec"], &old["spec"]);
    let path = Path::new("spec");
    if names::is_true(old, "Established") {
        immutable(&spec["scope"], &before["scope"], &path.child("scope"), &mut errors);
        let kind = path.child("names").child("kind");
        immutable(&spec["names"]["kind"], &before["names"]["kind"], &kind, &mut errors);
    }
    immutable(&spec["group"], &before["group"], &path.child("group"), &mut errors);
    let plural = path.child("names").child("plural");
    immutable(&spec["names"]["plural"], &before["names"]["plural"], &plural, &mut errors);
    approval::rules(new, Some(old), &mut errors);
    errors
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = validate_meta_update(new, old);
    names::rules(&new["status"]["acceptedNames"], &Path::new("status").child("acceptedNames"), &mut errors);
    stored_versions(new, &mut errors);
    errors
}

/// A version in which objects may still be stored must stay.
fn stored_versions(object: &Object, errors: &mut Errors) {
    let path = Path::new("status").child("storedVersions");
    let versions = items(&object["spec"]["versions"]);
    let names: Vec<&str> = versions.iter().map(|version| text(&version["name"])).collect();
    let list = &object["status"]["storedVersions"];
    let stored = items(list);
    if stored.is_empty() {
        errors.push(path.invalid(list.clone(), "must have at least one stored version"));
    } else {
        for version in versions.iter().filter(|version| truth(&version["storage"])) {
            if !stored.contains(&version["name"]) {
                let text = format!("must have the storage version {}", text(&version["name"]));
                errors.push(path.invalid(list.clone(), &text));
            }
        }
    }
    for (index, version) in stored.iter().map(text).enumerate() {
        if !names.contains(&version) {
            let text = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {version} and removes {version} from \
                 status.storedVersions"
            );
            errors.push(path.index(index).invalid(version, &text));
        }
    }
}

fn spec_rules(spec: &Value, path: &Path, errors: &mut Errors) {
    let group = text(&spec["group"]);
    let wrong = dns1123_subdomain(group, false);
    if group.is_empty() {
        errors.push(path.child("group").required(""));
    } else if !wrong.is_empty() {
        errors.push(path.child("group").invalid(group, &wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(path.child("group").invalid(group, "should be a domain with at least one dot"));
    }
    match text(&spec["scope"]) {
        "" => errors.push(path.child("scope").required("")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(path.child("scope").not_supported(other, &["Cluster", "Namespaced"])),
    }
    if truth(&spec["preserveUnknownFields"]) {
        errors.push(path.child("preserveUnknownFields").invalid(
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
    versions(&spec["versions"], path, errors);
    let names_path = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"][field]).is_empty() {
            errors.push(names_path.child(field).required(""));
        }
    }
    names::rules(&spec["names"], &names_path, errors);
    conversion(&spec["conversion"], &path.child("conversion"), errors);
}

fn versions(list: &Value, spec: &Path, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    let mut unique = true;
    let path = spec.child("versions");
    for (index, version) in items(list).iter().enumerate() {
        let path = path.index(index);
        let name = text(&version["name"]);
        unique &= names.insert(name);
        let wrong = dns1035_label(name, false);
        if !wrong.is_empty() {
            errors.push(path.child("name").invalid(name, &wrong.join(",")));
        }
        if let Some(warning) = version["deprecationWarning"].as_str() {
            let path = path.child("deprecationWarning");
            if !truth(&version["deprecated"]) {
                errors.push(path.invalid(warning, "can only be set for deprecated versions"));
            }
            if warning.is_empty() {
                errors.push(path.invalid(warning, "cannot be empty"));
            } else if warning.len() > MAX_WARNING_BYTES {
                errors.push(path.invalid(warning, &format!("must be <= {MAX_WARNING_BYTES} characters long")));
            } else if warning.chars().any(char::is_control) {
                errors.push(path.invalid(warning, "must only contain printable UTF-8 characters"));
            }
        }
    }
    schema::versions(items(list), spec, errors);
    if let [first, ..] = items(list) {
        // Upstream's internal type names the first version once more.
        let name = text(&first["name"]);
        let wrong = dns1035_label(name, false);
        if !wrong.is_empty() {
            errors.push(spec.child("version").invalid(name, &wrong.join(",")));
        }
    }
    if !unique {
        errors.push(path.invalid(internal(list), "must contain unique version names"));
    }
    if items(list).iter().filter(|version| truth(&version["storage"])).count() != 1 {
        errors.push(path.invalid(internal(list), "must have exactly one version marked as storage version"));
    }
}

/// The versions as upstream's internal type shows them in errors, when what they share is left out.
fn internal(list: &Value) -> Value {
    let version = |version: &Value| {
        let mut shown = Map::new();
        shown.insert("Name".into(), version["name"].clone());
        for (field, key) in [("Served", "served"), ("Storage", "storage"), ("Deprecated", "deprecated")] {
            shown.insert(field.into(), truth(&version[key]).into());
        }
        shown.insert("DeprecationWarning".into(), version["deprecationWarning"].clone());
        for field in ["Schema", "Subresources", "AdditionalPrinterColumns", "SelectableFields"] {
            shown.insert(field.into(), Value::Null);
        }
        Value::Object(shown)
    };
    items(list).iter().map(version).collect()
}

fn conversion(conversion: &Value, path: &Path, errors: &mut Errors) {
    let webhook = &conversion["webhook"];
    match text(&conversion["strategy"]) {
        "" => errors.push(path.child("strategy").required("")),
        "None" => {
            if !webhook.is_null() {
                errors.push(path.child("webhook").forbidden("should not be set when strategy is not set to Webhook"));
            }
        }
        "Webhook" => {
            // Upstream's internal type has these beside the strategy.
            let client = &webhook["clientConfig"];
            let (url, service) = (!client["url"].is_null(), !client["service"].is_null());
            let own = path.child("webhookClientConfig");
            if client.is_null() {
                errors.push(own.required("required when strategy is set to Webhook"));
            } else if url == service {
                errors.push(own.required("exactly one of url or service is required"));
            }
            review_versions(
                items(&webhook["conversionReviewVersions"]),
                &path.child("conversionReviewVersions"),
                errors,
            );
        }
        other => errors.push(path.child("strategy").not_supported(other, &["None", "Webhook"])),
    }
}

/// The versions of ConversionReview that a webhook takes: one of them must be one that the server sends.
fn review_versions(versions: &[Value], path: &Path, errors: &mut Errors) {
    const KNOWN: [&str; 2] = ["v1", "v1beta1"];
    if versions.is_empty() {
        return errors.push(path.required(""));
    }
    for (index, version) in versions.iter().enumerate() {
        let wrong = dns1035_label(text(version), false);
        if !wrong.is_empty() {
            errors.push(path.index(index).invalid(text(version), &wrong.join(",")));
        } else if versions[..index].contains(version) {
            errors.push(path.index(index).invalid(text(version), "duplicate version"));
        }
    }
    if !versions.iter().any(|version| KNOWN.contains(&text(version))) {
        let text = format!("must include at least one of {}", KNOWN.join(", "));
        errors.push(path.invalid(Value::Array(versions.to_vec()), &text));
    }
}
