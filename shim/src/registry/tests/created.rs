//! Whole objects as kube-apiserver stored them, and their table rows, against decode → default → prepare here.

use super::super::*;
use super::golden::{UID, created, prepared, scenarios, substitute};
use super::{read, shared};
use crate::registry::core::{node, pod};
use crate::schema::{FieldValidation, Schema};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Values that differ from run to run, and what only the pipeline adds.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| {
                !matches!(key.as_str(), "managedFields" | "uid" | "resourceVersion" | "creationTimestamp")
            })
            .map(|(key, value)| match key.as_str() {
                "lastTransitionTime" | "lastPhaseTransitionTime" => (key.clone(), Value::from("<time>")),
                "nodePort" | "healthCheckNodePort" => (key.clone(), Value::from("<nodePort>")),
                "clusterIP" if value != "None" => (key.clone(), Value::from("<ip>")),
                "clusterIPs" if value[0] != "None" => (key.clone(), json!(["<ip>"])),
                _ => (key.clone(), normal(value)),
            })
            .collect(),
        Value::Array(list) => list.iter().map(normal).collect(),
        Value::String(text) => text
            .replace("<rand>", "xxxxx")
            .replace("${id}", "abc12")
            .replace("<uid>", UID)
            .replace("${uid1}", UID)
            .into(),
        other => other.clone(),
    }
}

/// As the pipeline will do it.
pub(super) fn create(def: &'static ResourceDef, namespaced: bool, step: &Value) -> Option<Object> {
    let body = &step["body"];
    let schema = Schema::builtin(def.gv, def.kind)?;
    let decoded = schema.decode(substitute(body).to_string().as_bytes(), FieldValidation::Ignore).ok()?.value;
    let mut object = decoded;
    schema.default(&mut object);
    if let Some(conversion) = def.conversion {
        object = (conversion.to_storage)(object);
    }
    let mut object = prepared(def, namespaced, &object);
    match def.kind {
        "Pod" => {
            pod::admit::admit_create(&mut object);
            pod::admit::mount_service_account_token(&mut object, "xxxxx");
        }
        "Node" => node::admit_create(&mut object),
        "CertificateSigningRequest" => {
            let user = &step["as"];
            let mut groups = user["groups"].as_array().cloned().unwrap_or_default();
            groups.push("system:authenticated".into());
            let fields =
                [("username", user["user"].clone()), ("groups", groups.into()), ("extra", user["extra"].clone())];
            certificates::certificatesigningrequest::set_requester(&mut object, &fields);
        }
        "Service" => {
            let range = core::service::allocate::ServiceRange::parse("10.0.0.0/24")?;
            core::service::allocate::allocate_cluster_ip(&mut object, &range, &Default::default(), 7).ok()?;
            let ports = core::service::allocate::DEFAULT_NODE_PORTS;
            core::service::allocate::allocate_node_ports(&mut object, &ports, &Default::default(), 7).ok()?;
        }
        _ => {}
    }
    if let Some(conversion) = def.conversion {
        let stored = Schema::builtin(def.storage_gv, def.kind)?.encode(&object);
        object = (conversion.to_served)(serde_json::from_slice(&stored).ok()?);
    }
    serde_json::from_slice(&schema.encode(&object)).ok()
}

/// The recorded `Warning` headers of a creation are the strategy's and the resource's.
fn warned(step: &Value, report: &mut BTreeMap<String, String>) {
    let created = created(step).filter(|_| step["method"] == "POST" && step["body"].is_object());
    let (Some((def, namespaced)), Some(201)) = (created, step["expect"]["status"].as_i64()) else { return };
    let Some(object) = create(def, namespaced, step) else { return };
    let mut warnings = (def.strategy.warnings)(&object, None);
    warnings.extend(def.deprecation.map(str::to_owned));
    let got: Vec<String> = warnings.iter().map(|w| format!("299 - {}", crate::registry::field::quoted(w))).collect();
    let want: Vec<String> =
        step["expect"]["warnings"].as_array().into_iter().flatten().map(|w| w.as_str().unwrap().to_owned()).collect();
    // Some are the decoder's or an admission plugin's.
    if got != want && !want.iter().any(|w| w.contains("unknown field") || w.contains("would violate")) {
        report.insert(format!("warnings {}", step["path"]), format!("\n  got  {got:?}\n  want {want:?}"));
    }
}

#[test]
fn new_objects_are_stored_as_recorded() {
    let Some(shared) = shared() else { return };
    let (mut steps, mut matched) = (0, 0);
    let mut report = BTreeMap::new();
    for category in ["crud", "defaulting", "validation", "table", "warnings"] {
        for file in scenarios(&shared, category) {
            let scenario = read(file.clone());
            for step in scenario["steps"].as_array().unwrap() {
                let wanted = &step["expect"]["body"];
                warned(step, &mut report);
                let created = created(step).filter(|_| step["method"] == "POST" && step["body"].is_object());
                let (Some((def, namespaced)), Some(201)) = (created, step["expect"]["status"].as_i64()) else {
                    continue;
                };
                if wanted["kind"] != def.kind || step["compare"] == "subset" || step["compare"] == "status-only" {
                    continue;
                }
                if step["pick"].is_array() || step["ignore"].is_array() {
                    continue;
                }
                steps += 1;
                let name = format!("{category}/{} {}", file.file_stem().unwrap().to_string_lossy(), step["id"]);
                let got = create(def, namespaced, step).map(|object| normal(&object));
                let want = normal(wanted);
                if got.as_ref() == Some(&want) {
                    matched += 1;
                } else {
                    report.insert(name, format!("\n  got  {}\n  want {want}", got.unwrap_or(Value::Null)));
                }
            }
        }
    }
    for (name, text) in &report {
        eprintln!("{name}: {text}");
    }
    eprintln!("{matched} of {steps} new objects are as recorded");
    assert_eq!(matched, steps);
    assert!(report.is_empty(), "{} warnings differ", report.len());
}
