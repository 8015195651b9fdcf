//! Ingresses.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::NETWORKING_V1;
use crate::registry::table::{AGE, NAME, age, or, text_column};
use crate::registry::value::{begin, items, keep_all_but_status, keep_status_and_count, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, ip, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: NETWORKING_V1,
    resource: "ingresses",
    singular: "ingress",
    kind: "Ingress",
    short_names: &["ing"],
    storage: "ingress",
    storage_gv: NETWORKING_V1,
    subresources: &[Subresource { name: "status", kind: "Ingress", gv: NETWORKING_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: keep_all_but_status,
        validate,
        validate_status,
        warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

/// How classes were named before there was a field.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let annotation = &object["metadata"]["annotations"][CLASS_ANNOTATION];
    // Only new ones are asked to choose.
    if annotation.is_string() && spec["ingressClassName"].is_string() && generation(object) <= 1 {
        let path = Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
        errors.push(path.invalid(annotation.clone(), "can not be set when the class field is also set"));
    }
    if items(&spec["rules"]).is_empty() && !spec["defaultBackend"].is_object() {
        errors.push(path.invalid(Value::Null, "either `defaultBackend` or `rules` must be specified"));
    }
    if spec["defaultBackend"].is_object() {
        backend(&spec["defaultBackend"], &path.child("defaultBackend"), &mut errors);
    }
    for (index, rule) in items(&spec["rules"]).iter().enumerate() {
        one_rule(rule, &path.child("rules").index(index), &mut errors);
    }
    for (index, tls) in items(&spec["tls"]).iter().enumerate() {
        let path = path.child("tls").index(index);
        for (index, host) in items(&tls["hosts"]).iter().enumerate() {
            domain(text(host), &path.child("hosts").index(index), &mut errors);
        }
        let secret = text(&tls["secretName"]);
        if !secret.is_empty() {
            errors.extend(path.child("secretName").all_invalid(secret, names::dns1123_subdomain(secret, false)));
        }
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        errors.extend(path.child("ingressClassName").all_invalid(class, names::dns1123_subdomain(class, false)));
    }
    errors
}

fn generation(object: &Object) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// A name, or one below a wildcard.
fn domain(host: &str, path: &Path, errors: &mut Errors) {
    if host.contains('*') {
        errors.extend(path.all_invalid(host, names::wildcard_dns1123_subdomain(host)));
    } else {
        errors.extend(path.all_invalid(host, names::dns1123_subdomain(host, false)));
    }
}

fn one_rule(rule: &Value, path: &Path, errors: &mut Errors) {
    let host = text(&rule["host"]);
    if !host.is_empty() {
        let path = path.child("host");
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.push(path.invalid(host, "must be a DNS name, not an IP address"));
        } else {
            domain(host, &path, errors);
        }
    }
    if !rule["http"].is_object() {
        return;
    }
    let path = path.child("http").child("paths");
    if items(&rule["http"]["paths"]).is_empty() {
        errors.push(path.required(""));
    }
    for (index, one) in items(&rule["http"]["paths"]).iter().enumerate() {
        http_path(one, &path.index(index), errors);
    }
}

fn http_path(http: &Value, path: &Path, errors: &mut Errors) {
    const FORBIDDEN: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
    const FORBIDDEN_ENDS: [&str; 2] = ["/..", "/."];
    let (kind, location) = (text(&http["pathType"]), text(&http["path"]));
    let own = path.child("path");
    match kind {
        "" => errors.push(path.child("pathType").required("pathType must be specified")),
        "Exact" | "Prefix" => {
            if !location.starts_with('/') {
                errors.push(own.invalid(location, "must be an absolute path"));
            }
            if !location.is_empty() {
                for part in FORBIDDEN.iter().filter(|part| location.contains(**part)) {
                    errors.push(own.invalid(location, &format!("must not contain '{part}'")));
                }
                for end in FORBIDDEN_ENDS.iter().filter(|end| location.ends_with(**end)) {
                    errors.push(own.invalid(location, &format!("cannot end with '{end}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !location.is_empty() && !location.starts_with('/') {
                errors.push(own.invalid(location, "must be an absolute path"));
            }
        }
        other => errors.push(path.child("pathType").not_supported(other, &PATH_TYPES)),
    }
    backend(&http["backend"], &path.child("backend"), errors);
}

fn backend(backend: &Value, path: &Path, errors: &mut Errors) {
    let (resource, service) = (&backend["resource"], &backend["service"]);
    match (resource.is_object(), service.is_object()) {
        (true, true) => errors.push(path.invalid("", "cannot set both resource and service backends")),
        (true, false) => typed_reference(resource, &path.child("resource"), errors),
        (false, true) => {
            let name = text(&service["name"]);
            let own = path.child("service").child("name");
            if name.is_empty() {
                errors.push(own.required(""));
            } else {
                errors.extend(own.all_invalid(name, names::dns1035_label(name, false)));
            }
            let (port_name, number) = (text(&service["port"]["name"]), service["port"]["number"].as_i64().unwrap_or(0));
            let port = path.child("service").child("port");
            if !port_name.is_empty() && number != 0 {
                errors.push(path.invalid("", "cannot set both port name & port number"));
            } else if !port_name.is_empty() {
                errors.extend(port.child("name").all_invalid(port_name, names::port_name(port_name)));
            } else if number != 0 {
                let texts = names::port_number(number);
                errors.extend(texts.into_iter().map(|text| port.child("number").invalid(number, &text)));
            } else {
                errors.push(path.required("port name or number is required"));
            }
        }
        (false, false) => errors.push(path.invalid("", "resource or service backend is required")),
    }
}

/// `ValidateTypedLocalObjectReference`.
fn typed_reference(reference: &Value, path: &Path, errors: &mut Errors) {
    let group = text(&reference["apiGroup"]);
    if group.is_empty() {
        errors.push(path.child("apiGroup").required(""));
    } else {
        errors.extend(path.child("apiGroup").all_invalid(group, names::dns1123_subdomain(group, false)));
    }
    for field in ["kind", "name"] {
        match text(&reference[field]) {
            "" => errors.push(path.child(field).required("")),
            name => errors.extend(path.child(field).all_invalid(name, names::path_segment(name, false))),
        }
    }
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    load_balancer(&new["status"]["loadBalancer"], &Path::new("status").child("loadBalancer"), &mut errors);
    errors
}

/// Addresses that a load balancer was given; services have them too.
fn load_balancer(status: &Value, path: &Path, errors: &mut Errors) {
    for (index, ingress) in items(&status["ingress"]).iter().enumerate() {
        let path = path.child("ingress").index(index);
        let (address, host) = (text(&ingress["ip"]), text(&ingress["hostname"]));
        if !address.is_empty() {
            ip::validate(address, &path.child("ip"), errors);
        }
        if !host.is_empty() {
            let path = path.child("hostname");
            errors.extend(path.all_invalid(host, names::dns1123_subdomain(host, false)));
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.push(path.invalid(host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let annotated = |object: &Object| object["metadata"]["annotations"][CLASS_ANNOTATION].is_string();
    if old.is_none() && annotated(new) {
        return vec![format!(
            "annotation {} is deprecated, please use 'spec.ingressClassName' instead",
            crate::registry::field::quoted(CLASS_ANNOTATION)
        )];
    }
    Vec::new()
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let class = match &spec["ingressClassName"] {
        Value::Null => or(&object["metadata"]["annotations"][CLASS_ANNOTATION], "<none>"),
        class => class.clone(),
    };
    let mut addresses: Vec<&str> = items(&object["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|ingress| match text(&ingress["ip"]) {
            "" => text(&ingress["hostname"]),
            address => address,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        object.name().into(),
        class,
        hosts(items(&spec["rules"])).into(),
        addresses.join(",").into(),
        ports.into(),
        age(object, now),
    ]
}

fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let hosts: Vec<&str> = rules.iter().map(|rule| text(&rule["host"])).filter(|host| !host.is_empty()).collect();
    match hosts.len() {
        0 => "*".to_owned(),
        count if count > SHOWN => format!("{} + {} more...", hosts[..SHOWN].join(","), count - SHOWN),
        _ => hosts.join(","),
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column("Class", "The name of the IngressClass resource that should be used for additional configuration"),
    text_column("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
    text_column("Address", "Address is a list containing ingress points for the load-balancer"),
    text_column("Ports", "Ports of TLS configurations that open"),
    AGE,
];
