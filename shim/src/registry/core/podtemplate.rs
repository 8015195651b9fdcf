//! PodTemplates.

use crate::meta::{Meta, Object};
use crate::registry::core::pod;
use crate::registry::field::{Errors, Path};
use crate::registry::table::{NAME, containers, format_labels, text_column};
use crate::registry::value::{bump_generation, object_mut};
use crate::registry::{Column, ResourceDef, Strategy, meta};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "podtemplates",
    singular: "podtemplate",
    kind: "PodTemplate",
    storage: "podtemplates",
    returns_deleted: true,
    columns: COLUMNS,
    row,
    strategy: &Strategy { default, prepare_create, prepare_update, validate, warnings, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn default(object: &mut Object) {
    if let Some(spec) = object.get_mut("template").and_then(|template| object_mut(template, "spec")) {
        pod::default::pod_spec(spec, false);
    }
}

fn prepare_create(object: &mut Object) {
    object.meta_mut().insert("generation".to_owned(), 1.into());
}

fn prepare_update(new: &mut Object, old: &Object) {
    let changed = new["template"] != old["template"];
    bump_generation(new, old, changed);
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    pod::validate::template(&object["template"], &Path::new("template"), &mut errors);
    errors
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none_or(|old| old["template"] != new["template"]) {
        pod::warnings::template(&new["template"], &Path::new("template"), &mut warnings);
    }
    warnings
}

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
