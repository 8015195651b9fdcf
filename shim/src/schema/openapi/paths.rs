//! The paths of a group version's OpenAPI v3 document: one item for each URL that a resource is served under, as
//! kube-apiserver's installer registers them.

use super::custom::component_name;
use super::{META, ServedKind, ServedSubresource, capitalized, document_path, group_name};
use crate::gvr::GroupVersion;

use serde_json::{Map, Value, json};

/// Kinds whose deletion answers with the object itself (upstream's `ReturnDeletedObject`).
const RETURNED: [&str; 16] = [
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ResourceQuota",
    "ServiceAccount",
    "Service",
    "PersistentVolume",
    "DeviceClass",
    "ResourceClaim",
    "ResourceClaimTemplate",
    "ResourceSlice",
    "CSIDriver",
    "CSINode",
    "StorageClass",
    "VolumeAttachment",
    "VolumeAttributesClass",
];

type Parameter = (&'static str, &'static str);

const DRY_RUN: Parameter = ("dryRun", "string");
const SELECT: &[Parameter] = &[
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
];
const LIST: &[Parameter] = &[("allowWatchBookmarks", "boolean"), ("watch", "boolean")];
const WRITE: &[Parameter] = &[DRY_RUN, ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[Parameter] = &[("force", "boolean")];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const STREAMS: &[Parameter] =
    &[("container", "string"), ("stderr", "boolean"), ("stdin", "boolean"), ("stdout", "boolean"), ("tty", "boolean")];
const LOG: &[Parameter] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

const OBJECT_TYPES: &[&str] =
    &["application/cbor", "application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const LIST_TYPES: &[&str] = &[
    "application/cbor",
    "application/cbor-seq",
    "application/json",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/yaml",
];
const LOG_TYPES: &[&str] =
    &["application/cbor", "application/json", "application/vnd.kubernetes.protobuf", "application/yaml", "text/plain"];
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+cbor",
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// Custom resources have no protobuf form and no strategic merge: by this clients choose how they patch.
const CUSTOM_TYPES: &[&str] = &["application/json", "application/yaml"];
const CUSTOM_PATCH_TYPES: &[&str] =
    &["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
/// Discovery documents come in fewer types.
const DISCOVERY_TYPES: &[&str] = &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];

/// The paths of the document of one group version.
pub(super) fn of_version(document: &str, served: &[ServedKind]) -> Map<String, Value> {
    let mut out = Map::new();
    for kind in served.iter().filter(|kind| document_path(kind.gv) == document) {
        let site = Site { kind, document };
        site.list_resources(&mut out);
        site.resource(&mut out);
        for sub in &kind.subresources {
            site.subresource(sub, &mut out);
        }
    }
    out
}

/// The one path of a document that is about no resource: `api`, `apis`, `apis/apps`, `version`, `openid/v1/jwks`.
pub(super) fn of_root(document: &str, groups: &[&str]) -> Option<Map<String, Value>> {
    let (id, tag, kind) = match document {
        "api" => ("getCoreAPIVersions".to_owned(), "core".to_owned(), "APIVersions"),
        "apis" => ("getAPIVersions".to_owned(), "apis".to_owned(), "APIGroupList"),
        "version" => ("getCodeVersion".to_owned(), "version".to_owned(), ""),
        "openid/v1/jwks" => ("getServiceAccountIssuerOpenIDKeyset".to_owned(), "openid".to_owned(), ""),
        other => {
            let group = other.strip_prefix("apis/").filter(|group| groups.contains(group))?;
            let name = group_name(group);
            (format!("get{}APIGroup", capitalized(&name)), name, "APIGroup")
        }
    };
    let content = match document {
        "version" => content(&["application/json"], &reference("io.k8s.apimachinery.pkg.version.Info")),
        "openid/v1/jwks" => content(&["application/jwk-set+json"], &json!({"type": "string"})),
        _ => content(DISCOVERY_TYPES, &reference(&format!("{META}.{kind}"))),
    };
    let operation = json!({
        "operationId": id, "tags": [tag],
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
    });
    let mut out = Map::new();
    out.insert(format!("/{document}/"), json!({ "get": operation }));
    Some(out)
}

/// A resource in its document.
struct Site<'a> {
    kind: &'a ServedKind,
    document: &'a str,
}

/// One operation, before its parameters are shared out.
struct Operation {
    method: &'static str,
    body: Map<String, Value>,
    parameters: Vec<Value>,
}

/// What an operation is about.
struct Subject<'a> {
    gv: GroupVersion,
    kind: &'a str,
    /// Ends operation ids: `Status`, `ProxyWithPath`, `ForAllNamespaces`.
    suffix: &'a str,
    /// Names the kind within the operation id with its scope: `NamespacedPod`.
    scoped: &'a str,
}

impl Site<'_> {
    fn list_resources(&self, out: &mut Map<String, Value>) {
        let operation = json!({
            "operationId": format!("get{}APIResources", self.group_version()),
            "tags": [self.tag()],
            "responses": {
                "200": {"description": "OK", "content": content(OBJECT_TYPES, &reference(&format!("{META}.APIResourceList")))},
                "401": {"description": "Unauthorized"},
            },
        });
        out.entry(format!("/{}/", self.document)).or_insert_with(|| json!({ "get": operation }));
    }

    fn resource(&self, out: &mut Map<String, Value>) {
        let kind = self.kind;
        let scope = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
        let scoped = if kind.namespaced { format!("Namespaced{}", kind.kind) } else { kind.kind.to_owned() };
        let subject = |suffix| Subject { gv: kind.gv, kind: kind.kind, suffix, scoped: &scoped };
        let has = |verb: &str| kind.verbs.contains(&verb);
        let collection = format!("/{}/{scope}{}", self.document, kind.resource);
        let watched = format!("/{}/watch/{scope}{}", self.document, kind.resource);
        let of =
            |verbs: &[&str]| verbs.iter().filter(|v| has(v)).filter_map(|v| self.operation(v, &subject(""))).collect();
        self.insert(out, collection.clone(), kind.namespaced, &[], of(&["list", "create", "deletecollection"]));
        let item = of(&["get", "update", "patch", "delete"]);
        self.insert(out, format!("{collection}/{{name}}"), kind.namespaced, &["name"], item);
        if kind.namespaced && has("list") {
            let everywhere = Subject { scoped: kind.kind, ..subject("ForAllNamespaces") };
            let list = self.operation("list", &everywhere).into_iter().collect();
            self.insert(out, format!("/{}/{}", self.document, kind.resource), false, &[], list);
        }
        if has("watch") {
            let list = self.operation("watchlist", &subject("List")).into_iter().collect();
            self.insert(out, watched.clone(), kind.namespaced, &[], list);
            let one = self.operation("watch", &subject("")).into_iter().collect();
            self.insert(out, format!("{watched}/{{name}}"), kind.namespaced, &["name"], one);
            if kind.namespaced {
                let everywhere = Subject { scoped: kind.kind, ..subject("ListForAllNamespaces") };
                let list = self.operation("watchlist", &everywhere).into_iter().collect();
                self.insert(out, format!("/{}/watch/{}", self.document, kind.resource), false, &[], list);
            }
        }
    }

    fn subresource(&self, sub: &ServedSubresource, out: &mut Map<String, Value>) {
        let kind = self.kind;
        let scope = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{}/{scope}{}/{{name}}/{}", self.document, kind.resource, sub.name);
        let scoped = if kind.namespaced { format!("Namespaced{}", kind.kind) } else { kind.kind.to_owned() };
        let suffix = capitalized(sub.name);
        if !sub.kind.ends_with("Options") {
            let subject = Subject { gv: sub.gv, kind: sub.kind, suffix: &suffix, scoped: &scoped };
            let verb = |verb: &&str| {
                if sub.name == "log" { self.operation("log", &subject) } else { self.operation(verb, &subject) }
            };
            return self.insert(out, path, kind.namespaced, &["name"], sub.verbs.iter().filter_map(verb).collect());
        }
        let methods: &[&'static str] = match sub.name {
            "proxy" => &["delete", "get", "head", "options", "patch", "post", "put"],
            _ => &["get", "post"],
        };
        let connect = |suffix: &str| -> Vec<Operation> {
            let one = |method: &&'static str| {
                let scoped = capitalized(method) + &scoped;
                self.connect(method, sub.name, &Subject { gv: sub.gv, kind: sub.kind, suffix, scoped: &scoped })
            };
            methods.iter().map(one).collect()
        };
        self.insert(out, path.clone(), kind.namespaced, &["name"], connect(&suffix));
        if sub.name == "proxy" {
            let operations = connect(&format!("{suffix}WithPath"));
            self.insert(out, format!("{path}/{{path}}"), kind.namespaced, &["name", "path"], operations);
        }
    }

    /// `CoreV1`, `RbacAuthorizationV1`
    fn group_version(&self) -> String {
        capitalized(&group_name(self.kind.gv.group)) + &capitalized(self.kind.gv.version)
    }

    /// `core_v1`
    fn tag(&self) -> String {
        format!("{}_{}", group_name(self.kind.gv.group), self.kind.gv.version)
    }

    fn operation(&self, verb: &str, subject: &Subject<'_>) -> Option<Operation> {
        let (start, method, action) = match verb {
            "get" | "log" => ("read", "get", "get"),
            "list" => ("list", "get", "list"),
            "watch" => ("watch", "get", "watch"),
            "watchlist" => ("watch", "get", "watchlist"),
            "create" => ("create", "post", "post"),
            "update" => ("replace", "put", "put"),
            "patch" => ("patch", "patch", "patch"),
            "delete" => ("delete", "delete", "delete"),
            "deletecollection" => ("delete", "delete", "deletecollection"),
            _ => return None,
        };
        let collection = if verb == "deletecollection" { "Collection" } else { "" };
        let id = format!("{start}{}{collection}{}{}", self.group_version(), subject.scoped, subject.suffix);
        let own = component_name(subject.gv, subject.kind);
        let status = format!("{META}.Status");
        let answered = match verb {
            "list" => own.as_ref().map(|name| format!("{name}List")),
            "watch" | "watchlist" => Some(format!("{META}.WatchEvent")),
            "deletecollection" => Some(status),
            "delete" if !RETURNED.contains(&subject.kind) => Some(status),
            "log" => None,
            _ => own.clone(),
        };
        let custom = !self.kind.edition.is_empty();
        let types = match verb {
            _ if custom => CUSTOM_TYPES,
            "list" | "watch" | "watchlist" => LIST_TYPES,
            "log" => LOG_TYPES,
            _ => OBJECT_TYPES,
        };
        let codes: &[(&str, &str)] = match verb {
            "create" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "update" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let schema = answered.map_or_else(|| json!({"type": "string"}), |name| reference(&name));
        let mut responses = Map::new();
        for (code, description) in codes {
            responses
                .insert((*code).to_owned(), json!({"description": description, "content": content(types, &schema)}));
        }
        let mut body = self.body(id, action, subject, responses);
        let own = own.as_deref().map(reference).unwrap_or_default();
        let (parameters, request): (Vec<&[Parameter]>, _) = match verb {
            "list" | "watch" | "watchlist" => (vec![LIST, SELECT], None),
            "create" | "update" => (vec![WRITE], Some(json!({"content": content(&["*/*"], &own), "required": true}))),
            "patch" => {
                let patch = content(
                    if custom { CUSTOM_PATCH_TYPES } else { PATCH_TYPES },
                    &reference(&format!("{META}.Patch")),
                );
                (vec![WRITE, PATCH], Some(json!({"content": patch, "required": true})))
            }
            "delete" | "deletecollection" => {
                let options = content(&["*/*"], &reference(&format!("{META}.DeleteOptions")));
                (vec![DELETE, if verb == "delete" { &[] } else { SELECT }], Some(json!({ "content": options })))
            }
            "log" => (vec![LOG], None),
            _ => (Vec::new(), None),
        };
        if let Some(request) = request {
            body.insert("requestBody".to_owned(), request);
        }
        let pretty = [("pretty", "string")];
        let parameters =
            parameters.into_iter().flatten().chain(&pretty).map(|(name, kind)| query(name, kind)).collect();
        Some(Operation { method, body, parameters })
    }

    /// A stream to a node: the answer is whatever comes back.
    fn connect(&self, method: &'static str, name: &str, subject: &Subject<'_>) -> Operation {
        let id = format!("connect{}{}{}", self.group_version(), subject.scoped, subject.suffix);
        let mut responses = Map::new();
        let content = content(&["*/*"], &json!({"type": "string"}));
        responses.insert("200".to_owned(), json!({"description": "OK", "content": content}));
        let parameters: Vec<Parameter> = match name {
            "exec" => STREAMS.iter().copied().chain([("command", "string")]).collect(),
            "attach" => STREAMS.to_vec(),
            "portforward" => vec![("ports", "integer")],
            _ => vec![("path", "string")],
        };
        let parameters = parameters.into_iter().map(|(name, kind)| query(name, kind)).collect();
        Operation { method, body: self.body(id, "connect", subject, responses), parameters }
    }

    fn body(
        &self,
        id: String,
        action: &str,
        subject: &Subject<'_>,
        mut responses: Map<String, Value>,
    ) -> Map<String, Value> {
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let gvk = json!({"group": subject.gv.group, "version": subject.gv.version, "kind": subject.kind});
        let body = [
            ("tags", json!([self.tag()])),
            ("operationId", Value::String(id)),
            ("responses", Value::Object(responses)),
            ("x-kubernetes-action", Value::from(action)),
            ("x-kubernetes-group-version-kind", gvk),
        ];
        body.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The operations of one path; parameters that all of them take are the path's.
    fn insert(
        &self,
        out: &mut Map<String, Value>,
        path: String,
        namespaced: bool,
        names: &[&str],
        operations: Vec<Operation>,
    ) {
        let Some(first) = operations.first() else { return };
        let everywhere =
            |parameter: &&Value| operations.iter().all(|operation| operation.parameters.contains(parameter));
        let mut shared: Vec<Value> = first.parameters.iter().filter(everywhere).cloned().collect();
        let mut item = Map::new();
        for Operation { method, mut body, parameters } in operations {
            let own: Vec<Value> = parameters.into_iter().filter(|parameter| !shared.contains(parameter)).collect();
            if !own.is_empty() {
                body.insert("parameters".to_owned(), sorted(own));
            }
            item.insert(method.to_owned(), Value::Object(body));
        }
        shared.extend(names.iter().map(|name| path_parameter(name)));
        if namespaced {
            shared.push(path_parameter("namespace"));
        }
        if !shared.is_empty() {
            item.insert("parameters".to_owned(), sorted(shared));
        }
        out.insert(path, Value::Object(item));
    }
}

/// Path parameters before query parameters of the same name, names in order.
fn sorted(mut parameters: Vec<Value>) -> Value {
    parameters
        .sort_by_key(|parameter| ["name", "in"].map(|key| parameter[key].as_str().unwrap_or_default().to_owned()));
    Value::Array(parameters)
}

fn content(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|name| ((*name).to_owned(), json!({ "schema": schema }))).collect::<Map<_, _>>().into()
}

fn reference(component: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{component}") })
}

fn query(name: &str, kind: &str) -> Value {
    json!({ "name": name, "in": "query", "schema": { "type": kind, "uniqueItems": true } })
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } })
}
