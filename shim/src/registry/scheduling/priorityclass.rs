//! PriorityClasses.

use crate::meta::{Meta, Object};
use crate::registry::gv::SCHEDULING_V1;
use crate::registry::table::{AGE, NAME, age, boolean, integer, text_column};
use crate::registry::value::{text, truth};
use crate::registry::{Column, ResourceDef};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: SCHEDULING_V1,
    resource: "priorityclasses",
    singular: "priorityclass",
    kind: "PriorityClass",
    short_names: &["pc"],
    namespaced: false,
    storage: "priorityclasses",
    storage_gv: SCHEDULING_V1,
    columns: COLUMNS,
    row,
    ..ResourceDef::BASIC
};

fn row(class: &Object, now: i64) -> Vec<Value> {
    vec![
        class.name().into(),
        class["value"].as_i64().unwrap_or(0).into(),
        truth(&class["globalDefault"]).into(),
        age(class, now),
        text(&class["preemptionPolicy"]).into(),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    integer(
        "Value",
        "value represents the integer value of this priority class. This is the actual priority that pods receive when they have the name of this class in their pod spec.",
    ),
    boolean(
        "Global-Default",
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class. Only one PriorityClass can be marked as `globalDefault`. However, if more than one PriorityClasses exists with their `globalDefault` field set to true, the smallest value of such global default PriorityClasses will be used as the default priority.",
    ),
    AGE,
    text_column(
        "PreemptionPolicy",
        "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, PreemptLowerPriority. Defaults to PreemptLowerPriority if unset.",
    ),
];
