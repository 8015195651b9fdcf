//! CSINodes: which drivers run on a node.

use super::csidriver::driver_name;
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::STORAGE_V1;
use crate::registry::table::{AGE, NAME, age, integer};
use crate::registry::value::{items, same, text};
use crate::registry::{Column, ResourceDef, Strategy, meta, names, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: STORAGE_V1,
    resource: "csinodes",
    singular: "csinode",
    kind: "CSINode",
    namespaced: false,
    storage: "csinodes",
    storage_gv: STORAGE_V1,
    columns: COLUMNS,
    row,
    returns_deleted: true,
    strategy: &Strategy { validate, validate_update, allow_unconditional_update: false, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

const MAX_NODE_ID_BYTES: usize = 256;

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let path = Path::new("spec").child("drivers");
    let drivers = items(&object["spec"]["drivers"]);
    for (index, driver) in drivers.iter().enumerate() {
        let path = path.index(index);
        let (name, id) = (text(&driver["name"]), text(&driver["nodeID"]));
        driver_name(name, &path.child("name"), &mut errors);
        if id.is_empty() {
            errors.push(path.child("nodeID").required(""));
        } else if id.len() > MAX_NODE_ID_BYTES {
            let detail = format!("must be {MAX_NODE_ID_BYTES} characters or less");
            errors.push(path.child("nodeID").invalid(id, &detail));
        }
        template::non_negative(&driver["allocatable"], &["count"], &path.child("allocatable"), &mut errors);
        let keys = items(&driver["topologyKeys"]);
        for (at, key) in keys.iter().map(text).enumerate() {
            if key.is_empty() {
                errors.push(path.required(key));
            }
            if keys[..at].iter().any(|earlier| text(earlier) == key) {
                errors.push(path.duplicate(key));
            }
            errors.extend(path.all_invalid(key, names::qualified_name(key)));
        }
        if drivers[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
            errors.push(path.child("name").duplicate(name));
        }
    }
    errors
}

/// A driver stays as it is until it leaves.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("spec").child("drivers");
    let drivers = |object: &Object| items(&object["spec"]["drivers"]).to_vec();
    for before in drivers(old) {
        for (index, now) in drivers(new).iter().enumerate().filter(|(_, d)| d["name"] == before["name"]) {
            let fixed = |driver: &Value| template::without(driver, &["allocatable"]);
            if !same(&fixed(now), &fixed(&before)) {
                errors.push(path.index(index).invalid(now.clone(), "field is immutable"));
            }
        }
    }
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    vec![object.name().into(), items(&object["spec"]["drivers"]).len().into(), age(object, now)]
}

const COLUMNS: &[Column] =
    &[NAME, integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), AGE];
