//! ResourceClaims.

use super::deviceclass::selectors;
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::RESOURCE_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{
    clear_status, default_number, default_text, items, items_mut, keep_all_but_status, keep_status, object_mut, same,
    text,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names};
use serde_json::{Map, Value};

pub const DEF: ResourceDef = ResourceDef {
    gv: RESOURCE_V1,
    resource: "resourceclaims",
    singular: "resourceclaim",
    kind: "ResourceClaim",
    storage: "resourceclaims",
    storage_gv: RESOURCE_V1,
    subresources: &[Subresource { name: "status", kind: "ResourceClaim", gv: RESOURCE_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    returns_deleted: true,
    strategy: &Strategy {
        default,
        prepare_create: clear_status,
        prepare_update: keep_status,
        prepare_status: keep_all_but_status,
        validate,
        validate_update,
        validate_status,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

fn default(claim: &mut Object) {
    if let Some(spec) = object_mut(claim, "spec") {
        default_spec(spec);
    }
}

/// Defaults of a claim's spec, of its own or in a template.
pub fn default_spec(spec: &mut Map<String, Value>) {
    let exact = |request: &mut Map<String, Value>| {
        default_text(request, "allocationMode", "ExactCount");
        if request.get("allocationMode").map(text) == Some("ExactCount") {
            default_number(request, "count", 1);
        }
        for toleration in items_mut(request, "tolerations") {
            default_text(toleration, "operator", "Equal");
        }
    };
    let Some(devices) = spec.get_mut("devices").and_then(Value::as_object_mut) else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly").and_then(Value::as_object_mut) {
            exact(exactly);
        }
        items_mut(request, "firstAvailable").for_each(exact);
    }
}

fn validate(claim: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(claim);
    spec(&claim["spec"], &Path::new("spec"), &mut errors);
    errors
}

const MAX_REQUESTS: usize = 32;
const MAX_FIRST_AVAILABLE: usize = 8;

/// Rules of a claim's spec, of its own or in a template.
pub fn spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let (devices, path) = (&spec["devices"], path.child("devices"));
    let (requests, path_of_requests) = (items(&devices["requests"]), path.child("requests"));
    if requests.len() > MAX_REQUESTS {
        errors.push(path_of_requests.too_many(requests.len(), MAX_REQUESTS));
    }
    let mut known = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let path = path_of_requests.index(index);
        let name = text(&request["name"]);
        request_name(name, &known, &path, errors);
        known.push(name.to_owned());
        let (exactly, list) = (&request["exactly"], items(&request["firstAvailable"]));
        match (exactly.is_object(), list.is_empty()) {
            (true, true) => self::request(exactly, &path.child("exactly"), errors),
            (false, false) => {
                if list.len() > MAX_FIRST_AVAILABLE {
                    errors.push(path.child("firstAvailable").too_many(list.len(), MAX_FIRST_AVAILABLE));
                }
                for (at, sub) in list.iter().enumerate() {
                    let path = path.child("firstAvailable").index(at);
                    let sub_name = format!("{name}/{}", text(&sub["name"]));
                    let earlier: Vec<String> = list[..at].iter().map(|s| text(&s["name"]).to_owned()).collect();
                    request_name(text(&sub["name"]), &earlier, &path, errors);
                    known.push(sub_name);
                    self::request(sub, &path, errors);
                }
            }
            (true, false) => {
                errors.push(path.invalid(
                    "",
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                ))
            }
            (false, true) => errors.push(path.required("exactly one of `exactly` or `firstAvailable` is required")),
        }
    }
    for (list, field) in [("constraints", "requests"), ("config", "requests")] {
        for (index, entry) in items(&devices[list]).iter().enumerate() {
            let path = path.child(list).index(index).child(field);
            for (at, name) in items(&entry[field]).iter().map(text).enumerate() {
                if !known.iter().any(|request| request == name) {
                    let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                    errors.push(path.index(at).invalid(name, detail));
                }
            }
        }
    }
}

fn request_name(name: &str, known: &[String], path: &Path, errors: &mut Errors) {
    let path = path.child("name");
    if name.is_empty() {
        errors.push(path.required(""));
        return;
    }
    errors.extend(path.all_invalid(name, names::dns1123_label(name, false)));
    if known.iter().any(|earlier| earlier == name) {
        errors.push(path.duplicate(name));
    }
}

fn request(request: &Value, path: &Path, errors: &mut Errors) {
    match text(&request["deviceClassName"]) {
        "" => errors.push(path.child("deviceClassName").required("")),
        class => {
            errors.extend(path.child("deviceClassName").all_invalid(class, names::dns1123_subdomain(class, false)));
        }
    }
    selectors(items(&request["selectors"]), &path.child("selectors"), errors);
    let count = request["count"].as_i64().unwrap_or(0);
    match text(&request["allocationMode"]) {
        "All" if count != 0 => {
            errors.push(path.child("count").invalid(count, "must not be specified when allocationMode is 'All'"));
        }
        "All" => {}
        "ExactCount" if count <= 0 => errors.push(path.child("count").invalid(count, "must be greater than zero")),
        "ExactCount" => {}
        other => errors.push(path.child("allocationMode").not_supported(other, &["All", "ExactCount"])),
    }
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    if !same(&new["spec"], &old["spec"]) {
        errors.push(Path::new("spec").invalid(new["spec"].clone(), "field is immutable"));
    }
    errors
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (status, before, path) = (&new["status"], &old["status"], Path::new("status"));
    let reserved = items(&status["reservedFor"]);
    let own = path.child("reservedFor");
    for (index, consumer) in reserved.iter().enumerate() {
        if text(&consumer["resource"]).is_empty() {
            errors.push(own.index(index).child("resource").required(""));
        }
        for field in ["name", "uid"] {
            if text(&consumer[field]).is_empty() {
                errors.push(own.index(index).child(field).required(""));
            }
        }
        if reserved[..index].iter().any(|earlier| earlier["uid"] == consumer["uid"]) {
            errors.push(own.index(index).child("uid").duplicate(consumer["uid"].clone()));
        }
    }
    if !reserved.is_empty() && !status["allocation"].is_object() {
        errors.push(own.forbidden("may not be specified when `allocated` is not set"));
    }
    if before["allocation"].is_object()
        && status["allocation"].is_object()
        && !same(&before["allocation"], &status["allocation"])
    {
        errors.push(path.child("allocation").invalid(status["allocation"].clone(), "field is immutable"));
    }
    errors
}

fn row(claim: &Object, now: i64) -> Vec<Value> {
    let status = &claim["status"];
    let mut states = Vec::new();
    if claim.deletion_timestamp().is_some() {
        states.push("deleted");
    }
    if !status["allocation"].is_object() {
        if claim.deletion_timestamp().is_none() {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if !items(&status["reservedFor"]).is_empty() {
            states.push("reserved");
        }
    }
    vec![claim.name().into(), states.join(",").into(), age(claim, now)]
}

const COLUMNS: &[Column] =
    &[NAME, text_column("State", "A summary of the current state (allocated, pending, reserved, etc.)."), AGE];
