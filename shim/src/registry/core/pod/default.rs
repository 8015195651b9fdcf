//! Defaults of a pod that depend on other fields: `SetDefaults_Pod`, `_PodSpec`, `_Container`, `_Probe`, `_Volume`.

use crate::meta::Object;
use crate::registry::value::{default_number, default_text, default_value, items_mut, object_mut, text, truth};
use serde_json::{Map, Value};

/// Fills what a client left out of a pod.
pub fn pod(object: &mut Object) {
    if let Some(spec) = object_mut(object, "spec") {
        pod_spec(spec, true);
    }
    if let Some(status) = object_mut(object, "status") {
        super::status::agree(status);
    }
}

/// Fills a pod's or pod template's spec; requests from limits and service links are a pod's own
/// (`template`s get them when a pod is made of them).
pub fn pod_spec(spec: &mut Map<String, Value>, is_pod: bool) {
    if is_pod {
        default_value(spec, "enableServiceLinks", true);
    }
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_value(spec, "terminationGracePeriodSeconds", 30);
    default_value(spec, "securityContext", Map::new());
    default_text(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    let host_network = spec.get("hostNetwork").is_some_and(truth);
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for item in items_mut(spec, key) {
            container(item);
            if key == "ephemeralContainers" {
                continue;
            }
            if is_pod {
                requests_from_limits(item);
            }
            if host_network {
                host_ports(item);
            }
        }
    }
    if is_pod {
        pod_requests_from_limits(spec);
    }
    for item in items_mut(spec, "volumes") {
        volume(item);
    }
}

/// `serviceAccount` is the older name of `serviceAccountName`; both are written, the newer one wins.
fn service_account(spec: &mut Map<String, Value>) {
    let name = |spec: &Map<String, Value>, key: &str| spec.get(key).map(|v| text(v).to_owned()).unwrap_or_default();
    let mut account = name(spec, "serviceAccountName");
    if account.is_empty() {
        account = name(spec, "serviceAccount");
    }
    for key in ["serviceAccountName", "serviceAccount"] {
        if account.is_empty() {
            spec.remove(key);
        } else {
            spec.insert(key.to_owned(), account.clone().into());
        }
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").map(|v| text(v).to_owned()).unwrap_or_default();
    default_text(container, "imagePullPolicy", pull_policy(&image));
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default_value(container, "resources", Map::new());
    for port in items_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for env in items_mut(container, "env") {
        if let Some(from) = env.get_mut("valueFrom").and_then(Value::as_object_mut) {
            field_ref(from);
            if let Some(file) = from.get_mut("fileKeyRef").and_then(Value::as_object_mut) {
                default_value(file, "optional", false);
            }
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(key).and_then(Value::as_object_mut) else { continue };
        default_number(probe, "timeoutSeconds", 1);
        default_number(probe, "periodSeconds", 10);
        default_number(probe, "successThreshold", 1);
        default_number(probe, "failureThreshold", 3);
        handler(probe);
    }
    if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        for key in ["postStart", "preStop"] {
            if let Some(hook) = lifecycle.get_mut(key).and_then(Value::as_object_mut) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Map<String, Value>) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc").and_then(Value::as_object_mut) {
        default_value(grpc, "service", "");
    }
}

fn field_ref(holder: &mut Map<String, Value>) {
    if let Some(field) = holder.get_mut("fieldRef").and_then(Value::as_object_mut) {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = holder.get_mut("resourceFieldRef").and_then(Value::as_object_mut) {
        default_text(resource, "divisor", "0");
    }
}

/// `Always` for the tag `latest` or no tag at all, `IfNotPresent` for any other tag or a digest.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':').map(|(_, tag)| tag), digest) {
        (Some("latest"), _) => "Always",
        (None, None) if !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn host_ports(container: &mut Map<String, Value>) {
    for port in items_mut(container, "ports") {
        let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
        if number != 0 {
            default_number(port, "hostPort", number);
        }
    }
}

/// A limit without a request is also the request.
fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = crate::registry::value::object_entry(resources, "requests");
    for (resource, limit) in limits {
        requests.entry(resource).or_insert(limit);
    }
    if requests.is_empty() {
        resources.remove("requests");
    }
}

/// Pod-level limits are the pod-level requests of what no container requests itself.
fn pod_requests_from_limits(spec: &mut Map<String, Value>) {
    let Some(limits) = spec.get("resources").and_then(|r| r.get("limits")).and_then(Value::as_object).cloned() else {
        return;
    };
    let requested = |resource: &str| {
        ["containers", "initContainers"].iter().any(|key| {
            spec.get(*key)
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|c| !c["resources"]["requests"][resource].is_null()))
        })
    };
    let wanted: Vec<(String, Value)> = limits.into_iter().filter(|(resource, _)| !requested(resource)).collect();
    if wanted.is_empty() {
        return;
    }
    if let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) {
        let requests = crate::registry::value::object_entry(resources, "requests");
        for (resource, limit) in wanted {
            requests.entry(resource).or_insert(limit);
        }
    }
}

/// Permission bits 0644 of files made of objects.
const FILE_MODE: i64 = 0o644;

fn volume(volume: &mut Map<String, Value>) {
    if volume.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.insert("emptyDir".to_owned(), Map::new().into());
    }
    let mut source = |key: &str, fill: fn(&mut Map<String, Value>)| {
        if let Some(source) = volume.get_mut(key).and_then(Value::as_object_mut) {
            fill(source);
        }
    };
    source("secret", |s| default_value(s, "defaultMode", FILE_MODE));
    source("configMap", |s| default_value(s, "defaultMode", FILE_MODE));
    source("hostPath", |s| default_value(s, "type", ""));
    source("downwardAPI", |s| {
        default_value(s, "defaultMode", FILE_MODE);
        items_mut(s, "items").for_each(field_ref);
    });
    source("projected", |s| {
        default_value(s, "defaultMode", FILE_MODE);
        for source in items_mut(s, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                default_value(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
                items_mut(downward, "items").for_each(field_ref);
            }
        }
    });
    source("iscsi", |s| default_text(s, "iscsiInterface", "default"));
    source("rbd", |s| {
        default_text(s, "pool", "rbd");
        default_text(s, "user", "admin");
        default_text(s, "keyring", "/etc/ceph/keyring");
    });
    source("azureDisk", |s| {
        default_text(s, "cachingMode", "ReadWrite");
        default_text(s, "kind", "Shared");
        default_text(s, "fsType", "ext4");
        default_value(s, "readOnly", false);
    });
    source("scaleIO", |s| {
        default_text(s, "storageMode", "ThinProvisioned");
        default_text(s, "fsType", "xfs");
    });
    source("image", |s| {
        let reference = s.get("reference").map(|v| text(v).to_owned()).unwrap_or_default();
        default_text(s, "pullPolicy", pull_policy(&reference));
    });
    source("ephemeral", |s| {
        let template = s.get_mut("volumeClaimTemplate").and_then(Value::as_object_mut);
        if let Some(spec) = template.and_then(|t| t.get_mut("spec")).and_then(Value::as_object_mut) {
            default_text(spec, "volumeMode", "Filesystem");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, want) in [
            ("x", "Always"),
            ("x:latest", "Always"),
            ("x:1", "IfNotPresent"),
            ("localhost:5000/x", "Always"),
            ("localhost:5000/x:1", "IfNotPresent"),
            ("x@sha256:00", "IfNotPresent"),
            ("x:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }
}
