//! Bindings: POSTed by schedulers, also as `pods/<name>/binding`; never stored.

use crate::registry::ResourceDef;

pub const DEF: ResourceDef = ResourceDef {
    resource: "bindings",
    singular: "binding",
    kind: "Binding",
    verbs: &["create"],
    storage: "pods",
    ..ResourceDef::BASIC
};
