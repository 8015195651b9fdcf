//! RuntimeClasses.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::NODE_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, Strategy, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: NODE_V1,
    resource: "runtimeclasses",
    singular: "runtimeclass",
    kind: "RuntimeClass",
    namespaced: false,
    storage: "runtimeclasses",
    storage_gv: NODE_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy { validate, validate_update, allow_unconditional_update: false, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

fn validate(class: &Object) -> Errors {
    let mut errors = meta::validate_cluster(class);
    let handler = text(&class["handler"]);
    errors.extend(Path::new("handler").all_invalid(handler, names::dns1123_label(handler, false)));
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    meta::immutable(&new["handler"], &old["handler"], &Path::new("handler"), &mut errors);
    errors
}

fn row(class: &Object, now: i64) -> Vec<Value> {
    vec![class.name().into(), text(&class["handler"]).into(), age(class, now)]
}

const COLUMNS: &[Column] = &[NAME, text_column("Handler", ""), AGE];
