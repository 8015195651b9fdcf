//! Services.

pub mod allocate;
pub mod default;
pub mod table;
pub mod validate;

use crate::meta::Object;
use crate::registry::value::text;
use crate::registry::{ResourceDef, STATUS_VERBS, Strategy, Subresource, meta_fields, names};
use crate::selector::Pairs;

pub const DEF: ResourceDef = ResourceDef {
    resource: "services",
    singular: "service",
    kind: "Service",
    short_names: &["svc"],
    categories: &["all"],
    storage: "services/specs",
    returns_deleted: true,
    subresources: &[
        Subresource::core("proxy", "ServiceProxyOptions", &["create", "delete", "get", "patch", "update"]),
        Subresource::core("status", "Service", STATUS_VERBS),
    ],
    columns: table::COLUMNS,
    row: table::row,
    selectable: &["spec.clusterIP", "spec.type"],
    fields,
    strategy: &STRATEGY,
    ..ResourceDef::BASIC
};

const STRATEGY: Strategy = Strategy {
    default: default::service,
    prepare_create: default::prepare_create,
    prepare_update: default::prepare_update,
    validate: validate::create,
    validate_update: validate::update,
    validate_status: validate::status,
    warnings: validate::warnings,
    allow_create_on_update: true,
    // RelaxedServiceNameValidation: a digit may come first.
    validate_name: names::dns1123_label,
    ..Strategy::BASIC
};

fn fields(service: &Object) -> Pairs {
    let mut pairs = meta_fields(service);
    pairs.insert("spec.clusterIP".into(), text(&service["spec"]["clusterIP"]).into());
    pairs.insert("spec.type".into(), text(&service["spec"]["type"]).into());
    pairs
}
