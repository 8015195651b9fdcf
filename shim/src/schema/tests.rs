//! The schema's rules on whole objects: tables, and the golden corpora where this layer alone decides.

use super::*;
use serde_json::json;

fn schema(group: &'static str, version: &'static str, kind: &str) -> &'static Schema {
    Schema::builtin(GroupVersion { group, version }, kind).unwrap()
}

fn of(body: &Value) -> &'static Schema {
    let api_version = body["apiVersion"].as_str().unwrap().to_owned().leak();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    schema(group, version, body["kind"].as_str().unwrap())
}

fn canonical(body: Value) -> String {
    let schema = of(&body);
    let mut decoded = schema.decode(body.to_string().as_bytes(), FieldValidation::Strict).unwrap();
    schema.default(&mut decoded.value);
    String::from_utf8(schema.encode(&decoded.value)).unwrap()
}

#[test]
fn canonical_bytes_follow_gos_field_order_and_zero_rules() {
    let pod = canonical(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"b": "2", "a": "1"}, "creationTimestamp": null, "namespace": ""},
        "spec": {
            "containers": [{"image": "i", "name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
                "env": [{"name": "E", "value": ""}], "args": [], "securityContext": {"privileged": false}}],
            "terminationGracePeriodSeconds": 0, "hostNetwork": false,
        },
    }));
    assert_eq!(
        pod,
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","labels":{"a":"1","b":"2"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"E"}],"resources":{"limits":{"cpu":"500m","memory":"1Gi"}},"securityContext":{"privileged":false}}],"terminationGracePeriodSeconds":0},"status":{}}"#
    );
}

#[test]
fn absent_structs_times_and_lists_are_written_as_go_writes_them() {
    let event =
        canonical(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {}}));
    assert_eq!(
        event,
        r#"{"kind":"Event","apiVersion":"v1","metadata":{"name":"e"},"involvedObject":{},"source":{},"firstTimestamp":null,"lastTimestamp":null,"eventTime":null,"reportingComponent":"","reportingInstance":""}"#
    );
    let role =
        canonical(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}}));
    assert_eq!(
        role,
        r#"{"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"r"},"rules":null}"#
    );
}

#[test]
fn refusals_are_worded_as_gos_decoder_words_them() {
    let pod = "\"apiVersion\":\"v1\",\"kind\":\"Pod\"";
    for (kind, body, message) in [
        (
            "Pod",
            format!(r#"{{{pod},"spec":{{"containers":"x"}}}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"#,
        ),
        (
            "Pod",
            format!(r#"{{{pod},"spec":{{"containers":[{{"ports":[{{"containerPort":1.5}}]}}]}}}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32"#,
        ),
        (
            "Pod",
            format!(r#"{{{pod},"spec":{{"containers":[{{"env":[{{"value":5}}]}}]}}}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"#,
        ),
        (
            "Pod",
            format!(r#"{{{pod},"metadata":{{"labels":{{"a":1}}}}}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"#,
        ),
        (
            "Pod",
            format!(r#"{{{pod},"spec":{{"a":1}},"specc":{{}}}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.a", unknown field "specc""#,
        ),
        (
            "Pod",
            format!(r#"{{{pod},"spec":{{"containers":[{{"name":"a","name":"b","junk":0}}]}}}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "spec.containers[0].name", unknown field "spec.containers[0].junk""#,
        ),
        (
            "ConfigMap",
            r#"{"data":{"k":"1","k":"2"},"data":{}}"#.to_owned(),
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.k", duplicate field "data""#,
        ),
        (
            "ConfigMap",
            String::new(),
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
        ),
        (
            "ConfigMap",
            r#""text""#.to_owned(),
            r#"the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (227465787422)"#,
        ),
        (
            "ReplicationController",
            r#"{"apiVersion":"v1","kind":"ReplicaSet"}"#.to_owned(),
            r#"ReplicaSet in version "v1" cannot be handled as a ReplicationController: no kind "ReplicaSet" is registered for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#,
        ),
    ] {
        let schema = schema("", "v1", kind);
        let error = schema.decode(body.as_bytes(), FieldValidation::Strict).unwrap_err();
        assert_eq!(schema.refusal(&error, body.as_bytes()), message, "{body}");
    }
}

#[test]
fn unknown_fields_warn_or_pass_by_mode() {
    let body = br#"{"kind":"ConfigMap","Data":{},"data":{"a":null}}"#;
    let schema = schema("", "v1", "ConfigMap");
    let warned = schema.decode(body, FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, [r#"unknown field "Data""#]);
    assert_eq!(warned.value, json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": ""}}));
    assert!(schema.decode(body, FieldValidation::Ignore).unwrap().warnings.is_empty());
}
