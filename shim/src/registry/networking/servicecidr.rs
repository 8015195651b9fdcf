//! ServiceCIDRs: the ranges that services get their addresses from.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::NETWORKING_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{begin, items, keep_all_but_status, keep_status_and_count, same, text};
use crate::registry::{Column, ResourceDef, STATUS_VERBS, Strategy, Subresource, ip, meta};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: NETWORKING_V1,
    resource: "servicecidrs",
    singular: "servicecidr",
    kind: "ServiceCIDR",
    namespaced: false,
    storage: "servicecidrs",
    storage_gv: NETWORKING_V1,
    subresources: &[Subresource { name: "status", kind: "ServiceCIDR", gv: NETWORKING_V1, verbs: STATUS_VERBS }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        prepare_create: begin,
        prepare_update: keep_status_and_count,
        prepare_status: keep_all_but_status,
        validate,
        validate_update,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

/// One range, or one of each family.
const MAX_RANGES: usize = 2;

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (list, path) = (items(&object["spec"]["cidrs"]), Path::new("spec").child("cidrs"));
    if list.is_empty() {
        errors.push(path.required("at least one CIDR required"));
        return errors;
    }
    if list.len() > MAX_RANGES {
        let detail = format!("may only hold up to {MAX_RANGES} values");
        errors.push(path.invalid(object["spec"].clone(), &detail));
        return errors;
    }
    let family = |cidr: &Value| ip::parse_cidr(text(cidr)).map(|(address, _)| address.is_ipv4());
    if let [first, second] = list
        && family(first) == family(second)
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(path.invalid(object["spec"]["cidrs"].clone(), detail));
    }
    for (index, cidr) in list.iter().map(text).enumerate() {
        let path = path.index(index);
        match ip::parse_cidr(cidr) {
            None => ip::validate_cidr(cidr, &path, &mut errors),
            Some((network, bits)) if !ip::is_network(network, bits) => {
                let detail = "must not have bits set beyond the prefix length";
                errors.push(path.invalid(cidr, detail));
            }
            Some(_) => {}
        }
    }
    errors
}

/// A range may only grow by one of the other family.
fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (list, before) = (items(&new["spec"]["cidrs"]), items(&old["spec"]["cidrs"]));
    let path = Path::new("spec").child("cidrs");
    if list.len() < before.len() || !list.iter().zip(before).all(|(a, b)| same(a, b)) {
        errors.push(path.index(0).invalid(new["spec"]["cidrs"].clone(), "field is immutable"));
    }
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let list: Vec<&str> = items(&object["spec"]["cidrs"]).iter().map(text).collect();
    vec![object.name().into(), list.join(",").into(), age(object, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "CIDRs",
        "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. This field is immutable.",
    ),
    AGE,
];
