//! Rules of services: `ValidateService` and `ValidateServiceUpdate`.

use crate::meta::Object;
use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, text};
use crate::registry::{ip, labels, meta, names};
use serde_json::Value;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const MAX_SESSION_SECONDS: i64 = 86400;

pub fn create(service: &Object) -> Errors {
    let mut errors = meta::validate(service, true, names::dns1123_label);
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let kind = text(&spec["type"]);
    let ips: Vec<&str> = items(&spec["clusterIPs"]).iter().map(text).collect();
    let headless = ips.first() == Some(&"None");
    if items(&spec["ports"]).is_empty() && !headless && kind != "ExternalName" {
        errors.push(path.child("ports").required(""));
    }
    match kind {
        "" => errors.push(path.child("type").required("")),
        "NodePort" | "LoadBalancer" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(path.child("clusterIPs").index(0).invalid("None", &detail));
        }
        "ExternalName" => external_name(spec, &path, &mut errors),
        kind if !TYPES.contains(&kind) => errors.push(path.child("type").not_supported(kind, &TYPES)),
        _ => {}
    }
    ports(spec, &path, &mut errors);
    labels::validate(&spec["selector"], &path.child("selector"), &mut errors);
    session(spec, &path, &mut errors);
    for (index, address) in ips.iter().enumerate().filter(|(_, ip)| **ip != "None" && !ip.is_empty()) {
        ip::validate(address, &path.child("clusterIPs").index(index), &mut errors);
    }
    if let (Some(one), Some(first)) = (spec["clusterIP"].as_str(), ips.first())
        && one != *first
    {
        let detail = "first value must match `clusterIP`";
        errors.push(path.child("clusterIPs").invalid(spec["clusterIPs"].clone(), detail));
    }
    for (index, address) in items(&spec["externalIPs"]).iter().enumerate() {
        let path = path.child("externalIPs").index(index);
        if ip::validate(text(address), &path, &mut errors).is_some() {
            ip::validate_non_special(text(address), &path, &mut errors);
        }
    }
    traffic(spec, &path, &mut errors);
    let ranges = path.child("LoadBalancerSourceRanges");
    for (index, range) in items(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        ip::validate_cidr(text(range), &ranges.index(index), &mut errors);
    }
    if !items(&spec["loadBalancerSourceRanges"]).is_empty() && kind != "LoadBalancer" {
        errors.push(ranges.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    balancer(spec, &path, &mut errors);
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    if let Some(distribution) = spec["trafficDistribution"].as_str().filter(|d| !distributions.contains(d)) {
        errors.push(path.child("trafficDistribution").not_supported(distribution, &distributions));
    }
    errors
}

/// What only the services of load balancers may say.
fn balancer(spec: &Value, path: &Path, errors: &mut Errors) {
    let is_balancer = text(&spec["type"]) == "LoadBalancer";
    let own = path.child("allocateLoadBalancerNodePorts");
    match (is_balancer, spec["allocateLoadBalancerNodePorts"].is_null()) {
        (true, true) => errors.push(own.required("")),
        (false, false) => errors.push(own.forbidden("may only be used when `type` is 'LoadBalancer'")),
        (true, false) | (false, true) => {}
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        let own = path.child("loadBalancerClass");
        if is_balancer {
            errors.extend(own.all_invalid(class, names::qualified_name(class)));
        } else {
            errors.push(own.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
    }
}

fn external_name(spec: &Value, path: &Path, errors: &mut Errors) {
    let empty = crate::registry::value::is_empty;
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter().filter(|field| !empty(&spec[*field])) {
        errors.push(path.child(field).forbidden("may not be set for ExternalName services"));
    }
    match text(&spec["externalName"]) {
        "" => errors.push(path.child("externalName").required("")),
        name => {
            // A trailing dot makes a DNS name absolute.
            let texts = names::dns1123_subdomain(name.strip_suffix('.').unwrap_or(name), false);
            errors.extend(path.child("externalName").all_invalid(name, texts));
        }
    }
}

/// A load balancer's addresses: `ValidateServiceStatusUpdate`.
pub fn status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = items(&new["status"]["loadBalancer"]["ingress"]);
    if !ingress.is_empty() && text(&new["spec"]["type"]) != "LoadBalancer" {
        errors.push(path.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    for (index, ingress) in ingress.iter().enumerate() {
        let path = path.index(index);
        if !text(&ingress["ip"]).is_empty() {
            ip::validate(text(&ingress["ip"]), &path.child("ip"), &mut errors);
        }
        let (host, path) = (text(&ingress["hostname"]), path.child("hostname"));
        if !host.is_empty() {
            errors.extend(path.all_invalid(host, names::dns1123_subdomain(host, false)));
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.push(path.invalid(host, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

fn ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let list = items(&spec["ports"]);
    let (mut seen_names, mut seen, mut seen_node_ports) = (Vec::new(), Vec::new(), Vec::new());
    for (index, port) in list.iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = text(&port["name"]);
        if name.is_empty() {
            if list.len() > 1 {
                errors.push(path.child("name").required(""));
            }
        } else {
            errors.extend(path.child("name").all_invalid(name, names::dns1123_label(name, false)));
            if seen_names.contains(&name) {
                errors.push(path.child("name").duplicate(name));
            }
            seen_names.push(name);
        }
        let number = port["port"].as_i64().unwrap_or(0);
        let in_range = |number: i64, field: &str, errors: &mut Errors| {
            let texts = names::port_number(number);
            errors.extend(texts.into_iter().map(|text| path.child(field).invalid(number, &text)));
        };
        in_range(number, "port", errors);
        let protocol = text(&port["protocol"]);
        match protocol {
            "" => errors.push(path.child("protocol").required("")),
            "SCTP" | "TCP" | "UDP" => {}
            other => errors.push(path.child("protocol").not_supported(other, &["SCTP", "TCP", "UDP"])),
        }
        match port["targetPort"].as_str() {
            Some(name) => errors.extend(path.child("targetPort").all_invalid(name, names::port_name(name))),
            None => in_range(port["targetPort"].as_i64().unwrap_or(0), "targetPort", errors),
        }
        if let Some(protocol) = port["appProtocol"].as_str() {
            errors.extend(path.child("appProtocol").all_invalid(protocol, names::qualified_name(protocol)));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if text(&spec["type"]) == "ClusterIP" && node_port != 0 {
            errors.push(path.child("nodePort").forbidden("may not be used when `type` is 'ClusterIP'"));
        }
        if node_port != 0 && seen_node_ports.contains(&(node_port, protocol)) {
            errors.push(path.child("nodePort").duplicate(node_port));
        }
        seen_node_ports.push((node_port, protocol));
        if seen.contains(&(number, protocol)) {
            errors.push(path.duplicate(port.clone()));
        }
        seen.push((number, protocol));
    }
}

fn session(spec: &Value, path: &Path, errors: &mut Errors) {
    match text(&spec["sessionAffinity"]) {
        "" => errors.push(path.child("sessionAffinity").required("")),
        "None" => {}
        "ClientIP" => {
            let seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64().unwrap_or(0);
            if seconds <= 0 || seconds > MAX_SESSION_SECONDS {
                let path = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
                let detail = format!("must be greater than 0 and less than {MAX_SESSION_SECONDS}");
                errors.push(path.invalid(seconds, &detail));
            }
        }
        other => errors.push(path.child("sessionAffinity").not_supported(other, &["ClientIP", "None"])),
    }
}

fn traffic(spec: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(&spec["type"]);
    let external =
        matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && !items(&spec["externalIPs"]).is_empty());
    let policy = text(&spec["externalTrafficPolicy"]);
    let path_of_policy = path.child("externalTrafficPolicy");
    if !external {
        if !policy.is_empty() {
            errors.push(path_of_policy.invalid(policy, "may only be set for externally-accessible services"));
        }
    } else if policy.is_empty() {
        errors.push(path_of_policy.required(""));
    } else if !POLICIES.contains(&policy) {
        errors.push(path_of_policy.not_supported(policy, &POLICIES));
    }
    if spec["healthCheckNodePort"].as_i64().unwrap_or(0) != 0 && !(kind == "LoadBalancer" && policy == "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(path.child("healthCheckNodePort").invalid(spec["healthCheckNodePort"].clone(), detail));
    }
    match spec["internalTrafficPolicy"].as_str() {
        Some(policy) if !POLICIES.contains(&policy) => {
            errors.push(path.child("internalTrafficPolicy").not_supported(policy, &POLICIES));
        }
        None if matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.push(path.child("internalTrafficPolicy").required(""));
        }
        Some(_) | None => {}
    }
    for (index, family) in items(&spec["ipFamilies"]).iter().enumerate() {
        let family = text(family);
        if !matches!(family, "IPv4" | "IPv6") {
            errors.push(path.child("ipFamilies").index(index).not_supported(family, &["IPv4", "IPv6"]));
        }
    }
    if let Some(policy) = spec["ipFamilyPolicy"].as_str() {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !supported.contains(&policy) {
            errors.push(path.child("ipFamilyPolicy").not_supported(policy, &supported));
        }
    }
}

/// An address once given stays.
pub fn update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let external = |service: &Object| text(&service["spec"]["type"]) == "ExternalName";
    let (ips, before) = (items(&new["spec"]["clusterIPs"]), items(&old["spec"]["clusterIPs"]));
    if !external(new) && !external(old) && !before.is_empty() && ips.first() != before.first() {
        let path = Path::new("spec").child("clusterIPs").index(0);
        let detail = if ips.is_empty() { "primary clusterIP can not be unset" } else { "may not change once set" };
        errors.push(path.invalid(new["spec"]["clusterIPs"].clone(), detail));
    }
    let (families, before) = (items(&new["spec"]["ipFamilies"]), items(&old["spec"]["ipFamilies"]));
    if !external(new) && !external(old) && !before.is_empty() && families.first() != before.first() {
        let path = Path::new("spec").child("ipFamilies").index(0);
        let detail = if families.is_empty() { "primary ipFamily can not be unset" } else { "may not change once set" };
        errors.push(path.invalid(new["spec"]["ipFamilies"].clone(), detail));
    }
    let balancer = |service: &Object| text(&service["spec"]["type"]) == "LoadBalancer";
    let class = "loadBalancerClass";
    if balancer(new) && balancer(old) && new["spec"][class] != old["spec"][class] {
        let path = Path::new("spec").child(class);
        errors.push(path.invalid(new["spec"][class].clone(), "may not change once set"));
    }
    errors
}

/// What is deprecated, and what means nothing beside the rest (`GetWarningsForService`).
pub fn warnings(service: &Object, _old: Option<&Object>) -> Vec<String> {
    let spec = &service["spec"];
    let mut warnings = Vec::new();
    if service["metadata"]["annotations"]["service.kubernetes.io/topology-aware-hints"].is_string() {
        warnings.push(
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead"
                .to_owned(),
        );
    }
    let external = !items(&spec["externalIPs"]).is_empty();
    if external {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if text(&spec["clusterIP"]) == "None" {
        for (field, set) in [
            ("loadBalancerIP", !text(&spec["loadBalancerIP"]).is_empty()),
            ("externalIPs", external),
            ("SessionAffinity", text(&spec["sessionAffinity"]) != "None"),
        ] {
            if set {
                warnings.push(format!("spec.{field} is ignored when spec.clusterIP is \"None\""));
            }
        }
    }
    let by_name = text(&spec["type"]) == "ExternalName";
    if by_name && external {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !by_name && !text(&spec["externalName"]).is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: Value) -> Object {
        let mut object = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"type": "ClusterIP",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]}});
        for (key, value) in crate::registry::value::entries(&spec) {
            object["spec"][key] = value.clone();
        }
        object
    }

    #[test]
    fn fields_of_one_type_are_refused_on_others() {
        let port = json!([{"port": 80, "targetPort": 80, "protocol": "TCP", "appProtocol": "a b"}]);
        let twice = json!([
            {"name": "a", "port": 80, "targetPort": 80, "protocol": "TCP", "nodePort": 30001},
            {"name": "b", "port": 81, "targetPort": 80, "protocol": "TCP", "nodePort": 30001},
        ]);
        for (spec, fields) in [
            (json!({}), vec![]),
            (json!({"loadBalancerClass": "a.b/c"}), vec!["spec.loadBalancerClass"]),
            (json!({"allocateLoadBalancerNodePorts": true}), vec!["spec.allocateLoadBalancerNodePorts"]),
            (json!({"trafficDistribution": "Far"}), vec!["spec.trafficDistribution"]),
            (json!({"ports": port}), vec!["spec.ports[0].appProtocol"]),
            (
                json!({"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": twice}),
                vec!["spec.ports[1].nodePort"],
            ),
            (
                json!({"type": "ExternalName", "externalName": "a.b", "ipFamilyPolicy": "SingleStack"}),
                vec!["spec.ipFamilyPolicy"],
            ),
        ] {
            let found: Vec<String> = create(&service(spec.clone())).into_iter().map(|error| error.field).collect();
            assert_eq!(found, fields, "{spec}");
        }
    }

    #[test]
    fn an_address_and_a_class_stay() {
        let old = service(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}));
        let new = service(json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}));
        assert_eq!(
            update(&new, &old)[0].to_string(),
            r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set"#
        );
        let balancer = |class: &str| service(json!({"type": "LoadBalancer", "loadBalancerClass": class}));
        assert_eq!(update(&balancer("a"), &balancer("b"))[0].field, "spec.loadBalancerClass");
    }

    #[test]
    fn what_means_nothing_is_warned_of() {
        let ignored = "is ignored when spec.clusterIP is \"None\"";
        for (spec, wanted) in [
            (json!({}), vec![]),
            (
                json!({"clusterIP": "None", "loadBalancerIP": "1.2.3.4", "sessionAffinity": "ClientIP"}),
                vec![format!("spec.loadBalancerIP {ignored}"), format!("spec.SessionAffinity {ignored}")],
            ),
            (
                json!({"externalName": "a.b"}),
                vec!["spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned()],
            ),
        ] {
            assert_eq!(warnings(&service(spec.clone()), None), wanted, "{spec}");
        }
    }
}
