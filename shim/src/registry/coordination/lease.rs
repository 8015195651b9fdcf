//! Leases.

use crate::meta::{Meta, Object};
use crate::registry::gv::COORDINATION_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::text;
use crate::registry::{Column, ResourceDef, Strategy};
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
    strategy: &Strategy { allow_create_on_update: true, allow_unconditional_update: false, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

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
