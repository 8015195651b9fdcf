//! Leases.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::COORDINATION_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{object_mut, text};
use crate::registry::{Column, ResourceDef, Strategy, meta};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    gv: COORDINATION_V1,
    resource: "leases",
    singular: "lease",
    kind: "Lease",
    storage: "leases",
    storage_gv: COORDINATION_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        prepare_create: without_strategy,
        prepare_update: |new, _| without_strategy(new),
        validate,
        allow_create_on_update: true,
        allow_unconditional_update: false,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

/// Coordinated leader election is off, as upstream's default is: its fields are not kept.
fn without_strategy(lease: &mut Object) {
    if let Some(spec) = object_mut(lease, "spec") {
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

fn validate(lease: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(lease);
    let path = Path::new("spec");
    if let Some(seconds) = lease["spec"]["leaseDurationSeconds"].as_i64().filter(|s| *s <= 0) {
        errors.push(path.child("leaseDurationSeconds").invalid(seconds, "must be greater than 0"));
    }
    if let Some(count) = lease["spec"]["leaseTransitions"].as_i64().filter(|c| *c < 0) {
        errors.push(path.child("leaseTransitions").invalid(count, "must be greater than or equal to 0"));
    }
    errors
}

fn row(lease: &Object, now: i64) -> Vec<Value> {
    vec![lease.name().into(), text(&lease["spec"]["holderIdentity"]).into(), age(lease, now)]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Holder",
        "holderIdentity contains the identity of the holder of a current lease. If Coordinated Leader Election is used, the holder identity must be equal to the elected LeaseCandidate.metadata.name field.",
    ),
    AGE,
];
