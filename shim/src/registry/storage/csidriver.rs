//! CSIDrivers.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::STORAGE_V1;
use crate::registry::names;
use crate::registry::table::{AGE, NAME, age, boolean, text_column};
use crate::registry::value::{
    bump_generation, default_text, default_value, is_empty, items, object_entry, root, same, text, truth,
};
use crate::registry::{Column, ResourceDef, Strategy, meta};
use serde_json::{Value, json};

pub const DEF: ResourceDef = ResourceDef {
    gv: STORAGE_V1,
    resource: "csidrivers",
    singular: "csidriver",
    kind: "CSIDriver",
    namespaced: false,
    storage: "csidrivers",
    storage_gv: STORAGE_V1,
    columns: COLUMNS,
    row,
    returns_deleted: true,
    strategy: &Strategy {
        default,
        prepare_update,
        validate,
        validate_update,
        warnings,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

const POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const MODES: [&str; 2] = ["Ephemeral", "Persistent"];
const MAX_NAME_BYTES: usize = 63;

fn default(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    default_value(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        default_value(spec, field, false);
    }
    default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").is_none_or(is_empty) {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}

/// What drivers ask of the token of a pod's account, and how often they are called, changes with a generation.
fn prepare_update(new: &mut Object, old: &Object) {
    let changed = ["tokenRequests", "requiresRepublish", "seLinuxMount", "nodeAllocatableUpdatePeriodSeconds"]
        .iter()
        .any(|field| !same(&new["spec"][*field], &old["spec"][*field]));
    bump_generation(new, old, changed);
}

/// `ValidateCSIDriverName`.
pub fn driver_name(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(path.required(""));
    }
    if name.len() > MAX_NAME_BYTES {
        errors.push(path.too_long(MAX_NAME_BYTES));
    }
    errors.extend(path.all_invalid(name, names::dns1123_subdomain(&name.to_lowercase(), false)));
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_cluster(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    driver_name(object.name(), &Path::new("name"), &mut errors);
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        if spec[field].is_null() {
            errors.push(path.child(field).required(""));
        }
    }
    let policy = text(&spec["fsGroupPolicy"]);
    if !POLICIES.contains(&policy) {
        errors.push(path.child("fsGroupPolicy").not_supported(policy, &POLICIES));
    }
    let mut audiences = Vec::new();
    for (index, request) in items(&spec["tokenRequests"]).iter().enumerate() {
        let path = path.child("tokenRequests").index(index);
        let audience = text(&request["audience"]);
        if audiences.contains(&audience) {
            errors.push(path.child("audience").duplicate(audience));
        }
        audiences.push(audience);
        if let Some(seconds) = request["expirationSeconds"].as_i64() {
            let path = path.child("expirationSeconds");
            if seconds < 600 {
                errors.push(path.invalid(seconds, "may not specify a duration less than 10 minutes"));
            } else if seconds > 1 << 32 {
                errors.push(path.invalid(seconds, "may not specify a duration larger than 2^32 seconds"));
            }
        }
    }
    for mode in items(&spec["volumeLifecycleModes"]).iter().map(text).filter(|mode| !MODES.contains(mode)) {
        errors.push(path.child("volumeLifecycleModes").not_supported(mode, &MODES));
    }
    if let Some(seconds) = spec["nodeAllocatableUpdatePeriodSeconds"].as_i64().filter(|s| *s < 10) {
        let detail = "must be greater than or equal to 10 seconds";
        errors.push(path.child("nodeAllocatableUpdatePeriodSeconds").invalid(seconds, detail));
    }
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    for field in ["attachRequired", "volumeLifecycleModes"] {
        let path = Path::new("spec").child(field);
        meta::immutable(&new["spec"][field], &old["spec"][field], &path, &mut errors);
    }
    errors
}

fn warnings(new: &Object, _old: Option<&Object>) -> Vec<String> {
    let spec = &new["spec"];
    if items(&spec["tokenRequests"]).is_empty() || !spec["serviceAccountTokenInSecrets"].is_null() {
        return Vec::new();
    }
    vec![
        "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"
            .to_owned(),
    ]
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    let join = |list: Vec<&str>| if list.is_empty() { "<unset>".to_owned() } else { list.join(",") };
    let audiences = items(&spec["tokenRequests"]).iter().map(|request| text(&request["audience"])).collect();
    let modes = match items(&spec["volumeLifecycleModes"]) {
        [] => "<none>".to_owned(),
        modes => modes.iter().map(text).collect::<Vec<_>>().join(","),
    };
    vec![
        object.name().into(),
        spec["attachRequired"].as_bool().unwrap_or(true).into(),
        truth(&spec["podInfoOnMount"]).into(),
        truth(&spec["storageCapacity"]).into(),
        join(audiences).into(),
        truth(&spec["requiresRepublish"]).into(),
        modes.into(),
        age(object, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    boolean(
        "AttachRequired",
        "attachRequired indicates this CSI volume driver requires an attach operation (because it implements the CSI ControllerPublishVolume() method), and that the Kubernetes attach detach controller should call the attach volume interface which checks the volumeattachment status and waits until the volume is attached before proceeding to mounting. The CSI external-attacher coordinates with CSI volume driver and updates the volumeattachment status when the attach operation is complete. If the value is specified to false, the attach operation will be skipped. Otherwise the attach operation will be called.\n\nThis field is immutable.",
    ),
    boolean(
        "PodInfoOnMount",
        "podInfoOnMount indicates this CSI volume driver requires additional pod information (like podName, podUID, etc.) during mount operations, if set to true. If set to false, pod information will not be passed on mount. Default is false.\n\nThe CSI driver specifies podInfoOnMount as part of driver deployment. If true, Kubelet will pass pod information as VolumeContext in the CSI NodePublishVolume() calls. The CSI driver is responsible for parsing and validating the information passed in as VolumeContext.\n\nThe following VolumeContext will be passed if podInfoOnMount is set to true. This list might grow, but the prefix will be used. \"csi.storage.k8s.io/pod.name\": pod.Name \"csi.storage.k8s.io/pod.namespace\": pod.Namespace \"csi.storage.k8s.io/pod.uid\": string(pod.UID) \"csi.storage.k8s.io/ephemeral\": \"true\" if the volume is an ephemeral inline volume\n                                defined by a CSIVolumeSource, otherwise \"false\"\n\n\"csi.storage.k8s.io/ephemeral\" is a new feature in Kubernetes 1.16. It is only required for drivers which support both the \"Persistent\" and \"Ephemeral\" VolumeLifecycleMode. Other drivers can leave pod info disabled and/or ignore this field. As Kubernetes 1.15 doesn't support this field, drivers can only support one mode when deployed on such a cluster and the deployment determines which mode that is, for example via a command line parameter of the driver.\n\nThis field was immutable in Kubernetes < 1.29 and now is mutable.",
    ),
    boolean(
        "StorageCapacity",
        "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity that the driver deployment will report by creating CSIStorageCapacity objects with capacity information, if set to true.\n\nThe check can be enabled immediately when deploying a driver. In that case, provisioning new volumes with late binding will pause until the driver deployment has published some suitable CSIStorageCapacity object.\n\nAlternatively, the driver can be deployed with the field unset or false and it can be flipped later when storage capacity information has been published.\n\nThis field was immutable in Kubernetes <= 1.22 and now is mutable.",
    ),
    text_column(
        "TokenRequests",
        "tokenRequests indicates the CSI driver needs pods' service account tokens it is mounting volume for to do necessary authentication. Kubelet will pass the tokens in VolumeContext in the CSI NodePublishVolume calls. The CSI driver should parse and validate the following VolumeContext: \"csi.storage.k8s.io/serviceAccount.tokens\": {\n  \"<audience>\": {\n    \"token\": <token>,\n    \"expirationTimestamp\": <expiration timestamp in RFC3339>,\n  },\n  ...\n}\n\nNote: Audience in each TokenRequest should be different and at most one token is empty string. To receive a new token after expiry, RequiresRepublish can be used to trigger NodePublishVolume periodically.",
    ),
    boolean(
        "RequiresRepublish",
        "requiresRepublish indicates the CSI driver wants `NodePublishVolume` being periodically called to reflect any possible change in the mounted volume. This field defaults to false.\n\nNote: After a successful initial NodePublishVolume call, subsequent calls to NodePublishVolume should only update the contents of the volume. New mount points will not be seen by a running container.",
    ),
    text_column(
        "Modes",
        "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports. The default if the list is empty is \"Persistent\", which is the usage defined by the CSI specification and implemented in Kubernetes via the usual PV/PVC mechanism.\n\nThe other mode is \"Ephemeral\". In this mode, volumes are defined inline inside the pod spec with CSIVolumeSource and their lifecycle is tied to the lifecycle of that pod. A driver has to be aware of this because it is only going to get a NodePublishVolume call for such a volume.\n\nFor more information about implementing this mode, see https://kubernetes-csi.github.io/docs/ephemeral-local-volumes.html A driver can support one or more of these modes and more modes may be added in the future.\n\nThis field is beta. This field is immutable.",
    ),
    AGE,
];
