//! IngressClasses.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::NETWORKING_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{count_spec, default_text, first_generation, object_mut, text};
use crate::registry::{Column, ResourceDef, Strategy, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: NETWORKING_V1,
    resource: "ingressclasses",
    singular: "ingressclass",
    kind: "IngressClass",
    namespaced: false,
    storage: "ingressclasses",
    storage_gv: NETWORKING_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: first_generation,
        prepare_update: count_spec,
        validate,
        validate_update,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

/// Marks the class of ingresses that name none.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Whether ingresses without a class get this one.
pub fn is_default(class: &Object) -> bool {
    text(&class["metadata"]["annotations"][DEFAULT_CLASS]) == "true"
}

const MAX_CONTROLLER_BYTES: usize = 250;

fn default(object: &mut Object) {
    if let Some(parameters) = object_mut(object, "spec").and_then(|spec| spec.get_mut("parameters")?.as_object_mut()) {
        default_text(parameters, "scope", "Cluster");
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let controller = text(&spec["controller"]);
    if controller.len() > MAX_CONTROLLER_BYTES {
        errors.push(path.child("controller").too_long(MAX_CONTROLLER_BYTES));
    }
    prefixed_path(controller, &path.child("controller"), &mut errors);
    if spec["parameters"].is_object() {
        parameters(&spec["parameters"], &path.child("parameters"), &mut errors);
    }
    errors
}

/// `IsDomainPrefixedPath`: `acme.io/foo`.
pub fn prefixed_path(value: &str, path: &Path, errors: &mut Errors) {
    match value.split_once('/') {
        _ if value.is_empty() => errors.push(path.required("")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            errors.extend(path.all_invalid(host, names::dns1123_subdomain(host, false)));
            let fine = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c);
            if !rest.chars().all(fine) {
                errors.push(path.invalid(value, "Invalid path"));
            }
        }
        _ => errors.push(path.invalid(value, "must be a domain-prefixed path (such as \"acme.io/foo\")")),
    }
}

fn parameters(parameters: &Value, path: &Path, errors: &mut Errors) {
    let (scope, namespace) = (text(&parameters["scope"]), text(&parameters["namespace"]));
    if let Some(group) = parameters["apiGroup"].as_str() {
        errors.extend(path.child("apiGroup").all_invalid(group, names::dns1123_subdomain(group, false)));
    }
    for field in ["kind", "name"] {
        match text(&parameters[field]) {
            "" => errors.push(path.child(field).required("")),
            name => errors.extend(path.child(field).all_invalid(name, names::path_segment(name, false))),
        }
    }
    match scope {
        "" => errors.push(path.child("scope").required("")),
        "Namespace" if namespace.is_empty() => {
            errors.push(path.child("namespace").required("`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => {
            errors.extend(path.child("namespace").all_invalid(namespace, names::dns1123_label(namespace, false)));
        }
        "Cluster" if !parameters["namespace"].is_null() => {
            errors.push(path.child("namespace").forbidden("`parameters.scope` is set to 'Cluster'"));
        }
        "Cluster" => {}
        other => errors.push(path.child("scope").not_supported(other, &["Cluster", "Namespace"])),
    }
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("spec").child("controller");
    meta::immutable(&new["spec"]["controller"], &old["spec"]["controller"], &path, &mut errors);
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let parameters = &object["spec"]["parameters"];
    let shown = if parameters.is_object() {
        let group = text(&parameters["apiGroup"]);
        let kind = text(&parameters["kind"]);
        let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        format!("{kind}/{}", text(&parameters["name"]))
    } else {
        "<none>".to_owned()
    };
    vec![object.name().into(), text(&object["spec"]["controller"]).into(), shown.into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Controller", "Controller that is responsible for handling this class"),
    text_column("Parameters", "A reference to a resource with additional parameters"),
    AGE,
];
