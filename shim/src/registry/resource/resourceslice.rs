//! ResourceSlices: devices that a driver offers.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::RESOURCE_V1;
use crate::registry::storage::csidriver::driver_name;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{count_spec, first_generation, items, text, truth};
use crate::registry::{Column, ResourceDef, Strategy, meta, meta_fields, names};
use crate::selector::Pairs;
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: RESOURCE_V1,
    resource: "resourceslices",
    singular: "resourceslice",
    kind: "ResourceSlice",
    namespaced: false,
    storage: "resourceslices",
    storage_gv: RESOURCE_V1,
    columns: COLUMNS,
    row,
    selectable: &["spec.nodeName", "spec.driver"],
    fields,
    returns_deleted: true,
    strategy: &Strategy {
        prepare_create: first_generation,
        prepare_update: count_spec,
        validate,
        validate_update,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

const MAX_DEVICES: usize = 128;

fn fields(slice: &Object) -> Pairs {
    let mut pairs = meta_fields(slice);
    for field in ["nodeName", "driver"] {
        pairs.insert(format!("spec.{field}").into(), text(&slice["spec"][field]).into());
    }
    pairs
}

fn validate(slice: &Object) -> Errors {
    let mut errors = meta::validate_cluster(slice);
    let (spec, path) = (&slice["spec"], Path::new("spec"));
    driver_name(text(&spec["driver"]), &path.child("driver"), &mut errors);
    let (pool, own) = (&spec["pool"], path.child("pool"));
    match text(&pool["name"]) {
        "" => errors.push(own.child("name").required("")),
        name => {
            for part in name.split('/') {
                errors.extend(own.child("name").all_invalid(part, names::dns1123_subdomain(part, false)));
            }
        }
    }
    if pool["resourceSliceCount"].as_i64().unwrap_or(0) <= 0 {
        let count = pool["resourceSliceCount"].as_i64().unwrap_or(0);
        errors.push(own.child("resourceSliceCount").invalid(count, "must be greater than zero"));
    }
    if let Some(generation) = pool["generation"].as_i64().filter(|n| *n < 0) {
        errors.push(own.child("generation").invalid(generation, "must be greater than or equal to zero"));
    }
    let places = [
        spec["nodeName"].is_string(),
        spec["nodeSelector"].is_object(),
        truth(&spec["allNodes"]),
        truth(&spec["perDeviceNodeSelection"]),
    ];
    match places.iter().filter(|set| **set).count() {
        0 => errors.push(path.required("exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required")),
        1 => {}
        _ => errors.push(path.invalid("", "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set")),
    }
    let (devices, own) = (items(&spec["devices"]), path.child("devices"));
    if devices.len() > MAX_DEVICES {
        errors.push(own.too_many(devices.len(), MAX_DEVICES));
    }
    for (index, device) in devices.iter().enumerate() {
        let path = own.index(index).child("name");
        let name = text(&device["name"]);
        if name.is_empty() {
            errors.push(path.required(""));
        } else {
            errors.extend(path.all_invalid(name, names::dns1123_label(name, false)));
        }
        if devices[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
            errors.push(path.duplicate(name));
        }
    }
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (spec, before, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    for field in ["driver", "nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"] {
        meta::immutable(&spec[field], &before[field], &path.child(field), &mut errors);
    }
    let own = path.child("pool").child("name");
    meta::immutable(&spec["pool"]["name"], &before["pool"]["name"], &own, &mut errors);
    errors
}

fn row(slice: &Object, now: i64) -> Vec<Value> {
    let spec = &slice["spec"];
    let node = match text(&spec["nodeName"]) {
        "" => "<unset>",
        node => node,
    };
    vec![
        slice.name().into(),
        node.into(),
        text(&spec["driver"]).into(),
        text(&spec["pool"]["name"]).into(),
        age(slice, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Node",
        "NodeName identifies the node which provides the resources in this pool. A field selector can be used to list only ResourceSlice objects belonging to a certain node.\n\nThis field can be used to limit access from nodes to ResourceSlices with the same node name. It also indicates to autoscalers that adding new nodes of the same type as some old node might also make new resources available.\n\nExactly one of NodeName, NodeSelector, AllNodes, and PerDeviceNodeSelection must be set. This field is immutable.",
    ),
    text_column(
        "Driver",
        "Driver identifies the DRA driver providing the capacity information. A field selector can be used to list only ResourceSlice objects with a certain driver name.\n\nMust be a DNS subdomain and should end with a DNS domain owned by the vendor of the driver. It should use only lower case characters. This field is immutable.",
    ),
    text_column("Pool", "Pool describes the pool that this ResourceSlice belongs to."),
    AGE,
];
