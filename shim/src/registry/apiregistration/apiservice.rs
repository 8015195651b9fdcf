//! APIServices: which server answers for a group version.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::APIREGISTRATION_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{
    clear_status, default_value, items, keep_all_but_status, keep_status, object_mut, text, truth,
};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: APIREGISTRATION_V1,
    resource: "apiservices",
    singular: "apiservice",
    kind: "APIService",
    categories: &["api-extensions"],
    namespaced: false,
    storage: "apiregistration.k8s.io/apiservices",
    storage_gv: APIREGISTRATION_V1,
    subresources: &[Subresource { name: "status", kind: "APIService", gv: APIREGISTRATION_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: clear_status,
        prepare_update: keep_status,
        prepare_status: keep_all_but_status,
        validate,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

fn default(object: &mut Object) {
    let service = object_mut(object, "spec").and_then(|spec| spec.get_mut("service")?.as_object_mut());
    if let Some(service) = service {
        default_value(service, "port", 443);
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate(object, false, names::path_segment);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (group, version) = (text(&spec["group"]), text(&spec["version"]));
    let wanted = format!("{version}.{group}");
    if object.name() != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(Path::new("metadata").child("name").invalid(object.name(), &detail));
    }
    if !group.is_empty() {
        errors.extend(path.child("group").all_invalid(group, names::dns1123_subdomain(group, false)));
    }
    errors.extend(path.child("version").all_invalid(version, names::dns1035_label(version, false)));
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let priority = spec[field].as_i64().unwrap_or(0);
        if priority <= 0 || priority > most {
            let detail = format!("must be positive and less than {}", if most == 20_000 { "20000" } else { "1000" });
            errors.push(path.child(field).invalid(priority, &detail));
        }
    }
    let service = &spec["service"];
    if !service.is_object() {
        for (field, present) in [
            ("caBundle", !text(&spec["caBundle"]).is_empty()),
            ("insecureSkipTLSVerify", truth(&spec["insecureSkipTLSVerify"])),
        ] {
            if present {
                let detail = "local APIServices may not specify a ".to_owned() + field;
                errors.push(path.child(field).invalid(spec[field].clone(), &detail));
            }
        }
        return errors;
    }
    let own = path.child("service");
    for field in ["namespace", "name"] {
        if text(&service[field]).is_empty() {
            errors.push(own.child(field).required(""));
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    let texts = names::port_number(port);
    errors.extend(texts.into_iter().map(|text| own.child("port").invalid(port, &text)));
    if truth(&spec["insecureSkipTLSVerify"]) && !text(&spec["caBundle"]).is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.push(path.child("insecureSkipTLSVerify").invalid(true, detail));
    }
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let service = &object["spec"]["service"];
    let by = if service.is_object() {
        format!("{}/{}", text(&service["namespace"]), text(&service["name"]))
    } else {
        "Local".to_owned()
    };
    let available = items(&object["status"]["conditions"]).iter().find(|c| text(&c["type"]) == "Available");
    let shown = match available {
        Some(condition) if text(&condition["status"]) == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", text(&condition["status"]), text(&condition["reason"])),
        None => "Unknown".to_owned(),
    };
    vec![object.name().into(), by.into(), shown.into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Service", "The reference to the service that hosts this API endpoint."),
    text_column("Available", "Whether this service is available."),
    AGE,
];
