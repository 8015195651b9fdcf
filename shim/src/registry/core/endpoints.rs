//! Endpoints, the older form of endpoint slices.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::table::{AGE, NAME, age, capped_list, text_column};
use crate::registry::value::{default_text, items, items_mut, root, text};
use crate::registry::{Column, ResourceDef, Strategy, ip, meta, names};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "endpoints",
    singular: "endpoints",
    kind: "Endpoints",
    short_names: &["ep"],
    storage: "services/endpoints",
    columns: COLUMNS,
    row,
    strategy: &Strategy { default, validate, allow_create_on_update: true, ..Strategy::BASIC },
    deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ..ResourceDef::BASIC
};

fn default(endpoints: &mut Object) {
    for subset in items_mut(root(endpoints), "subsets") {
        for port in items_mut(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

fn validate(endpoints: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(endpoints);
    for (index, subset) in items(&endpoints["subsets"]).iter().enumerate() {
        let path = Path::new("subsets").index(index);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(&subset[*list]).is_empty()) {
            errors.push(path.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for list in lists {
            for (index, address) in items(&subset[list]).iter().enumerate() {
                let path = path.child(list).index(index);
                ip::validate(text(&address["ip"]), &path.child("ip"), &mut errors);
                let hostname = text(&address["hostname"]);
                if !hostname.is_empty() {
                    errors.extend(path.child("hostname").all_invalid(hostname, names::dns1123_label(hostname, false)));
                }
                let node = text(&address["nodeName"]);
                if !node.is_empty() {
                    errors.extend(path.child("nodeName").all_invalid(node, names::dns1123_subdomain(node, false)));
                }
                ip::validate_non_special(text(&address["ip"]), &path.child("ip"), &mut errors);
            }
        }
        ports(items(&subset["ports"]), &path.child("ports"), &mut errors);
    }
    errors
}

fn ports(ports: &[Value], path: &Path, errors: &mut Errors) {
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        match text(&port["name"]) {
            "" if ports.len() > 1 => errors.push(path.child("name").required("")),
            "" => {}
            name => errors.extend(path.child("name").all_invalid(name, names::dns1123_label(name, false))),
        }
        let number = port["port"].as_i64().unwrap_or(0);
        errors.extend(names::port_number(number).into_iter().map(|text| path.child("port").invalid(number, &text)));
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

fn row(object: &Object, now: i64) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in items(&object["subsets"]) {
        let addresses = items(&subset["addresses"]).iter().map(|a| text(&a["ip"]));
        if items(&subset["ports"]).is_empty() {
            list.extend(addresses.map(str::to_owned));
            continue;
        }
        for port in items(&subset["ports"]) {
            list.extend(addresses.clone().map(|ip| {
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
                format!("{ip}:{}", port["port"])
            }));
        }
    }
    let shown = if list.is_empty() { "<none>".to_owned() } else { capped_list(&list) };
    vec![object.name().into(), shown.into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Endpoints",
        "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share. A single address with multiple ports, some of which are ready and some of which are not (because they come from different containers) will result in the address being displayed in different subsets for the different ports. No address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of addresses and ports that comprise a service.",
    ),
    AGE,
];
