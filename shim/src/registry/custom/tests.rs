//! Rules of custom resources, as tables: schema, object (and the one before), errors as upstream words them.

use super::resources;
use crate::meta::Object;
use serde_json::{Value, json};

fn definition(schema: Value) -> Object {
    json!({
        "metadata": {"name": "rules.example.com", "generation": 1},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "rules", "kind": "Rule"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
        "status": {"acceptedNames": {"plural": "rules", "singular": "rule", "kind": "Rule", "listKind": "RuleList"}},
    })
}

fn object(spec: Value) -> Object {
    json!({"apiVersion": "example.com/v1", "kind": "Rule", "metadata": {"name": "a", "namespace": "d"}, "spec": spec})
}

fn errors(spec_schema: &Value, spec: Value, old: Option<Value>) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": spec_schema}});
    let defs = resources(&definition(schema));
    let new = object(spec);
    let errors = match old {
        None => defs[0].validate(&new),
        Some(old) => defs[0].validate_update(&new, &object(old)),
    };
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn value_validations_are_worded_as_kube_openapi_does() {
    let schema = json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8, "minLength": 2},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3, "x-kubernetes-list-type": "set"},
        "port": {"x-kubernetes-int-or-string": true},
        "when": {"type": "string", "format": "date-time"},
        "count": {"type": "number", "minimum": 0, "exclusiveMinimum": true, "multipleOf": 2},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1},
        "list": {"type": "array", "minItems": 1, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                 "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}},
        "one": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "string"}},
                "oneOf": [{"required": ["x"]}, {"required": ["y"]}]},
    }});
    for (spec, wanted) in [
        (json!({"size": 3}), &[][..]),
        (json!({"size": 0}), &["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]),
        (
            json!({"size": "3"}),
            &["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""],
        ),
        (json!({}), &["spec.size: Required value"]),
        (
            json!({"size": 1, "name": "A1"}),
            &["spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'"],
        ),
        (json!({"size": 1, "name": "abcdefghi"}), &["spec.name: Too long: may not be more than 8 bytes"]),
        (
            json!({"size": 1, "name": "a"}),
            &["spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long"],
        ),
        (
            json!({"size": 1, "mode": "odd"}),
            &["spec.mode: Unsupported value: \"odd\": supported values: \"fast\", \"slow\""],
        ),
        (
            json!({"size": 1, "tags": [1]}),
            &["spec.tags[0]: Invalid value: \"integer\": spec.tags[0] in body must be of type string: \"integer\""],
        ),
        (json!({"size": 1, "tags": ["a", "b", "c", "d"]}), &["spec.tags: Too many: 4: must have at most 3 items"]),
        (json!({"size": 1, "tags": ["a", "a"]}), &["spec.tags[1]: Duplicate value: \"a\""]),
        (
            json!({"size": 1, "port": true}),
            &["spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\""],
        ),
        (
            json!({"size": 1, "when": "soon"}),
            &["spec.when: Invalid value: \"soon\": spec.when in body must be of type date-time: \"soon\""],
        ),
        (
            json!({"size": 1.5}),
            &[
                "spec.size: Invalid value: \"number\": spec.size in body must be of type integer: \"number\"",
                "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec.size",
            ],
        ),
        (
            json!({"size": 1, "count": 0}),
            &["spec.count: Invalid value: 0: spec.count in body should be greater than 0"],
        ),
        (
            json!({"size": 1, "count": 3}),
            &["spec.count: Invalid value: 3: spec.count in body should be a multiple of 2"],
        ),
        (json!({"size": 1, "map": {"a": 1, "b": 2}}), &["spec.map: Too many: 2: must have at most 1 item"]),
        (
            json!({"size": 1, "list": []}),
            &["spec.list: Invalid value: []: spec.list in body should have at least 1 items"],
        ),
        (json!({"size": 1, "list": [{"id": "a"}, {"id": "a"}]}), &["spec.list[1]: Duplicate value: {\"id\":\"a\"}"]),
        (
            json!({"size": 1, "one": {}}),
            &[
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
                "spec.one.x: Required value",
            ],
        ),
    ] {
        assert_eq!(errors(&schema, spec.clone(), None), wanted, "{spec}");
    }
}

#[test]
fn what_an_update_leaves_alone_is_not_held_against_it() {
    let schema = json!({"type": "object", "properties": {
        "old": {"type": "string", "maxLength": 2}, "new": {"type": "string", "maxLength": 2},
        "odd": {"type": "integer", "x-kubernetes-validations": [{"rule": "self % 2 == 1"}]},
    }});
    let before = json!({"old": "long", "odd": 2});
    assert_eq!(errors(&schema, json!({"old": "long", "odd": 2, "new": "x"}), Some(before.clone())), [""; 0]);
    assert_eq!(
        errors(&schema, json!({"old": "longer", "odd": 4}), Some(before)),
        [
            "spec.old: Too long: may not be more than 2 bytes",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
        ]
    );
}

#[test]
fn cel_rules_say_what_they_refuse() {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "self % 2 == 1", "message": "must be odd"}, {"rule": "self >= oldSelf", "message": "may only grow"},
        ]},
        "url": {"type": "string", "x-kubernetes-validations": [{"rule": "isURL(self)"}]},
        "m": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-validations": [
            {"rule": "self.all(k, self[k] != k)", "reason": "FieldValueDuplicate"}]},
        "range": {"type": "object", "properties": {"lo": {"type": "integer"}, "hi": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.lo <= self.hi", "fieldPath": ".hi",
                "messageExpression": "'%d is below %d'.format([self.hi, self.lo])"}]},
        "once": {"type": "string", "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue() || oldSelf.value() == self", "optionalOldSelf": true, "reason": "FieldValueForbidden", "message": "is set once"}]},
    }});
    for (spec, old, wanted) in [
        (json!({"replicas": 3, "url": "https://a/b", "m": {"a": "b"}, "range": {"lo": 1, "hi": 2}}), None, &[][..]),
        (json!({"replicas": 4}), None, &["spec.replicas: Invalid value: 4: must be odd"]),
        (json!({"replicas": 1}), Some(json!({"replicas": 3})), &["spec.replicas: Invalid value: 1: may only grow"]),
        (json!({"url": "::"}), None, &["spec.url: Invalid value: \"::\": failed rule: isURL(self)"]),
        (json!({"m": {"a": "a"}}), None, &["spec.m: Duplicate value"]),
        (json!({"range": {"lo": 2, "hi": 1}}), None, &["spec.range.hi: Invalid value: 1 is below 2"]),
        (
            json!({"range": {"lo": 2}}),
            None,
            &["spec.range.hi: Invalid value: no such key: hi evaluating rule: self.lo <= self.hi"],
        ),
        (json!({"once": "a"}), None, &[]),
        (json!({"once": "b"}), Some(json!({"once": "a"})), &["spec.once: Forbidden: is set once"]),
    ] {
        assert_eq!(errors(&schema, spec.clone(), old), wanted, "{spec}");
    }
}

#[test]
fn a_version_is_a_resource_with_its_names_and_subresources() {
    let mut crd = definition(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    crd["spec"]["versions"] = json!([
        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}}},
        {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}, "deprecated": true},
        {"name": "v1alpha1", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
    ]);
    let defs = resources(&crd);
    let shown: Vec<String> = defs.iter().map(|d| format!("{} {} {:?}", d.gv, d.storage, d.deprecation)).collect();
    assert_eq!(
        shown,
        [
            "example.com/v1 example.com/rules None",
            "example.com/v1beta1 example.com/rules Some(\"example.com/v1beta1 Rule is deprecated\")",
        ]
    );
    assert_eq!(defs[0].subresources.iter().map(|s| s.name).collect::<Vec<_>>(), ["status"]);
    assert!(defs[1].subresources.is_empty());
}
