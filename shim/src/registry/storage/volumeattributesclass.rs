//! VolumeAttributesClasses: what may be changed of a volume that is in use.

use super::csidriver::driver_name;
use super::storageclass::parameters;
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::STORAGE_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, Strategy, meta};
use serde_json::{Value, json};

pub const DEF: ResourceDef = ResourceDef {
    gv: STORAGE_V1,
    resource: "volumeattributesclasses",
    singular: "volumeattributesclass",
    kind: "VolumeAttributesClass",
    short_names: &["vac"],
    namespaced: false,
    storage: "volumeattributesclasses",
    storage_gv: STORAGE_V1,
    columns: COLUMNS,
    row,
    returns_deleted: true,
    strategy: &Strategy { prepare_create, validate, validate_update, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

/// Removed by the controller that sees to it that nothing in use is deleted.
const PROTECTION: &str = "kubernetes.io/vac-protection";

fn prepare_create(object: &mut Object) {
    let finalizers = object.meta_mut().entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|f| text(f) == PROTECTION)
    {
        list.push(PROTECTION.into());
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    driver_name(text(&object["driverName"]), &Path::new("driverName"), &mut errors);
    parameters(&object["parameters"], false, &Path::new("parameters"), &mut errors);
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    for field in ["driverName", "parameters"] {
        meta::immutable(&new[field], &old[field], &Path::new(field), &mut errors);
    }
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    vec![object.name().into(), text(&object["driverName"]).into(), age(object, now)]
}

const COLUMNS: &[Column] = &[NAME, text_column("DriverName", "Name of the CSI driver This field is immutable."), AGE];
