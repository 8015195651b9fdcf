//! The OpenAPI v3 documents of the built-in group versions. Descriptions live compressed in the binary, one component a
//! line; a document is put together for a request and dropped with its answer.

use crate::gvr::GroupVersion;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::Read;

static COMPONENTS: &[u8] = include_bytes!("facts/schemas.txt.gz");
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

/// `/openapi/v3` index: path of each group version (`api/v1`, `apis/apps/v1`) to its server-relative URL with hash.
pub fn openapi_index(served: &[ServedKind]) -> Value {
    let versions: BTreeSet<String> = served.iter().map(|kind| document_path(kind.gv)).collect();
    let entry = |path: String| {
        let paths = Value::Object(paths(&path, served)).to_string();
        let hash = Sha256::new().chain_update(COMPONENTS).chain_update(paths).finalize();
        let hash = hash.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02X}");
            text
        });
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path, json!({ "serverRelativeURL": url }))
    };
    json!({ "paths": versions.into_iter().map(entry).collect::<Map<_, _>>() })
}

/// `/openapi/v3/<path>`: the document of one group version, with descriptions; `None` when there is none.
pub fn openapi_document(path: &str, served: &[ServedKind]) -> Option<Bytes> {
    let path = path.trim_matches('/');
    let kinds: Vec<&ServedKind> = served.iter().filter(|kind| document_path(kind.gv) == path).collect();
    if kinds.is_empty() {
        return None;
    }
    let paths = Value::Object(paths(path, served)).to_string();
    let text = inflate();
    let components: HashMap<&str, (&str, &str)> = text.lines().filter_map(component).collect();
    let mut wanted = BTreeSet::new();
    let mut pending: Vec<String> = refs(&paths);
    while let Some(name) = pending.pop() {
        if let Some((name, (refs, _))) = components.get_key_value(name.as_str())
            && wanted.insert(*name)
        {
            pending.extend(refs.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    let mut out = String::with_capacity(paths.len() + text.len() / 4);
    out.push_str(r#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"unversioned"},"paths":"#);
    out.push_str(&paths);
    out.push_str(r#","components":{"schemas":{"#);
    for (at, name) in wanted.into_iter().enumerate() {
        out.push_str(if at == 0 { "\"" } else { ",\"" });
        out.push_str(name);
        out.push_str("\":");
        out.push_str(components[name].1);
    }
    out.push_str(r#"},"securitySchemes":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","#);
    out.push_str(r#""name":"authorization","in":"header"}}}}"#);
    Some(Bytes::from(out))
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
fn refs(text: &str) -> Vec<String> {
    let found = text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
    found.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
}

/// The paths of one document.
fn paths(document: &str, served: &[ServedKind]) -> Map<String, Value> {
    let mut out = Map::new();
    for kind in served.iter().filter(|kind| document_path(kind.gv) == document) {
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{document}{scope}/{}", kind.resource);
        let item = format!("{collection}/{{name}}");
        let operations = |verbs: &[&'static str], of: &Operations<'_>| {
            let has = |verb: &&'static str| kind.verbs.contains(verb);
            of.item(verbs.iter().copied().filter(has))
        };
        let main = Operations { gv: kind.gv, kind: kind.kind, within: kind, name: "", item: false };
        insert(&mut out, collection, operations(&["list", "create", "deletecollection"], &main));
        if kind.namespaced {
            insert(&mut out, format!("/{document}/{}", kind.resource), operations(&["list"], &main));
        }
        let main = Operations { item: true, ..main };
        insert(&mut out, item.clone(), operations(&["get", "update", "patch", "delete"], &main));
        for sub in &kind.subresources {
            let of = Operations { gv: sub.gv, kind: sub.kind, within: kind, name: sub.name, item: true };
            insert(&mut out, format!("{item}/{}", sub.name), of.item(sub.verbs.iter().copied()));
        }
    }
    out
}

fn insert(out: &mut Map<String, Value>, path: String, item: Map<String, Value>) {
    if item.keys().any(|key| key != "parameters") {
        out.insert(path, Value::Object(item));
    }
}

/// What the operations of one path have in common.
struct Operations<'a> {
    gv: GroupVersion,
    kind: &'static str,
    within: &'a ServedKind,
    /// The subresource, or nothing.
    name: &'a str,
    /// Whether the path names one object.
    item: bool,
}

impl Operations<'_> {
    fn item(&self, verbs: impl Iterator<Item = &'static str>) -> Map<String, Value> {
        let mut out = Map::new();
        for verb in verbs {
            let method = match verb {
                "get" | "list" => "get",
                "create" => "post",
                "update" => "put",
                "patch" => "patch",
                "delete" | "deletecollection" => "delete",
                _ => continue,
            };
            out.insert(method.to_owned(), self.operation(verb));
        }
        let mut parameters = vec![query("pretty", "string")];
        if self.item {
            parameters.push(path_parameter("name"));
        }
        if self.within.namespaced {
            parameters.push(path_parameter("namespace"));
        }
        out.insert("parameters".to_owned(), Value::Array(parameters));
        out
    }

    fn operation(&self, verb: &str) -> Value {
        let gv = self.within.gv;
        let (start, action) = match verb {
            "get" => ("read", "get"),
            "list" => ("list", "list"),
            "create" => ("create", "post"),
            "update" => ("replace", "put"),
            "patch" => ("patch", "patch"),
            "deletecollection" => ("deleteCollection", "deletecollection"),
            _ => ("delete", "delete"),
        };
        let scope = if self.within.namespaced { "Namespaced" } else { "" };
        let sub = capitalized(self.name);
        let group = group_name(gv.group);
        let id = format!("{start}{}{}{scope}{}{sub}", capitalized(&group), capitalized(gv.version), self.within.kind);
        let own = super::Schema::builtin(self.gv, self.kind).map(super::Schema::type_name);
        let answered = match verb {
            "list" => own.map(|name| format!("{name}List")),
            "deletecollection" | "delete" => Some(format!("{META}.Status")),
            _ => own.map(str::to_owned),
        };
        let schema = |name: Option<String>| match name {
            Some(name) => json!({ "$ref": format!("#/components/schemas/{name}") }),
            None => json!({ "type": "string" }),
        };
        let content = json!({ "application/json": { "schema": schema(answered.clone()) },
            "application/yaml": { "schema": schema(answered.clone()) },
            "application/vnd.kubernetes.protobuf": { "schema": schema(answered) } });
        let code = if verb == "create" { "201" } else { "200" };
        let mut operation = json!({
            "tags": [format!("{group}_{}", gv.version)],
            "operationId": id,
            "parameters": parameters(verb),
            "responses": { code: { "description": "OK", "content": content }, "401": { "description": "Unauthorized" } },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": { "group": self.gv.group, "version": self.gv.version, "kind": self.kind },
        });
        let body = match verb {
            "create" | "update" => Some(json!({ "*/*": { "schema": schema(own.map(str::to_owned)) } })),
            "patch" => Some(patch_body()),
            "delete" | "deletecollection" => {
                Some(json!({ "*/*": { "schema": schema(Some(format!("{META}.DeleteOptions"))) } }))
            }
            _ => None,
        };
        if let Some(content) = body {
            operation["requestBody"] = json!({ "content": content, "required": !verb.starts_with("delete") });
        }
        operation
    }
}

fn patch_body() -> Value {
    let types =
        ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];
    let schema = json!({ "schema": { "$ref": format!("#/components/schemas/{META}.Patch") } });
    types.into_iter().map(|name| (name.to_owned(), schema.clone())).collect::<Map<_, _>>().into()
}

fn parameters(verb: &str) -> Vec<Value> {
    const SELECT: &[(&str, &str)] = &[
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("resourceVersionMatch", "string"),
        ("sendInitialEvents", "boolean"),
        ("timeoutSeconds", "integer"),
    ];
    const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
    const DELETE: &[(&str, &str)] = &[
        ("dryRun", "string"),
        ("gracePeriodSeconds", "integer"),
        ("orphanDependents", "boolean"),
        ("propagationPolicy", "string"),
    ];
    let lists: &[&[(&str, &str)]] = match verb {
        "list" => &[&[("allowWatchBookmarks", "boolean")], SELECT, &[("watch", "boolean")]],
        "create" | "update" => &[WRITE],
        "patch" => &[WRITE, &[("force", "boolean")]],
        "delete" => &[DELETE],
        "deletecollection" => &[DELETE, SELECT],
        _ => &[],
    };
    lists.iter().flat_map(|list| list.iter()).map(|(name, kind)| query(name, kind)).collect()
}

fn query(name: &str, kind: &str) -> Value {
    json!({ "name": name, "in": "query", "schema": { "type": kind, "uniqueItems": true } })
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } })
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
            ServedKind { gv: CORE, kind: "Pod", resource: "pods", namespaced: true, verbs, subresources: vec![status] },
            ServedKind {
                gv: CORE,
                kind: "Node",
                resource: "nodes",
                namespaced: false,
                verbs,
                subresources: Vec::new(),
            },
        ]
    }

    #[test]
    fn a_document_has_paths_and_every_component_they_reach_with_descriptions() {
        let bytes = openapi_document("api/v1", &served()).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let pods = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
        assert_eq!(pods["patch"]["operationId"], "patchCoreV1NamespacedPod");
        assert_eq!(
            pods["patch"]["x-kubernetes-group-version-kind"],
            json!({"group": "", "version": "v1", "kind": "Pod"})
        );
        assert!(pods["patch"]["parameters"].as_array().unwrap().contains(&query("fieldValidation", "string")));
        assert_eq!(document["paths"]["/api/v1/nodes"]["post"]["operationId"], "createCoreV1Node");
        let schemas = &document["components"]["schemas"];
        let port = &schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["containerPort"];
        assert!(port["description"].as_str().unwrap().contains("0 < x < 65536"));
        let text = String::from_utf8_lossy(&bytes);
        for name in refs(&text) {
            assert!(schemas.get(&name).is_some(), "{name} is referred to but missing");
        }
        assert!(schemas.get("io.k8s.api.apps.v1.Deployment").is_none(), "another document's component");
    }

    #[test]
    fn the_index_names_each_group_version_once_and_unknown_documents_are_absent() {
        let index = openapi_index(&served());
        let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/api/v1?hash=") && url.len() == 24 + 64, "{url}");
        assert_eq!(index, openapi_index(&served()), "the hash is stable");
        assert!(openapi_document("apis/apps/v1", &served()).is_none());
    }
}
