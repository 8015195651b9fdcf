//! Rules of a pod's metadata and spec: `ValidatePodCreate` and `ValidatePodSpec`, split by theme below.

mod affinity;
mod claims;
mod containers;
mod env;
mod fields;
mod ports;
mod probes;
mod resources;
mod scheduling;
mod security;
mod volumes;

pub(crate) use affinity::node_selector;
pub(crate) use resources::{
    container as container_resources, container_resource_name, resource_name, validate_quantity,
};
pub(crate) use scheduling::tolerations;
pub(crate) use volumes::{persistent_source, source_of};

use crate::meta::Object;
use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, text};
use crate::registry::{labels, meta, names};
use serde_json::Value;

/// Errors of a pod.
pub fn pod(pod: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(pod);
    let spec = Path::new("spec");
    // Ephemeral containers come by their subresource, which makes a second generation at least.
    if !items(&pod["spec"]["ephemeralContainers"]).is_empty()
        && pod["metadata"]["generation"].as_i64().unwrap_or(1) <= 1
    {
        errors.push(spec.child("ephemeralContainers").forbidden("cannot be set on create"));
    }
    pod_spec(&pod["spec"], &spec, &mut errors);
    errors
}

/// A template of pods: its metadata's maps, which upstream calls the template's own, and its spec.
pub fn template(template: &Value, path: &Path, errors: &mut Errors) {
    labels::validate(&template["metadata"]["labels"], &path.child("labels"), errors);
    meta::annotations(&template["metadata"]["annotations"], &path.child("annotations"), errors);
    pod_spec(&template["spec"], &path.child("spec"), errors);
    if !items(&template["spec"]["ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(path.child("spec").child("ephemeralContainers").forbidden(detail));
    }
}

/// One of a closed set of texts; absent is `Required` where upstream has no default left to apply.
fn one_of(value: &Value, path: &Path, supported: &[&str], errors: &mut Errors) {
    match text(value) {
        "" => errors.push(path.required("")),
        value if supported.contains(&value) => {}
        value => errors.push(path.not_supported(value, supported)),
    }
}

/// Errors of a pod's spec.
pub fn pod_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    volumes::validate(spec, &path.child("volumes"), errors);
    containers::validate(spec, path, errors);
    one_of(&spec["restartPolicy"], &path.child("restartPolicy"), &["Always", "OnFailure", "Never"], errors);
    dns(spec, path, errors);
    labels::validate(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    security::pod(spec, path, errors);
    for (index, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(&secret["name"]).is_empty() {
            errors.push(path.child("imagePullSecrets").index(index).child("name").required(""));
        }
    }
    affinity::validate(&spec["affinity"], &path.child("affinity"), errors);
    scheduling::validate(spec, path, errors);
    claims::of_pod(spec, path, errors);
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as names::NameRule),
        ("nodeName", names::dns1123_subdomain),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        if let Some(name) = spec[field].as_str().filter(|n| !n.is_empty()) {
            errors.extend(path.child(field).all_invalid(name, rule(name, false)));
        }
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors
            .push(path.child("activeDeadlineSeconds").invalid(seconds, "must be between 1 and 2147483647, inclusive"));
    }
    host_aliases(spec, path, errors);
    if let Some(name) = spec["os"].as_object().map(|os| os.get("name").map_or("", text)) {
        one_of(&Value::from(name), &path.child("os").child("name"), &["linux", "windows"], errors);
    }
}

fn dns(spec: &Value, path: &Path, errors: &mut Errors) {
    let supported = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&spec["dnsPolicy"], &path.child("dnsPolicy"), &supported, errors);
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let servers = items(&config["nameservers"]);
    if text(&spec["dnsPolicy"]) == "None" {
        if !config.is_object() {
            errors.push(path.required("must provide `dnsConfig` when `dnsPolicy` is None"));
        } else if servers.is_empty() {
            errors.push(
                path.child("nameservers").required("must provide at least one DNS nameserver when `dnsPolicy` is None"),
            );
        }
    }
    if servers.len() > 3 {
        errors.push(
            path.child("nameservers").invalid(config["nameservers"].clone(), "must not have more than 3 nameservers"),
        );
    }
    for (index, server) in servers.iter().enumerate().filter(|(_, s)| text(s).parse::<std::net::IpAddr>().is_err()) {
        let path = path.child("nameservers").index(index);
        errors.push(path.invalid(text(server), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
    }
    let searches = items(&config["searches"]);
    if searches.len() > 32 {
        errors.push(
            path.child("searches").invalid(config["searches"].clone(), "must not have more than 32 search paths"),
        );
    }
    for (index, search) in searches.iter().enumerate() {
        // A trailing dot, a lone dot and underscores are fine in a resolver's search path.
        let search = text(search);
        let name = if search == "." { "a" } else { search.strip_suffix('.').unwrap_or(search) }.replace('_', "a");
        let texts = names::dns1123_subdomain(&name, false);
        errors.extend(path.child("searches").index(index).all_invalid(search, texts));
    }
    for (index, option) in items(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            errors.push(path.child("options").index(index).required("must not be empty"));
        }
    }
}

fn host_aliases(spec: &Value, path: &Path, errors: &mut Errors) {
    for (index, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let path = path.child("hostAliases").index(index);
        if text(&alias["ip"]).parse::<std::net::IpAddr>().is_err() {
            let ip = text(&alias["ip"]);
            errors.push(path.child("ip").invalid(ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
        for (index, name) in items(&alias["hostnames"]).iter().enumerate() {
            let texts = names::dns1123_subdomain(text(name), false);
            errors.extend(path.child("hostnames").index(index).all_invalid(text(name), texts));
        }
    }
}
