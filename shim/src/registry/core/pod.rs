//! Pods.

pub mod table;

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
    strategy: &Strategy { ..Strategy::BASIC },
    ..ResourceDef::BASIC
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
