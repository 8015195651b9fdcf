//! Endpoints, the older form of endpoint slices.

use crate::meta::{Meta, Object};
use crate::registry::table::{AGE, NAME, age, capped_list, text_column};
use crate::registry::value::{items, text};
use crate::registry::{Column, ResourceDef, Strategy};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "endpoints",
    singular: "endpoints",
    kind: "Endpoints",
    short_names: &["ep"],
    storage: "services/endpoints",
    columns: COLUMNS,
    row,
    strategy: &Strategy { allow_create_on_update: true, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

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
