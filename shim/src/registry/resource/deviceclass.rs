//! DeviceClasses.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::RESOURCE_V1;
use crate::registry::table::{AGE, NAME, age};
use crate::registry::value::{count_spec, first_generation, items, text};
use crate::registry::{ResourceDef, Strategy, meta};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: RESOURCE_V1,
    resource: "deviceclasses",
    singular: "deviceclass",
    kind: "DeviceClass",
    namespaced: false,
    storage: "deviceclasses",
    storage_gv: RESOURCE_V1,
    columns: &[NAME, AGE],
    row,
    returns_deleted: true,
    strategy: &Strategy { prepare_create: first_generation, prepare_update: count_spec, validate, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    selectors(items(&object["spec"]["selectors"]), &Path::new("spec").child("selectors"), &mut errors);
    errors
}

/// Expressions that devices are chosen by.
pub fn selectors(selectors: &[Value], path: &Path, errors: &mut Errors) {
    const MAX_SELECTORS: usize = 32;
    const MAX_EXPRESSION_BYTES: usize = 10 * 1024;
    if selectors.len() > MAX_SELECTORS {
        errors.push(path.too_many(selectors.len(), MAX_SELECTORS));
    }
    for (index, selector) in selectors.iter().enumerate() {
        let path = path.index(index).child("cel");
        if !selector["cel"].is_object() {
            errors.push(path.required(""));
        } else if text(&selector["cel"]["expression"]).len() > MAX_EXPRESSION_BYTES {
            errors.push(path.child("expression").too_long(MAX_EXPRESSION_BYTES));
        }
    }
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    vec![object.name().into(), age(object, now)]
}
