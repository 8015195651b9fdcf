//! Requests as the kubelet counts them, by labels that no caller can make up.

use super::Port;
use crate::clock;
use crate::metrics::catalog;
use http::{Method, Request};

/// A request that is counted as the kubelet does, whoever makes it.
pub(super) struct Count {
    /// long_running, method, path, server_type.
    labels: [&'static str; 4],
    begun: tokio::time::Instant,
}

impl Count {
    pub(super) fn begin(request: &Request<impl Sized>, port: Port) -> Self {
        let (method, path) = (counted_method(request.method()), counted_path(request.uri().path()));
        let long = if matches!(path, "exec" | "attach" | "debug") { "true" } else { "false" };
        let server = if port == Port::ReadOnly { "readonly" } else { "readwrite" };
        let labels = [long, method, path, server];
        catalog::HTTP_REQUESTS.inc(labels);
        Self { labels, begun: clock::now().mono }
    }

    /// There is an answer; what it streams comes later.
    pub(super) fn end(self) {
        catalog::HTTP_DURATION.observe(self.labels, self.begun.elapsed());
    }
}

/// The method as a label: nothing that a caller could make up.
fn counted_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 8] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// The path as a label: its first part, or two of a scrape, and nothing that a caller could make up.
fn counted_path(path: &str) -> &'static str {
    const KNOWN: [&str; 19] = [
        "attach",
        "checkpoint",
        "configz",
        "containerLogs",
        "debug",
        "exec",
        "flagz",
        "healthz",
        "logs",
        "metrics",
        "metrics/cadvisor",
        "metrics/probes",
        "metrics/resource",
        "pods",
        "portForward",
        "run",
        "runningpods",
        "stats",
        "statusz",
    ];
    let path = path.trim_start_matches('/');
    let root = match path.split_once('/') {
        Some(("metrics", rest)) => &path[..path.len() - rest.split_once('/').map_or(0, |(_, more)| more.len() + 1)],
        Some((first, _)) => first,
        None => path,
    };
    KNOWN.into_iter().find(|known| *known == root).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_makes_labels_up() {
        for (path, expected) in [
            ("/pods", "pods"),
            ("//pods/", "pods"),
            ("/metrics", "metrics"),
            ("/metrics/cadvisor", "metrics/cadvisor"),
            ("/metrics/cadvisor/x", "metrics/cadvisor"),
            ("/metrics/slis", "other"),
            ("/stats/summary", "stats"),
            ("/portForward/ns/p", "portForward"),
            ("/debug/flags/v", "debug"),
            ("/none", "other"),
            ("/", "other"),
        ] {
            assert_eq!(counted_path(path), expected, "{path}");
        }
        let method = |text: &str| counted_method(&Method::from_bytes(text.as_bytes()).unwrap());
        assert_eq!((method("GET"), method("PATCH"), method("MADE-UP")), ("GET", "other", "other"));
    }
}
