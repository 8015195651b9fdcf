//! One volume of a CSI driver as a pod wants it, and what its CSIDriver object says of how to give it. Pure.

use super::MOUNT;
use super::device::Places;
use super::record::PLUGIN;
use crate::ids::PodUid;
use crate::units::Bytes;
use crate::volumes::block;
use crate::volumes::layout::PodDir;
use crate::volumes::usage::Extent;
use k8s_openapi::api::core::v1::{
    CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, SecretReference, Volume,
};
use k8s_openapi::api::storage::v1::{CSIDriver, TokenRequest};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who made the volume and ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::volumes) enum Lifecycle {
    Persistent,
    /// With the pod.
    Ephemeral,
}

impl Lifecycle {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Persistent => "Persistent",
            Self::Ephemeral => "Ephemeral",
        }
    }
}

/// A secret of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::volumes) struct SecretName {
    pub namespace: String,
    pub name: String,
}

/// A volume that has grown, and what the node made of it has not yet.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::volumes) struct Growth {
    pub to: Bytes,
    /// As the volume has it.
    pub capacity: Quantity,
    pub claim: ObjectMeta,
    pub stage: GrowthStage,
}

/// What the claim says of the node's part in it (`status.allocatedResourceStatuses`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::volumes) enum GrowthStage {
    /// Its resizer is of a time before such words.
    Untold,
    Pending,
    InProgress,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::volumes) struct Wanted {
    pub driver: String,
    /// The volume at its driver.
    pub handle: String,
    /// Of the persistent volume, or of the pod's own.
    pub name: String,
    pub lifecycle: Lifecycle,
    /// It is given as a device, not as a file system.
    pub block: bool,
    pub fs_type: String,
    pub attributes: BTreeMap<String, String>,
    pub read_only: bool,
    pub access_modes: Vec<String>,
    pub mount_options: Vec<String>,
    pub stage_secret: Option<SecretName>,
    pub publish_secret: Option<SecretName>,
    pub expand_secret: Option<SecretName>,
    pub growth: Option<Growth>,
}

impl Wanted {
    /// What a claim's volume is; `None`: it is of another kind.
    pub(in crate::volumes) fn of_volume(
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
        read_only: bool,
    ) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        Some(Self {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            name: volume.metadata.name.clone().unwrap_or_default(),
            lifecycle: Lifecycle::Persistent,
            block: spec.volume_mode.as_deref() == Some("Block"),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            read_only,
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            stage_secret: source.node_stage_secret_ref.as_ref().map(secret),
            publish_secret: source.node_publish_secret_ref.as_ref().map(secret),
            expand_secret: source.node_expand_secret_ref.as_ref().map(secret),
            growth: growth(volume, claim),
        })
    }

    /// What a pod says of a volume of its own.
    pub(in crate::volumes) fn inline(pod: &Pod, volume: &Volume, source: &CSIVolumeSource) -> Self {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let publish_secret =
            source.node_publish_secret_ref.as_ref().map(|secret| SecretName { namespace, name: secret.name.clone() });
        Self {
            driver: source.driver.clone(),
            handle: inline_handle(pod.metadata.uid.as_deref().unwrap_or_default(), &volume.name),
            name: volume.name.clone(),
            lifecycle: Lifecycle::Ephemeral,
            block: false,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            read_only: source.read_only.unwrap_or(false),
            access_modes: vec!["ReadWriteOnce".to_owned()],
            mount_options: Vec::new(),
            stage_secret: None,
            publish_secret,
            expand_secret: None,
            growth: None,
        }
    }

    /// How to find out what of it is used.
    pub(in crate::volumes) fn extent(&self, root_dir: &Path, dir: &PodDir) -> Extent {
        let path = match self.block {
            false => dir.volume(PLUGIN, &self.name).join(MOUNT),
            true => Places::new(root_dir, &self.name).mapping(dir, &self.name).bound().to_owned(),
        };
        Extent::Driver { driver: self.driver.clone(), handle: self.handle.clone(), path }
    }

    /// Whether the pod has it, or is on its way to it.
    pub(in crate::volumes) fn is_known(&self, dir: &PodDir) -> bool {
        match self.block {
            false => dir.volume(PLUGIN, &self.name).exists(),
            true => dir.path().join(block::FOLDER).join(PLUGIN).join(&self.name).is_symlink(),
        }
    }

    /// Name of the VolumeAttachment that the attach/detach controller makes (`getAttachmentName`).
    pub(super) fn attachment(&self, node: &str) -> String {
        format!("csi-{}", hex(&format!("{}{}{node}", self.handle, self.driver)))
    }

    /// As `status.volumesInUse` names it (`GetUniqueVolumeName`).
    pub(super) fn unique_name(&self) -> String {
        unique_name(&self.driver, &self.handle)
    }

    /// Where the driver makes it ready for all pods of the node.
    pub(super) fn staging(&self, root_dir: &Path) -> PathBuf {
        staging(root_dir, &self.driver, &self.handle)
    }
}

pub(super) fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// `makeDeviceMountPath`.
pub(super) fn staging(root_dir: &Path, driver: &str, handle: &str) -> PathBuf {
    root_dir.join("plugins/kubernetes.io/csi").join(driver).join(hex(handle)).join("globalmount")
}

/// `makeVolumeHandle`.
fn inline_handle(uid: &str, volume: &str) -> String {
    format!("csi-{}", hex(&format!("{uid}{volume}")))
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn secret(reference: &SecretReference) -> SecretName {
    SecretName {
        namespace: reference.namespace.clone().unwrap_or_default(),
        name: reference.name.clone().unwrap_or_default(),
    }
}

/// The volume is larger than its claim says, and it is the node's turn (`NodeExpander.runPreCheck`).
fn growth(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Growth> {
    let capacity = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    let status = claim.status.as_ref()?;
    let shown = status.capacity.as_ref()?.get("storage")?;
    let to = Bytes::parse(capacity).ok()?;
    if to <= Bytes::parse(shown).ok()? {
        return None;
    }
    let told = status.allocated_resource_statuses.as_ref().and_then(|statuses| statuses.get("storage"));
    let stage = match (told.map(String::as_str), &status.allocated_resources) {
        (Some("NodeResizePending"), _) => GrowthStage::Pending,
        (Some("NodeResizeInProgress"), _) => GrowthStage::InProgress,
        (None, None) => GrowthStage::Untold,
        // The controller is at it, or gave it up.
        (Some(_), _) | (None, Some(_)) => return None,
    };
    Some(Growth { to, capacity: capacity.clone(), claim: claim.metadata.clone(), stage })
}

/// What a CSIDriver object asks for; its defaults where there is none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    described: bool,
    pub(super) attach: bool,
    pub(super) pod_info: bool,
    pub(super) republish: bool,
    pub(super) tokens: Vec<TokenRequest>,
    /// Tokens go with the secrets, not with the attributes.
    pub(super) tokens_in_secrets: bool,
    fs_group: String,
    modes: Vec<String>,
}

impl Policy {
    pub(super) fn of(driver: Option<&CSIDriver>) -> Self {
        let spec = driver.map(|driver| driver.spec.clone()).unwrap_or_default();
        Self {
            described: driver.is_some(),
            attach: spec.attach_required.unwrap_or(true),
            pod_info: spec.pod_info_on_mount.unwrap_or(false),
            republish: spec.requires_republish.unwrap_or(false),
            tokens: spec.token_requests.unwrap_or_default(),
            tokens_in_secrets: spec.service_account_token_in_secrets.unwrap_or(false),
            fs_group: spec.fs_group_policy.unwrap_or_else(|| "ReadWriteOnceWithFSType".to_owned()),
            modes: spec.volume_lifecycle_modes.unwrap_or_else(|| vec!["Persistent".to_owned()]),
        }
    }

    /// `supportsVolumeLifecycleMode`.
    pub(super) fn check_lifecycle(&self, wanted: &Wanted) -> Result<(), String> {
        let mode = wanted.lifecycle.name();
        if self.modes.iter().any(|known| known == mode) {
            return Ok(());
        }
        let refused = format!("volume mode {mode:?} not supported by driver {}", wanted.driver);
        Err(match self.described {
            false => format!("{refused} (no CSIDriver object)"),
            true => format!("{refused} (only supports {:?})", self.modes),
        })
    }

    /// Whether the volume is given to the pod's fsGroup by us (`supportsFSGroup`).
    pub(super) fn takes_group(&self, wanted: &Wanted) -> bool {
        if wanted.read_only {
            return false;
        }
        match self.fs_group.as_str() {
            "None" => false,
            "File" => true,
            _ => {
                let one_node = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
                !wanted.fs_type.is_empty() && wanted.access_modes.iter().any(one_node)
            }
        }
    }
}

/// What a driver that asks for it is told of the pod (`getPodInfoAttrs`).
pub(super) fn pod_info(pod: &Pod, lifecycle: Lifecycle) -> [(String, String); 5] {
    let meta = &pod.metadata;
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let uid = PodUid::new(meta.uid.as_deref().unwrap_or_default());
    [
        ("pod.name", meta.name.clone().unwrap_or_default()),
        ("pod.namespace", meta.namespace.clone().unwrap_or_default()),
        ("pod.uid", uid.to_string()),
        ("serviceAccount.name", account.unwrap_or_default()),
        ("ephemeral", (lifecycle == Lifecycle::Ephemeral).to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
}
