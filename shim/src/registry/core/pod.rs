//! Pods.

pub mod admit;
pub mod default;
pub mod qos;
pub mod status;
pub mod table;
pub mod update;
pub mod validate;
pub mod warnings;

use crate::meta::Object;
use crate::registry::gv::POLICY_V1;
use crate::registry::value::{items, text, truth};
use crate::registry::{ResourceDef, STATUS_VERBS, Strategy, Subresource, meta_fields};
use crate::selector::Pairs;

const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];
const STREAM_VERBS: &[&str] = &["create", "get"];

pub const DEF: ResourceDef = ResourceDef {
    resource: "pods",
    singular: "pod",
    kind: "Pod",
    short_names: &["po"],
    categories: &["all"],
    storage: "pods",
    returns_deleted: true,
    subresources: &[
        Subresource::core("attach", "PodAttachOptions", STREAM_VERBS),
        Subresource::core("binding", "Binding", &["create"]),
        Subresource::core("ephemeralcontainers", "Pod", STATUS_VERBS),
        Subresource { name: "eviction", kind: "Eviction", gv: POLICY_V1, verbs: &["create"] },
        Subresource::core("exec", "PodExecOptions", STREAM_VERBS),
        Subresource::core("log", "Pod", &["get"]),
        Subresource::core("portforward", "PodPortForwardOptions", STREAM_VERBS),
        Subresource::core("proxy", "PodProxyOptions", PROXY_VERBS),
        Subresource::core("resize", "Pod", STATUS_VERBS),
        Subresource::core("status", "Pod", STATUS_VERBS),
    ],
    columns: table::COLUMNS,
    row: table::row,
    row_conditions: table::conditions,
    selectable: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    fields,
    strategy: &STRATEGY,
    ..ResourceDef::BASIC
};

const STRATEGY: Strategy = Strategy {
    default: default::pod,
    prepare_create: status::prepare_create,
    prepare_update: status::prepare_update,
    prepare_status: status::prepare_status,
    validate: validate::pod,
    validate_update: update::validate,
    validate_status: status::validate_status,
    warnings: warnings::pod,
    grace: Some(status::grace),
    ..Strategy::BASIC
};

fn fields(pod: &Object) -> Pairs {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let pod_ip = items(&status["podIPs"]).first().map_or("", |ip| text(&ip["ip"]));
    let mut pairs = meta_fields(pod);
    for (field, value) in [
        ("spec.nodeName", text(&spec["nodeName"])),
        ("spec.restartPolicy", text(&spec["restartPolicy"])),
        ("spec.schedulerName", text(&spec["schedulerName"])),
        ("spec.serviceAccountName", text(&spec["serviceAccountName"])),
        ("spec.hostNetwork", if truth(&spec["hostNetwork"]) { "true" } else { "false" }),
        ("status.phase", text(&status["phase"])),
        ("status.podIP", pod_ip),
        ("status.nominatedNodeName", text(&status["nominatedNodeName"])),
    ] {
        pairs.insert(field.into(), value.into());
    }
    pairs
}
