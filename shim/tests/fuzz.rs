//! What anyone on the network can send, made up: nothing panics, hangs or grows without bound. The number of cases is
//! bounded (256 each; `PROPTEST_CASES` raises it for a longer run), and so are the time and the memory of each (`fuzz/bounds.rs`).

#[path = "fuzz/bounds.rs"]
mod bounds;
#[path = "fuzz/expressions.rs"]
mod expressions;
#[path = "fuzz/ownership.rs"]
mod ownership;

use bounds::bounded;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use skiff_shim::registry::catalog::Served;
use skiff_shim::request::info::RequestInfo;
use skiff_shim::request::query::Query;
use skiff_shim::request::{ApiRequest, options};
use skiff_shim::schema::{FieldValidation, Persisted, Schema, json_merge, json_patch, yaml};
use skiff_shim::selector::{FieldSelector, LabelSelector};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Kinds with every shape there is: unions, quantities, times, int-or-strings, raw JSON, maps of lists.
const KINDS: [(&str, &str); 8] = [
    ("v1", "Pod"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("authorization.k8s.io/v1", "SubjectAccessReview"),
    ("apps/v1", "ControllerRevision"),
    ("resource.k8s.io/v1", "ResourceSlice"),
];

fn schema() -> impl Strategy<Value = &'static Schema> {
    (0..KINDS.len()).prop_map(|at| Schema::named(KINDS[at].0, KINDS[at].1).expect("a built-in"))
}

/// Names that mean something to a decoder or a patch, and some that do not.
fn key() -> impl Strategy<Value = String> {
    let known = [
        "metadata",
        "spec",
        "status",
        "name",
        "labels",
        "annotations",
        "containers",
        "ports",
        "containerPort",
        "protocol",
        "env",
        "value",
        "resources",
        "limits",
        "cpu",
        "template",
        "selector",
        "matchLabels",
        "data",
        "kind",
        "apiVersion",
        "creationTimestamp",
        "schema",
        "openAPIV3Schema",
        "properties",
        "items",
        "additionalProperties",
        "versions",
        "finalizers",
        "tolerations",
        "targetPort",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/ports",
        "$deleteFromPrimitiveList/finalizers",
        "emptyDir",
        "volumes",
        "strategy",
        "type",
    ];
    prop_oneof![8 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,8}"]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-5i64..100).prop_map(Value::from),
        prop::sample::select(vec![
            "delete",
            "replace",
            "merge",
            "500m",
            "1Gi",
            "1e400",
            "-0.000000001",
            "2024-05-06T07:08:09Z",
            "9999-99-99T99:99:99Z",
            "10%",
            "TCP",
            "aGVsbG8=",
            "a===",
            "1h",
            "-1ns",
            "99999999999h",
            "~",
            "0x",
            "\u{0}",
        ])
        .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(key(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    btree_map(key(), tree(), 0..6).prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()))
}

/// An operation of a JSON patch, plausible or not.
fn operation() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "frob"]);
    let path = || {
        vec(prop_oneof![key(), Just("-".to_owned()), Just("0".to_owned()), Just("~1".to_owned())], 0..4)
            .prop_map(|parts| parts.into_iter().fold(String::new(), |path, part| path + "/" + &part))
    };
    (op, path(), path(), tree())
        .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
}

/// Read once, not for every case.
static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(wire);

/// Objects of the wire corpus as protobuf, or a few of our own making where shared/ is absent.
fn wire() -> Vec<Vec<u8>> {
    let beside = |at: &Path| at.join("shared/k8s-1.36/wire");
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(beside).find(|folder| folder.is_dir());
    let Some(folder) = found else {
        eprintln!("no shared/k8s-1.36/wire: fuzzing made-up objects only");
        let body = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1}]}]}});
        return vec![Schema::named("v1", "Pod").expect("a built-in").encode_protobuf(&body)];
    };
    let files = std::fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "pb")).collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).expect("a file of the corpus")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_bodies_decode_or_are_refused(schema in schema(), body in object(), mode in 0..3) {
        bounded(|| {
            let validation = [FieldValidation::Ignore, FieldValidation::Warn, FieldValidation::Strict][mode as usize];
            let text = body.to_string();
            match schema.decode(text.as_bytes(), validation) {
                Err(error) => prop_assert!(!schema.refusal(&error, text.as_bytes()).is_empty()),
                Ok(mut decoded) => {
                    schema.default(&mut decoded.value);
                    // Canonical is canonical: it reads back as it was written, also by way of protobuf.
                    let bytes = schema.encode(&decoded.value);
                    let again = schema.decode(&bytes, FieldValidation::Ignore).expect("what we wrote, we read");
                    prop_assert_eq!(String::from_utf8(schema.encode(&again.value)).unwrap(), String::from_utf8(bytes).unwrap());
                    let travelled = schema.decode_protobuf(&schema.encode_protobuf(&decoded.value));
                    prop_assert!(travelled.is_ok(), "{:?}", travelled);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_are_refused_as_json_yaml_and_protobuf(schema in schema(), bytes in vec(any::<u8>(), 0..200)) {
        bounded(|| {
            drop(schema.decode(&bytes, FieldValidation::Strict));
            drop(schema.decode_protobuf(&bytes));
            drop(schema.decode_protobuf(&[b"k8s\0", &bytes[..]].concat()));
            drop(Persisted::read(&bytes));
            drop(yaml::to_json(&bytes));
        });
    }

    #[test]
    fn broken_protobuf_is_refused(which in any::<prop::sample::Index>(), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        bounded(|| {
            let mut bytes = CORPUS[which.index(CORPUS.len())].clone();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            drop(Persisted::read(&bytes));
            bytes.truncate(cut.index(bytes.len()));
            if let Ok(read) = Persisted::read(&bytes) {
                prop_assert!(serde_json::from_slice::<Value>(&read.canonical_json()).is_ok());
            }
            Ok(())
        })?;
    }

    #[test]
    fn yaml_reads_back_what_it_wrote(value in tree()) {
        bounded(|| {
            let text = yaml::from_json(&value);
            let read = yaml::to_json(text.as_bytes());
            prop_assert!(read.is_ok(), "{} of {}", text, value);
            prop_assert_eq!(plain(read.unwrap().value), plain(value), "{}", text);
            Ok(())
        })?;
    }

    #[test]
    fn yaml_of_any_make_is_read_or_refused(text in "[-a-c0-2:,?!&*|>%@'\"{}\\[\\]#~ \n\t]{0,80}") {
        bounded(|| {
            drop(yaml::to_json(text.as_bytes()));
        });
    }

    #[test]
    fn patches_apply_or_are_refused(schema in schema(), original in object(), patch in object(), operations in vec(operation(), 0..8)) {
        bounded(|| {
            if let Ok(decoded) = schema.decode(original.to_string().as_bytes(), FieldValidation::Ignore) {
                for patched in [
                    schema.strategic_merge(&decoded.value, &patch),
                    json_patch(&decoded.value, &Value::Array(operations)),
                    Ok(json_merge(&decoded.value, &patch)),
                ].into_iter().flatten() {
                    drop(schema.conform(patched, FieldValidation::Strict));
                }
            }
        });
    }

    #[test]
    fn urls_resolve_or_are_refused(method in "[A-Z]{0,7}", path in "(/(api|apis|v1|apps|namespaces|pods|watch|proxy|log|%2e%2e|%|\\+|[a-z.%/0-9]{0,6})){0,9}", query in "([a-zA-Z%+=&]{0,12}|watch=(1|true|x)|fieldSelector=[a-z=,!.]{0,12}|limit=[-0-9]{0,22}|timeoutSeconds=[-0-9]{0,22}|continue=[a-zA-Z0-9=]{0,20}){0,4}", content in "[a-z/+-]{0,30}") {
        bounded(|| {
            let query = Query::parse(&query);
            let info = RequestInfo::parse(&method, &path, &query);
            drop(ApiRequest::resolve(&Served::default(), &info, &query, &content));
            drop(options::PatchType::parse(&content));
            drop(query.encode_without(&["watch"]));
        });
    }

    #[test]
    fn selectors_parse_or_are_refused(text in "[a-c0-1=!,<>()./\\\\ \"inotexs]{0,60}") {
        bounded(|| {
            drop(LabelSelector::parse(&text));
            drop(FieldSelector::parse(&text));
        });
    }
}

/// As JSON without a difference of number types: YAML writes a whole float as an integer.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) => json!(float),
            None => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, plain(value))).collect(),
        other => other,
    }
}

#[test]
fn deep_and_multiplying_bodies_end_early() {
    bounded(deep_and_multiplying);
}

fn deep_and_multiplying() {
    let schema = Schema::named("apiextensions.k8s.io/v1", "CustomResourceDefinition").expect("a built-in");
    let deep = format!("{}{}", r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":"#, r#"{"not":"#.repeat(20_000));
    assert!(schema.decode(deep.as_bytes(), FieldValidation::Strict).is_err());
    assert!(yaml::to_json("[".repeat(20_000).as_bytes()).is_err());
    // Each copy doubles the document.
    let bomb: Vec<Value> =
        (0..60).map(|at| json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/a{at}")})).collect();
    let original = json!({"metadata": {"name": "x".repeat(1000)}});
    assert!(json_patch(&original, &Value::Array(bomb)).is_err());
    // Values that nest by patch are refused when they come to be an object.
    let mut nested = json!({});
    for _ in 0..300 {
        nested = json!({ "not": nested });
    }
    let crd = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": nested}}]}});
    assert_eq!(schema.conform(crd, FieldValidation::Ignore).unwrap_err().to_string(), "exceeded max depth");
    // A message within a message within …: the reader's own limit, not the stack's.
    for (levels, taken) in [(5, true), (5_000, false)] {
        // JSONSchemaProps.not is field 28.
        let schemas = (0..levels).fold(Vec::new(), |inner, _| message(28, &inner));
        // openAPIV3Schema, schema, versions, spec, and the envelope's raw.
        let whole = [1, 4, 7, 2, 2].into_iter().fold(schemas, |inner, number| message(number, &inner));
        let decoded = schema.decode_protobuf(&[b"k8s\0", &whole[..]].concat());
        assert_eq!(decoded.is_ok(), taken, "{decoded:?}");
    }
}

/// A length-delimited field.
fn message(number: u8, content: &[u8]) -> Vec<u8> {
    let varint = |mut value: usize| {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    };
    [varint(usize::from(number) << 3 | 2), varint(content.len()), content.to_vec()].concat()
}
