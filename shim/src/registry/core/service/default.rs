//! Defaults of services, and what an update inherits.

use crate::meta::Object;
use crate::registry::value::{
    carry_over, default_text, default_value, items, items_mut, object_entry, object_mut, root, text,
};
use serde_json::{Map, Value, json};

/// Seconds a client stays with its endpoint under `sessionAffinity: ClientIP`: three hours.
const SESSION_SECONDS: i64 = 10800;

/// `SetDefaults_Service`.
pub fn service(service: &mut Object) {
    let Some(spec) = object_mut(service, "spec") else { return };
    default_text(spec, "sessionAffinity", "None");
    match spec.get("sessionAffinity").map(text) {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            let client = object_entry(object_entry(spec, "sessionAffinityConfig"), "clientIP");
            default_value(client, "timeoutSeconds", SESSION_SECONDS);
        }
        Some(_) | None => {}
    }
    default_text(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::from(0));
        let target = port.get("targetPort");
        if target.is_none_or(|t| t.is_null() || t.as_i64() == Some(0) || t.as_str() == Some("")) {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = spec.get("type").map(|v| text(v).to_owned()).unwrap_or_default();
    let external = spec.get("externalIPs").is_some_and(|ips| !items(ips).is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        default_value(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_value(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// `clusterIP` is the first of `clusterIPs`: whichever is set fills the other.
fn one_cluster_ip(spec: &mut Map<String, Value>) {
    let one = spec.get("clusterIP").map(|v| text(v).to_owned()).unwrap_or_default();
    let first = spec.get("clusterIPs").and_then(|l| l.get(0)).map(|v| text(v).to_owned()).unwrap_or_default();
    if !one.is_empty() && first.is_empty() {
        spec.insert("clusterIPs".to_owned(), json!([one]));
    } else if one.is_empty() && !first.is_empty() && spec.get("clusterIP").is_none() {
        spec.insert("clusterIP".to_owned(), first.into());
    }
}

/// A new service has an empty status, the load balancer's part of it excepted.
pub fn prepare_create(service: &mut Object) {
    root(service).insert("status".to_owned(), json!({"loadBalancer": {}}));
    if let Some(spec) = object_mut(service, "spec") {
        one_cluster_ip(spec);
    }
}

/// An update keeps the status, and what was allocated where the client left it out.
pub fn prepare_update(new: &mut Object, old: &Object) {
    carry_over(new, old, "status");
    let kind = |service: &Object| text(&service["spec"]["type"]).to_owned();
    let (new_kind, old_kind) = (kind(new), kind(old));
    let Some(spec) = object_mut(new, "spec") else { return };
    one_cluster_ip(spec);
    let has_ip = |kind: &str| matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if new_kind == "ExternalName" && old_kind != "ExternalName" {
        // The client gave up the address: it is released.
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if spec.get(key) == old["spec"].get(key) {
                spec.remove(key);
            }
        }
    }
    if has_ip(&new_kind) && has_ip(&old_kind) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(key).is_none_or(crate::registry::value::is_empty)
                && let Some(value) = old["spec"].get(key)
            {
                spec.insert(key.to_owned(), value.clone());
            }
        }
    }
    if has_ports(&new_kind) && has_ports(&old_kind) {
        for port in items_mut(spec, "ports") {
            let same = |o: &&Value| o["port"] == port["port"] && o["protocol"] == port["protocol"];
            let known = items(&old["spec"]["ports"]).iter().find(same).map(|o| o["nodePort"].clone());
            if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) == 0
                && let Some(number) = known.filter(Value::is_i64)
            {
                port.insert("nodePort".to_owned(), number);
            }
        }
    }
    if old_kind == "LoadBalancer" && new_kind != "LoadBalancer" {
        // dropTypeDependentFields: what the client only copied means nothing any more.
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"] {
            if spec.get(key) == old["spec"].get(key) {
                spec.remove(key);
            }
        }
    }
    if new_kind == "ClusterIP" && has_ports(&old_kind) {
        // Ports that the client only copied go with the type.
        for port in items_mut(spec, "ports") {
            let copied = items(&old["spec"]["ports"]).iter().any(|o| Some(&o["nodePort"]) == port.get("nodePort"));
            if copied {
                port.remove("nodePort");
            }
        }
    }
}
