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
use self::record::{At, Held, Progress, Record};
use self::request::{Call, Map};
use self::wanted::{Lifecycle, Policy, pod_info};
pub(super) use self::wanted::{SecretName, Wanted};
use super::layout::{PodDir, is_file_name};
use super::ownership::Owner;
use super::turns::{Turn, Turns};
use super::{VolumeError, Volumes, block, mounts};
use crate::clock;
use crate::cluster::ClusterError;
use crate::plugins::Verdict;
use crate::plugins::csi::proto as pb;
use crate::plugins::csi::{Capabilities, Driver, Drivers};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long the Node may take to show a volume as in use; the attempt is repeated after that.
const IN_USE_DEADLINE: Duration = Duration::from_secs(10);
/// Life of a token of which the driver does not say how long it shall be (the API's default).
const TOKEN_SECONDS: i64 = 3600;
/// Where a pod's volume is shown, in its folder.
const MOUNT: &str = "mount";

/// What the volumes of drivers share with the rest of the agent; cheap to clone.
#[derive(Clone, Default)]
pub struct CsiState {
    pub drivers: Drivers,
    /// What must not be detached from this node, as `status.volumesInUse` names it.
    pub in_use: watch::Sender<BTreeSet<String>>,
    /// One at a time does something to a volume: by driver and handle.
    turns: Arc<Turns<(String, String)>>,
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

fn record_of(pod: &Pod, wanted: &Wanted, progress: Progress) -> Record {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    Record {
        attachment: wanted.attachment(&node),
        driver_name: wanted.driver.clone(),
        name: wanted.name.clone(),
        volume_handle: wanted.handle.clone(),
        volume_lifecycle_mode: wanted.lifecycle.name().to_owned(),
        node_name: node,
        progress,
    }
}

/// A volume that is not published.
struct Refusal {
    why: String,
    /// Nothing of it was done, nor will be.
    last: bool,
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
    turn: Turn,
}

impl Volumes {
    /// Stages and publishes a volume, as far as that is not done; returns where it lies.
    pub(super) async fn place_csi(
        &self,
        pod: &Arc<Pod>,
        dir: &PodDir,
        wanted: &Wanted,
    ) -> Result<PathBuf, VolumeError> {
        let set_up = |message: String| VolumeError::SetUp { volume: wanted.name.clone(), message };
        if !is_file_name(&wanted.name) || !is_file_name(&wanted.driver) {
            return Err(set_up(format!("volume {:?} or driver {:?} is no file name", wanted.name, wanted.driver)));
        }
        let described = self.inner.cluster.csi_driver(&wanted.driver).await?;
        let policy = Policy::of(described.as_ref());
        policy.check_lifecycle(wanted).map_err(|why| {
            set_up(format!("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: {why}"))
        })?;
        // First of all: whatever comes of this, the pod's end takes it back.
        self.begin(pod, dir, wanted).await.map_err(|error| match wanted.block {
            false => set_up(error.to_string()),
            true => VolumeError::Map {
                what: "NewBlockVolumeMapper initialization failed",
                volume: wanted.name.clone(),
                message: error.to_string(),
            },
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
        let turn = self.inner.csi.turns.take((wanted.driver.clone(), wanted.handle.clone())).await;
        let turn = turn.map_err(|busy| failed(format!("kubernetes.io/csi: {busy}")))?;
        // The pod may have been removed meanwhile.
        if !dir.path().exists() {
            return Err(failed("kubernetes.io/csi: the pod is gone".to_owned()));
        }
        // Another pod may just have let go of it, and with it of what keeps it attached: from the beginning, then.
        if attaches && !self.inner.csi.in_use.borrow().contains(&wanted.unique_name()) {
            return Err(VolumeError::NotAttached { volume: wanted.name.clone() });
        }
        let (volumes, pod, dir, wanted) = (self.clone(), pod.clone(), dir.clone(), wanted.clone());
        self.to_end(async move {
            let (volumes, pod, wanted) = (&volumes, &*pod, &wanted);
            let job = Job { volumes, pod, wanted, policy, driver, able, attachment, turn };
            if wanted.block { job.run_device(&dir).await } else { job.run(&dir).await }
        })
        .await
    }

    /// Notes that the pod is to have the volume, where that is not known yet.
    async fn begin(&self, pod: &Pod, dir: &PodDir, wanted: &Wanted) -> io::Result<()> {
        let (root, dir, block) = (self.inner.root_dir.clone(), dir.clone(), wanted.block);
        let record = record_of(pod, wanted, Progress::Begun);
        let begin = move || match block {
            false => {
                let folder = dir.volume(record::PLUGIN, &record.name);
                if Record::read(&folder)?.is_some() { Ok(()) } else { record.write(&folder) }
            }
            true => Places::new(&root, &record.name).begin(&dir, record),
        };
        self.on_disk(begin).await
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

    /// Takes back every volume of drivers that the pod has, as far as that is possible; an error names one that is stuck.
    /// What is returned keeps others from them until it is dropped.
    pub(super) async fn tear_down_csi(&self, dir: &PodDir) -> Result<Vec<Turn>, VolumeError> {
        let (root, own) = (self.inner.root_dir.clone(), dir.clone());
        let look = move || {
            let found = record::of_pod(&root, own.path())?;
            if !found.is_empty() {
                // What shows a part of a volume: its driver would let go of a disk that is still mounted there.
                mounts::unmount_below(&own.sub_paths()).map_err(|(_, error)| error)?;
            }
            Ok(found)
        };
        let stuck = |path: &Path, message: String| VolumeError::Remove { path: path.to_owned(), message };
        let found = self.on_disk(look).await.map_err(|error| stuck(dir.path(), error.to_string()))?;
        let all = found.iter().map(|held| async {
            self.tear_down_one(dir, held).await.map_err(|message| stuck(held.at.path(), message))
        });
        futures::future::join_all(all).await.into_iter().collect()
    }

    async fn tear_down_one(&self, dir: &PodDir, held: &Held) -> Result<Turn, String> {
        let turn =
            self.inner.csi.turns.take((held.record.driver_name.clone(), held.record.volume_handle.clone())).await;
        let turn = turn.map_err(|busy| format!("kubernetes.io/csi: {busy}"))?;
        // Whoever had the turn before may have come further with it.
        let (root, look) = (self.inner.root_dir.clone(), held.clone());
        let held = self.on_disk(move || look.now(&root)).await.map_err(|error| error.to_string())?;
        let Some(Held { record, at }) = &held else { return Ok(turn) };
        if record.progress != Progress::Begun {
            self.unpublish(dir, record, at).await?;
        }
        // Before our own record goes: who dies here begins again.
        let (root, own, same) = (self.inner.root_dir.clone(), dir.path().to_owned(), record.clone());
        let others = self.on_disk(move || record::with_others(&root, &same, &own)).await;
        if others.map_err(|error| error.to_string())?.is_empty() {
            self.unstage(&Held { record: record.clone(), at: at.clone() }).await?;
            let name = wanted::unique_name(&record.driver_name, &record.volume_handle);
            self.inner.csi.fixed().remove(&name);
            self.inner.csi.in_use.send_if_modified(|all| all.remove(&name));
        }
        let at = at.clone();
        let forget = move || match at {
            At::Folder(folder) => Record::remove(&folder, MOUNT),
            At::Link(link) => record::gone(std::fs::remove_file(link)),
        };
        self.on_disk(forget).await.map_err(|error| error.to_string())?;
        Ok(turn)
    }

    async fn unpublish(&self, dir: &PodDir, record: &Record, at: &At) -> Result<(), String> {
        let (client, failed) = match at {
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
        driver.unpublish(request).await.map_err(|error| format!("kubernetes.io/csi: {failed}: {error}"))
    }

    /// Nobody on this node has it any more.
    async fn unstage(&self, held: &Held) -> Result<(), String> {
        let (root, look) = (self.inner.root_dir.clone(), held.clone());
        let staged = self.on_disk(move || look.staged(&root)).await.map_err(|error| error.to_string())?;
        if let Some(staging) = staged {
            let driver = self.inner.csi.drivers.get(&held.record.driver_name);
            let driver = driver.map_err(|error| {
                format!("kubernetes.io/csi: attacher.UnmountDevice failed to create newCsiDriverClient: {error}")
            })?;
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
        let disk = |error: io::Error| set_up(error.to_string());
        let device = |message: String| VolumeError::MountDevice { volume: wanted.name.clone(), message };
        let folder = dir.volume(record::PLUGIN, &wanted.name);
        let target = folder.join(MOUNT);
        let look = folder.clone();
        let before = self.volumes.on_disk(move || Record::read(&look)).await.map_err(disk)?;
        let given = before.is_some_and(|record| record.progress == Progress::Given);
        let there = given && self.is_mounted(&target).await.map_err(disk)?;
        if !there {
            self.check_alone(dir).await.map_err(set_up)?;
        }
        let staged = self.able.stage && wanted.lifecycle == Lifecycle::Persistent;
        let staging = staged.then(|| wanted.staging(&self.volumes.inner.root_dir));
        if let Some(staging) = &staging {
            self.stage(staging).await.map_err(device)?;
        }
        if !there && !given {
            self.note(&folder, Progress::Shown).await.map_err(disk)?;
        }
        if !there || self.policy.republish {
            let published = self.publish(staging.as_deref(), &target).await;
            if !given && matches!(&published, Err(refusal) if refusal.last) {
                // There is nothing to take back, and the driver might not know of what it were asked to.
                self.note(&folder, Progress::Begun).await.map_err(disk)?;
            }
            published.map_err(|refusal| set_up(refusal.why))?;
        }
        if !there {
            self.give_to_group(&target).await.map_err(set_up)?;
            self.note(&folder, Progress::Given).await.map_err(disk)?;
        }
        self.grow(staging.as_deref(), &target, there)
            .await
            .map_err(|message| VolumeError::Grow { volume: wanted.name.clone(), message })?;
        Ok(target)
    }

    /// A volume for one pod alone is not another's (`IsVolumeMountedElsewhere`).
    async fn check_alone(&self, dir: &PodDir) -> Result<(), String> {
        if self.wanted.access_modes != ["ReadWriteOncePod"] {
            return Ok(());
        }
        let (root, own) = (self.volumes.inner.root_dir.clone(), dir.path().to_owned());
        let record = record_of(self.pod, self.wanted, Progress::Begun);
        let others = self.volumes.on_disk(move || record::with_others(&root, &record, &own)).await;
        match others.map_err(|error| error.to_string())?.contains(&Progress::Given) {
            true => Err("volume uses the ReadWriteOncePod access mode and is already in use by another pod".to_owned()),
            false => Ok(()),
        }
    }

    async fn note(&self, folder: &Path, progress: Progress) -> io::Result<()> {
        let (record, folder) = (record_of(self.pod, self.wanted, progress), folder.to_owned());
        self.volumes.on_disk(move || record.write(&folder)).await
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
            let folder = path.parent().unwrap_or(&path);
            let is_new = Record::read(folder)?.is_none();
            record.write(folder).map(|()| is_new)
        };
        let is_new = self.volumes.on_disk(prepare).await.map_err(text)?;
        let secrets = self.secrets(self.wanted.stage_secret.as_ref()).await;
        let secrets = secrets.map_err(|no| no.fetching("NodeStageSecretRef"))?;
        let staged = self.driver.stage(self.call().stage(staging, secrets)).await;
        if is_new && matches!(&staged, Err(error) if error.verdict() != Verdict::Open) {
            // There is nothing to take back. Where that cannot be noted, the driver is asked to nevertheless.
            let folder = staging.parent().unwrap_or(staging).to_owned();
            if let Err(error) = self.volumes.on_disk(move || Record::remove(&folder, "globalmount")).await {
                tracing::debug!(volume = self.wanted.name, %error, "staging folder not removed");
            }
        }
        staged.map_err(|error| error.to_string())
    }

    async fn publish(&self, staging: Option<&Path>, target: &Path) -> Result<(), Refusal> {
        let failed = |error: String| {
            format!("kubernetes.io/csi: mounter.SetUpAt failed to get service account token attributes: {error}")
        };
        let unasked = |why: String| Refusal { why, last: true };
        let secrets = self.secrets(self.wanted.publish_secret.as_ref()).await;
        let mut secrets = secrets.map_err(|no| unasked(no.fetching("NodePublishSecretRef")))?;
        let mut more = Map::new();
        if self.policy.pod_info {
            more.extend(pod_info(self.pod, self.wanted.lifecycle));
        }
        let tokens = self.tokens().await.map_err(|error| unasked(failed(error.to_string())))?;
        if self.policy.tokens_in_secrets {
            secrets.extend(tokens)
        } else {
            more.extend(tokens)
        }
        let request = self.call().publish(staging, target, secrets, more);
        let published = self.driver.publish(request).await;
        published.map_err(|error| Refusal { why: error.to_string(), last: error.verdict() != Verdict::Open })
    }

    /// As long as it takes: a volume may hold files by the million, and a second walk beside the first would take longer.
    async fn give_to_group(&self, target: &Path) -> Result<(), String> {
        let owner = Owner::of(self.pod).filter(|_| !self.able.mount_group && self.policy.takes_group(self.wanted));
        let Some(owner) = owner else { return Ok(()) };
        let (target, turn) = (target.to_owned(), self.turn.clone());
        let walk = move || {
            let _alone = turn;
            owner.take(&target)
        };
        let given = tokio::task::spawn_blocking(walk).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        given.map_err(|error| format!("applyFSGroup failed for vol {}: {error}", self.wanted.handle))
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
