//! StorageClasses.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::warnings::old_label;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::STORAGE_V1;
use crate::registry::names;
use crate::registry::table::{AGE, NAME, age, or, text_column};
use crate::registry::value::{default_text, entries, items, root, same, text};
use crate::registry::{Column, ResourceDef, Strategy, meta};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: STORAGE_V1,
    resource: "storageclasses",
    singular: "storageclass",
    kind: "StorageClass",
    short_names: &["sc"],
    namespaced: false,
    storage: "storageclasses",
    storage_gv: STORAGE_V1,
    columns: COLUMNS,
    row,
    returns_deleted: true,
    strategy: &Strategy { default, validate, validate_update, warnings, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

/// Marks the class of claims that name none.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_BYTES: usize = 256 * 1024;

fn default(object: &mut Object) {
    let map = root(object);
    default_text(map, "reclaimPolicy", "Delete");
    default_text(map, "volumeBindingMode", "Immediate");
}

/// Whether claims without a class get this one.
pub fn is_default(class: &Object) -> bool {
    DEFAULT_CLASS.iter().any(|key| text(&class["metadata"]["annotations"][*key]) == "true")
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let provisioner = text(&object["provisioner"]);
    let path = Path::new("provisioner");
    if provisioner.is_empty() {
        errors.push(path.required(""));
    } else {
        errors.extend(path.all_invalid(provisioner, names::qualified_name(&provisioner.to_lowercase())));
    }
    parameters(&object["parameters"], true, &Path::new("parameters"), &mut errors);
    for (field, supported) in
        [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"])]
    {
        match text(&object[field]) {
            "" => errors.push(Path::new(field).required("")),
            value if !supported.contains(&value) => errors.push(Path::new(field).not_supported(value, &supported)),
            _ => {}
        }
    }
    topologies(items(&object["allowedTopologies"]), &mut errors);
    errors
}

/// Parameters of a class: not too many, and none without a name.
pub fn parameters(parameters: &Value, may_be_empty: bool, path: &Path, errors: &mut Errors) {
    let (mut count, mut total) = (0, 0);
    for (key, value) in entries(parameters) {
        if key.is_empty() {
            errors.push(path.invalid(key.as_str(), "field can not be empty."));
        }
        count += 1;
        total += key.len() + text(value).len();
    }
    if count > MAX_PARAMETERS {
        errors.push(path.child("Provisioner Parameters Length").too_long(MAX_PARAMETERS));
    } else if total > MAX_PARAMETERS_BYTES {
        errors.push(path.too_long(MAX_PARAMETERS_BYTES));
    } else if !may_be_empty && count == 0 {
        errors.push(path.required("must contain at least one key/value pair"));
    }
}

fn topologies(terms: &[Value], errors: &mut Errors) {
    let path = Path::new("allowedTopologies");
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index);
        let expressions = items(&term["matchLabelExpressions"]);
        for (at, expression) in expressions.iter().enumerate() {
            let path = path.child("matchLabelExpressions").index(at);
            let (key, values) = (text(&expression["key"]), items(&expression["values"]));
            errors.extend(path.child("key").all_invalid(key, names::qualified_name(key)));
            if values.is_empty() {
                errors.push(path.child("values").required(""));
            }
            for (index, value) in values.iter().enumerate() {
                if values[..index].contains(value) {
                    errors.push(path.child("values").index(index).duplicate(value.clone()));
                }
            }
            if expressions[..at].iter().any(|earlier| text(&earlier["key"]) == key) {
                errors.push(path.child("key").duplicate(key));
            }
        }
        if terms[..index].iter().any(|earlier| same(earlier, term)) {
            errors.push(path.child("matchLabelExpressions").duplicate(""));
        }
    }
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        meta::immutable(&new[field], &old[field], &Path::new(field), &mut errors);
    }
    errors
}

/// Labels of nodes that have newer names.
fn warnings(class: &Object, _old: Option<&Object>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, term) in items(&class["allowedTopologies"]).iter().enumerate() {
        let path = Path::new("allowedTopologies").index(index).child("matchLabelExpressions");
        for (index, expression) in items(&term["matchLabelExpressions"]).iter().enumerate() {
            let key = text(&expression["key"]);
            if let Some(text) = old_label(key) {
                warnings.push(format!("{}: {key} is {text}", path.index(index).child("key").as_str()));
            }
        }
    }
    warnings
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let name = if is_default(object) { format!("{} (default)", object.name()) } else { object.name().to_owned() };
    vec![
        name.into(),
        text(&object["provisioner"]).into(),
        or(&object["reclaimPolicy"], "Delete"),
        or(&object["volumeBindingMode"], "Immediate"),
        object["allowVolumeExpansion"].as_bool().unwrap_or(false).into(),
        age(object, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Provisioner", "provisioner indicates the type of the provisioner."),
    text_column(
        "ReclaimPolicy",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
    ),
    text_column(
        "VolumeBindingMode",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
    ),
    text_column("AllowVolumeExpansion", "allowVolumeExpansion shows whether the storage class allow volume expand."),
    AGE,
];
