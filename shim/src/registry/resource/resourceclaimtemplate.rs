//! ResourceClaimTemplates: claims to be made for pods.

use super::resourceclaim;
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::RESOURCE_V1;
use crate::registry::table::{AGE, NAME, age};
use crate::registry::value::{object_mut, same};
use crate::registry::{ResourceDef, Strategy, labels, meta};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: RESOURCE_V1,
    resource: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    kind: "ResourceClaimTemplate",
    storage: "resourceclaimtemplates",
    storage_gv: RESOURCE_V1,
    columns: &[NAME, AGE],
    row,
    returns_deleted: true,
    strategy: &Strategy { default, validate, validate_update, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn default(template: &mut Object) {
    if let Some(spec) = object_mut(template, "spec").and_then(|spec| spec.get_mut("spec")?.as_object_mut()) {
        resourceclaim::default_spec(spec);
    }
}

fn validate(template: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(template);
    let (spec, path) = (&template["spec"], Path::new("spec"));
    labels::validate(&spec["metadata"]["labels"], &path.child("metadata").child("labels"), &mut errors);
    meta::annotations(&spec["metadata"]["annotations"], &path.child("metadata").child("annotations"), &mut errors);
    resourceclaim::spec(&spec["spec"], &path.child("spec"), &mut errors);
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    if !same(&new["spec"], &old["spec"]) {
        errors.push(Path::new("spec").invalid(new["spec"].clone(), "field is immutable"));
    }
    errors
}

fn row(template: &Object, now: i64) -> Vec<Value> {
    vec![template.name().into(), age(template, now)]
}
