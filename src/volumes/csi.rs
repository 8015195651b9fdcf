//! Volumes of CSI drivers: staged once a node, published once a pod, and let go in the opposite order. What is on disk
//! says what is to be let go, so a restart of ours forgets nothing.

mod device;
mod grow;
mod record;
mod request;
#[cfg(test)]
mod tests;
mod wanted;

use self::device::Places;
use self::record::{At, Held, Record};
use self::request::{Call, Map};
use self::wanted::{Lifecycle, Policy, pod_info};
pub(super) use self::wanted::{SecretName, Wanted};
use super::layout::{PodDir, is_file_name};
use super::ownership::Owner;
use super::{VolumeError, Volumes, block, mounts};
use crate::clock;
use crate::cluster::ClusterError;
use crate::plugins::csi::proto as pb;
use crate::plugins::csi::{Capabilities, Driver, Drivers};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, watch};

/// How long the Node may take to show a volume as in use; the attempt is repeated after that.
const IN_USE_DEADLINE: Duration = Duration::from_secs(10);
/// Life of a token of which the driver does not say how long it shall be (the API's default).
const TOKEN_SECONDS: i64 = 3600;
/// Where a pod's volume is shown, in its folder.
const MOUNT: &str = "mount";

/// By driver and handle.
type Locks = HashMap<(String, String), Arc<tokio::sync::Mutex<()>>>;

/// What the volumes of drivers share with the rest of the agent; cheap to clone.
#[derive(Clone, Default)]
pub struct CsiState {
    pub drivers: Drivers,
    /// What must not be detached from this node, as `status.volumesInUse` names it.
    pub in_use: watch::Sender<BTreeSet<String>>,
    /// One at a time does something to a volume.
    locks: Arc<Mutex<Locks>>,
    /// Volumes that their drivers do not let grow while they are in use.
    fixed: Arc<Mutex<BTreeSet<String>>>,
}

impl CsiState {
    /// What a restart finds: volumes of the pods on disk are in use until their pods say otherwise.
    pub fn recall(root_dir: &Path) -> io::Result<Self> {
        let state = Self::default();
        let found = record::all(root_dir)?;
        let records = found.into_iter().map(|held| held.record);
        let persistent = records.filter(|record| record.volume_lifecycle_mode != Lifecycle::Ephemeral.name());
        let names = persistent.map(|record| wanted::unique_name(&record.driver_name, &record.volume_handle));
        state.in_use.send_replace(names.collect());
        Ok(state)
    }

    fn fixed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.fixed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lock(&self, driver: &str, handle: &str) -> OwnedMutexGuard<()> {
        let key = (driver.to_owned(), handle.to_owned());
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // As many as there are volumes being worked on.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// A secret that cannot be read.
struct NoSecret {
    place: String,
    why: String,
}

impl NoSecret {
    fn fetching(&self, reference: &str) -> String {
        format!("fetching {reference} {} failed: {}", self.place, self.why)
    }
}

/// A pod's volume on its way.
struct Job<'a> {
    volumes: &'a Volumes,
    pod: &'a Pod,
    wanted: &'a Wanted,
    policy: Policy,
    driver: Driver,
    able: Capabilities,
    attachment: Map,
}

impl Volumes {
    /// Stages and publishes a volume, as far as that is not done; returns where it lies.
    pub(super) async fn place_csi(&self, pod: &Pod, dir: &PodDir, wanted: &Wanted) -> Result<PathBuf, VolumeError> {
        let set_up = |message: String| VolumeError::SetUp { volume: wanted.name.clone(), message };
        if !is_file_name(&wanted.name) || !is_file_name(&wanted.driver) {
            return Err(set_up(format!("volume {:?} or driver {:?} is no file name", wanted.name, wanted.driver)));
        }
        let described = self.inner.cluster.csi_driver(&wanted.driver).await?;
        let policy = Policy::of(described.as_ref());
        policy.check_lifecycle(wanted).map_err(|why| {
            set_up(format!("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: {why}"))
        })?;
        let attaches = wanted.lifecycle == Lifecycle::Persistent && policy.attach;
        let attachment = if attaches {
            self.attached(pod, wanted).await?
        } else {
            self.inner.csi.in_use.send_if_modified(|all| all.remove(&wanted.unique_name()));
            Map::new()
        };
        let failed = |message: String| match (wanted.lifecycle, wanted.block) {
            (Lifecycle::Ephemeral, _) => set_up(message),
            (Lifecycle::Persistent, false) => VolumeError::MountDevice { volume: wanted.name.clone(), message },
            (Lifecycle::Persistent, true) => {
                VolumeError::Map { what: "SetUpDevice failed", volume: wanted.name.clone(), message }
            }
        };
        let driver = self.inner.csi.drivers.get(&wanted.driver).map_err(|error| {
            let asked = match (wanted.lifecycle, wanted.block) {
                (Lifecycle::Ephemeral, _) => "mounter.SetUpAt failed to get CSI client",
                (Lifecycle::Persistent, false) => "attacher.MountDevice failed to create newCsiDriverClient",
                (Lifecycle::Persistent, true) => "blockMapper.SetUpDevice failed to get CSI client",
            };
            failed(format!("kubernetes.io/csi: {asked}: {error}"))
        })?;
        let able = driver
            .capabilities()
            .await
            .map_err(|error| failed(format!("kubernetes.io/csi: failed to check driver capabilities: {error}")))?;
        let _alone = self.inner.csi.lock(&wanted.driver, &wanted.handle).await;
        // Another pod may just have let go of it, and with it of what keeps it attached: from the beginning, then.
        if attaches && !self.inner.csi.in_use.borrow().contains(&wanted.unique_name()) {
            return Err(VolumeError::NotAttached { volume: wanted.name.clone() });
        }
        let job = Job { volumes: self, pod, wanted, policy, driver, able, attachment };
        if wanted.block { job.run_device(dir).await } else { job.run(dir).await }
    }

    /// What the attacher left for us, once the volume is attached; it is in use from before that, so that it stays so.
    async fn attached(&self, pod: &Pod, wanted: &Wanted) -> Result<Map, VolumeError> {
        let name = wanted.unique_name();
        self.inner.csi.in_use.send_if_modified(|all| all.insert(name.clone()));
        let not_yet = || VolumeError::NotAttached { volume: wanted.name.clone() };
        let mut facts = self.inner.facts.clone();
        let shown = facts.wait_for(|facts| facts.volumes_in_use.contains(&name));
        match tokio::time::timeout(IN_USE_DEADLINE, shown).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(not_yet()),
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let attachment = self.inner.cluster.volume_attachment(&wanted.attachment(node)).await?;
        let status = attachment.and_then(|attachment| attachment.status).filter(|status| status.attached);
        Ok(status.ok_or_else(not_yet)?.attachment_metadata.unwrap_or_default())
    }

    /// Takes back every volume of drivers that the pod has; the error names the one that is stuck.
    pub(super) async fn tear_down_csi(&self, dir: &PodDir) -> Result<(), VolumeError> {
        let (root, pod) = (self.inner.root_dir.clone(), dir.path().to_owned());
        let stuck = |path: &Path, message: String| VolumeError::Remove { path: path.to_owned(), message };
        let found = self.on_disk(move || record::of_pod(&root, &pod)).await;
        for held in found.map_err(|error| stuck(dir.path(), error.to_string()))? {
            self.tear_down_one(dir, &held).await.map_err(|message| stuck(held.at.path(), message))?;
        }
        Ok(())
    }

    async fn tear_down_one(&self, dir: &PodDir, held: &Held) -> Result<(), String> {
        let Held { record, at } = held;
        let _alone = self.inner.csi.lock(&record.driver_name, &record.volume_handle).await;
        let (client, unpublish) = match at {
            At::Folder(_) => ("Unmounter.TearDownAt failed to get CSI client", "Unmounter.TearDownAt failed"),
            At::Link(_) => {
                ("blockMapper.UnmapPodDevice failed to get CSI client", "blockMapper.unpublishVolumeForBlock failed")
            }
        };
        let driver = self.inner.csi.drivers.get(&record.driver_name);
        let driver = driver.map_err(|error| format!("kubernetes.io/csi: {client}: {error}"))?;
        let target_path = match at {
            At::Folder(folder) => folder.join(MOUNT),
            At::Link(_) => {
                self.unmap_device(dir, record).await?;
                Places::new(&self.inner.root_dir, &record.name).target(dir)
            }
        };
        let target_path = target_path.display().to_string();
        let request = pb::NodeUnpublishVolumeRequest { volume_id: record.volume_handle.clone(), target_path };
        let unpublished = driver.unpublish(request).await;
        unpublished.map_err(|error| format!("kubernetes.io/csi: {unpublish}: {error}"))?;
        // Before our own record goes: who dies here begins again.
        let (root, own, same) = (self.inner.root_dir.clone(), dir.path().to_owned(), record.clone());
        let used = self.on_disk(move || record::is_used(&root, &same, &own)).await;
        if !used.map_err(|error| error.to_string())? {
            self.unstage(&driver, held).await?;
            let name = wanted::unique_name(&record.driver_name, &record.volume_handle);
            self.inner.csi.fixed().remove(&name);
            self.inner.csi.in_use.send_if_modified(|all| all.remove(&name));
        }
        let at = at.clone();
        let forget = move || match at {
            At::Folder(folder) => Record::remove(&folder, MOUNT),
            At::Link(link) => record::gone(std::fs::remove_file(link)),
        };
        self.on_disk(forget).await.map_err(|error| error.to_string())
    }

    /// Nobody on this node has it any more.
    async fn unstage(&self, driver: &Driver, held: &Held) -> Result<(), String> {
        let (root, look) = (self.inner.root_dir.clone(), held.clone());
        let staged = self.on_disk(move || look.staged(&root)).await.map_err(|error| error.to_string())?;
        if let Some(staging) = staged {
            let failed = match held.at {
                At::Folder(_) => "attacher.UnmountDevice failed",
                At::Link(_) => "blockMapper.unstageVolumeForBlock failed",
            };
            let request = pb::NodeUnstageVolumeRequest {
                volume_id: held.record.volume_handle.clone(),
                staging_target_path: staging.display().to_string(),
            };
            driver.unstage(request).await.map_err(|error| format!("kubernetes.io/csi: {failed}: {error}"))?;
        }
        let (root, held) = (self.inner.root_dir.clone(), held.clone());
        self.on_disk(move || held.remove_staged(&root)).await.map_err(|error| error.to_string())
    }

    /// Whether the pod has volumes of drivers, which may want to be published again or to grow.
    pub(super) fn has_csi(&self, dir: &PodDir) -> bool {
        let has = |folder: &str| dir.path().join(folder).join(record::PLUGIN).exists();
        !self.inner.csi.drivers.is_empty() && (has("volumes") || has(block::FOLDER))
    }
}

impl Job<'_> {
    async fn run(&self, dir: &PodDir) -> Result<PathBuf, VolumeError> {
        let wanted = self.wanted;
        let set_up = |message: String| VolumeError::SetUp { volume: wanted.name.clone(), message };
        let device = |message: String| VolumeError::MountDevice { volume: wanted.name.clone(), message };
        let folder = dir.volume(record::PLUGIN, &wanted.name);
        // First of all: whatever comes of this, the pod's end takes it back.
        self.note(dir).await.map_err(|error| set_up(error.to_string()))?;
        let staged = self.able.stage && wanted.lifecycle == Lifecycle::Persistent;
        let staging = staged.then(|| wanted.staging(&self.volumes.inner.root_dir));
        if let Some(staging) = &staging {
            self.stage(staging).await.map_err(device)?;
        }
        let target = folder.join(MOUNT);
        let there = self.is_mounted(&target).await.map_err(|error| set_up(error.to_string()))?;
        if !there || self.policy.republish {
            self.publish(staging.as_deref(), &target).await.map_err(set_up)?;
        }
        if !there {
            self.give_to_group(&target).await.map_err(|error| set_up(error.to_string()))?;
        }
        self.grow(staging.as_deref(), &target, there)
            .await
            .map_err(|message| VolumeError::Grow { volume: wanted.name.clone(), message })?;
        Ok(target)
    }

    async fn note(&self, dir: &PodDir) -> io::Result<()> {
        let (record, folder) = (self.record(), dir.volume(record::PLUGIN, &self.wanted.name));
        self.volumes.on_disk(move || record.write(&folder)).await
    }

    fn record(&self) -> Record {
        let wanted = self.wanted;
        let node = self.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        Record {
            attachment: wanted.attachment(&node),
            driver_name: wanted.driver.clone(),
            name: wanted.name.clone(),
            volume_handle: wanted.handle.clone(),
            volume_lifecycle_mode: wanted.lifecycle.name().to_owned(),
            node_name: node,
        }
    }

    async fn stage(&self, staging: &Path) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        if self.is_mounted(staging).await.map_err(text)? {
            return Ok(());
        }
        let record = Record {
            driver_name: self.wanted.driver.clone(),
            volume_handle: self.wanted.handle.clone(),
            ..Record::default()
        };
        let path = staging.to_owned();
        let prepare = move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&path)?;
            record.write(path.parent().unwrap_or(&path))
        };
        self.volumes.on_disk(prepare).await.map_err(text)?;
        let secrets = self.secrets(self.wanted.stage_secret.as_ref()).await;
        let secrets = secrets.map_err(|no| no.fetching("NodeStageSecretRef"))?;
        self.driver.stage(self.call().stage(staging, secrets)).await.map_err(|error| error.to_string())
    }

    async fn publish(&self, staging: Option<&Path>, target: &Path) -> Result<(), String> {
        let failed = |error: String| {
            format!("kubernetes.io/csi: mounter.SetUpAt failed to get service account token attributes: {error}")
        };
        let secrets = self.secrets(self.wanted.publish_secret.as_ref()).await;
        let mut secrets = secrets.map_err(|no| no.fetching("NodePublishSecretRef"))?;
        let mut more = Map::new();
        if self.policy.pod_info {
            more.extend(pod_info(self.pod, self.wanted.lifecycle));
        }
        let tokens = self.tokens().await.map_err(|error| failed(error.to_string()))?;
        if self.policy.tokens_in_secrets {
            secrets.extend(tokens)
        } else {
            more.extend(tokens)
        }
        let request = self.call().publish(staging, target, secrets, more);
        self.driver.publish(request).await.map_err(|error| error.to_string())
    }

    async fn give_to_group(&self, target: &Path) -> io::Result<()> {
        let owner = Owner::of(self.pod).filter(|_| !self.able.mount_group && self.policy.takes_group(self.wanted));
        let Some(owner) = owner else { return Ok(()) };
        let target = target.to_owned();
        self.volumes.on_disk(move || owner.take(&target)).await
    }

    fn call(&self) -> Call<'_> {
        let group = super::collect::fs_group(self.pod);
        Call { wanted: self.wanted, able: self.able, attachment: &self.attachment, group }
    }

    async fn secrets(&self, name: Option<&SecretName>) -> Result<Map, NoSecret> {
        let Some(SecretName { namespace, name }) = name else { return Ok(Map::new()) };
        let secret = self.volumes.inner.cluster.secret(namespace, name).await;
        let secret = secret.map_err(|error| {
            let failed = format!("failed to find the secret {name} in the namespace {namespace} with error: {error}");
            NoSecret { place: format!("{namespace}/{name}"), why: format!("kubernetes.io/csi: {failed}") }
        })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(secret.data.iter().flatten().map(|(key, value)| (key.clone(), text(&value.0))).collect())
    }

    /// Tokens of the pod's service account, for the audiences that the driver names.
    async fn tokens(&self) -> Result<Map, ClusterError> {
        if self.policy.tokens.is_empty() {
            return Ok(Map::new());
        }
        let inner = &self.volumes.inner;
        let mut all = serde_json::Map::new();
        for request in &self.policy.tokens {
            let audience = Some(request.audience.as_str()).filter(|audience| !audience.is_empty());
            let seconds = request.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            let (token, expires) = inner.tokens.get(&*inner.cluster, self.pod, audience, seconds, clock::now()).await?;
            let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            all.insert(request.audience.clone(), json!({"token": &*token, "expirationTimestamp": expires}));
        }
        let text = serde_json::Value::Object(all).to_string();
        Ok(Map::from([("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), text)]))
    }

    /// Nothing there is not mounted.
    async fn is_mounted(&self, path: &Path) -> io::Result<bool> {
        let path = path.to_owned();
        let look = move || match mounts::is_mount_point(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            answer => answer,
        };
        self.volumes.on_disk(look).await
    }
}
