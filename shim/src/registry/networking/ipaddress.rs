//! IPAddresses: who uses which address of the service ranges.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::NETWORKING_V1;
use crate::registry::table::{NAME, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, Strategy, meta, meta_fields, names};
use crate::selector::Pairs;
use serde_json::Value;
use std::net::IpAddr;

pub const DEF: ResourceDef = ResourceDef {
    gv: NETWORKING_V1,
    resource: "ipaddresses",
    singular: "ipaddress",
    kind: "IPAddress",
    short_names: &["ip"],
    namespaced: false,
    storage: "ipaddresses",
    storage_gv: NETWORKING_V1,
    columns: COLUMNS,
    row,
    selectable: &["spec.parentRef.namespace", "spec.parentRef.name", "spec.parentRef.resource"],
    fields,
    strategy: &Strategy { validate, validate_update, validate_name: name, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

fn fields(object: &Object) -> Pairs {
    let mut pairs = meta_fields(object);
    for field in ["namespace", "name", "resource"] {
        let value = text(&object["spec"]["parentRef"][field]);
        pairs.insert(format!("spec.parentRef.{field}").into(), value.into());
    }
    pairs
}

/// An object is named after its address, as Go writes it.
fn name(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(_) => vec!["must be a canonical IP address".to_owned()],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate(object, false, name);
    let (parent, path) = (&object["spec"]["parentRef"], Path::new("spec").child("parentRef"));
    if !parent.is_object() {
        errors.push(path.required(""));
        return errors;
    }
    let group = text(&parent["group"]);
    if !group.is_empty() {
        errors.extend(path.child("group").all_invalid(group, names::dns1123_subdomain(group, false)));
    }
    for (field, required) in [("resource", true), ("namespace", false), ("name", true)] {
        match text(&parent[field]) {
            "" if required => errors.push(path.child(field).required("")),
            "" => {}
            value => errors.extend(path.child(field).all_invalid(value, names::path_segment(value, false))),
        }
    }
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("spec").child("parentRef");
    meta::immutable(&new["spec"]["parentRef"], &old["spec"]["parentRef"], &path, &mut errors);
    errors
}

fn row(object: &Object, _now: i64) -> Vec<Value> {
    let parent = &object["spec"]["parentRef"];
    let mut shown = text(&parent["resource"]).to_lowercase();
    if !text(&parent["group"]).is_empty() {
        shown = format!("{shown}.{}", text(&parent["group"]));
    }
    if !text(&parent["namespace"]).is_empty() {
        shown = format!("{shown}/{}", text(&parent["namespace"]));
    }
    vec![object.name().into(), format!("{shown}/{}", text(&parent["name"])).into()]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "ParentRef",
        "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.",
    ),
];
