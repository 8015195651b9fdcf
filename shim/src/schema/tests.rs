//! The schema's rules on whole objects: tables, and the golden corpora where this layer alone decides.

mod complete;
mod openapi;
mod wire;
mod zero;

use super::*;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A file or folder of `shared/`, looked for beside any folder above this crate; says so when it is absent.
fn shared(path: &str) -> Option<PathBuf> {
    let found =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|at| at.join("shared").join(path)).find(|at| at.exists());
    if found.is_none() {
        eprintln!("skipped: no shared/{path} above {}", env!("CARGO_MANIFEST_DIR"));
    }
    found
}

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
fn numbers_keep_every_bit() {
    let schema = Schema::named("apps/v1", "ControllerRevision").expect("a built-in");
    for number in [
        "-4.2202425215803166e-178",
        "0.1",
        "1.7976931348623157e+308",
        "5e-324",
        "9007199254740993",
        "0.30000000000000004",
    ] {
        let body = format!(r#"{{"metadata":{{"name":"c"}},"data":{{"n":{number}}},"revision":1}}"#);
        let decoded = schema.decode(body.as_bytes(), FieldValidation::Strict).expect("a good body").value;
        let written = String::from_utf8(schema.encode(&decoded)).expect("UTF-8");
        assert!(written.contains(&format!(r#""n":{number}}}"#)), "{number}: {written}");
    }
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

/// The golden API corpus, or `None` where shared/ is absent.
fn corpus() -> Option<Vec<(String, Value)>> {
    let root = shared("golden/api")?;
    let mut cases = Vec::new();
    for folder in std::fs::read_dir(root).unwrap().filter_map(|entry| std::fs::read_dir(entry.unwrap().path()).ok()) {
        for file in folder {
            let path = file.unwrap().path();
            let case: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            for step in case["steps"].as_array().into_iter().flatten() {
                let name =
                    format!("{}:{}", path.file_stem().unwrap().display(), step["id"].as_str().unwrap_or_default());
                cases.push((name, step.clone()));
            }
        }
    }
    Some(cases)
}

fn builtin_of(body: &Value) -> Option<&'static Schema> {
    let api_version = body["apiVersion"].as_str()?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    facts::facts().kind(group, version, body["kind"].as_str()?)
}

/// What `ours` has that `expected` lacks or has otherwise; the registry's conditional defaults may add to ours.
fn excess(path: &str, ours: &Value, expected: &Value) -> Option<String> {
    match (ours, expected) {
        (Value::Object(ours), Value::Object(expected)) => {
            ours.iter().find_map(|(key, value)| match expected.get(key) {
                Some(expected) => excess(&format!("{path}.{key}"), value, expected),
                None => Some(format!("{path}.{key}: {value} is not expected")),
            })
        }
        // Admission appends: tolerations, taints, token volumes.
        (Value::Array(ours), Value::Array(expected)) if ours.len() <= expected.len() => {
            ours.iter().zip(expected).enumerate().find_map(|(at, (a, b))| excess(&format!("{path}[{at}]"), a, b))
        }
        _ if ours == expected => None,
        // A zero is what the registry's conditional defaults fill in.
        (Value::Null, _) | (Value::Bool(false), Value::Bool(true)) => None,
        (Value::Number(number), _) if number.as_i64() == Some(0) => None,
        (Value::String(text), Value::String(_)) if text.is_empty() => None,
        // Recorded ids, times and hashes are placeholders.
        (_, Value::String(text)) if text.contains('<') || text.contains("${") => None,
        _ => Some(format!("{path}: {ours} instead of {expected}")),
    }
}

fn without(value: &Value, keys: &[&str]) -> Value {
    let map = value.as_object().cloned().unwrap_or_default();
    Value::Object(map.into_iter().filter(|(key, _)| !keys.contains(&key.as_str())).collect())
}

#[test]
fn created_objects_are_encoded_as_recorded() {
    let Some(cases) = corpus() else { return };
    let (mut seen, mut wrong) = (0, Vec::new());
    // What upper layers change: stringData, feature gates, ids that others have taken, reviews, old topology.
    let above = ["misc-1:s4", "rules-1", "warnings-1:grace", "pod-containers-2:s9", "runtime-lease-1:s5"];
    // The status of a new CRD is its strategy's.
    let above = [&above[..], &["admissionreg-2:s5", "customresourcedefinitions-b:create"]].concat();
    let above = [&above[..], &["endpointslice-2:s8", "node-1:", "node-2:tok", "token-1", "flowschemas"]].concat();
    for (name, step) in cases.into_iter().filter(|(name, _)| !above.iter().any(|prefix| name.starts_with(prefix))) {
        let (body, expected) = (&step["body"], &step["expect"]["body"]);
        if step["method"] != "POST" || step["expect"]["status"] != 201 || body["kind"] != expected["kind"] {
            continue;
        }
        let Some(schema) = builtin_of(body) else { continue };
        seen += 1;
        // metadata is the pipeline's to fill, status the registry's to drop.
        let body = without(body, &["metadata", "status", "stringData"]);
        let mut decoded = match schema.decode(body.to_string().as_bytes(), FieldValidation::Ignore) {
            Ok(decoded) => decoded,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        schema.default(&mut decoded.value);
        let written: Value = serde_json::from_slice(&schema.encode(&decoded.value)).unwrap();
        wrong.extend(excess("", &without(&written, &["metadata"]), expected).map(|text| format!("{name}: {text}")));
    }
    assert!(wrong.is_empty(), "{} of {seen}: {wrong:#?}", wrong.len());
    assert!(seen > 100, "only {seen} objects were compared");
}

#[test]
fn refused_bodies_are_refused_in_the_recorded_words() {
    let Some(cases) = corpus() else { return };
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, step) in cases {
        let expected = step["expect"]["body"]["message"].as_str().unwrap_or_default();
        let Some((_, rest)) = expected.split_once(" cannot be handled as a ") else { continue };
        // YAML becomes JSON above this layer.
        if !step["yaml"].is_null() {
            continue;
        }
        let text = match (&step["body"], &step["raw"]) {
            (Value::Null, Value::String(raw)) => raw.clone(),
            (body, _) => body.to_string(),
        };
        // The corpus is read with its keys sorted: the order of several complaints is lost.
        let sorted = |message: &str| {
            let mut parts: Vec<String> =
                message.split(", ").map(|part| part.replace("strict decoding error: ", "")).collect();
            let (first, rest) =
                parts[0].rsplit_once(": ").map_or((String::new(), parts[0].clone()), |(a, b)| (a.into(), b.into()));
            parts[0] = rest;
            parts.sort();
            (first, parts)
        };
        let kind = rest.split(':').next().unwrap_or_default();
        let mut of = without(&step["body"], &[]);
        of["kind"] = Value::from(kind);
        let gvs = ["v1", "apps/v1", "scheduling.k8s.io/v1", "coordination.k8s.io/v1"];
        let found =
            builtin_of(&of).or_else(|| gvs.iter().find_map(|gv| builtin_of(&json!({"apiVersion": gv, "kind": kind}))));
        let Some(schema) = found else { continue };
        seen += 1;
        match schema.decode(text.as_bytes(), FieldValidation::Strict) {
            Ok(_) => wrong.push(format!("{name}: taken, not refused with {expected}")),
            Err(error) if sorted(&schema.refusal(&error, text.as_bytes())) == sorted(expected) => {}
            Err(error) => {
                wrong.push(format!("{name}: {} instead of {expected}", schema.refusal(&error, text.as_bytes())))
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}: {wrong:#?}", wrong.len());
    assert!(seen > 10, "only {seen} bodies were compared");
}

#[test]
fn recorded_strategic_patches_give_the_recorded_objects() {
    let Some(cases) = corpus() else { return };
    let mut last: std::collections::HashMap<String, Value> = std::collections::HashMap::new();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, step) in cases {
        let file = name.split(':').next().unwrap_or_default().to_owned();
        let expected = &step["expect"]["body"];
        let strategic = step["headers"]["Content-Type"].as_str().is_some_and(|kind| kind.contains("strategic"));
        let path = format!("{file} {}", step["path"].as_str().unwrap_or_default().trim_end_matches("/status"));
        if strategic
            && step["method"] == "PATCH"
            && step["expect"]["status"] == 200
            // Of what these were given, the registry keeps only the resources.
            && !step["path"].as_str().unwrap_or_default().ends_with("/resize")
            && let (Some(schema), Some(original)) = (builtin_of(expected), last.get(&path))
        {
            seen += 1;
            match schema.strategic_merge(original, &step["body"]) {
                Ok(merged) => {
                    let merged = without(&merged, &["metadata"]);
                    wrong.extend(excess("", &merged, expected).map(|text| format!("{name}: {text}")));
                }
                Err(error) => wrong.push(format!("{name}: {error}")),
            }
        }
        if builtin_of(expected).is_some() {
            let name = expected["metadata"]["name"].as_str().unwrap_or_default();
            let path = if step["method"] == "POST" { format!("{path}/{name}") } else { path };
            last.insert(path, expected.clone());
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}: {wrong:#?}", wrong.len());
    assert!(seen > 20, "only {seen} patches were compared");
}
