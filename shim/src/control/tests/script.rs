//! A scripted API server behind a real `kube::Client`: answers in order and records what was asked.

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// One scripted exchange: requests that start with `prefix` (a space ends the path) are answered with it, each once, in order.
struct Exchange {
    prefix: &'static str,
    status: u16,
    body: String,
}

/// The script and the record.
#[derive(Clone, Default)]
pub(in crate::control) struct Script {
    exchanges: Arc<Mutex<VecDeque<Exchange>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    pub(in crate::control) fn on(self, prefix: &'static str, status: u16, body: impl ToString) -> Self {
        self.exchanges.lock().unwrap().push_back(Exchange { prefix, status, body: body.to_string() });
        self
    }

    /// A watch: its lines, then the end of the stream.
    pub(in crate::control) fn on_watch(self, prefix: &'static str, events: &[Value]) -> Self {
        let lines: String = events.iter().map(|e| format!("{e}\n")).collect();
        self.on(prefix, 200, lines)
    }

    /// `METHOD path[?query] [body]` of every request so far.
    pub(in crate::control) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// A request that no exchange is left for never gets an answer, as from a server that hangs.
    pub(in crate::control) fn client(&self) -> kube::Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let script = script.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let line = format!("{} {}", parts.method, parts.uri);
                let exchange = {
                    let mut exchanges = script.exchanges.lock().unwrap();
                    let at = exchanges.iter().position(|e| format!("{line} ").starts_with(e.prefix));
                    at.and_then(|at| exchanges.remove(at))
                };
                let body = String::from_utf8_lossy(&body).into_owned();
                script.asked.lock().unwrap().push(if body.is_empty() { line } else { format!("{line} {body}") });
                let Some(exchange) = exchange else { return std::future::pending().await };
                let answer = Response::builder().status(exchange.status).body(Body::from(exchange.body.into_bytes()));
                Ok::<_, tower::BoxError>(answer?)
            }
        });
        kube::Client::new(service, "default")
    }
}
