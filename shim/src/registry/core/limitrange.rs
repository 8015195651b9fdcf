//! LimitRanges.

use crate::registry::{ResourceDef, Strategy};

pub const DEF: ResourceDef = ResourceDef {
    resource: "limitranges",
    singular: "limitrange",
    kind: "LimitRange",
    short_names: &["limits"],
    storage: "limitranges",
    strategy: &Strategy { allow_create_on_update: true, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};
