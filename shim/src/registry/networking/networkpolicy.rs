//! NetworkPolicies.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::NETWORKING_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{
    count_spec, default_text, first_generation, is_empty, items, items_mut, object_mut, text,
};
use crate::registry::{Column, ResourceDef, Strategy, ip, labels, meta, names};
use serde_json::{Map, Value, json};

pub const DEF: ResourceDef = ResourceDef {
    gv: NETWORKING_V1,
    resource: "networkpolicies",
    singular: "networkpolicy",
    kind: "NetworkPolicy",
    short_names: &["netpol"],
    storage: "networkpolicies",
    storage_gv: NETWORKING_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: first_generation,
        prepare_update: count_spec,
        validate,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

fn default(object: &mut Object) {
    let Some(spec) = object_mut(object, "spec") else { return };
    if spec.get("policyTypes").is_none_or(is_empty) {
        let egress = spec.get("egress").is_some_and(|list| !is_empty(list));
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
    let ports = |rule: &mut Map<String, Value>| {
        items_mut(rule, "ports").for_each(|port| default_text(port, "protocol", "TCP"));
    };
    items_mut(spec, "ingress").for_each(ports);
    items_mut(spec, "egress").for_each(ports);
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    labels::validate_selector(&spec["podSelector"], &path.child("podSelector"), &mut errors);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(&spec[list]).iter().enumerate() {
            let path = path.child(list).index(index);
            for (index, port) in items(&rule["ports"]).iter().enumerate() {
                self::port(port, &path.child("ports").index(index), &mut errors);
            }
            for (index, peer) in items(&rule[peers]).iter().enumerate() {
                self::peer(peer, &path.child(peers).index(index), &mut errors);
            }
        }
    }
    let types = items(&spec["policyTypes"]);
    let path = path.child("policyTypes");
    if types.len() > 2 {
        errors.push(path.invalid(spec["policyTypes"].clone(), "may not specify more than two policyTypes"));
        return errors;
    }
    for (index, kind) in types.iter().map(text).enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            errors.push(path.index(index).not_supported(kind, &["Egress", "Ingress"]));
        }
    }
    errors
}

fn port(port: &Value, path: &Path, errors: &mut Errors) {
    if let Some(protocol) = port["protocol"].as_str().filter(|p| !matches!(*p, "TCP" | "UDP" | "SCTP")) {
        errors.push(path.child("protocol").not_supported(protocol, &["SCTP", "TCP", "UDP"]));
    }
    let end = port["endPort"].as_i64();
    match &port["port"] {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(0);
            let texts = names::port_number(number);
            errors.extend(texts.into_iter().map(|text| path.child("port").invalid(number, &text)));
            if let Some(end) = end {
                if end < number {
                    let detail = "must be greater than or equal to `port`";
                    errors.push(path.child("endPort").invalid(end, detail));
                }
                let texts = names::port_number(end);
                errors.extend(texts.into_iter().map(|text| path.child("endPort").invalid(end, &text)));
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                errors.push(path.child("endPort").invalid(end, "may not be specified when `port` is non-numeric"));
            }
            errors.extend(path.child("port").all_invalid(name, names::port_name(name)));
        }
        _ => {
            if let Some(end) = end {
                errors.push(path.child("endPort").invalid(end, "may not be specified when `port` is not specified"));
            }
        }
    }
}

fn peer(peer: &Value, path: &Path, errors: &mut Errors) {
    let mut kinds = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if peer[selector].is_object() {
            kinds += 1;
            labels::validate_selector(&peer[selector], &path.child(selector), errors);
        }
    }
    if peer["ipBlock"].is_object() {
        if kinds > 0 {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(path.forbidden(detail));
        }
        kinds += 1;
        block(&peer["ipBlock"], &path.child("ipBlock"), errors);
    }
    if kinds == 0 {
        errors.push(path.required("must specify a peer"));
    }
}

fn block(block: &Value, path: &Path, errors: &mut Errors) {
    let cidr = text(&block["cidr"]);
    if cidr.is_empty() {
        errors.push(path.child("cidr").required(""));
        return;
    }
    ip::validate_cidr(cidr, &path.child("cidr"), errors);
    let Some((network, bits)) = ip::parse_cidr(cidr) else { return };
    for (index, except) in items(&block["except"]).iter().map(text).enumerate() {
        let path = path.child("except").index(index);
        ip::validate_cidr(except, &path, errors);
        let inside = ip::parse_cidr(except)
            .is_some_and(|(address, own_bits)| own_bits > bits && ip::contains(network, bits, address));
        if !inside && ip::parse_cidr(except).is_some() {
            errors.push(path.invalid(except, &format!("must be a strict subset of `cidr`: {cidr}")));
        }
    }
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    vec![object.name().into(), labels::selector_cell(&object["spec"]["podSelector"]).into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Pod-Selector",
        "podSelector selects the pods to which this NetworkPolicy object applies. The array of rules is applied to any pods selected by this field. An empty selector matches all pods in the policy's namespace. Multiple network policies can select the same set of pods. In this case, the ingress rules for each are combined additively. This field is optional. If it is not specified, it defaults to an empty selector.",
    ),
    AGE,
];
