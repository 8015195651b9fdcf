//! Environment variables: `ValidateEnv` and `ValidateEnvFrom`.

use super::fields::{Referrer, field_ref, resource_ref};
use crate::registry::field::{Errors, Path};
use crate::registry::names;
use crate::registry::value::{items, text};
use serde_json::Value;

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

pub(super) fn validate(container: &Value, path: &Path, errors: &mut Errors) {
    for (index, variable) in items(&container["env"]).iter().enumerate() {
        let path = path.child("env").index(index);
        let name = text(&variable["name"]);
        if name.is_empty() {
            errors.push(path.child("name").required(""));
        } else {
            errors.extend(path.child("name").all_invalid(name, names::env_var_name(name)));
        }
        if variable["valueFrom"].is_object() {
            value_from(variable, &path.child("valueFrom"), errors);
        }
    }
    for (index, source) in items(&container["envFrom"]).iter().enumerate() {
        env_from(source, &path.child("envFrom"), index, errors);
    }
}

fn value_from(variable: &Value, path: &Path, errors: &mut Errors) {
    let from = &variable["valueFrom"];
    let sources: Vec<&str> = SOURCES.into_iter().filter(|s| from[*s].is_object()).collect();
    for source in &sources {
        let (reference, path) = (&from[*source], path.child(source));
        match *source {
            "fieldRef" => field_ref(reference, Referrer::Env, &path, errors),
            "resourceFieldRef" => resource_ref(reference, Referrer::Env, &path, errors),
            "configMapKeyRef" | "secretKeyRef" => key_ref(reference, &path, errors),
            _ => {
                for field in ["key", "volumeName", "path"] {
                    if text(&reference[field]).is_empty() {
                        errors.push(path.child(field).required(""));
                    }
                }
            }
        }
    }
    if sources.is_empty() {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(path.invalid("", detail));
    } else if !text(&variable["value"]).is_empty() {
        errors.push(path.invalid("", "may not be specified when `value` is not empty"));
    } else if sources.len() > 1 {
        errors.push(path.invalid("", "may not have more than one field specified at a time"));
    }
}

fn key_ref(reference: &Value, path: &Path, errors: &mut Errors) {
    match text(&reference["key"]) {
        "" => errors.push(path.child("key").required("")),
        key => errors.extend(path.child("key").all_invalid(key, names::config_map_key(key))),
    }
}

fn env_from(source: &Value, list: &Path, index: usize, errors: &mut Errors) {
    let path = list.index(index);
    let prefix = text(&source["prefix"]);
    if !prefix.is_empty() {
        errors.extend(path.child("prefix").all_invalid(prefix, names::env_var_name(prefix)));
    }
    let mut sources = 0;
    for field in ["configMapRef", "secretRef"] {
        if !source[field].is_object() {
            continue;
        }
        sources += 1;
        let name = text(&source[field]["name"]);
        if !name.is_empty() {
            let texts = names::dns1123_subdomain(name, false);
            errors.extend(path.child(field).child("name").all_invalid(name, texts));
        }
    }
    if sources == 0 {
        errors.push(list.invalid("", "must specify one of: `configMapRef` or `secretRef`"));
    } else if sources > 1 {
        errors.push(list.invalid("", "may not have more than one field specified at a time"));
    }
}
