//! Our OpenAPI documents against upstream's: for all that discovery lists as stable, nothing differs but descriptions.

use super::super::openapi::{
    ServedKind, ServedSubresource, openapi_document, openapi_index, swagger_json, swagger_protobuf,
};
use super::*;

/// What upstream's discovery lists of the stable versions.
fn served() -> Option<Vec<ServedKind>> {
    let mut out: Vec<ServedKind> = Vec::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(shared("k8s-1.36/discovery")?).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let Some((_, version)) = name.rsplit_once("__") else { continue };
        if !version.strip_prefix('v').is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_digit())) {
            continue;
        }
        let list: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let gv = split(list["groupVersion"].as_str().unwrap());
        for resource in list["resources"].as_array().unwrap() {
            let text = |key: &str| leaked(resource[key].as_str().unwrap_or_default());
            let verbs: Vec<&str> =
                resource["verbs"].as_array().unwrap().iter().map(|v| leaked(v.as_str().unwrap())).collect();
            let verbs: &'static [&'static str] = verbs.leak();
            let kind = text("kind");
            match text("name").split_once('/') {
                None => out.push(ServedKind {
                    gv,
                    kind,
                    resource: text("name"),
                    namespaced: resource["namespaced"] == true,
                    verbs,
                    subresources: Vec::new(),
                    edition: String::new(),
                }),
                Some((of, name)) => {
                    let own = match text("version") {
                        "" => gv,
                        version => GroupVersion { group: text("group"), version },
                    };
                    let parent = out.iter_mut().rev().find(|kind| kind.gv == gv && kind.resource == of).unwrap();
                    parent.subresources.push(ServedSubresource { name, gv: own, kind, verbs });
                }
            }
        }
    }
    Some(out)
}

fn leaked(text: &str) -> &'static str {
    text.to_owned().leak()
}

fn split(group_version: &str) -> GroupVersion {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    GroupVersion { group: leaked(group), version: leaked(version) }
}

/// Without the texts and allowed values that the oracle leaves out.
fn bare(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(key, value)| !(key == "description" && value.is_string() || key == "enum" && value.is_array()))
            .map(|(key, value)| (key, bare(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(bare).collect(),
        other => other,
    }
}

/// Where two values differ.
fn differences(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => differences(&format!("{path} {key}"), a, b, out),
                    (None, _) => out.push(format!("{path} lacks {key}")),
                    (_, None) => out.push(format!("{path} has {key} too much")),
                }
            }
        }
        _ if ours == theirs => {}
        _ => out.push(format!("{path}: {ours} instead of {theirs}")),
    }
}

#[test]
fn documents_of_stable_versions_are_upstreams() {
    let (Some(folder), Some(served)) = (shared("k8s-1.36/openapi-v3"), served()) else { return };
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in openapi_index(&served)["paths"].as_object().unwrap().keys() {
        let file = folder.join(format!("{}_openapi.json", path.replace('/', "__")));
        let theirs: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let ours = openapi_document(path, &served, &[]).unwrap();
        let ours: Value = serde_json::from_slice(&ours).unwrap();
        differences(path, &bare(ours), &theirs, &mut wrong);
        seen += 1;
    }
    let shown: Vec<&String> = wrong.iter().take(40).collect();
    assert!(wrong.is_empty(), "{}: {shown:#?}", wrong.len());
    assert!(seen > 40, "only {seen} documents");
}

#[test]
fn swagger_has_every_path_and_definition_and_is_sound_in_both_encodings() {
    let Some(served) = served() else { return };
    let document: Value = serde_json::from_slice(&swagger_json(&served, &[])).unwrap();
    assert_eq!(document["swagger"], "2.0");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["parameters"][0]["in"], "body");
    assert!(patch["consumes"].as_array().unwrap().contains(&json!("application/merge-patch+json")));
    let ports = &document["definitions"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["items"], json!({"$ref": "#/definitions/io.k8s.api.core.v1.ServicePort"}));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    let text = document.to_string();
    for name in text.split("\"#/definitions/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document["definitions"].get(name).is_some(), "{name} is referred to but missing");
    }
    assert!(!text.contains("#/components/"));
    let protobuf = swagger_protobuf(&served, &[]);
    assert!(protobuf.starts_with(b"\x0a\x032.0\x12"));
    assert!(protobuf.len() > text.len() / 4);
}
