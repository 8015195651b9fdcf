//! EndpointSlices.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::DISCOVERY_V1;
use crate::registry::table::{AGE, NAME, age, capped_list, text_column};
use crate::registry::value::{bump_generation, default_text, default_value, items, items_mut, root, text};
use crate::registry::{Column, ResourceDef, Strategy, ip, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: DISCOVERY_V1,
    resource: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    storage: "endpointslices",
    storage_gv: DISCOVERY_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create,
        prepare_update,
        validate,
        validate_update,
        warnings,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20000;
const MAX_HINTS: usize = 8;

fn default(slice: &mut Object) {
    for port in items_mut(root(slice), "ports") {
        default_value(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
}

fn prepare_create(slice: &mut Object) {
    slice.meta_mut().insert("generation".to_owned(), 1.into());
    // Only v1beta1 had topology labels.
    for endpoint in items_mut(root(slice), "endpoints") {
        endpoint.remove("deprecatedTopology");
    }
}

/// A change of anything but metadata is a new generation.
fn prepare_update(new: &mut Object, old: &Object) {
    let changed = ["addressType", "endpoints", "ports"].iter().any(|key| new[*key] != old[*key]);
    bump_generation(new, old, changed);
}

fn validate(slice: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(slice);
    let kind = text(&slice["addressType"]);
    match kind {
        "" => errors.push(Path::new("addressType").required("")),
        "FQDN" | "IPv4" | "IPv6" => {}
        other => errors.push(Path::new("addressType").not_supported(other, &["FQDN", "IPv4", "IPv6"])),
    }
    let endpoints = items(&slice["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(Path::new("endpoints").too_many(endpoints.len(), MAX_ENDPOINTS));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = Path::new("endpoints").index(index);
        addresses(endpoint, kind, &path.child("addresses"), &mut errors);
        let hostname = text(&endpoint["hostname"]);
        if !hostname.is_empty() {
            errors.extend(path.child("hostname").all_invalid(hostname, names::dns1123_label(hostname, false)));
        }
        let node = text(&endpoint["nodeName"]);
        if !node.is_empty() {
            errors.extend(path.child("nodeName").all_invalid(node, names::dns1123_subdomain(node, false)));
        }
        let hints = path.child("hints");
        let zone: names::NameRule = |name, _| names::label_value(name);
        for (list, rule) in [("forZones", zone), ("forNodes", names::dns1123_subdomain)] {
            self::hints(items(&endpoint["hints"][list]), rule, &hints.child(list), &mut errors);
        }
    }
    ports(slice, &mut errors);
    errors
}

/// Where an endpoint is best used from: zones or nodes, each once.
fn hints(list: &[Value], rule: names::NameRule, path: &Path, errors: &mut Errors) {
    if list.len() > MAX_HINTS {
        errors.push(path.too_many(list.len(), MAX_HINTS));
        return;
    }
    for (index, hint) in list.iter().enumerate() {
        let (name, path) = (text(&hint["name"]), path.index(index).child("name"));
        if list[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
            errors.push(path.duplicate(name));
        }
        errors.extend(path.all_invalid(name, rule(name, false)));
    }
}

fn addresses(endpoint: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    let list = items(&endpoint["addresses"]);
    if list.is_empty() {
        errors.push(path.required("must contain at least 1 address"));
    } else if list.len() > MAX_ADDRESSES {
        errors.push(path.too_many(list.len(), MAX_ADDRESSES));
    }
    for (index, address) in list.iter().map(text).enumerate() {
        let own = path.index(index);
        match kind {
            "IPv4" | "IPv6" => match address.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.is_ipv4() == (kind == "IPv4") => ip::validate_non_special(address, &own, errors),
                // Upstream names the list here.
                Ok(_) | Err(_) => errors.push(path.invalid(address, &format!("must be an {kind} address"))),
            },
            "FQDN" => errors.extend(own.all_invalid(address, names::dns1123_subdomain(address, false))),
            _ => {}
        }
    }
}

fn ports(slice: &Object, errors: &mut Errors) {
    let list = items(&slice["ports"]);
    if list.len() > MAX_PORTS {
        errors.push(Path::new("ports").too_many(list.len(), MAX_PORTS));
    }
    let mut seen = Vec::new();
    for (index, port) in list.iter().enumerate() {
        let path = Path::new("ports").index(index);
        let name = text(&port["name"]);
        if !name.is_empty() {
            errors.extend(path.child("name").all_invalid(name, names::dns1123_label(name, false)));
        }
        if seen.contains(&name) {
            errors.push(path.child("name").duplicate(name));
        }
        seen.push(name);
        match text(&port["protocol"]) {
            "" => errors.push(path.child("protocol").required("")),
            "SCTP" | "TCP" | "UDP" => {}
            other => errors.push(path.child("protocol").not_supported(other, &["SCTP", "TCP", "UDP"])),
        }
        if let Some(protocol) = port["appProtocol"].as_str() {
            errors.extend(path.child("appProtocol").all_invalid(protocol, names::qualified_name(protocol)));
        }
    }
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    meta::immutable(&new["addressType"], &old["addressType"], &Path::new("addressType"), &mut errors);
    errors
}

/// Said once: the type cannot change.
fn warnings(slice: &Object, old: Option<&Object>) -> Vec<String> {
    match text(&slice["addressType"]) {
        // Upstream says `spec`, though the field is at the top.
        "FQDN" if old.is_none() => vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()],
        _ => Vec::new(),
    }
}

fn row(slice: &Object, now: i64) -> Vec<Value> {
    let ports: Vec<String> = items(&slice["ports"])
        .iter()
        .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = items(&slice["endpoints"])
        .iter()
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .map(|address| text(address).to_owned())
        .collect();
    let cell = |list: &[String]| if list.is_empty() { "<unset>".to_owned() } else { capped_list(list) };
    let kind = text(&slice["addressType"]);
    vec![slice.name().into(), kind.into(), cell(&ports).into(), cell(&addresses).into(), age(slice, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "AddressType",
        "addressType specifies the type of address carried by this EndpointSlice. All addresses in this slice must be the same type. This field is immutable after creation. The following address types are currently supported: * IPv4: Represents an IPv4 Address. * IPv6: Represents an IPv6 Address. * FQDN: Represents a Fully Qualified Domain Name. (Deprecated) The EndpointSlice controller only generates, and kube-proxy only processes, slices of addressType \"IPv4\" and \"IPv6\". No semantics are defined for the \"FQDN\" type.",
    ),
    text_column(
        "Ports",
        "ports specifies the list of network ports exposed by each endpoint in this slice. Each port must have a unique name. Each slice may include a maximum of 100 ports. Services always have at least 1 port, so EndpointSlices generated by the EndpointSlice controller will likewise always have at least 1 port. EndpointSlices used for other purposes may have an empty ports list.",
    ),
    text_column(
        "Endpoints",
        "endpoints is a list of unique endpoints in this slice. Each slice may include a maximum of 1000 endpoints.",
    ),
    AGE,
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hints_and_protocols_of_applications_are_names() {
        let zones = |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
        for (hints, protocol, fields) in [
            (json!({"forZones": zones(&["a", "b"])}), "kubernetes.io/h2c", vec![]),
            (json!({"forZones": zones(&["a", "a"])}), "http", vec!["endpoints[0].hints.forZones[1].name"]),
            (json!({"forZones": zones(&["a b"])}), "http", vec!["endpoints[0].hints.forZones[0].name"]),
            (json!({"forZones": zones(&["z"; 9])}), "http", vec!["endpoints[0].hints.forZones"]),
            (json!({"forNodes": zones(&["A"])}), "http", vec!["endpoints[0].hints.forNodes[0].name"]),
            (json!({}), "a b", vec!["ports[0].appProtocol"]),
        ] {
            let slice = json!({
                "metadata": {"name": "s", "namespace": "n"}, "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.1"], "hints": hints}],
                "ports": [{"name": "", "protocol": "TCP", "port": 80, "appProtocol": protocol}],
            });
            let found: Vec<String> = validate(&slice).into_iter().map(|error| error.field).collect();
            assert_eq!(found, fields, "{hints} {protocol}");
        }
    }
}
