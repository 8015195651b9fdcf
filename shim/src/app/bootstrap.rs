//! The objects that exist before the server is ready: system namespaces and priority classes, and its own Service.

use crate::authn::User;
use crate::error::ApiError;
use crate::meta::Meta;
use crate::pipeline::{self, Api, Call, Credential};
use crate::request::info::RequestInfo;
use crate::request::query::Query;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// (name, value, description), as upstream's.
const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// Creates what is missing and points the `kubernetes` Service at `advertised`.
pub(super) async fn run(
    api: &Arc<Api>,
    service_range: &str,
    service_ip: IpAddr,
    advertised: SocketAddr,
) -> Result<(), ApiError> {
    let namespaces = NAMESPACES.map(|name| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(api, "/api/v1/namespaces".into(), object)
    });
    futures::future::try_join_all(namespaces).await?;
    let classes = PRIORITY_CLASSES.map(|(name, value, description)| {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        });
        ensure(api, "/apis/scheduling.k8s.io/v1/priorityclasses".into(), object)
    });
    // An address that only this machine can reach is no endpoint (and validation refuses it).
    let reachable = !advertised.ip().is_loopback();
    let endpoints = async {
        if !reachable {
            return Ok(());
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": advertised.ip().to_string()}], "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}]}],
        });
        replace(api, "/api/v1/namespaces/default/endpoints".into(), object, "subsets").await
    };
    let slice = async {
        if !reachable {
            return Ok(());
        }
        let family = if advertised.is_ipv4() { "IPv4" } else { "IPv6" };
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": [advertised.ip().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}],
        });
        replace(api, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".into(), object, "endpoints").await
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": service_ip.to_string(), "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertised.port()}],
        },
    });
    let service = ensure(api, "/api/v1/namespaces/default/services".into(), service);
    let (classes, service, endpoints, slice, range) = tokio::join!(
        futures::future::try_join_all(classes),
        service,
        endpoints,
        slice,
        ensure_service_cidr(api, service_range)
    );
    classes.and(service).and(endpoints).and(slice).and(range)
}

/// The range of `--service-cluster-ip-range` as an object, ready for use.
async fn ensure_service_cidr(api: &Arc<Api>, range: &str) -> Result<(), ApiError> {
    const PATH: &str = "/apis/networking.k8s.io/v1/servicecidrs";
    let own = format!("{PATH}/kubernetes");
    match submit(api, "GET", own.clone(), "application/json", json!({})).await {
        Err(ApiError::NotFound { .. }) => {}
        other => return other,
    }
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [range]},
    });
    match submit(api, "POST", PATH.into(), "application/json", object).await {
        // Another server of this store was first.
        Ok(()) | Err(ApiError::AlreadyExists { .. }) => {}
        Err(error) => return Err(error),
    }
    let now = crate::clock::now().wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
        "message": "Kubernetes Service CIDR is ready",
    });
    let patch = json!({"status": {"conditions": [condition]}});
    submit(api, "PATCH", format!("{own}/status"), "application/merge-patch+json", patch).await
}

/// Looks first: creating the Service again would be refused for its address, which is taken (by itself).
async fn ensure(api: &Arc<Api>, path: String, object: Value) -> Result<(), ApiError> {
    let own = format!("{path}/{}", object.name());
    match submit(api, "GET", own.clone(), "application/json", json!({})).await {
        Err(ApiError::NotFound { .. }) => {}
        other => return other,
    }
    match submit(api, "POST", path, "application/json", object).await {
        Ok(()) | Err(ApiError::AlreadyExists { .. }) => Ok(()),
        // Another server of this store was first: its Service has the address.
        Err(error @ ApiError::Invalid { .. }) => {
            submit(api, "GET", own, "application/json", json!({})).await.map_err(|_| error)
        }
        Err(error) => Err(error),
    }
}

/// Creates the object, or sets one field and the ports of the one that exists: the address may have changed.
async fn replace(api: &Arc<Api>, path: String, object: Value, field: &str) -> Result<(), ApiError> {
    let mut patch = json!({});
    for name in [field, "ports"] {
        if !object[name].is_null() {
            patch[name] = object[name].clone();
        }
    }
    match submit(api, "POST", path.clone(), "application/json", object).await {
        Err(ApiError::AlreadyExists { .. }) => {
            submit(api, "PATCH", format!("{path}/kubernetes"), "application/merge-patch+json", patch).await
        }
        other => other,
    }
}

async fn submit(
    api: &Arc<Api>,
    method: &str,
    path: String,
    content_type: &'static str,
    body: Value,
) -> Result<(), ApiError> {
    let query = Query::default();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The manager of what the server writes itself.
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-apiserver"));
    let bytes = Bytes::from(body.to_string());
    let call = Call {
        info: RequestInfo::parse(method, &path, &query),
        query,
        headers,
        credential: Credential::User(User::apiserver()),
        audit: None,
        body: Box::pin(async move { Ok(bytes) }),
    };
    pipeline::run(api, call).await.map(|_| ())
}
