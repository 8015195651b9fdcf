//! Static pods: a manifest as the pod that this node runs by itself, and the mirrors by which the API server shows them
//! (`pkg/kubelet/config/common.go`, `pkg/kubelet/pod/mirror_client.go`).

use crate::ids::{PodKey, PodUid};
use crate::model::pod::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SEEN, CONFIG_SOURCE};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

/// Where a manifest came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    File,
    Http,
}

impl Origin {
    /// As `kubernetes.io/config.source` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

/// Why a manifest is no static pod; the text goes into an event on the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("not a Pod of v1 but {0}")]
    NotAPod(String),
    #[error("{0}")]
    Malformed(String),
    #[error("metadata.name: {0:?} is not a DNS-1123 subdomain")]
    Name(String),
    #[error("spec.containers: a pod needs at least one container, each with a name and an image")]
    Containers,
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
}

/// A manifest (of a pod, or a list of pods) as this node runs it: name, uid, annotations, tolerations and defaults.
pub fn pods(
    manifest: Value,
    origin: Origin,
    place: &str,
    node_name: &str,
    now: Timestamp,
) -> Result<Vec<Pod>, ManifestError> {
    let kind = manifest["kind"].as_str().unwrap_or_default().to_owned();
    match (manifest["apiVersion"].as_str(), kind.as_str()) {
        (Some("v1"), "Pod") => Ok(vec![pod(manifest, origin, place, node_name, now)?]),
        (Some("v1"), "PodList" | "List") => {
            let items = manifest["items"].as_array().cloned().unwrap_or_default();
            items.into_iter().map(|item| pod(item, origin, place, node_name, now)).collect()
        }
        (version, _) => Err(ManifestError::NotAPod(format!("{:?} of {:?}", kind, version.unwrap_or_default()))),
    }
}

fn pod(mut pod: Value, origin: Origin, place: &str, node_name: &str, now: Timestamp) -> Result<Pod, ManifestError> {
    for part in ["metadata", "spec"] {
        if !pod[part].is_object() {
            return Err(ManifestError::Malformed(format!("{part} must be an object")));
        }
    }
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !is_subdomain(&name) {
        return Err(ManifestError::Name(name));
    }
    let hash = match pod["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) {
        Some(uid) => uid.to_owned(),
        None => hash(&pod, origin, place, node_name),
    };
    let metadata = &mut pod["metadata"];
    metadata["uid"] = json!(hash);
    metadata["name"] = json!(format!("{name}-{}", node_name.to_lowercase()));
    if metadata["namespace"].as_str().is_none_or(str::is_empty) {
        metadata["namespace"] = json!("default");
    }
    let seen = now.to_string();
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    for (key, value) in [(CONFIG_HASH, hash.as_str()), (CONFIG_SOURCE, origin.as_str()), (CONFIG_SEEN, &seen)] {
        metadata["annotations"][key] = json!(value);
    }
    let spec = &mut pod["spec"];
    spec["nodeName"] = json!(node_name);
    let everything = json!({"operator": "Exists", "effect": "NoExecute"});
    match spec["tolerations"].as_array_mut() {
        Some(list) if list.contains(&everything) => {}
        Some(list) => list.push(everything),
        None => spec["tolerations"] = json!([everything]),
    }
    default_spec(spec);
    let pod: Pod = serde_json::from_value(pod).map_err(|error| ManifestError::Malformed(error.to_string()))?;
    check(&pod)?;
    Ok(pod)
}

/// 32 hex digits that change with the manifest, the node and the place: the pod's uid.
fn hash(pod: &Value, origin: Origin, place: &str, node_name: &str) -> String {
    let mut digest = Sha256::new();
    for part in [node_name, origin.as_str(), place, &pod.to_string()] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    digest.finalize()[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// What the API server would fill in, as far as the node acts on it (`pkg/apis/core/v1/defaults.go`).
fn default_spec(spec: &mut Value) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "schedulerName", json!("default-scheduler"));
    set(spec, "securityContext", json!({}));
    set(spec, "enableServiceLinks", json!(true));
    let critical = match spec["priorityClassName"].as_str() {
        Some("system-node-critical") => Some(2_000_001_000),
        Some("system-cluster-critical") => Some(2_000_000_000),
        Some(_) | None => None,
    };
    if let Some(priority) = critical {
        set(spec, "priority", json!(priority));
    }
    for list in ["containers", "initContainers"] {
        spec[list].as_array_mut().into_iter().flatten().for_each(default_container);
    }
    for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
        if volume["hostPath"].is_object() {
            set(&mut volume["hostPath"], "type", json!(""));
        }
        if volume["downwardAPI"].is_object() {
            set(&mut volume["downwardAPI"], "defaultMode", json!(0o644));
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        // Indexing above leaves nulls where there was nothing.
        spec.retain(|_, value| !value.is_null());
    }
}

fn default_container(container: &mut Value) {
    if !container.is_object() {
        // Decoding says what is wrong.
        return;
    }
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    let image = container["image"].as_str().unwrap_or_default();
    let latest = !image.contains('@') && image.rsplit('/').next().is_some_and(|last| !last.contains(':'));
    let policy = if latest || image.ends_with(":latest") { "Always" } else { "IfNotPresent" };
    set(container, "imagePullPolicy", json!(policy));
    for port in container["ports"].as_array_mut().into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
    }
    // A limit is a request where none is written.
    let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
    for (name, limit) in limits {
        set(&mut container["resources"]["requests"], &name, limit);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[probe].is_object() {
            let probe = &mut container[probe];
            for (key, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                set(probe, key, json!(value));
            }
            if probe["httpGet"].is_object() {
                set(&mut probe["httpGet"], "path", json!("/"));
                set(&mut probe["httpGet"], "scheme", json!("HTTP"));
            }
        }
    }
    if let Some(container) = container.as_object_mut() {
        container.retain(|_, value| !value.is_null());
        if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
            resources.retain(|_, value| !value.is_null());
        }
    }
}

/// What is written stays; what is of a wrong type is left for decoding to refuse.
fn set(object: &mut Value, key: &str, value: Value) {
    if object.is_null() {
        *object = json!({});
    }
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), value);
    }
}

/// The node must be able to run it with no API server at all.
fn check(pod: &Pod) -> Result<(), ManifestError> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| !spec.containers.is_empty()) else {
        return Err(ManifestError::Containers);
    };
    let named = |name: &Option<String>| name.as_deref().is_some_and(|name| !name.is_empty());
    if named(&spec.service_account_name) {
        return Err(ManifestError::Reference("service accounts"));
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(ManifestError::Reference("ephemeral containers"));
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        if container.name.is_empty() || !named(&container.image) {
            return Err(ManifestError::Containers);
        }
        let from = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
        let by_key = from.into_iter().any(|from| from.config_map_key_ref.is_some() || from.secret_key_ref.is_some());
        if by_key || container.env_from.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(ManifestError::Reference("config maps or secrets"));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        if volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some() {
            return Err(ManifestError::Reference("config maps or secrets"));
        }
        if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
            return Err(ManifestError::Reference("persistent volume claims"));
        }
    }
    Ok(())
}

/// What this node runs by itself, and what the API server shows of it.
#[derive(Clone, Debug, Default)]
pub struct MirrorView {
    pub statics: BTreeMap<PodKey, Arc<Pod>>,
    pub mirrors: BTreeMap<PodKey, Arc<Pod>>,
    /// Static pods that no manifest wants and that have not ended yet: their mirrors stay so long.
    pub ending: BTreeSet<PodKey>,
    /// The API server's pods are known.
    pub listed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MirrorAction {
    Create(Arc<Pod>),
    /// With grace 0: nothing runs in a mirror.
    Delete {
        key: PodKey,
        uid: PodUid,
    },
}

/// What makes the mirrors those of the static pods. A mirror that is being deleted, or shows an older manifest, goes
/// first; its successor comes once it is gone.
pub fn mirror_actions(view: &MirrorView) -> Vec<MirrorAction> {
    if !view.listed {
        return Vec::new();
    }
    let mut actions = Vec::new();
    for (key, mirror) in &view.mirrors {
        let keep = match view.statics.get(key) {
            Some(wanted) => mirror.metadata.deletion_timestamp.is_none() && shows(mirror, wanted),
            None => view.ending.contains(key) && mirror.metadata.deletion_timestamp.is_none(),
        };
        if !keep {
            let uid = PodUid::new(mirror.metadata.uid.as_deref().unwrap_or_default());
            actions.push(MirrorAction::Delete { key: key.clone(), uid });
        }
    }
    let absent = view.statics.iter().filter(|(key, _)| !view.mirrors.contains_key(*key));
    actions.extend(absent.map(|(_, pod)| MirrorAction::Create(pod.clone())));
    actions
}

/// Is this mirror made of exactly this static pod?
pub fn shows(mirror: &Pod, pod: &Pod) -> bool {
    let annotation = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let hash = annotation(pod, CONFIG_HASH);
    hash.is_some() && annotation(mirror, CONFIG_MIRROR) == hash
}

/// The object that shows a static pod, owned by its node.
pub fn mirror_of(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let meta = &mut mirror.metadata;
    meta.uid = None;
    let annotations = meta.annotations.get_or_insert_default();
    if let Some(hash) = annotations.get(CONFIG_HASH).cloned() {
        annotations.insert(CONFIG_MIRROR.to_owned(), hash);
    }
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn parse(change: impl FnOnce(&mut Value)) -> Result<Pod, ManifestError> {
        let mut manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}});
        change(&mut manifest);
        let now = Timestamp::from_second(1_000_000).unwrap();
        pods(manifest, Origin::File, "/etc/kubernetes/manifests/web.yaml", "node1", now).map(|mut pods| pods.remove(0))
    }

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = parse(|_| {}).unwrap();
        let meta = &pod.metadata;
        assert_eq!((meta.name.as_deref(), meta.namespace.as_deref()), (Some("web-node1"), Some("default")));
        let annotations = meta.annotations.as_ref().unwrap();
        assert_eq!(annotations[CONFIG_SOURCE], "file");
        assert_eq!(annotations[CONFIG_SEEN], "1970-01-12T13:46:40Z");
        assert_eq!(meta.uid.as_deref(), Some(annotations[CONFIG_HASH].as_str()));
        assert_eq!(annotations[CONFIG_HASH].len(), 32);
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("node1"));
        assert_eq!(spec.tolerations.as_ref().unwrap()[0].effect.as_deref(), Some("NoExecute"));
        assert_eq!(spec.containers[0].termination_message_path.as_deref(), Some("/dev/termination-log"));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"));
    }

    #[test]
    fn the_uid_changes_with_the_manifest_and_with_nothing_else() {
        let uid = |image: &str| parse(|m| m["spec"]["containers"][0]["image"] = json!(image)).unwrap().metadata.uid;
        assert_eq!(uid("a:1"), uid("a:1"));
        assert_ne!(uid("a:1"), uid("a:2"));
    }

    #[test]
    fn what_a_node_cannot_run_alone_is_refused() {
        type Change = fn(&mut Value);
        let table: [(Change, ManifestError); 7] = [
            (|m| m["kind"] = json!("Service"), ManifestError::NotAPod("\"Service\" of \"v1\"".to_owned())),
            (|m| m["metadata"]["name"] = json!("Web"), ManifestError::Name("Web".to_owned())),
            (|m| m["spec"]["containers"] = json!([]), ManifestError::Containers),
            (|m| m["spec"]["containers"][0]["image"] = json!(""), ManifestError::Containers),
            (|m| m["spec"]["serviceAccountName"] = json!("x"), ManifestError::Reference("service accounts")),
            (
                |m| m["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]),
                ManifestError::Reference("config maps or secrets"),
            ),
            (
                |m| m["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "s"}}]),
                ManifestError::Reference("persistent volume claims"),
            ),
        ];
        for (change, expected) in table {
            assert_eq!(parse(change).unwrap_err(), expected);
        }
    }

    #[test]
    fn mirrors_follow_their_static_pods() {
        let pod = Arc::new(parse(|_| {}).unwrap());
        let key = PodKey::new("default", "web-node1");
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "node1", "uid": "n"}})).unwrap();
        let mirror = |change: fn(&mut Pod)| {
            let mut mirror = mirror_of(&pod, &node);
            mirror.metadata.uid = Some("m".to_owned());
            change(&mut mirror);
            Arc::new(mirror)
        };
        let delete = vec![MirrorAction::Delete { key: key.clone(), uid: PodUid::new("m") }];
        let deleted: fn(&mut Pod) = |mirror| mirror.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let stale: fn(&mut Pod) =
            |mirror| drop(mirror.metadata.annotations.as_mut().unwrap().insert(CONFIG_MIRROR.into(), "old".into()));
        for (wanted, shown, ending, expected) in [
            (true, None, false, vec![MirrorAction::Create(pod.clone())]),
            (true, Some(mirror(|_| {})), false, vec![]),
            (true, Some(mirror(deleted)), false, delete.clone()),
            (true, Some(mirror(stale)), false, delete.clone()),
            (false, Some(mirror(|_| {})), false, delete.clone()),
            (false, Some(mirror(|_| {})), true, vec![]),
            (false, None, false, vec![]),
        ] {
            let view = MirrorView {
                statics: wanted.then(|| (key.clone(), pod.clone())).into_iter().collect(),
                mirrors: shown.map(|mirror| (key.clone(), mirror)).into_iter().collect(),
                ending: ending.then(|| key.clone()).into_iter().collect(),
                listed: true,
            };
            assert_eq!(mirror_actions(&view), expected);
            assert!(
                mirror_actions(&MirrorView { listed: false, ..view }).is_empty(),
                "nothing before the list is known"
            );
        }
    }
}
