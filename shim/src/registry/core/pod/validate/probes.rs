//! Probes and lifecycle handlers.

use super::containers::PodFacts;
use super::ports::number_in_range;
use crate::registry::field::{Errors, Path};
use crate::registry::names;
use crate::registry::value::{items, text};
use serde_json::Value;

pub(super) fn validate(container: &Value, path: &Path, facts: &PodFacts<'_>, errors: &mut Errors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (probe, path) = (&container[kind], path.child(kind));
        if !probe.is_object() {
            continue;
        }
        handler(probe, &path, facts, errors);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            if let Some(number) = probe[field].as_i64().filter(|n| *n < 0) {
                errors.push(path.child(field).invalid(number, "must be greater than or equal to 0"));
            }
        }
        let grace = path.child("terminationGracePeriodSeconds");
        if let Some(seconds) = probe["terminationGracePeriodSeconds"].as_i64() {
            if seconds <= 0 {
                errors.push(grace.invalid(seconds, "must be greater than 0"));
            }
            if kind == "readinessProbe" {
                errors.push(grace.invalid(seconds, "must not be set for readinessProbes"));
            }
        }
        let successes = probe["successThreshold"].as_i64().unwrap_or(1);
        if kind != "readinessProbe" && successes != 1 {
            errors.push(path.child("successThreshold").invalid(successes, "must be 1"));
        }
    }
}

/// Exactly one way to ask, and what it needs.
pub(super) fn handler(handler: &Value, path: &Path, facts: &PodFacts<'_>, errors: &mut Errors) {
    let mut kinds = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let (action, path) = (&handler[kind], path.child(kind));
        if !action.is_object() {
            continue;
        }
        kinds += 1;
        if kinds > 1 {
            errors.push(path.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" if items(&action["command"]).is_empty() => errors.push(path.child("command").required("")),
            "httpGet" => http_get(action, &path, errors),
            "tcpSocket" => port(&action["port"], &path.child("port"), errors),
            "grpc" => number_in_range(action["port"].as_i64().unwrap_or(0), &path.child("port"), errors),
            "sleep" => {
                let seconds = action["seconds"].as_i64().unwrap_or(0);
                if seconds < 0 || seconds > facts.grace_seconds {
                    errors.push(path.invalid(
                        seconds,
                        &format!(
                            "must be non-negative and less than terminationGracePeriodSeconds ({})",
                            facts.grace_seconds
                        ),
                    ));
                }
            }
            _ => {}
        }
    }
    if kinds == 0 {
        errors.push(path.required("must specify a handler type"));
    }
}

fn http_get(action: &Value, path: &Path, errors: &mut Errors) {
    if text(&action["path"]).is_empty() {
        errors.push(path.child("path").required(""));
    }
    port(&action["port"], &path.child("port"), errors);
    let scheme = text(&action["scheme"]);
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(path.child("scheme").not_supported(scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(&action["httpHeaders"]) {
        let name = text(&header["name"]);
        errors.extend(path.child("httpHeaders").all_invalid(name, names::http_header_name(name)));
    }
}

/// `ValidatePortNumOrName`.
fn port(port: &Value, path: &Path, errors: &mut Errors) {
    match port.as_str() {
        Some(name) => errors.extend(path.all_invalid(name, names::port_name(name))),
        None => number_in_range(port.as_i64().unwrap_or(0), path, errors),
    }
}
