//! ServiceAccounts.

use crate::meta::{Meta, Object};
use crate::registry::gv::AUTHENTICATION_V1;
use crate::registry::table::{AGE, NAME, age};
use crate::registry::{Column, ResourceDef, Strategy, Subresource};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    short_names: &["sa"],
    storage: "serviceaccounts",
    returns_deleted: true,
    subresources: &[Subresource { name: "token", kind: "TokenRequest", gv: AUTHENTICATION_V1, verbs: &["create"] }],
    columns: COLUMNS,
    row,
    strategy: &Strategy { allow_unconditional_update: false, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

fn row(account: &Object, now: i64) -> Vec<Value> {
    vec![account.name().into(), age(account, now)]
}

const COLUMNS: &[Column] = &[NAME, AGE];
