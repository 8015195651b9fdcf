//! PodTemplates.

use crate::meta::{Meta, Object};
use crate::registry::table::{NAME, containers, format_labels, text_column};
use crate::registry::{Column, ResourceDef};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "podtemplates",
    singular: "podtemplate",
    kind: "PodTemplate",
    storage: "podtemplates",
    columns: COLUMNS,
    row,
    ..ResourceDef::BASIC
};

fn row(object: &Object, _now: i64) -> Vec<Value> {
    let (names, images) = containers(&object["template"]["spec"]);
    let labels = format_labels(&object["template"]["metadata"]["labels"]);
    vec![object.name().into(), names.into(), images.into(), labels.into()]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Containers", "Names of each container in the template."),
    text_column("Images", "Images referenced by each container in the template."),
    text_column("Pod Labels", "The labels for the pod template."),
];
