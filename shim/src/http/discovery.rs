//! Discovery: which groups, versions and resources there are, from the registry; legacy and aggregated.

use super::negotiate::{Encoding, Form, Wanted};
use super::{Body, Context, encode, plain};
use crate::error::ApiError;
use crate::registry::{Def, ResourceDef, Served, Subresource};
use crate::request::Discovery;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const AGGREGATED: &str = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(super) fn response(context: &Context, document: &Discovery) -> Result<Response<Body>, ApiError> {
    let served = &*context.served;
    let form = Wanted::parse(&context.accept(), &context.query, false)?.form;
    let value = match (document, form) {
        (Discovery::Core, Form::Discovery) => return Ok(aggregated(context, &[""])),
        (Discovery::Groups, Form::Discovery) => return Ok(aggregated(context, &groups(served))),
        (Discovery::Root, _) => root(served),
        (Discovery::Core, _) => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address(context)}],
        }),
        (Discovery::Groups, _) => {
            let groups: Vec<Value> = groups(served).into_iter().map(|name| group(served, name)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        (Discovery::Group(name), _) => {
            let known = groups(served).into_iter().find(|g| g == name).ok_or(ApiError::UnknownPath)?;
            let mut value = group(served, known);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            value
        }
        (Discovery::Resources { group, version }, _) => resources(served, group, version).ok_or_else(|| {
            // A built-in group answers for all below it.
            let known = group.is_empty() || crate::registry::all().iter().any(|def| def.gv.group == group);
            if known { ApiError::UnknownResource } else { ApiError::UnknownPath }
        })?,
    };
    let mut response = encode::document(context, 200, &value)?;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn server_address(context: &Context) -> String {
    context.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("").to_owned()
}

/// Groups but the core one, in discovery order.
fn groups(served: &Served) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for def in served.all() {
        if !def.gv.group.is_empty() && !names.contains(&def.gv.group) {
            names.push(def.gv.group);
        }
    }
    names
}

fn versions(served: &Served, group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&str> = Vec::new();
    for def in served.all().filter(|d| d.gv.group == group) {
        if !versions.contains(&def.gv.version) {
            versions.push(def.gv.version);
        }
    }
    versions
}

fn group(served: &Served, name: &str) -> Value {
    let versions: Vec<Value> = versions(served, name)
        .into_iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn in_version<'a>(served: &'a Served, group: &'a str, version: &'a str) -> impl Iterator<Item = Def> + 'a {
    served.all().filter(move |d| d.gv.group == group && d.gv.version == version)
}

fn resources(served: &Served, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for def in in_version(served, group, version) {
        list.push(resource(&def));
        list.extend(def.subresources.iter().map(|sub| subresource(&def, sub)));
    }
    if list.is_empty() {
        return None;
    }
    let gv = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut value = json!({"kind": "APIResourceList", "groupVersion": gv, "resources": list});
    if !group.is_empty() {
        value["apiVersion"] = "v1".into();
    }
    Some(value)
}

fn resource(def: &ResourceDef) -> Value {
    let mut value = json!({
        "name": def.resource, "singularName": def.singular, "namespaced": def.namespaced, "kind": def.kind, "verbs": def.verbs,
    });
    if !def.short_names.is_empty() {
        value["shortNames"] = def.short_names.into();
    }
    if !def.categories.is_empty() {
        value["categories"] = def.categories.into();
    }
    if def.verbs.contains(&"watch") {
        value["storageVersionHash"] = storage_hash(def).into();
    }
    value
}

fn subresource(def: &ResourceDef, sub: &Subresource) -> Value {
    let name = format!("{}/{}", def.resource, sub.name);
    let mut value =
        json!({"name": name, "singularName": "", "namespaced": def.namespaced, "kind": sub.kind, "verbs": sub.verbs});
    if sub.gv != def.gv {
        value["group"] = sub.gv.group.into();
        value["version"] = sub.gv.version.into();
    }
    value
}

/// What upstream 1.36 stores as v1beta1. We store it as v1 and read either; the hash, which is all that a client sees of
/// it, is upstream's.
const STORED_AS_BETA: [&str; 3] =
    ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "customresourcedefinitions"];

/// First 8 bytes of the SHA-256 of `group/version/kind` of what is stored.
fn storage_hash(def: &ResourceDef) -> String {
    let beta = def.custom.is_none() && STORED_AS_BETA.contains(&def.resource);
    let version = if beta { "v1beta1" } else { def.storage_gv.version };
    let text = format!("{}/{version}/{}", def.storage_gv.group, def.kind);
    STANDARD.encode(&Sha256::digest(text)[..8])
}

/// `apidiscovery.k8s.io/v2`: everything in one document, with an ETag.
fn aggregated(context: &Context, groups: &[&str]) -> Response<Body> {
    let items: Vec<Value> = groups.iter().map(|name| aggregated_group(&context.served, name)).collect();
    let value = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let text = value.to_string();
    let hash: String = Sha256::digest(&text).iter().map(|b| format!("{b:02X}")).collect();
    let etag = super::text_header(&format!("\"{hash}\""));
    let (media, bytes) = match context.wanted().map(|wanted| wanted.encoding) {
        Ok(Encoding::Protobuf) => ("application/vnd.kubernetes.protobuf", encode::protobuf(&value)),
        _ => ("application/json", None),
    };
    let content_type = format!("{media};{AGGREGATED}");
    let mut response = if context.headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        plain(StatusCode::NOT_MODIFIED, &content_type, bytes::Bytes::new())
    } else {
        encode::compressed(context, StatusCode::OK, &content_type, bytes.unwrap_or_else(|| text.into_bytes()).into())
    };
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_group(served: &Served, group: &str) -> Value {
    let versions: Vec<Value> = versions(served, group)
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> =
                in_version(served, group, version).map(|def| aggregated_resource(&def)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(def: &ResourceDef) -> Value {
    let mut value = json!({
        "resource": def.resource,
        "responseKind": {"group": "", "version": "", "kind": def.kind},
        "scope": if def.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": def.singular,
        "verbs": def.verbs,
    });
    if !def.short_names.is_empty() {
        value["shortNames"] = def.short_names.into();
    }
    if !def.categories.is_empty() {
        value["categories"] = def.categories.into();
    }
    let subresources: Vec<Value> = def
        .subresources
        .iter()
        .map(|sub| {
            let gv = if sub.gv == def.gv { ("", "") } else { (sub.gv.group, sub.gv.version) };
            json!({
                "subresource": sub.name,
                "responseKind": {"group": gv.0, "version": gv.1, "kind": sub.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}

/// `/`
pub(super) fn root(served: &Served) -> Value {
    let mut paths: Vec<String> =
        vec!["/.well-known/openid-configuration".into(), "/api".into(), "/api/v1".into(), "/apis".into()];
    for group in groups(served) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions(served, group).into_iter().map(|v| format!("/apis/{group}/{v}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"].map(Into::into),
    );
    json!({"paths": paths})
}

/// `/version`: the Kubernetes version that the API is, and what we are.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "36",
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.2+skiff", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// `/.well-known/openid-configuration`
pub(super) fn openid(issuer: &str) -> Value {
    json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Option<std::path::PathBuf> {
        let above = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let found = above.map(|at| at.join("shared/k8s-1.36/discovery")).find(|folder| folder.is_dir());
        if found.is_none() {
            eprintln!("skipped: no shared/k8s-1.36/discovery above {}", env!("CARGO_MANIFEST_DIR"));
        }
        found
    }

    fn read(folder: &std::path::Path, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
    }

    fn is_stable(version: &str) -> bool {
        version.strip_prefix('v').is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_digit()))
    }

    /// The stable part of a list of versions, groups or resources.
    fn stable(list: &Value) -> Vec<Value> {
        let version = |value: &Value| value["version"].as_str().is_none_or(is_stable);
        list.as_array().into_iter().flatten().filter(|value| version(value)).cloned().collect()
    }

    #[test]
    fn discovery_of_stable_versions_is_upstreams() {
        let Some(folder) = shared() else { return };
        let (mut wrong, mut seen) = (Vec::new(), 0);
        let mut names: Vec<String> =
            std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for name in names {
            let Some((group, version)) = name.trim_end_matches(".json").rsplit_once("__") else { continue };
            let group = group.trim_start_matches("apis__");
            let group = if group == "api" { "" } else { group };
            if !is_stable(version) {
                continue;
            }
            seen += 1;
            let theirs = read(&folder, &name);
            let ours = resources(&Served::default(), group, version).unwrap_or_default();
            let mut left: Vec<&Value> = ours["resources"].as_array().into_iter().flatten().collect();
            for theirs in theirs["resources"].as_array().unwrap().clone() {
                let path = format!("{group}/{version}/{}", theirs["name"].as_str().unwrap());
                match left.iter().position(|ours| ours["name"] == theirs["name"]) {
                    Some(at) if *left[at] == theirs => drop(left.remove(at)),
                    Some(at) => wrong.push(format!("{path}: {} instead of {theirs}", left.remove(at))),
                    None => wrong.push(format!("{path} is missing")),
                }
            }
            wrong.extend(left.iter().map(|ours| format!("{group}/{version}: {ours} is not upstream's")));
            if !ours.is_null()
                && (&ours["kind"], &ours["groupVersion"], &ours["apiVersion"])
                    != (&theirs["kind"], &theirs["groupVersion"], &theirs["apiVersion"])
            {
                wrong.push(format!("{group}/{version}: another header than upstream's"));
            }
        }
        println!(
            "{seen} stable versions differ from upstream's discovery in: {}",
            if wrong.is_empty() { "none".into() } else { wrong.join("\n") }
        );
        assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
        assert!(seen > 20, "only {seen} versions were compared");
    }

    #[test]
    fn groups_and_the_aggregated_form_are_upstreams_but_for_what_is_not_stable() {
        let Some(folder) = shared() else { return };
        let theirs = read(&folder, "apis.json");
        let theirs: Vec<Value> = theirs["groups"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|group| !stable(&group["versions"]).is_empty())
            .map(|group| {
                let versions = stable(&group["versions"]);
                json!({"name": group["name"], "preferredVersion": versions[0], "versions": versions})
            })
            .collect();
        let served = Served::default();
        let ours: Vec<Value> = groups(&served).into_iter().map(|name| group(&served, name)).collect();
        assert_eq!(ours, theirs);
        let aggregated = read(&folder, "aggregated_v2.json");
        let theirs: Vec<Value> = aggregated["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|group| !stable(&group["versions"]).is_empty())
            .map(|group| json!({"metadata": group["metadata"], "versions": stable(&group["versions"])}))
            .collect();
        let ours = groups(&served).into_iter().map(|name| aggregated_group(&served, name));
        for (ours, theirs) in ours.zip(theirs) {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn the_storage_hash_is_upstreams() {
        assert_eq!(storage_hash(crate::registry::find("", "v1", "pods").unwrap()), "xPOwRZ+Yhw8=");
    }
}
