//! `/metrics`, under upstream's names.

mod audit;
mod caches;
mod process;
mod text;

use super::limits::Queue;
use super::{Body, Context, plain};
use crate::audit::Auditor;
use crate::pipeline::Api;
use crate::request::info::RequestInfo;
use http::{Response, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;

/// Of these labels' values only those of served resources occur: they are bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    /// `resource` (one object), `namespace`, `cluster`, or empty.
    scope: &'static str,
    dry_run: &'static str,
    component: &'static str,
}

/// The same, with the answer's code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    dry_run: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

/// Upstream's canonical verbs; anything else would let clients make labels.
fn verb_of(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        _ if is_stream(info) && info.subresource != "log" => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "other",
    }
}

impl Request {
    pub(super) fn of(context: &Context, dry_run: bool) -> Self {
        let info = &context.info;
        let none = Self {
            verb: verb_of(info),
            group: "",
            version: "",
            resource: "",
            subresource: "",
            scope: "",
            dry_run: if dry_run { "All" } else { "" },
            component: "apiserver",
        };
        let def = context.served.find(&info.group, &info.version, &info.resource);
        let Some(def) = def.filter(|_| info.is_resource) else { return none };
        Self {
            group: def.gv.group,
            version: def.gv.version,
            resource: def.resource,
            subresource: def.subresources.iter().find(|s| s.name == info.subresource).map_or("", |s| s.name),
            scope: match (info.path_name.is_empty(), info.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
            ..none
        }
    }

    fn answered(&self, code: StatusCode) -> Answered {
        let Self { verb, group, version, resource, subresource, scope, dry_run, component } = *self;
        Answered { verb, group, version, resource, subresource, scope, dry_run, component, code: code.as_u16() }
    }
}

/// Whether the request becomes a stream to an agent.
pub fn is_stream(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
}

type Histograms = Family<Request, Histogram, fn() -> Histogram>;

/// The server's own metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    terminated: Family<Answered, Counter>,
    durations: Histograms,
    sizes: Histograms,
    in_flight: Family<Kind, Gauge>,
    long_running: Family<Request, Gauge>,
    handshake_errors: Counter,
}

/// One more of something, for as long as it lives.
pub(super) struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// The server's metrics, those of its caches and of its store.
    pub fn new(api: &Arc<Api>, auditor: Option<&Arc<Auditor>>) -> Self {
        let mut registry = Registry::default();
        api.store.register(&mut registry);
        // Seconds, a subset of upstream's buckets.
        let seconds: fn() -> Histogram =
            || Histogram::new([0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]);
        // Bytes, upstream's: 1000 times ten, seven times.
        let bytes: fn() -> Histogram = || Histogram::new((3..10).map(|n| 10f64.powi(n)));
        let metrics = Self {
            requests: Family::default(),
            terminated: Family::default(),
            durations: Family::new_with_constructor(seconds),
            sizes: Family::new_with_constructor(bytes),
            in_flight: Family::default(),
            long_running: Family::default(),
            handshake_errors: Counter::default(),
            registry: Registry::default(),
        };
        registry.register(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, \
             component, and HTTP response code",
            metrics.requests.clone(),
        );
        registry.register(
            "apiserver_request_terminations",
            "Number of requests which apiserver terminated in self-defense",
            metrics.terminated.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, \
             subresource, scope and component",
            metrics.durations.clone(),
        );
        registry.register(
            "apiserver_response_sizes",
            "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and \
             component",
            metrics.sizes.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Number of currently used inflight request limit of this apiserver per request kind",
            metrics.in_flight.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope \
             and component",
            metrics.long_running.clone(),
        );
        registry.register(
            "apiserver_tls_handshake_errors",
            "Number of requests dropped with 'TLS handshake error from' error",
            metrics.handshake_errors.clone(),
        );
        registry.register_collector(Box::new(caches::Caches::new(api.caches.clone())));
        registry.register_collector(Box::new(process::Process::new()));
        if let Some(auditor) = auditor {
            registry.register_collector(Box::new(audit::Audit(auditor.clone())));
        }
        // Both kinds show from the first scrape on.
        for kind in [Queue::ReadOnly, Queue::Mutating] {
            drop(metrics.in_flight.get_or_create(&label(kind)));
        }
        Self { registry, ..metrics }
    }

    pub(super) fn observe(&self, request: &Request, response: &Response<Body>, took: Duration) {
        let code = response.status();
        self.requests.get_or_create(&request.answered(code)).inc();
        if matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::GATEWAY_TIMEOUT) {
            self.terminated.get_or_create(&request.answered(code)).inc();
        }
        // A watch lasts as long as its client likes: only its start would be measured.
        if request.verb != "WATCH" {
            self.durations.get_or_create(request).observe(took.as_secs_f64());
        }
        if let Some(size) = http_body::Body::size_hint(response.body()).exact() {
            self.sizes.get_or_create(request).observe(size as f64);
        }
    }

    /// A request that takes one of the places.
    pub(super) fn in_flight(&self, kind: Queue) -> Counted {
        Counted::new(self.in_flight.get_or_create(&label(kind)).clone())
    }

    /// A watch or stream.
    pub(super) fn long_running(&self, request: &Request) -> Counted {
        Counted::new(self.long_running.get_or_create(request).clone())
    }

    pub(super) fn handshake_failed(&self) {
        self.handshake_errors.inc();
    }

    pub(super) fn response(&self) -> Response<Body> {
        let mut out = String::new();
        match prometheus_client::encoding::text::encode(&mut out, &self.registry) {
            Ok(()) => plain(StatusCode::OK, text::CONTENT_TYPE, text::prometheus(&out).into()),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into()),
        }
    }
}

fn label(kind: Queue) -> Kind {
    Kind {
        request_kind: match kind {
            Queue::ReadOnly => "readOnly",
            Queue::Mutating => "mutating",
        },
    }
}
