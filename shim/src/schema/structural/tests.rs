//! Pruning, defaulting and nulls, as tables of schema, object and what is left of it.

use super::Structural;
use serde_json::{Value, json};

fn check(schema: Value, object: Value, wanted: Value, removed: &[&str]) {
    let schema = Structural::parse(&schema);
    let mut got = object;
    let pruned = schema.prune(&mut got);
    schema.drop_nulls(&mut got);
    schema.fill(&mut got);
    assert_eq!(got, wanted);
    assert_eq!(pruned, removed);
}

#[test]
fn undeclared_fields_go_and_are_named_by_their_paths() {
    check(
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "integer"},
                "items": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}}}},
                "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                        "properties": {"known": {"type": "object"}}},
                "map": {"type": "object", "additionalProperties": {"type": "object"}},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true},
            }},
        }}),
        json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a"}, "top": 1, "spec": {
            "a": 1, "b": 2, "items": [{"id": "1"}, {"id": "2", "junk": true}],
            "raw": {"any": {"x": 1}, "known": {"gone": 1}}, "map": {"k": {"gone": 1}},
            "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
        }}),
        json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a"}, "spec": {
            "a": 1, "items": [{"id": "1"}, {"id": "2"}],
            "raw": {"any": {"x": 1}, "known": {}}, "map": {"k": {}},
            "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}},
        }}),
        &["spec.b", "spec.items[1].junk", "spec.map.k.gone", "spec.raw.known.gone", "spec.template.spec", "top"],
    );
}

#[test]
fn defaults_fill_what_is_absent_or_a_null_that_may_not_be() {
    let schema = json!({"type": "object", "properties": {
        "mode": {"type": "string", "default": "slow"},
        "may": {"type": "string", "nullable": true, "default": "x"},
        "null": {"type": "string", "nullable": true},
        "drop": {"type": "string"},
        "opts": {"type": "object", "properties": {"on": {"type": "boolean", "default": true}}},
        "deep": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 5}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"v": {"type": "integer", "default": 1}}}},
    }});
    check(
        schema.clone(),
        json!({"mode": null, "may": null, "null": null, "drop": null, "opts": {}, "list": [{}, {"v": 2}]}),
        json!({"mode": "slow", "may": null, "null": null, "opts": {"on": true}, "deep": {"n": 5}, "list": [{"v": 1}, {"v": 2}]}),
        &[],
    );
    check(schema, json!({"mode": ""}), json!({"mode": "", "may": "x", "deep": {"n": 5}}), &[]);
}
