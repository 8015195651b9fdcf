//! What kube-apiserver's default admission plugins do to every new pod: tolerations, priority, service account.

use crate::meta::{Meta, Object};
use crate::registry::value::{default_text, default_value, items, items_mut, object_mut, text};
use serde_json::{Map, Value, json};

/// Where pods find their service account's token.
const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds a token of the API access volume is valid: an hour, and 7 s that mark such tokens upstream.
const TOKEN_EXPIRATION_SECONDS: i64 = 3607;
/// Seconds a pod stays on a node that is not ready or unreachable.
const DEFAULT_TOLERATION_SECONDS: i64 = 300;
/// Present on the API object of a static pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Values of the classes that always exist.
pub const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// ServiceAccount (its name), DefaultTolerationSeconds and Priority, for a pod that names no priority class but a
/// system one; `apply_priority_class` is for the others.
pub fn admit_create(pod: &mut Object) {
    let mirror = pod.annotations().is_some_and(|a| a.contains_key(MIRROR_ANNOTATION));
    let Some(spec) = object_mut(pod, "spec") else { return };
    if !mirror {
        default_text(spec, "serviceAccountName", "default");
        let account = spec["serviceAccountName"].clone();
        spec.insert("serviceAccount".to_owned(), account);
    }
    tolerate(spec);
    let class = spec.get("priorityClassName").map(|v| text(v).to_owned()).unwrap_or_default();
    if class.is_empty() {
        spec.insert("priority".to_owned(), 0.into());
        default_value(spec, "preemptionPolicy", "PreemptLowerPriority");
    } else if let Some((_, value)) = SYSTEM_CLASSES.iter().find(|(name, _)| *name == class) {
        spec.insert("priority".to_owned(), (*value).into());
        default_value(spec, "preemptionPolicy", "PreemptLowerPriority");
    }
}

/// Priority and preemption policy of the class that the pod names, or of the global default class when it names none.
pub fn apply_priority_class(pod: &mut Object, class: &Object) {
    let (name, value) = (class.name().to_owned(), class["value"].as_i64().unwrap_or(0));
    let policy = match text(&class["preemptionPolicy"]) {
        "" => "PreemptLowerPriority".to_owned(),
        policy => policy.to_owned(),
    };
    let Some(spec) = object_mut(pod, "spec") else { return };
    spec.insert("priorityClassName".to_owned(), name.into());
    spec.insert("priority".to_owned(), value.into());
    spec.insert("preemptionPolicy".to_owned(), policy.into());
}

/// DefaultTolerationSeconds: a pod leaves a failing node after five minutes unless it says otherwise.
fn tolerate(spec: &mut Map<String, Value>) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let has = spec.get("tolerations").map(items).unwrap_or_default().iter().any(|t| {
            matches!(text(&t["key"]), k if k == key || k.is_empty()) && matches!(text(&t["effect"]), "NoExecute" | "")
        });
        if has {
            continue;
        }
        let toleration = json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": DEFAULT_TOLERATION_SECONDS,
        });
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(list) => list.push(toleration),
            None => {
                spec.insert("tolerations".to_owned(), json!([toleration]));
            }
        }
    }
}

/// Whether the pod gets a token volume: its own word, else its account's, else yes; mirror pods never do.
pub fn wants_service_account_token(pod: &Object, account: &Object) -> bool {
    let mirror = pod.annotations().is_some_and(|a| a.contains_key(MIRROR_ANNOTATION));
    let automount = pod["spec"]["automountServiceAccountToken"].as_bool();
    !mirror && automount.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

/// Image pull secrets of the account, for a pod that names none.
pub fn inherit_image_pull_secrets(pod: &mut Object, account: &Object) {
    let secrets = &account["imagePullSecrets"];
    let Some(spec) = object_mut(pod, "spec") else { return };
    if items(secrets).is_empty() || spec.get("imagePullSecrets").is_some_and(|s| !items(s).is_empty()) {
        return;
    }
    spec.insert("imagePullSecrets".to_owned(), secrets.clone());
}

/// Adds the volume `kube-api-access-<suffix>` and mounts it where no container has something of its own, unless the
/// pod opts out. `suffix` is five random characters.
pub fn mount_service_account_token(pod: &mut Object, suffix: &str) {
    if pod["spec"]["automountServiceAccountToken"].as_bool() == Some(false) {
        return;
    }
    let Some(spec) = object_mut(pod, "spec") else { return };
    let existing = spec.get("volumes").map(items).unwrap_or_default().iter().find_map(|volume| {
        let name = text(&volume["name"]);
        (name.starts_with("kube-api-access-") && volume["projected"].is_object()).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{suffix}"));
    let mut mounted = false;
    for key in ["initContainers", "containers"] {
        for container in items_mut(spec, key) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| Value::Array(Vec::new()));
            if !mounts.is_array() {
                *mounts = Value::Array(Vec::new());
            }
            let Value::Array(mounts) = mounts else { continue };
            if mounts.iter().any(|m| text(&m["mountPath"]) == TOKEN_MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_MOUNT_PATH}));
            mounted = true;
        }
    }
    if !mounted || existing.is_some() {
        return;
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_EXPIRATION_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}});
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => {
            spec.insert("volumes".to_owned(), json!([volume]));
        }
    }
}
