//! ControllerRevisions: what stateful sets and daemon sets roll back to.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::APPS_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{items, text, truth};
use crate::registry::{Column, ResourceDef, Strategy, meta, template};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: APPS_V1,
    resource: "controllerrevisions",
    singular: "controllerrevision",
    kind: "ControllerRevision",
    storage: "controllerrevisions",
    storage_gv: APPS_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy { validate, validate_update, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    if object["data"].is_null() {
        errors.push(Path::new("data").required("data is mandatory"));
    }
    template::non_negative(object, &["revision"], &Path::new(""), &mut errors);
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    meta::immutable(&new["data"], &old["data"], &Path::new("data"), &mut errors);
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let owners = items(&object["metadata"]["ownerReferences"]);
    let controller = owners.iter().find(|o| truth(&o["controller"])).map_or("<none>".to_owned(), |owner| {
        let (group, _) = text(&owner["apiVersion"]).split_once('/').unwrap_or(("", ""));
        let kind = text(&owner["kind"]).to_lowercase();
        let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
        format!("{kind}/{}", text(&owner["name"]))
    });
    let revision = object["revision"].as_i64().unwrap_or(0);
    vec![object.name().into(), controller.into(), revision.into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Controller", "Controller of the object"),
    text_column("Revision", "Revision indicates the revision of the state represented by Data."),
    AGE,
];
