//! Definitions: defaults, names beside one another, and the rules of specs and schemas, as tables.

use super::{DEF, names};
use crate::meta::Object;
use serde_json::{Value, json};

fn definition(schema: Value) -> Object {
    let mut object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "rules.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "rules", "kind": "Rule"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    (DEF.strategy.default)(&mut object);
    (DEF.strategy.prepare_create)(&mut object);
    object
}

fn errors(object: &Object) -> Vec<String> {
    DEF.validate(object).iter().map(ToString::to_string).collect()
}

#[test]
fn names_and_conversion_have_defaults_and_the_storage_version_is_remembered() {
    let object = definition(json!({"type": "object"}));
    assert_eq!(
        object["spec"]["names"],
        json!({"plural": "rules", "kind": "Rule", "singular": "rule", "listKind": "RuleList"})
    );
    assert_eq!(object["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(object["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(errors(&object), [""; 0]);
}

#[test]
fn specs_are_refused_in_upstreams_words() {
    for (pointer, value, wanted) in [
        (
            "/spec/group",
            json!("example"),
            "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
        ),
        (
            "/spec/scope",
            json!("Both"),
            "spec.scope: Unsupported value: \"Both\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            "/metadata/name",
            json!("x.example.com"),
            "metadata.name: Invalid value: \"x.example.com\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "/spec/names/listKind",
            json!("Rule"),
            "spec.names.listKind: Invalid value: \"Rule\": kind and listKind may not be the same",
        ),
        ("/spec/versions/0/storage", json!(false), "must have exactly one version marked as storage version"),
        ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        (
            "/spec/conversion/strategy",
            json!("Magic"),
            "spec.conversion.strategy: Unsupported value: \"Magic\": supported values: \"None\", \"Webhook\"",
        ),
    ] {
        let mut object = definition(json!({"type": "object"}));
        *object.pointer_mut(pointer).unwrap() = value;
        let found = errors(&object);
        assert!(found.iter().any(|error| error.contains(wanted)), "{pointer}: {found:?}");
    }
}

#[test]
fn schemas_must_be_structural() {
    let at = "spec.validation.openAPIV3Schema";
    for (schema, wanted) in [
        (json!({}), ".type: Required value: must not be empty at the root"),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            ".type: Invalid value: \"array\": must be object at the root",
        ),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            ".properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            ".properties[a].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "thing"}}}),
            ".properties[a].type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "uniqueItems": true}}}),
            ".properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-int-or-string": true}}}),
            ".properties[a].type: Forbidden: must be empty if x-kubernetes-int-or-string is true",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "anyOf": [{"type": "string"}]}}}),
            ".properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            ".properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}}),
            ".properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-embedded-resource": true}}}),
            ".properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self ="}]}}}),
            ".properties[a].x-kubernetes-validations[0].rule: Invalid value: {\"FieldPath\":\"\",",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.c == 'x'"}]}}}),
            "undefined field 'c'",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "enum": ["x"], "default": "y"}}}),
            ".properties[a].default: Unsupported value: \"y\": supported values: \"x\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}, "default": {"c": 1}}}}),
            ".properties[a].default: Invalid value: {\"c\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.all(x, x.all(y, y == 'z'))"}]}}}),
            ".properties[a].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
        ),
    ] {
        let found = errors(&definition(schema.clone()));
        assert!(found.iter().any(|error| error.contains(wanted)), "{schema}: {found:?} has no {at}{wanted}");
    }
}

fn settled(object: &Object, others: &[Object]) -> Object {
    names::settle(object, others.iter(), "2026-01-01T00:00:00Z").expect("something to write")
}

#[test]
fn free_names_are_accepted_and_the_definition_is_established() {
    let object = settled(&definition(json!({"type": "object"})), &[]);
    assert!(names::is_true(&object, "NamesAccepted") && names::is_true(&object, "Established"));
    assert_eq!(
        object["status"]["acceptedNames"],
        json!({"plural": "rules", "kind": "Rule", "singular": "rule", "listKind": "RuleList"})
    );
    assert!(
        names::settle(&object, std::iter::empty(), "2026-01-02T00:00:00Z").is_none(),
        "a second look changes nothing"
    );
}

#[test]
fn names_of_others_are_not() {
    let first = settled(&definition(json!({"type": "object"})), &[]);
    let mut second = definition(json!({"type": "object"}));
    second["spec"]["names"] = json!({"plural": "rules2", "kind": "Rule", "singular": "rule", "listKind": "RuleList"});
    let second = settled(&second, &[first]);
    assert_eq!(second["status"]["acceptedNames"], json!({"plural": "rules2", "kind": ""}));
    let condition = names::condition(&second, "NamesAccepted").unwrap();
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("ListKindConflict")));
    assert!(!names::is_true(&second, "Established"));
}

#[test]
fn a_version_that_was_stored_may_not_go() {
    let old = settled(&definition(json!({"type": "object"})), &[]);
    let mut new = old.clone();
    new["spec"]["versions"][0]["name"] = json!("v2");
    (DEF.strategy.prepare_update)(&mut new, &old);
    assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
    let found: Vec<String> = DEF.validate_update(&new, &old).iter().map(ToString::to_string).collect();
    assert!(
        found
            .iter()
            .any(|e| e
                .starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was")),
        "{found:?}"
    );
}
