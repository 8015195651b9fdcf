//! RuntimeClasses.

use crate::meta::{Meta, Object};
use crate::registry::gv::NODE_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, Strategy};
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
    strategy: &Strategy { allow_unconditional_update: false, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn row(class: &Object, now: i64) -> Vec<Value> {
    vec![class.name().into(), text(&class["handler"]).into(), age(class, now)]
}

const COLUMNS: &[Column] = &[NAME, text_column("Handler", ""), AGE];
