//! Every recorded object round-trips between JSON and protobuf, byte for byte.

use super::super::facts::facts;
use super::*;

/// Versions that no 1.36 server serves or stores, and whose types went with them: there are no facts to travel by.
const GONE: [&str; 23] = [
    "apps.v1beta1.Deployment",
    "apps.v1beta1.DeploymentRollback",
    "apps.v1beta1.Scale",
    "apps.v1beta2.Scale",
    "authorization.k8s.io.v1beta1.LocalSubjectAccessReview",
    "authorization.k8s.io.v1beta1.SelfSubjectAccessReview",
    "authorization.k8s.io.v1beta1.SelfSubjectRulesReview",
    "authorization.k8s.io.v1beta1.SubjectAccessReview",
    "discovery.k8s.io.v1beta1.EndpointSlice",
    "extensions.v1beta1.DaemonSet",
    "extensions.v1beta1.Deployment",
    "extensions.v1beta1.DeploymentRollback",
    "extensions.v1beta1.Ingress",
    "extensions.v1beta1.NetworkPolicy",
    "extensions.v1beta1.Scale",
    "flowcontrol.apiserver.k8s.io.v1beta1.PriorityLevelConfiguration",
    "flowcontrol.apiserver.k8s.io.v1beta2.PriorityLevelConfiguration",
    "imagepolicy.k8s.io.v1alpha1.ImageReview",
    "node.k8s.io.v1alpha1.RuntimeClass",
    "rbac.authorization.k8s.io.v1alpha1.ClusterRole",
    "rbac.authorization.k8s.io.v1alpha1.ClusterRoleBinding",
    "rbac.authorization.k8s.io.v1alpha1.Role",
    "rbac.authorization.k8s.io.v1alpha1.RoleBinding",
];

fn schema_of(stem: &str) -> Option<&'static Schema> {
    let (group_version, kind) = stem.rsplit_once('.')?;
    let (group, version) = group_version.rsplit_once('.')?;
    let group = if group == "core" { "" } else { group };
    let meta = || (group.is_empty()).then(|| facts().kind("meta.k8s.io", "v1", kind)).flatten();
    facts().kind(group, version, kind).or_else(meta)
}

#[test]
fn every_file_of_the_wire_corpus_round_trips_both_ways() {
    let Some(folder) = shared("k8s-1.36/wire") else { return };
    let (mut seen, mut wrong, mut unknown) = (0, Vec::new(), Vec::new());
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let Some(schema) = schema_of(stem) else {
            unknown.push(stem.to_owned());
            continue;
        };
        seen += 1;
        let json = std::fs::read(path).unwrap();
        let pb = std::fs::read(path.with_extension("pb")).unwrap();
        let expected: Value = serde_json::from_slice(&json).unwrap();
        let from_json = match schema.decode(&json, FieldValidation::Strict) {
            Ok(decoded) => decoded.value,
            Err(error) => {
                wrong.push(format!("{stem} json: {error}"));
                continue;
            }
        };
        let from_pb = match schema.decode_protobuf(&pb) {
            Ok(decoded) => decoded.value,
            Err(error) => {
                wrong.push(format!("{stem} pb: {error}"));
                continue;
            }
        };
        let written: Value = serde_json::from_slice(&schema.encode(&from_json)).unwrap();
        let persisted = Persisted::read(&pb).map(|read| read.canonical_json());
        for (what, ok) in [
            ("json → json", written == expected),
            ("pb → json", from_pb == from_json),
            ("json → pb", schema.encode_protobuf(&from_json) == pb),
            ("stored pb → json", schema.gv.group == "meta.k8s.io" || persisted == Ok(schema.encode(&from_json))),
        ] {
            if !ok {
                wrong.push(format!("{stem} {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(unknown, GONE, "only kinds that are gone are left out");
    assert!(seen > 140, "only {seen} types were compared");
}
