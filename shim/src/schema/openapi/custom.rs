//! Components of custom resources: a definition's schema with the fields that every resource has.

use super::META;
use crate::gvr::GroupVersion;
use crate::schema::Schema;
use serde_json::{Map, Value, json};

/// One version of a CustomResourceDefinition as it is published.
#[derive(Clone, Debug)]
pub struct PublishedKind {
    pub gv: GroupVersion,
    pub kind: &'static str,
    pub list_kind: &'static str,
    /// `openAPIV3Schema` as written.
    pub schema: Value,
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The component of a kind: a built-in's own, or a custom one's `com.example.v1.Gizmo`.
pub(super) fn component_name(gv: GroupVersion, kind: &str) -> Option<String> {
    if let Some(schema) = Schema::builtin(gv, kind) {
        return Some(schema.type_name().to_owned());
    }
    let built_in = Schema::builtins().iter().any(|schema| schema.group_version().group == gv.group);
    (!built_in).then(|| custom_name(gv, kind))
}

/// The group turned round, as upstream names packages.
fn custom_name(gv: GroupVersion, kind: &str) -> String {
    let mut parts: Vec<&str> = gv.group.split('.').rev().collect();
    parts.extend([gv.version, kind]);
    parts.join(".")
}

/// Names and schemas of the components of those kinds.
pub(super) fn components(kinds: &[PublishedKind]) -> Vec<(String, Value)> {
    kinds.iter().flat_map(|kind| [object(kind), list(kind)]).collect()
}

fn common(kind: &str, metadata: &str, description: &str) -> Map<String, Value> {
    let reference = json!({"$ref": format!("#/components/schemas/{META}.{metadata}")});
    let mut properties = Map::new();
    properties.insert("apiVersion".into(), json!({"description": API_VERSION, "type": "string"}));
    properties.insert("kind".into(), json!({"description": kind, "type": "string"}));
    properties.insert("metadata".into(), json!({"description": description, "allOf": [reference]}));
    properties
}

fn object(kind: &PublishedKind) -> (String, Value) {
    let mut schema = published(kind.schema.clone());
    let own = common(KIND, "ObjectMeta", METADATA);
    match schema.get_mut("properties").and_then(Value::as_object_mut) {
        Some(properties) => properties.extend(own),
        None => schema["properties"] = Value::Object(own),
    }
    schema["x-kubernetes-group-version-kind"] = identity(kind.gv, kind.kind);
    (custom_name(kind.gv, kind.kind), schema)
}

fn list(kind: &PublishedKind) -> (String, Value) {
    let mut properties = common(KIND, "ListMeta", LIST_METADATA);
    let name = custom_name(kind.gv, kind.kind);
    let item = json!({"$ref": format!("#/components/schemas/{name}")});
    let text = "List of objects of that kind. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    properties.insert("items".into(), json!({"description": text, "type": "array", "items": item}));
    let schema = json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind), "type": "object",
        "required": ["items"], "properties": properties,
        "x-kubernetes-group-version-kind": identity(kind.gv, kind.list_kind),
    });
    (format!("{name}List"), schema)
}

fn identity(gv: GroupVersion, kind: &str) -> Value {
    json!([{"group": gv.group, "kind": kind, "version": gv.version}])
}

/// Embedded resources show the fields that they have beside the declared ones.
fn published(mut schema: Value) -> Value {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (_, property) in properties.iter_mut() {
            *property = published(property.take());
        }
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            schema[key] = published(schema[key].take());
        }
    }
    if schema["x-kubernetes-embedded-resource"] == true {
        let own = common(KIND, "ObjectMeta", METADATA);
        match schema.get_mut("properties").and_then(Value::as_object_mut) {
            Some(properties) => properties.extend(own),
            None => schema["properties"] = Value::Object(own),
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_kind_has_a_component_with_the_common_fields_and_one_for_its_list() {
        let kind = PublishedKind {
            gv: GroupVersion { group: "stable.example.com", version: "v1" },
            kind: "Gizmo",
            list_kind: "GizmoList",
            schema: json!({"type": "object", "properties": {"spec": {"type": "object", "description": "wanted"}}}),
        };
        let components = components(&[kind]);
        let names: Vec<&str> = components.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["com.example.stable.v1.Gizmo", "com.example.stable.v1.GizmoList"]);
        let gizmo = &components[0].1;
        assert_eq!(gizmo["properties"]["spec"]["description"], "wanted");
        assert_eq!(
            gizmo["properties"]["metadata"]["allOf"][0]["$ref"],
            format!("#/components/schemas/{META}.ObjectMeta")
        );
        assert_eq!(
            gizmo["x-kubernetes-group-version-kind"],
            json!([{"group": "stable.example.com", "kind": "Gizmo", "version": "v1"}])
        );
    }
}
