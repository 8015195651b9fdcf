//! Rules and defaults of every served kind against the recorded answers of kube-apiserver.

use super::super::*;
use super::{read, shared};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path as FilePath;

/// The definition and namespace of a request that creates an object.
pub(super) fn created(step: &Value) -> Option<(&'static ResourceDef, bool)> {
    let path = step["path"].as_str()?.split('?').next()?.trim_start_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (resource, namespaced) = match rest {
        ["namespaces", _, resource] => (*resource, true),
        [resource] => (*resource, false),
        _ => return None,
    };
    Some((find(group, version, resource)?, namespaced))
}

/// Every object's, where the corpus has a placeholder.
pub(super) const UID: &str = "u-1";

pub(super) fn substitute(value: &Value) -> Value {
    let text = value.to_string().replace("${id}", "abc12").replace("${ns}", "g-abc12");
    serde_json::from_str(&text).unwrap()
}

/// What the pipeline does to a body before it is validated, as far as the registry is concerned.
pub(super) fn prepared(def: &ResourceDef, namespaced: bool, body: &Value) -> Object {
    let mut object = substitute(body);
    let meta = object.meta_mut();
    meta.insert("creationTimestamp".to_owned(), "2026-01-01T00:00:00Z".into());
    meta.insert("uid".to_owned(), UID.into());
    if namespaced {
        meta.insert("namespace".to_owned(), "g-abc12".into());
    }
    if let Some(prefix) = meta.get("generateName").and_then(Value::as_str).map(str::to_owned)
        && !meta.contains_key("name")
    {
        meta.insert("name".to_owned(), format!("{prefix}abcde").into());
    }
    (def.strategy.default)(&mut object);
    (def.strategy.prepare_create)(&mut object);
    object
}

fn normal(text: &str) -> String {
    text.replace("abc12", "${id}")
        .replace("<uid>", UID)
        .replace("10.9.8.7", "<ip>")
        .replace("10.9.8.0/24", "<ip>/24")
        .replace("127.0.0.0/8", "<ip>/8")
        .replace("169.254.0.0/16", "<ip>/16")
        .replace("224.0.0.0/24", "<ip>/24")
}

/// Set of (reason, field), and the texts.
pub(super) fn causes(body: &Value) -> (Vec<(String, String)>, Vec<String>) {
    let list = body["details"]["causes"].as_array().cloned().unwrap_or_default();
    let text = |cause: &Value, key: &str| cause[key].as_str().unwrap_or("").to_owned();
    let mut pairs: Vec<_> = list.iter().map(|c| (text(c, "reason"), text(c, "field"))).collect();
    pairs.sort();
    pairs.dedup();
    let mut texts: Vec<_> =
        list.iter().map(|c| normal(&format!("{}: {}", text(c, "field"), text(c, "message")))).collect();
    texts.sort();
    texts.dedup();
    (pairs, texts)
}

#[test]
fn new_objects_are_refused_for_the_recorded_causes() {
    let Some(shared) = shared() else { return };
    let (mut steps, mut matched, mut worded) = (0, 0, 0);
    let mut report = BTreeMap::new();
    for file in scenarios(&shared, "validation") {
        let scenario = read(file.clone());
        for step in scenario["steps"].as_array().unwrap() {
            let status = step["expect"]["status"].as_i64().unwrap_or(0);
            let created = created(step).filter(|_| step["method"] == "POST" && step["body"].is_object());
            let (Some((def, namespaced)), 201 | 422) = (created, status) else { continue };
            // Upstream tells a definition's causes with the fields of its internal form (`spec.validation`), ours with
            // those that were sent.
            if step["body"]["metadata"].get("namespace").is_some() || def.kind == "CustomResourceDefinition" {
                continue;
            }
            // What is wrong with an expression is for its compiler to say.
            let compiled = |cause: &Value| cause["field"].as_str().is_some_and(|field| field.ends_with("xpression"));
            if step["expect"]["body"]["details"]["causes"].as_array().into_iter().flatten().any(compiled) {
                continue;
            }
            steps += 1;
            let object = prepared(def, namespaced, &step["body"]);
            let mut errors = (def.strategy.validate)(&object);
            if def.kind == "Service" && errors.is_empty() {
                let (mut object, ports) = (object.clone(), core::service::allocate::DEFAULT_NODE_PORTS);
                let range = core::service::allocate::ServiceRange::parse("10.0.0.0/24").unwrap();
                let outcome = core::service::allocate::allocate_cluster_ip(&mut object, &range, &Default::default(), 7)
                    .and_then(|()| {
                        core::service::allocate::allocate_node_ports(&mut object, &ports, &Default::default(), 7)
                    });
                errors.extend(outcome.err().unwrap_or_default());
            }
            let found: Vec<Value> = errors
                .iter()
                .map(|e| json!({"reason": e.cause.reason(), "field": e.field, "message": e.message}))
                .collect();
            let got = causes(&json!({"details": {"causes": found}}));
            let want = causes(&step["expect"]["body"]);
            let name = format!("{} {}", file.file_stem().unwrap().to_string_lossy(), step["id"].as_str().unwrap_or(""));
            if got.0 == want.0 {
                matched += 1;
                worded += usize::from(got.1 == want.1);
                if got.1 != want.1 {
                    report.insert(name, format!("texts\n  got  {:?}\n  want {:?}", got.1, want.1));
                }
            } else {
                report.insert(name, format!("CAUSES\n  got  {:?}\n  want {:?}", got.1, want.1));
            }
        }
    }
    for (name, text) in &report {
        eprintln!("{name}: {text}");
    }
    eprintln!("causes match in {matched} of {steps} creations, texts too in {worded}");
    assert_eq!(matched, steps);
}

pub(super) fn scenarios(shared: &FilePath, category: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(shared.join("golden/api").join(category)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}
