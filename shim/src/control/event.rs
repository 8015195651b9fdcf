//! Core/v1 events as client-go's recorder of a controller writes them, without aggregation: controllers tell transitions.

use super::call::call;
use crate::clock;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;

/// What an event is about.
pub(super) struct Subject<'a> {
    pub kind: &'static str,
    /// Empty for cluster-scoped objects, whose events live in `default`.
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

/// Writes one event; a failure is logged, never waited for twice.
pub(super) async fn record(
    client: &Client,
    component: &str,
    subject: Subject<'_>,
    kind: &str,
    reason: &str,
    message: &str,
) {
    let now = clock::now().wall;
    let namespace = if subject.namespace.is_empty() { "default" } else { subject.namespace };
    let second = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut involved = json!({"apiVersion": "v1", "kind": subject.kind, "name": subject.name, "uid": subject.uid});
    if !subject.namespace.is_empty() {
        involved["namespace"] = subject.namespace.into();
    }
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{}.{:x}", subject.name, now.as_nanosecond())},
        "involvedObject": involved, "type": kind, "reason": reason, "message": message,
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": second, "lastTimestamp": second, "count": 1,
    });
    let event = match serde_json::from_value(event) {
        Ok(event) => event,
        Err(error) => return tracing::warn!(reason, %error, "event not written"),
    };
    let api = Api::<k8s_openapi::api::core::v1::Event>::namespaced(client.clone(), namespace);
    if let Err(error) = call(api.create(&PostParams::default(), &event)).await {
        tracing::warn!(reason, %error, "event not written");
    }
}
