//! The table against the recorded discovery documents and tables of kube-apiserver.

use super::*;
use serde_json::Value;
use std::path::PathBuf;

/// `../shared` beside some directory above this crate, when it is there.
pub(crate) fn shared() -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|dir| dir.join("shared")).find(|dir| dir.join("golden/api").is_dir());
    if found.is_none() {
        eprintln!("skipped: no directory `shared` with the recorded answers above {}", here.display());
    }
    found
}

fn read(path: PathBuf) -> Value {
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn every_definition_is_what_discovery_says() {
    let Some(shared) = shared() else { return };
    for def in all() {
        let file = match def.gv.group {
            "" => format!("api__{}.json", def.gv.version),
            group => format!("apis__{group}__{}.json", def.gv.version),
        };
        let document = read(shared.join("k8s-1.36/discovery").join(file));
        let resources = document["resources"].as_array().unwrap();
        let list = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().map(|v| v.as_str().unwrap().to_owned()).collect()
        };
        let entry = resources.iter().find(|r| r["name"] == def.resource).expect(def.resource);
        assert_eq!(entry["kind"], def.kind);
        assert_eq!(entry["singularName"], def.singular);
        assert_eq!(entry["namespaced"], def.namespaced);
        assert_eq!(list(&entry["verbs"]), def.verbs, "{}", def.resource);
        assert_eq!(list(&entry["shortNames"]), def.short_names, "{}", def.resource);
        assert_eq!(list(&entry["categories"]), def.categories, "{}", def.resource);
        let recorded: Vec<&Value> = resources
            .iter()
            .filter(|r| r["name"].as_str().unwrap().starts_with(&format!("{}/", def.resource)))
            .collect();
        assert_eq!(recorded.len(), def.subresources.len(), "{}", def.resource);
        for (entry, sub) in recorded.into_iter().zip(def.subresources) {
            assert_eq!(entry["name"], format!("{}/{}", def.resource, sub.name));
            assert_eq!(entry["kind"], sub.kind);
            assert_eq!(list(&entry["verbs"]), sub.verbs, "{}", sub.name);
            assert_eq!(entry["group"].as_str().unwrap_or(def.gv.group), sub.gv.group);
            assert_eq!(entry["version"].as_str().unwrap_or(def.gv.version), sub.gv.version);
        }
    }
}

#[test]
fn every_resource_of_every_ga_version_is_served() {
    let Some(shared) = shared() else { return };
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(shared.join("k8s-1.36/discovery")).unwrap() {
        let document = read(entry.unwrap().path());
        let Some(gv) = document["groupVersion"].as_str() else { continue };
        let (group, version) = gv.split_once('/').unwrap_or(("", gv));
        // CustomResourceDefinitions are served by a catalog of their own.
        if version.contains("alpha") || version.contains("beta") || group == "apiextensions.k8s.io" {
            continue;
        }
        for resource in document["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let (plural, sub) = name.split_once('/').map_or((name, None), |(plural, sub)| (plural, Some(sub)));
            let def = find(group, version, plural);
            if def.is_none_or(|def| sub.is_some_and(|sub| def.subresource(sub).is_none())) {
                missing.push(format!("{gv} {name}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn a_resource_is_found_by_its_path() {
    assert_eq!(find("", "v1", "pods").map(|d| d.kind), Some("Pod"));
    assert_eq!(find("events.k8s.io", "v1", "events").map(|d| d.storage_gv), Some(gv::CORE_V1));
    assert!(find("apps", "v1", "pods").is_none());
}

mod created;
mod golden;
mod updated;

#[test]
fn an_event_converts_there_and_back() {
    let event = serde_json::json!({
        "kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {"name": "e", "namespace": "n"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "n"}, "note": "text", "type": "Normal",
        "deprecatedSource": {}, "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null,
    });
    let core = events::event::to_core(event.clone());
    assert_eq!(core["message"], "text");
    assert_eq!(core["involvedObject"]["name"], "p");
    assert_eq!(core["reportingComponent"], "c");
    let pairs = (find("events.k8s.io", "v1", "events").unwrap().fields)(&core);
    assert_eq!(pairs.get("regarding.name").map(AsRef::as_ref), Some("p"));
    assert_eq!(events::event::from_core(core), event);
}

#[test]
fn grace_is_for_pods_that_run_somewhere() {
    let pod = |node: &str, phase: &str, grace: i64| serde_json::json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": grace}, "status": {"phase": phase}});
    for (node, phase, grace, requested, want) in [
        ("n", "Running", 30, None, 30),
        ("n", "Running", 30, Some(5), 5),
        ("n", "Running", 30, Some(0), 0),
        ("n", "Running", 30, Some(-1), 1),
        ("", "Pending", 30, None, 0),
        ("n", "Succeeded", 30, Some(7), 0),
        ("n", "Failed", 30, None, 0),
    ] {
        assert_eq!(core::pod::status::grace(&pod(node, phase, grace), requested), want, "{node} {phase} {requested:?}");
    }
}

#[test]
fn a_pod_is_bound_once_and_never_while_gated_or_deleted() {
    let binding = serde_json::json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}});
    let bind =
        |pod: &mut Value| core::pod::status::bind(pod, &binding, "2026-01-01T00:00:00Z").map_err(|e| e.to_string());
    let mut pod = serde_json::json!({"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending"}});
    assert_eq!(bind(&mut pod), Ok(()));
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["metadata"]["annotations"]["a"], "b");
    assert_eq!(pod["status"]["conditions"][0]["status"], "True");
    assert_eq!(bind(&mut pod), Err("pod p is already assigned to node \"n1\"".to_owned()));
    let mut gated = serde_json::json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "g"}]}});
    assert_eq!(bind(&mut gated), Err("pod p has non-empty .spec.schedulingGates".to_owned()));
    let mut gone =
        serde_json::json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}});
    assert_eq!(bind(&mut gone), Err("pod p is being deleted, cannot be assigned to a host".to_owned()));
}
