//! The OpenAPI documents of the built-in group versions, v3 and v2. Descriptions live compressed in the binary, one
//! component a line; a document is put together for a request and dropped with its answer.

use crate::gvr::GroupVersion;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::Read;
use std::sync::LazyLock;

mod custom;
mod paths;
mod swagger;
mod swagger_proto;

pub use custom::PublishedKind;
pub use swagger::{swagger_json, swagger_protobuf};

static COMPONENTS: &[u8] = include_bytes!("facts/schemas.txt.gz");
static COMPONENTS_HASH: LazyLock<[u8; 32]> = LazyLock::new(|| Sha256::digest(COMPONENTS).into());
/// Meta's kinds that each group version registers as its own.
const SHARED_KINDS: [&str; 2] = ["DeleteOptions", "WatchEvent"];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A resource as it is served: what this layer must know of the resource table above it.
#[derive(Clone, Debug)]
pub struct ServedKind {
    pub gv: GroupVersion,
    pub kind: &'static str,
    /// Plural, as in paths.
    pub resource: &'static str,
    pub namespaced: bool,
    /// As discovery lists them.
    pub verbs: &'static [&'static str],
    pub subresources: Vec<ServedSubresource>,
    /// Tells the states of a custom resource's schema apart; empty for built-ins.
    pub edition: String,
}

/// `status`, `scale`, `binding`, …
#[derive(Clone, Debug)]
pub struct ServedSubresource {
    pub name: &'static str,
    /// The kind of its body and that kind's version.
    pub gv: GroupVersion,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// `/openapi/v3` index: path of each document (`api/v1`, `apis/apps/v1`, `version`) to its server-relative URL with hash.
pub fn openapi_index(served: &[ServedKind]) -> Value {
    let mut documents: BTreeSet<String> = served.iter().map(|kind| document_path(kind.gv)).collect();
    documents.extend(groups(served).into_iter().map(|group| format!("apis/{group}")));
    documents.extend(["api", "apis", "openid/v1/jwks", "version"].map(str::to_owned));
    let entry = |path: String| {
        let kinds: Vec<&ServedKind> = served.iter().filter(|kind| document_path(kind.gv) == path).collect();
        let hash = Sha256::new().chain_update(*COMPONENTS_HASH).chain_update(&path).chain_update(format!("{kinds:?}"));
        let hash = hash.finalize().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02X}");
            text
        });
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path, json!({ "serverRelativeURL": url }))
    };
    json!({ "paths": documents.into_iter().map(entry).collect::<Map<_, _>>() })
}

/// `/openapi/v3/<path>`: one document, with descriptions and the custom kinds in it; `None` when there is none.
pub fn openapi_document(path: &str, served: &[ServedKind], published: &[PublishedKind]) -> Option<Bytes> {
    let path = path.trim_matches('/');
    let paths = match paths::of_version(path, served) {
        paths if paths.is_empty() => paths::of_root(path, &groups(served))?,
        paths => paths,
    };
    let paths = Value::Object(paths).to_string();
    let text = inflate();
    let own: Vec<(String, String)> =
        custom::components(published).into_iter().map(|(name, schema)| (name, schema.to_string())).collect();
    let used: String = own.iter().map(|(_, schema)| schema.as_str()).chain([paths.as_str()]).collect();
    let mut components = wanted(&text, &used);
    components.extend(own.iter().map(|(name, schema)| (name.as_str(), schema.as_str())));
    let mut out = String::with_capacity(paths.len() + text.len() / 4);
    out.push_str(r#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"unversioned"},"paths":"#);
    out.push_str(&paths);
    out.push_str(r#","components":{"#);
    let version = served.iter().map(|kind| kind.gv).find(|gv| document_path(*gv) == path && !gv.group.is_empty());
    for (at, (name, schema)) in components.iter().enumerate() {
        out.push_str(if at == 0 { "\"schemas\":{\"" } else { ",\"" });
        out.push_str(name);
        out.push_str("\":");
        match version.filter(|_| SHARED_KINDS.contains(&name.rsplit('.').next().unwrap_or_default())) {
            Some(gv) => out.push_str(&in_version(schema, gv)),
            None => out.push_str(schema),
        }
    }
    if !components.is_empty() {
        out.push_str("},");
    }
    out.push_str(r#""securitySchemes":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","#);
    out.push_str(r#""name":"authorization","in":"header"}}}}"#);
    Some(Bytes::from(out))
}

/// A kind that exists in every version names the one of its document beside core's.
fn in_version(schema: &str, gv: GroupVersion) -> String {
    const CORE: &str = r#""group":"","kind":""#;
    let Some((head, rest)) = schema.split_once(CORE) else { return schema.to_owned() };
    let Some((own, tail)) = rest.split_once('}') else { return schema.to_owned() };
    let version = own.replace("\"v1\"", &format!("\"{}\"", gv.version));
    format!("{head}{CORE}{own}}},{{\"group\":\"{}\",\"kind\":\"{version}}}{tail}", gv.group)
}

/// The components that a text reaches, by name.
fn wanted<'a>(components: &'a str, text: &str) -> BTreeMap<&'a str, &'a str> {
    let known: HashMap<&str, (&str, &str)> = components.lines().filter_map(component).collect();
    let mut found = BTreeMap::new();
    let mut pending = refs(text);
    while let Some(name) = pending.pop() {
        let Some((name, (refs, schema))) = known.get_key_value(name) else { continue };
        if found.insert(*name, *schema).is_none() {
            pending.extend(refs.split(',').filter(|name| !name.is_empty()));
        }
    }
    found
}

/// The named groups, each once.
fn groups(served: &[ServedKind]) -> Vec<&'static str> {
    let names: BTreeSet<&str> = served.iter().map(|kind| kind.gv.group).filter(|group| !group.is_empty()).collect();
    names.into_iter().collect()
}

/// `api/v1`, `apis/apps/v1`.
fn document_path(gv: GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{gv}") } else { format!("apis/{gv}") }
}

/// The components as text; they were packed by our generator, so they unpack.
fn inflate() -> String {
    let mut text = String::new();
    if let Err(error) = flate2::read::GzDecoder::new(COMPONENTS).read_to_string(&mut text) {
        tracing::error!(%error, "the embedded OpenAPI components are damaged");
    }
    text
}

fn component(line: &str) -> Option<(&str, (&str, &str))> {
    let (name, rest) = line.split_once('\t')?;
    Some((name, rest.split_once('\t')?))
}

/// The components that a text refers to.
fn refs(text: &str) -> Vec<&str> {
    let found = text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
    found.collect::<BTreeSet<_>>().into_iter().collect()
}

/// `core`, `apps`, `rbacAuthorization`: as operation ids and tags call a group.
fn group_name(group: &str) -> String {
    let bare = group.strip_suffix(".k8s.io").unwrap_or(group);
    let mut parts = bare.split('.');
    let first = parts.next().filter(|first| !first.is_empty()).unwrap_or("core");
    first.to_owned() + &parts.map(capitalized).collect::<String>()
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: GroupVersion = GroupVersion { group: "", version: "v1" };

    fn served() -> Vec<ServedKind> {
        let status = ServedSubresource { name: "status", gv: CORE, kind: "Pod", verbs: &["get", "patch", "update"] };
        let verbs = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        vec![
            ServedKind {
                gv: CORE,
                kind: "Pod",
                resource: "pods",
                namespaced: true,
                verbs,
                subresources: vec![status],
                edition: String::new(),
            },
            ServedKind {
                gv: CORE,
                kind: "Node",
                resource: "nodes",
                namespaced: false,
                verbs,
                subresources: Vec::new(),
                edition: String::new(),
            },
        ]
    }

    #[test]
    fn a_document_has_paths_and_every_component_they_reach_with_descriptions() {
        let bytes = openapi_document("api/v1", &served(), &[]).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let pods = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
        assert_eq!(pods["patch"]["operationId"], "patchCoreV1NamespacedPod");
        assert_eq!(
            pods["patch"]["x-kubernetes-group-version-kind"],
            json!({"group": "", "version": "v1", "kind": "Pod"})
        );
        assert!(pods["patch"]["parameters"].to_string().contains("fieldValidation"));
        assert_eq!(document["paths"]["/api/v1/nodes"]["post"]["operationId"], "createCoreV1Node");
        let schemas = &document["components"]["schemas"];
        let port = &schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["containerPort"];
        assert!(port["description"].as_str().unwrap().contains("0 < x < 65536"));
        let text = String::from_utf8_lossy(&bytes);
        for name in refs(&text) {
            assert!(schemas.get(name).is_some(), "{name} is referred to but missing");
        }
        assert!(schemas.get("io.k8s.api.apps.v1.Deployment").is_none(), "another document's component");
    }

    #[test]
    fn the_index_names_each_group_version_once_and_unknown_documents_are_absent() {
        let index = openapi_index(&served());
        let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/api/v1?hash=") && url.len() == 24 + 64, "{url}");
        assert_eq!(index, openapi_index(&served()), "the hash is stable");
        assert!(openapi_document("apis/apps/v1", &served(), &[]).is_none());
    }
}
