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
fn a_resource_is_found_by_its_path() {
    assert_eq!(find("", "v1", "pods").map(|d| d.kind), Some("Pod"));
    assert_eq!(find("events.k8s.io", "v1", "events").map(|d| d.storage_gv), Some(gv::CORE_V1));
    assert!(find("apps", "v1", "pods").is_none());
}

mod created;
mod golden;
mod updated;
