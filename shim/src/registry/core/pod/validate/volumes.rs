//! Volumes and where containers mount them: `ValidateVolumes` and `ValidateVolumeMounts`.

use super::fields::{Referrer, field_ref, resource_ref};
use crate::registry::core::persistentvolumeclaim;
use crate::registry::field::{Errors, Path};
use crate::registry::quantity::Nanos;
use crate::registry::storage::csidriver::driver_name;
use crate::registry::value::{entries, items, text, truth};
use crate::registry::{labels, meta, names};
use serde_json::{Map, Value};

const MODE_TEXT: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// Shortest and longest life of a projected token.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;

/// Fields of a source that must not be empty, in upstream's order.
const REQUIRED: [(&str, &[&str]); 17] = [
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["image"]),
    ("cinder", &["volumeID"]),
    ("configMap", &["name"]),
    ("flexVolume", &["driver"]),
    ("vsphereVolume", &["volumePath"]),
    ("csi", &["driver"]),
    ("image", &["reference"]),
];

pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
        let path = path.index(index);
        source(volume, &path, errors);
        let name = text(&volume["name"]);
        if name.is_empty() {
            errors.push(path.child("name").required(""));
        } else {
            errors.extend(path.child("name").all_invalid(name, names::dns1123_label(name, false)));
            if seen.contains(&name) {
                errors.push(path.child("name").duplicate(name));
            }
            seen.push(name);
        }
    }
}

/// Sources that only persistent volumes have.
const PERSISTENT_ONLY: [&str; 2] = ["local", "storageos"];

/// Sources without a field that must not be empty.
const UNCHECKED: [&str; 8] =
    ["fc", "scaleIO", "azureDisk", "azureFile", "cephfs", "photonPersistentDisk", "portworxVolume", "quobyte"];

fn is_source(key: &str) -> bool {
    REQUIRED.iter().any(|(name, _)| *name == key) || PERSISTENT_ONLY.contains(&key) || UNCHECKED.contains(&key)
}

/// The part of a persistent volume's spec that says where the data is.
pub(crate) fn source_of(spec: &Value) -> Value {
    let sources = entries(spec).filter(|(key, value)| is_source(key) && !value.is_null());
    sources.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
}

/// A volume of a driver is known to it by its handle; secrets are of some namespace.
fn persistent_csi(csi: &Value, path: &Path, errors: &mut Errors) {
    if text(&csi["volumeHandle"]).is_empty() {
        errors.push(path.child("volumeHandle").required(""));
    }
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeStageSecretRef",
        "nodeExpandSecretRef",
    ] {
        if !csi[field].is_object() {
            continue;
        }
        for part in ["name", "namespace"].into_iter().filter(|part| text(&csi[field][*part]).is_empty()) {
            errors.push(path.child(field).child(part).required(""));
        }
    }
}

/// The source of a persistent volume, among the other fields of its spec.
pub(crate) fn persistent_source(spec: &Value, path: &Path, errors: &mut Errors) {
    one_source(entries(spec).filter(|(key, value)| is_source(key) && !value.is_null()), path, errors);
    if spec["csi"].is_object() {
        persistent_csi(&spec["csi"], &path.child("csi"), errors);
    }
    if spec["local"].is_object() {
        let local = text(&spec["local"]["path"]);
        if local.is_empty() {
            errors.push(path.child("local").child("path").required(""));
        }
        if !spec["nodeAffinity"]["required"].is_object() {
            errors.push(path.child("nodeAffinity").required("Local volume requires node affinity"));
        }
    }
}

fn source(volume: &Value, path: &Path, errors: &mut Errors) {
    one_source(entries(volume).filter(|(key, value)| *key != "name" && !value.is_null()), path, errors);
}

fn one_source<'a>(mut kinds: impl Iterator<Item = (&'a String, &'a Value)>, path: &Path, errors: &mut Errors) {
    let Some((kind, source)) = kinds.next() else {
        errors.push(path.required("must specify a volume type"));
        return;
    };
    for (other, _) in kinds {
        errors.push(path.child(other).forbidden("may not specify more than 1 volume type"));
    }
    let path = path.child(kind);
    if let Some((_, fields)) = REQUIRED.iter().find(|(name, _)| name == kind) {
        for field in fields.iter().filter(|field| text(&source[**field]).is_empty()) {
            errors.push(path.child(field).required(""));
        }
    }
    match kind.as_str() {
        "emptyDir" if Nanos::parse(&source["sizeLimit"]).is_some_and(|n| n.0 < 0) => {
            errors.push(path.child("sizeLimit").forbidden("SizeLimit field must be a valid resource quantity"));
        }
        "hostPath" => host_path(source, &path, errors),
        "nfs" if !text(&source["path"]).is_empty() && !text(&source["path"]).starts_with('/') => {
            errors.push(path.child("path").invalid(text(&source["path"]), "must be an absolute path"));
        }
        "secret" | "configMap" => {
            mode(&source["defaultMode"], &path.child("defaultMode"), errors);
            key_paths(source, &path, errors);
        }
        "downwardAPI" => downward(source, &path, errors),
        "projected" => projected(source, &path, errors),
        "image" => {
            let policy = text(&source["pullPolicy"]);
            if !matches!(policy, "Always" | "IfNotPresent" | "Never" | "") {
                errors.push(path.child("pullPolicy").not_supported(policy, &["Always", "IfNotPresent", "Never"]));
            }
        }
        "ephemeral" if !source["volumeClaimTemplate"].is_object() => {
            errors.push(path.child("volumeClaimTemplate").required(""));
        }
        "ephemeral" => {
            let (template, path) = (&source["volumeClaimTemplate"], path.child("volumeClaimTemplate"));
            let metadata = path.child("metadata");
            labels::validate(&template["metadata"]["labels"], &metadata.child("labels"), errors);
            meta::annotations(&template["metadata"]["annotations"], &metadata.child("annotations"), errors);
            persistentvolumeclaim::validate_spec(&template["spec"], &path.child("spec"), errors);
        }
        "csi" if !text(&source["driver"]).is_empty() => {
            driver_name(text(&source["driver"]), &path.child("driver"), errors)
        }
        _ => {}
    }
}

fn host_path(source: &Value, path: &Path, errors: &mut Errors) {
    let host = text(&source["path"]);
    if host.split('/').any(|part| part == "..") {
        errors.push(path.child("path").invalid(host, "must not contain '..'"));
    }
    let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if let Some(kind) = source["type"].as_str().filter(|kind| !kinds.contains(kind)) {
        errors.push(path.child("type").not_supported(kind, &kinds));
    }
}

fn mode(mode: &Value, path: &Path, errors: &mut Errors) {
    if let Some(bits) = mode.as_i64().filter(|bits| !(0..=0o777).contains(bits)) {
        errors.push(path.invalid(bits, MODE_TEXT));
    }
}

fn key_paths(source: &Value, path: &Path, errors: &mut Errors) {
    for (index, item) in items(&source["items"]).iter().enumerate() {
        let path = path.child("items").index(index);
        if text(&item["key"]).is_empty() {
            errors.push(path.child("key").required(""));
        }
        file(item, &path, errors);
    }
}

/// Where in the volume a file goes, and its mode.
fn file(item: &Value, path: &Path, errors: &mut Errors) {
    match text(&item["path"]) {
        "" => errors.push(path.child("path").required("")),
        file => local_non_reserved_path(file, &path.child("path"), errors),
    }
    mode(&item["mode"], &path.child("mode"), errors);
}

fn downward(source: &Value, path: &Path, errors: &mut Errors) {
    mode(&source["defaultMode"], &path.child("defaultMode"), errors);
    for item in items(&source["items"]) {
        file(item, path, errors);
        match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
            (true, resource) => {
                field_ref(&item["fieldRef"], Referrer::Volume, &path.child("fieldRef"), errors);
                if resource {
                    let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.push(path.invalid("resource", detail));
                }
            }
            (false, true) => {
                resource_ref(&item["resourceFieldRef"], Referrer::Volume, &path.child("resourceFieldRef"), errors);
            }
            (false, false) => errors.push(path.required("one of fieldRef and resourceFieldRef is required")),
        }
    }
}

fn projected(source: &Value, path: &Path, errors: &mut Errors) {
    mode(&source["defaultMode"], &path.child("defaultMode"), errors);
    let mut seen: Vec<&str> = Vec::new();
    for (index, source) in items(&source["sources"]).iter().enumerate() {
        let path = path.child("sources").index(index);
        let mut kinds = 0;
        for (kind, value) in entries(source).filter(|(_, value)| value.is_object()) {
            kinds += 1;
            let path = path.child(kind);
            if kinds > 1 {
                errors.push(path.forbidden("may not specify more than 1 volume type per source"));
                continue;
            }
            match kind.as_str() {
                "secret" | "configMap" => {
                    if text(&value["name"]).is_empty() {
                        errors.push(path.child("name").required(""));
                    }
                    key_paths(value, &path, errors);
                }
                "downwardAPI" => downward(value, &path, errors),
                "serviceAccountToken" => token(value, &path, errors),
                _ => {}
            }
            let paths = items(&value["items"]).iter().map(|i| text(&i["path"])).chain(value["path"].as_str());
            for file in paths.filter(|p| !p.is_empty()) {
                if seen.contains(&file) {
                    errors.push(path.invalid(file, "conflicting duplicate paths"));
                }
                seen.push(file);
            }
        }
    }
}

fn token(source: &Value, path: &Path, errors: &mut Errors) {
    if let Some(seconds) = source["expirationSeconds"].as_i64() {
        let path = path.child("expirationSeconds");
        if seconds < *TOKEN_SECONDS.start() {
            errors.push(path.invalid(seconds, "may not specify a duration less than 10 minutes"));
        } else if seconds > *TOKEN_SECONDS.end() {
            errors.push(path.invalid(seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
    match text(&source["path"]) {
        "" => errors.push(path.child("path").required("")),
        file => local_non_reserved_path(file, path, errors),
    }
}

/// `validateLocalDescendingPath`: relative, and never up.
pub(super) fn local_descending_path(file: &str, path: &Path, errors: &mut Errors) {
    if file.starts_with('/') {
        errors.push(path.invalid(file, "must be a relative path"));
    }
    if file.split('/').any(|part| part == "..") {
        errors.push(path.invalid(file, "must not contain '..'"));
    }
}

/// … nor a name that the atomic writer uses itself.
fn local_non_reserved_path(file: &str, path: &Path, errors: &mut Errors) {
    local_descending_path(file, path, errors);
    if file.starts_with("..") && !file.starts_with("../") {
        errors.push(path.invalid(file, "must not start with '..'"));
    }
}

/// `ValidateVolumeMounts` and `ValidateVolumeDevices`; `subPath` errors name the list, as upstream's do.
pub(super) fn mounts(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let list = path.child("volumeMounts");
    let known = |name: &str| items(&spec["volumes"]).iter().any(|v| text(&v["name"]) == name);
    let mut mount_points = Vec::new();
    for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let path = list.index(index);
        let name = text(&mount["name"]);
        if name.is_empty() {
            errors.push(path.child("name").required(""));
        }
        if !known(name) {
            errors.push(path.child("name").not_found(name));
        }
        let point = text(&mount["mountPath"]);
        if point.is_empty() {
            errors.push(path.child("mountPath").required(""));
        }
        if mount_points.contains(&point) {
            errors.push(path.child("mountPath").invalid(point, "must be unique"));
        }
        mount_points.push(point);
        let devices = items(&container["volumeDevices"]);
        if devices.iter().any(|device| text(&device["name"]) == name) {
            errors.push(path.child("name").invalid(name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| text(&device["devicePath"]) == point) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(path.child("mountPath").invalid(point, detail));
        }
        for field in ["subPath", "subPathExpr"] {
            if !text(&mount[field]).is_empty() {
                local_descending_path(text(&mount[field]), &list.child(field), errors);
            }
        }
        if !text(&mount["subPath"]).is_empty() && !text(&mount["subPathExpr"]).is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(list.child("subPathExpr").invalid(text(&mount["subPathExpr"]), detail));
        }
        propagation(mount, container, &list, errors);
    }
    devices(container, spec, &path.child("volumeDevices"), errors);
}

/// Volumes that a container sees as devices, not as directories: `ValidateVolumeDevices`.
fn devices(container: &Value, spec: &Value, list: &Path, errors: &mut Errors) {
    let devices = items(&container["volumeDevices"]);
    let mounts = items(&container["volumeMounts"]);
    for (index, device) in devices.iter().enumerate() {
        let path = list.index(index);
        let (name, at) = (text(&device["name"]), text(&device["devicePath"]));
        let volume = items(&spec["volumes"]).iter().find(|volume| text(&volume["name"]) == name);
        let of_name = path.child("name");
        if name.is_empty() {
            errors.push(of_name.required(""));
        }
        if devices[..index].iter().any(|earlier| text(&earlier["name"]) == name) {
            errors.push(of_name.invalid(name, "must be unique"));
        }
        match volume {
            Some(volume) if !volume["persistentVolumeClaim"].is_object() && !volume["ephemeral"].is_object() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(of_name.invalid(name, detail));
            }
            Some(_) => {}
            None => errors.push(of_name.not_found(name)),
        }
        let of_path = path.child("devicePath");
        if at.is_empty() {
            errors.push(of_path.required(""));
        }
        if devices[..index].iter().any(|earlier| text(&earlier["devicePath"]) == at) {
            errors.push(of_path.invalid(at, "must be unique"));
        }
        if at.split('/').any(|part| part == "..") {
            errors.push(of_path.invalid(at, "can not contain backsteps ('..')"));
        }
        if mounts.iter().any(|mount| text(&mount["name"]) == name) {
            errors.push(of_name.invalid(name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| text(&mount["mountPath"]) == at) {
            errors.push(of_path.invalid(at, "must not already exist as a path in volumeMounts"));
        }
    }
}

fn propagation(mount: &Value, container: &Value, list: &Path, errors: &mut Errors) {
    let path = list.child("mountPropagation");
    let supported = ["Bidirectional", "HostToContainer", "None"];
    match mount["mountPropagation"].as_str() {
        None => {}
        Some(mode) if !supported.contains(&mode) => errors.push(path.not_supported(mode, &supported)),
        Some("Bidirectional") if !truth(&container["securityContext"]["privileged"]) => {
            errors.push(path.forbidden("Bidirectional mount propagation is available only to privileged containers"));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_is_mounted_or_a_device_and_not_both() {
        let spec = json!({"volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "dir", "emptyDir": {}},
        ]});
        for (container, fields) in [
            (json!({"volumeDevices": [{"name": "claim", "devicePath": "/dev/a"}]}), vec![]),
            (json!({"volumeDevices": [{"name": "dir", "devicePath": "/dev/a"}]}), vec!["c.volumeDevices[0].name"]),
            (
                json!({"volumeDevices": [{"name": "no", "devicePath": "/a/../b"}]}),
                vec!["c.volumeDevices[0].name", "c.volumeDevices[0].devicePath"],
            ),
            (
                json!({"volumeDevices": [{"name": "claim", "devicePath": "/a"}], "volumeMounts": [{"name": "claim", "mountPath": "/a"}]}),
                vec![
                    "c.volumeMounts[0].name",
                    "c.volumeMounts[0].mountPath",
                    "c.volumeDevices[0].name",
                    "c.volumeDevices[0].devicePath",
                ],
            ),
        ] {
            let mut errors = Errors::new();
            mounts(&container, &spec, &Path::new("c"), &mut errors);
            let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{container}");
        }
    }

    #[test]
    fn the_claim_that_a_volume_makes_is_checked_as_a_claim() {
        let claim = json!({"accessModes": [], "resources": {"requests": {"storage": "0"}}});
        let mut errors = Errors::new();
        source(
            &json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}),
            &Path::new("v"),
            &mut errors,
        );
        let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let spec = "v.ephemeral.volumeClaimTemplate.spec";
        assert_eq!(found, [format!("{spec}.accessModes"), format!("{spec}.resources.requests[storage]")]);
    }
}
