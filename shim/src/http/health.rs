//! `/healthz`, `/livez`, `/readyz`, their checks and the verbose form.

use super::{Body, plain};
use crate::pipeline::Api;
use crate::request::Health;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use std::sync::atomic::Ordering;

const TEXT: &str = "text/plain; charset=utf-8";

pub(super) async fn response(api: &Api, health: &Health) -> Response<Body> {
    let checks = checks(api, health.endpoint).await;
    if let Some(name) = &health.check {
        return match checks.iter().find(|(check, _)| check == name) {
            Some((_, true)) => text(StatusCode::OK, "ok".into()),
            Some((_, false)) => text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: failed\n".into()),
            None => text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
        };
    }
    let mut out = String::new();
    let mut failed = false;
    for (name, ok) in &checks {
        if health.exclude.iter().any(|e| e == name) {
            out.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if *ok {
            out.push_str(&format!("[+]{name} ok\n"));
        } else {
            failed = true;
            out.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    let known = |name: &&String| checks.iter().any(|(check, _)| check == name);
    let unknown: Vec<String> = health.exclude.iter().filter(|e| !known(e)).map(|e| format!("\"{e}\"")).collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(",");
        out.push_str(&format!("warn: some health checks cannot be excluded: no matches for {unknown}\n"));
    }
    match (failed, health.verbose) {
        (false, false) => text(StatusCode::OK, "ok".into()),
        (false, true) => text(StatusCode::OK, format!("{out}{} check passed\n", health.endpoint)),
        (true, _) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{out}{} check failed\n", health.endpoint)),
    }
}

async fn checks(api: &Api, endpoint: &str) -> Vec<(&'static str, bool)> {
    let patience = api.settings.etcd_healthcheck_timeout;
    let store = tokio::time::timeout(patience, api.store.current()).await.is_ok_and(|r| r.is_ok());
    // Whatever the engine, the store's check has upstream's name.
    let mut checks = vec![("ping", true), ("log", true), ("etcd", store)];
    if endpoint == "readyz" {
        checks.push(("etcd-readiness", store));
    }
    if endpoint != "livez" {
        checks.push(("poststarthook/bootstrap-controller", api.ready.load(Ordering::Acquire)));
    }
    if endpoint == "readyz" {
        checks.push(("shutdown", !api.draining.load(Ordering::Acquire)));
    }
    checks
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = plain(code, TEXT, Bytes::from(text));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
