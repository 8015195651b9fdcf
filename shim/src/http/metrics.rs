//! `/metrics`, under upstream's names.

use super::{Body, plain};
use crate::pipeline::Api;
use crate::pipeline::api::stored;
use crate::request::info::RequestInfo;
use crate::store::Store;
use http::{Response, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// What a request is counted under; only resources that are served make labels, so they are bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    resource: String,
}

impl Request {
    pub fn of(info: &RequestInfo) -> Self {
        let def = crate::registry::find(&info.group, &info.version, &info.resource);
        let Some(def) = def.filter(|_| info.is_resource) else {
            let none = String::new;
            return Self {
                verb: info.method.clone(),
                group: none(),
                version: none(),
                resource: none(),
                subresource: none(),
            };
        };
        let sub = def.subresources.iter().find(|s| s.name == info.subresource).map_or("", |s| s.name);
        Self {
            verb: match info.verb.as_str() {
                "create" => "POST".into(),
                "update" => "PUT".into(),
                verb => verb.to_ascii_uppercase(),
            },
            group: def.gv.group.into(),
            version: def.gv.version.into(),
            resource: def.resource.into(),
            subresource: sub.into(),
        }
    }
}

/// Whether the request becomes a stream to an agent.
pub fn is_stream(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
}

/// The server's own metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Request, Histogram, fn() -> Histogram>,
    objects: Family<Resource, Gauge>,
}

impl Metrics {
    /// The server's metrics, and those of its store.
    pub fn new(store: &dyn Store) -> Self {
        let mut registry = Registry::default();
        store.register(&mut registry);
        let requests = Family::<Answered, Counter>::default();
        registry.register("apiserver_request", "Counter of apiserver requests", requests.clone());
        // Seconds, a subset of upstream's buckets.
        let histogram: fn() -> Histogram =
            || Histogram::new([0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]);
        let durations = Family::<Request, Histogram, fn() -> Histogram>::new_with_constructor(histogram);
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds",
            durations.clone(),
        );
        let objects = Family::<Resource, Gauge>::default();
        registry.register(
            "apiserver_storage_objects",
            "Number of stored objects at the time of last check",
            objects.clone(),
        );
        Self { registry, requests, durations, objects }
    }

    pub fn observe(&self, request: Request, code: StatusCode, took: Duration) {
        let Request { verb, group, version, resource, subresource } = request.clone();
        let answered = Answered { verb, group, version, resource, subresource, code: code.as_u16() };
        self.requests.get_or_create(&answered).inc();
        // A watch lasts as long as its client likes: only its start would be measured.
        if request.verb != "WATCH" {
            self.durations.get_or_create(&request).observe(took.as_secs_f64());
        }
    }

    pub(super) async fn response(&self, api: &Api) -> Response<Body> {
        for def in stored() {
            let Ok(cache) = api.cache(def.storage) else { continue };
            let Ok(snapshot) = cache.latest().await else { continue };
            let resource = match def.gv.group {
                "" => def.resource.to_owned(),
                group => format!("{}.{group}", def.resource),
            };
            self.objects
                .get_or_create(&Resource { resource })
                .set(i64::try_from(snapshot.map.len()).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => plain(StatusCode::OK, CONTENT_TYPE, text.into()),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into()),
        }
    }
}
