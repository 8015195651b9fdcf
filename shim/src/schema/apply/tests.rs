//! Who owns what after updates and applies, told as stories of writes.

use super::*;
use crate::gvr::GroupVersion;
use crate::schema::Schema;
use serde_json::{Value, json};

/// One object and its managers, through several writes.
struct Story {
    schema: &'static Schema,
    version: &'static str,
    live: Value,
    managers: Managers,
    minute: u32,
}

impl Story {
    fn of(group: &'static str, kind: &str) -> Story {
        let gv = GroupVersion { group, version: "v1" };
        let schema = Schema::builtin(gv, kind).unwrap();
        let version: &'static str = if group.is_empty() { "v1" } else { "apps/v1" };
        let mut live = json!({"kind": kind, "apiVersion": version, "metadata": {}});
        schema.canonicalize(&mut live);
        Story { schema, version, live, managers: Managers::default(), minute: 0 }
    }

    fn write<R>(
        &mut self,
        manager: &str,
        write: impl FnOnce(&mut Self, Managers, &Versions<'_, Builtin>, Writer<'_>) -> R,
    ) -> R {
        let (schema, version) = (self.schema, self.version);
        let mut empty = json!({"kind": schema.kind(), "apiVersion": version, "metadata": {}});
        schema.canonicalize(&mut empty);
        let reset = Set::path(&["status"]);
        let versions = Versions {
            of: Box::new(move |v: &str| (v == version).then(|| schema.typed())),
            convert: Box::new(move |object: &Value, v: &str| (v == version).then(|| object.clone())),
            empty: &empty,
            reset: &reset,
        };
        self.minute += 1;
        let now = format!("2026-01-01T00:{:02}:00Z", self.minute);
        let writer = Writer { manager, subresource: "", version, now: &now };
        let managers = self.managers.clone();
        write(self, managers, &versions, writer)
    }

    /// The manager changes the object by a merge patch.
    fn update(&mut self, manager: &str, patch: Value) -> &mut Self {
        self.write(manager, |story, managers, versions, writer| {
            let mut new = crate::schema::json_merge(&story.live, &patch);
            story.schema.canonicalize(&mut new);
            let (old, live) = (std::mem::replace(&mut story.live, new.clone()), new);
            story.managers = managers.update(versions, &old, &live, writer);
        });
        self
    }

    fn try_apply(&mut self, manager: &str, mut config: Value, force: bool) -> Result<(), ApplyError> {
        config["kind"] = self.schema.kind().into();
        config["apiVersion"] = self.version.into();
        self.write(manager, |story, managers, versions, writer| {
            let applied = managers.apply(versions, &story.live, &config, writer, force)?;
            if let Some(mut object) = applied.object {
                story.schema.default(&mut object);
                story.schema.canonicalize(&mut object);
                story.live = object;
            }
            story.managers = applied.managers;
            Ok(())
        })
    }

    fn apply(&mut self, manager: &str, config: Value) -> &mut Self {
        self.try_apply(manager, config, false).unwrap();
        self
    }

    fn force(&mut self, manager: &str, config: Value) -> &mut Self {
        self.try_apply(manager, config, true).unwrap();
        self
    }

    fn owned(&self) -> Vec<String> {
        let entries = self.managers.clone().write().unwrap_or_default();
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("-").to_owned();
        let line = |e: &Value| format!("{} {} {}", text(e, "manager"), text(e, "operation"), e["fieldsV1"]);
        entries.as_array().into_iter().flatten().map(line).collect()
    }
}

fn config_map() -> Story {
    Story::of("", "ConfigMap")
}

#[test]
fn an_applier_owns_what_it_applies_and_removes_what_it_no_longer_does() {
    let mut story = config_map();
    story.apply("ann", json!({"metadata": {"name": "a"}, "data": {"a": "1", "b": "2"}}));
    assert_eq!(story.owned(), [r#"ann Apply {"f:data":{"f:a":{},"f:b":{}}}"#]);
    story.apply("ann", json!({"data": {"a": "1", "c": "3"}}));
    assert_eq!(story.live["data"], json!({"a": "1", "c": "3"}));
    story.apply("bob", json!({"data": {"a": "1", "d": "4"}}));
    story.apply("ann", json!({"data": {"c": "3"}}));
    assert_eq!(story.live["data"], json!({"a": "1", "c": "3", "d": "4"}), "bob applies a as well");
    story.apply("bob", json!({"data": {}}));
    assert_eq!(story.live["data"], json!({"c": "3"}));
    assert_eq!(story.owned(), [r#"ann Apply {"f:data":{"f:c":{}}}"#, r#"bob Apply {"f:data":{}}"#]);
}

#[test]
fn another_value_is_a_conflict_until_it_is_forced() {
    let mut story = config_map();
    story.apply("ann", json!({"data": {"a": "1", "b": "1"}}));
    let refused = story.try_apply("bob", json!({"data": {"a": "9"}}), false).unwrap_err();
    assert_eq!(refused.to_string(), r#"Apply failed with 1 conflict: conflict with "ann": .data.a"#);
    let refused = story.try_apply("bob", json!({"data": {"a": "9", "b": "9"}}), false).unwrap_err();
    assert_eq!(refused.to_string(), "Apply failed with 2 conflicts: conflicts with \"ann\":\n- .data.a\n- .data.b");
    story.force("bob", json!({"data": {"a": "9"}}));
    assert_eq!(story.owned(), [r#"ann Apply {"f:data":{"f:b":{}}}"#, r#"bob Apply {"f:data":{"f:a":{}}}"#]);
    story.update("eve", json!({"data": {"b": "7"}}));
    let refused = story.try_apply("ann", json!({"data": {"b": "1"}}), false).unwrap_err();
    assert_eq!(refused.to_string(), r#"Apply failed with 1 conflict: conflict with "eve" using v1: .data.b"#);
}

#[test]
fn updates_own_what_they_change_and_take_it_from_others() {
    let mut story = config_map();
    story.update("maker", json!({"data": {"a": "1"}, "metadata": {"name": "x", "labels": {"l": "1"}}}));
    assert_eq!(
        story.owned(),
        [r#"maker Update {"f:data":{".":{},"f:a":{}},"f:metadata":{"f:labels":{".":{},"f:l":{}}}}"#]
    );
    story.update("other", json!({"data": {"a": "2", "b": "3"}}));
    assert_eq!(
        story.owned(),
        [
            r#"maker Update {"f:data":{},"f:metadata":{"f:labels":{".":{},"f:l":{}}}}"#,
            r#"other Update {"f:data":{"f:a":{},"f:b":{}}}"#
        ]
    );
    story.update("third", json!({"metadata": {"labels": null}, "data": null}));
    assert!(story.owned().is_empty(), "what is gone is nobody's");
}

#[test]
fn what_updates_own_stays_when_an_applier_lets_go() {
    let mut story = config_map();
    story.apply("ann", json!({"metadata": {"name": "x"}, "data": {"a": "1", "b": "1"}}));
    story.update("eve", json!({"data": {"b": "2"}}));
    story.apply("ann", json!({"data": {"a": "1"}}));
    assert_eq!(story.live["data"], json!({"a": "1", "b": "2"}));
}

#[test]
fn lists_of_maps_are_owned_by_their_keys_defaults_included() {
    let mut story = Story::of("apps", "Deployment");
    let template = |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    story.apply("ann", template(json!([{"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]}])));
    let ports = r#""f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}"#;
    let owned = format!(
        r#"ann Apply {{"f:spec":{{"f:template":{{"f:spec":{{"f:containers":{{"k:{{\"name\":\"a\"}}":{{".":{{}},"f:image":{{}},"f:name":{{}},{ports}}}}}}}}}}}}}"#
    );
    assert_eq!(story.owned(), [owned]);
    story.apply("bob", template(json!([{"name": "b", "image": "b:1"}])));
    let names = |story: &Story| -> Vec<String> {
        let list = story.live["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&story), ["a", "b"]);
    story.apply("bob", template(json!([{"name": "c", "image": "c:1"}, {"name": "a"}])));
    assert_eq!(names(&story), ["c", "a"], "the applied order holds");
    story.apply("ann", json!({}));
    assert_eq!(names(&story), ["c", "a"]);
    assert!(story.live["spec"]["template"]["spec"]["containers"][1].get("image").is_none(), "ann alone applied it");
}

#[test]
fn sets_grow_and_shrink_by_value_and_atomic_fields_are_owned_whole() {
    let mut story = Story::of("", "ServiceAccount");
    story.apply(
        "one",
        json!({"metadata": {"finalizers": ["x/a"]}, "imagePullSecrets": [{"name": "a"}], "secrets": [{"name": "x"}]}),
    );
    assert_eq!(
        story.owned(),
        [
            r#"one Apply {"f:imagePullSecrets":{},"f:metadata":{"f:finalizers":{"v:\"x/a\"":{}}},"f:secrets":{"k:{\"name\":\"x\"}":{}}}"#
        ]
    );
    let refused = story.try_apply("two", json!({"imagePullSecrets": [{"name": "b"}]}), false).unwrap_err();
    assert_eq!(refused.to_string(), r#"Apply failed with 1 conflict: conflict with "one": .imagePullSecrets"#);
    story.apply("two", json!({"metadata": {"finalizers": ["x/b"]}}));
    assert_eq!(story.live["metadata"]["finalizers"], json!(["x/a", "x/b"]));
    story.apply("one", json!({}));
    assert_eq!(story.live["metadata"]["finalizers"], json!(["x/b"]));
    assert!(story.live.get("imagePullSecrets").is_none());
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_has_set() {
    let mut story = config_map();
    let said =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1", "b": "1"}});
    let annotation = json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{said}\n")});
    story.update(
        "kubectl-client-side-apply",
        json!({"metadata": {"annotations": annotation}, "data": {"a": "1", "b": "1"}}),
    );
    let refused = story.try_apply("other", json!({"data": {"a": "2"}}), false);
    assert!(matches!(refused, Err(ApplyError::Conflicts(_))));
    story.apply("kubectl", json!({"data": {"a": "2", "b": "1"}}));
    let kept =
        story.live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(kept, "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"2\",\"b\":\"1\"},\"kind\":\"ConfigMap\"}\n");
    // What somebody else has changed since is not the annotation's to give.
    story.update("eve", json!({"data": {"b": "7"}}));
    assert!(matches!(story.try_apply("kubectl", json!({"data": {"b": "3"}}), false), Err(ApplyError::Conflicts(_))));
}

#[test]
fn fields_from_before_the_first_apply_belong_to_nobody_in_particular() {
    let mut story = config_map();
    story.live =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "x", "uid": "u"}, "data": {"a": "1"}});
    story.apply("ann", json!({"data": {"b": "1"}}));
    assert_eq!(
        story.owned(),
        [r#"ann Apply {"f:data":{"f:b":{}}}"#, r#"before-first-apply Update {"f:data":{".":{},"f:a":{}}}"#]
    );
}

#[test]
fn many_updaters_become_one_of_ancient_changes() {
    let mut story = config_map();
    for number in 0..14 {
        story.update(&format!("m{number:02}"), json!({"data": {format!("k{number:02}"): "v"}}));
    }
    let owned = story.owned();
    assert_eq!(owned.len(), 10, "{owned:#?}");
    assert!(owned[0].starts_with(r#"ancient-changes Update {"f:data":{".":{},"f:k00":{},"f:k01":{}"#), "{}", owned[0]);
}

#[test]
fn an_applied_object_must_fit_its_type() {
    for (config, text) in [
        (json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema"),
        (json!({"spec": {"replicas": "2"}}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"spec": {"paused": "x"}}), ".spec.paused: expected boolean, got &{x}"),
        (json!({"metadata": {"name": 5}}), ".metadata.name: expected string, got &value.valueUnstructured{Value:5}"),
        (json!({"spec": []}), ".spec: expected map, got &{[]}"),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}}),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
    ] {
        let refused = Story::of("apps", "Deployment").try_apply("ann", config, false).unwrap_err().to_string();
        let (_, why) = refused.split_once("Kind=Deployment): ").unwrap();
        assert_eq!(why, text);
    }
    let mut story = config_map();
    let refused = story.try_apply("ann", json!({"metadata": {"managedFields": []}}), false).unwrap_err();
    assert_eq!(refused, ApplyError::BadRequest("metadata.managedFields must be nil".into()));
}

#[test]
fn managed_fields_are_read_as_they_were_written() {
    let mut story = config_map();
    story.apply("ann", json!({"data": {"a": "1"}})).update("eve", json!({"data": {"b": "1"}}));
    let written = story.managers.clone().write().unwrap();
    assert_eq!(Managers::read(&written).unwrap(), story.managers);
    for bad in [json!([{"operation": "Nope"}]), json!([{"operation": "Update", "fieldsType": "FieldsV2"}])] {
        assert!(Managers::read(&bad).is_err());
    }
    assert!(is_reset(&json!([{}])) && is_reset(&json!([])) && !is_reset(&written) && !is_reset(&Value::Null));
}

#[test]
fn ownership_follows_a_type_that_becomes_atomic() {
    let pod = Schema::builtin(GroupVersion { group: "", version: "v1" }, "Pod").unwrap();
    let live = json!({"spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "a", "image": "x"}]}});
    // nodeSelector was owned by entry once, containers whole.
    let set = Set::read(&json!({"f:spec": {"f:nodeSelector": {"f:a": {}}, "f:containers": {}}})).unwrap();
    let now = super::remove::reconcile(pod.typed(), &set, &live);
    let containers = json!({".": {}, "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}});
    assert_eq!(now.write(), json!({"f:spec": {"f:nodeSelector": {}, "f:containers": containers}}));
}

#[test]
fn custom_resources_are_owned_by_their_own_schema() {
    use crate::schema::structural::Structural;
    let root = Structural::parse(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string", "default": "main"}, "hue": {"type": "string"}}}},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "integer"}}},
        "plain": {"type": "array", "items": {"type": "integer"}},
        "port": {"x-kubernetes-int-or-string": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}}));
    let of = AnyType::Custom(Custom::Object(&root));
    let object = json!({"apiVersion": "x/v1", "kind": "G", "metadata": {"labels": {"l": "1"}}, "spec": {
        "parts": [{"hue": "red"}], "tags": ["t"], "whole": {"a": 1}, "plain": [1], "port": "http", "free": {"a": {"b": [1]}},
    }});
    assert_eq!(misfits(of, &object, false), None);
    assert_eq!(
        fields(of, &object).write(),
        json!({"f:apiVersion": {}, "f:kind": {}, "f:metadata": {"f:labels": {"f:l": {}}}, "f:spec": {
            "f:parts": {"k:{\"name\":\"main\"}": {".": {}, "f:hue": {}}}, "f:tags": {"v:\"t\"": {}}, "f:whole": {}, "f:plain": {},
            "f:port": {}, "f:free": {"f:a": {".": {}, "f:b": {}}},
        }})
    );
    for (spec, text) in [
        (json!({"extra": 1}), ".spec.extra: field not declared in schema"),
        (json!({"tags": ["a", "a"]}), ".spec.tags: duplicate entries for key [=\"a\"]"),
        (json!({"whole": {"a": "x"}}), ".spec.whole.a: expected numeric (int or float), got string"),
    ] {
        assert_eq!(misfits(of, &json!({"spec": spec}), false).as_deref(), Some(text));
    }
}
