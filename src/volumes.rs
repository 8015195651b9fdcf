//! The pod's volumes on the host: placed before its containers start, removed after they ended.

mod atomic;
mod backing;
mod block;
mod collect;
mod container;
mod content;
mod csi;
mod downward;
mod empty_dir;
mod env_file;
mod host_path;
mod hosts;
mod layout;
mod mount_command;
mod mounts;
mod ownership;
mod remove;
mod sub_path;
#[cfg(test)]
mod tests;
mod tokens;
mod turns;
mod usage;
mod user_namespace;

use self::atomic::Payload;
use self::backing::{Backing, Source};
pub(crate) use self::collect::ROOT_CA;
use self::collect::{Sources, fs_group};
use self::container::{MountJob, block_device, container_mounts, termination_log};
pub use self::csi::CsiState;
use self::empty_dir::Medium;
pub use self::mounts::unmount_below;
use self::usage::Extents;
pub use self::usage::{Extent, Use};
pub use self::user_namespace::IdSettings;

use self::layout::{PodDir, is_file_name};
use self::ownership::Owner;
use self::tokens::Tokens;
use self::turns::{Busy, Turn, Turns};
use crate::clock;
use crate::cluster::{Cluster, ClusterError, Recorder};
use crate::ids::PodUid;
use crate::metrics::catalog;
use crate::model::devices::DeviceNode;
use crate::model::node::NodeFacts;
use crate::runtime::{IdBlock, Mount};
use crate::supervisor::Supervisor;
use crate::units::Bytes;
use k8s_openapi::api::core::v1::{Pod, Volume};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A disk that does not answer within this time (a dead NFS server behind a hostPath) fails the attempt.
const DISK_DEADLINE: Duration = Duration::from_secs(120);

/// How often the use of volumes is looked at where nothing else is said.
const DEFAULT_STATS_PERIOD: Duration = Duration::from_secs(60);

/// Why a volume is not there yet; the text is the kubelet's (`MountVolume.SetUp failed for volume "x" : …`).
#[derive(Debug, Clone, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
    SetUp { volume: String, message: String },
    /// The driver could not make the volume ready on this node.
    #[error("MountVolume.MountDevice failed for volume {volume:?} : {message}")]
    MountDevice { volume: String, message: String },
    /// A block volume's device could not be made ready or mapped: `what` is the step, and that it failed.
    #[error("MapVolume.{what} for volume {volume:?} : {message}")]
    Map { what: &'static str, volume: String, message: String },
    /// It is mounted, and not as large as it shall be.
    #[error("MountVolume.Setup failed while expanding volume for volume {volume:?} : {message}")]
    Grow { volume: String, message: String },
    /// The attach/detach controller or the driver's attacher is not done: the kubelet says nothing for two minutes.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[{volume}], \
         failed to process volumes=[]: context deadline exceeded"
    )]
    NotAttached { volume: String },
    /// It is not for this node, or not as it is asked for: `what` was looked at.
    #[error("MountVolume.{what} check failed for volume {volume:?} : {message}")]
    Check { what: &'static str, volume: String, message: &'static str },
    /// What a claim stands for cannot be found out (`WaitForAttachAndMount`).
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], \
         failed to process volumes=[{volume}]: {message}"
    )]
    Claim { volume: String, message: String },
    /// A container's mount cannot be made (subPath, hosts file, termination log).
    #[error("{0}")]
    Mount(String),
    /// What a removed pod left cannot be cleared away.
    #[error("cannot remove {}: {message}", path.display())]
    Remove { path: PathBuf, message: String },
    #[error("{0}")]
    Cluster(#[from] ClusterError),
}

impl VolumeError {
    /// Reason of the event that tells it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Map { .. } => "FailedMapVolume",
            Self::SetUp { .. }
            | Self::MountDevice { .. }
            | Self::Grow { .. }
            | Self::NotAttached { .. }
            | Self::Check { .. }
            | Self::Claim { .. }
            | Self::Mount(_)
            | Self::Remove { .. }
            | Self::Cluster(_) => "FailedMount",
        }
    }
}

/// The volumes of a pod that are not there yet, each with why.
#[derive(Debug, Clone)]
pub struct NotPlaced(pub Vec<VolumeError>);

impl From<VolumeError> for NotPlaced {
    fn from(error: VolumeError) -> Self {
        Self(vec![error])
    }
}

impl std::fmt::Display for NotPlaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errors: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&errors.join("; "))
    }
}

/// Where each volume of a placed pod lies on the host.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    pub paths: BTreeMap<String, PathBuf>,
    /// Those that are given as devices.
    pub devices: BTreeMap<String, PathBuf>,
    /// Volumes that no container may write to.
    pub read_only: BTreeSet<String>,
    /// Images that image volumes show, which the runtime mounts itself.
    pub images: BTreeMap<String, String>,
}

impl Placed {
    fn add(&mut self, one: One) {
        if one.read_only {
            self.read_only.insert(one.name.clone());
        }
        let paths = if one.block { &mut self.devices } else { &mut self.paths };
        paths.insert(one.name, one.path);
    }
}

/// One placed volume.
struct One {
    name: String,
    path: PathBuf,
    read_only: bool,
    /// The path is a link to a device.
    block: bool,
}

impl One {
    fn plain(name: String, path: PathBuf) -> Self {
        Self { name, path, read_only: false, block: false }
    }
}

/// Places and removes volumes under `<root-dir>/pods/<uid>/`; cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
    ids: IdSettings,
    /// Ends what drivers are asked for, also when nobody waits for it any more.
    tasks: Supervisor,
    /// Who tells of what happens to volumes beside the failures of a pod's start.
    recorder: Option<Recorder>,
    /// Whether drivers are asked for the health of their volumes (feature gate `CSIVolumeHealth`).
    health: bool,
    /// `volumeStatsAggPeriod`; `None`: they are not measured.
    measured_every: Option<Duration>,
}

struct Inner {
    root_dir: PathBuf,
    cluster_domain: String,
    cluster: Arc<dyn Cluster>,
    facts: watch::Receiver<NodeFacts>,
    tokens: Tokens,
    /// One attempt at a pod's own volumes at a time, by the pod's uid.
    turns: Turns<OsString>,
    csi: CsiState,
    /// How the use of volumes that are not made by us is found out.
    extents: Extents,
    /// Held while a pod is given ids: two at once would take the same.
    allocates_ids: Mutex<()>,
}

impl Volumes {
    /// `facts` serve downwardAPI resources and the size of memory volumes.
    pub fn new(
        root_dir: &Path,
        cluster_domain: &str,
        cluster: Arc<dyn Cluster>,
        facts: watch::Receiver<NodeFacts>,
        csi: CsiState,
    ) -> Self {
        let inner = Inner {
            root_dir: root_dir.to_owned(),
            cluster_domain: cluster_domain.to_owned(),
            cluster,
            facts,
            tokens: Tokens::default(),
            turns: Turns::default(),
            csi,
            extents: Extents::default(),
            allocates_ids: Mutex::default(),
        };
        let (ids, tasks) = (IdSettings::default(), Supervisor::default());
        let measured_every = Some(DEFAULT_STATS_PERIOD);
        Self { inner: Arc::new(inner), ids, tasks, recorder: None, health: false, measured_every }
    }

    /// The same, whose work for drivers ends with these tasks.
    pub fn with_tasks(self, tasks: Supervisor) -> Self {
        Self { tasks, ..self }
    }

    /// The same, with events that tell of volumes; `health`: also of the health that drivers report.
    pub fn with_events(self, recorder: Recorder, health: bool) -> Self {
        Self { recorder: Some(recorder), health, ..self }
    }

    /// The same, whose use is looked at that often; `None`: never.
    pub fn measured_every(self, period: Option<Duration>) -> Self {
        Self { measured_every: period, ..self }
    }

    /// The same, with other user namespaces than the kubelet's by default.
    pub fn with_ids(self, ids: IdSettings) -> Self {
        Self { ids, ..self }
    }

    /// Idempotent: the ids of a pod with a user namespace of its own; they are free again once the pod is removed.
    pub async fn user_namespace(&self, uid: &PodUid) -> Result<IdBlock, String> {
        let root = &self.inner.root_dir;
        let dir = PodDir::new(root, uid).ok_or_else(|| format!("pod uid {:?} is no file name", uid.as_str()))?;
        let (pods, ids, inner) = (root.join("pods"), self.ids, self.inner.clone());
        let allocate = move || {
            make_pod_dirs(&dir)?;
            let _alone = inner.allocates_ids.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(user_namespace::of_pod(&pods, &dir, ids))
        };
        self.on_disk(allocate).await.map_err(|error| error.to_string())?
    }

    /// Idempotent: renders and places every volume of the pod, makes the pod's directories as the kubelet lays them out.
    pub async fn place(&self, pod: &Arc<Pod>) -> Result<Placed, NotPlaced> {
        self.place_all(pod, false).await
    }

    /// The same for a pod that is to run again while the API server is away: content that lies on the disk serves on, and
    /// what the pod would talk to the API server with may be missing until that is back.
    pub async fn place_offline(&self, pod: &Arc<Pod>) -> Result<Placed, NotPlaced> {
        self.place_all(pod, true).await
    }

    async fn place_all(&self, pod: &Arc<Pod>, offline: bool) -> Result<Placed, NotPlaced> {
        let dir = self.pod_dir(pod)?;
        let turn = self.turn(&dir).await.map_err(|busy| VolumeError::Mount(busy.to_string()))?;
        let made = dir.clone();
        let made = self.on_disk_in(&turn, move || make_pod_dirs(&made)).await;
        made.map_err(|error| VolumeError::Mount(error.to_string()))?;
        // The runtime mounts images.
        let volumes = volumes_of(pod).iter().filter(|volume| volume.image.is_none());
        let placed = volumes.map(|volume| {
            let (begun, turn, dir) = (clock::now().mono, turn.clone(), &dir);
            async move {
                let placed = self.place_one(pod, dir, volume, offline, turn).await;
                count_mount(volume, placed.is_ok(), begun.elapsed());
                placed
            }
        });
        let placed: Vec<_> = placed.collect();
        drop(turn);
        let placed = futures::future::join_all(placed).await;
        let mut all = Placed::default();
        let mut failed = Vec::new();
        for one in placed {
            match one {
                Ok(one) => all.add(one),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() { Ok(all) } else { Err(NotPlaced(failed)) }
    }

    /// Idempotent: refreshes configMap, secret, downwardAPI and projected content of a running pod.
    pub async fn refresh(&self, pod: &Arc<Pod>) -> Result<(), VolumeError> {
        let dir = self.pod_dir(pod)?;
        let turn = self.turn(&dir).await.map_err(|busy| VolumeError::Mount(busy.to_string()))?;
        // It may have been removed since the caller saw it.
        if !dir.path().exists() {
            return Ok(());
        }
        let content = volumes_of(pod).iter().filter(|volume| content_plugin(volume).is_some());
        let all = content.map(|volume| self.place_one(pod, &dir, volume, false, turn.clone()));
        let all = futures::future::join_all(all).await;
        all.into_iter().try_for_each(|placed| placed.map(drop))
    }

    /// Idempotent: has drivers publish and expand anew what of a running pod wants that. As slow as its drivers.
    pub async fn refresh_drivers(&self, pod: &Arc<Pod>) -> Result<(), VolumeError> {
        let dir = self.pod_dir(pod)?;
        if !self.has_csi(&dir) {
            return Ok(());
        }
        let all = volumes_of(pod).iter().map(|volume| async {
            match Backing::of(volume, pod, &*self.inner.cluster).await {
                Some(Ok(Backing { source: Source::Csi(wanted), .. })) if wanted.is_known(&dir) => {
                    self.place_csi(pod, &dir, &wanted).await.map(drop)
                }
                Some(Err(message)) => Err(VolumeError::Claim { volume: volume.name.clone(), message }),
                Some(Ok(_)) | None => Ok(()),
            }
        });
        futures::future::join_all(all).await.into_iter().collect()
    }

    /// The mounts of one container: its volumeMounts (subPath resolved safely), /etc/hosts, /dev/termination-log.
    /// `env` is the container's, for subPathExpr; `ips` are the pod's, or the node's with host network.
    pub async fn mounts(
        &self,
        pod: &Arc<Pod>,
        container: &str,
        attempt: u32,
        placed: &Placed,
        ips: &[IpAddr],
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, VolumeError> {
        let dir = self.pod_dir(pod)?;
        let spec = container_mounts(pod, container)
            .ok_or_else(|| VolumeError::Mount(format!("container {container:?} is not in the pod")))?;
        let job = MountJob {
            dir,
            pod: pod.clone(),
            container: container.to_owned(),
            attempt,
            placed: placed.clone(),
            ips: ips.to_vec(),
            env: env.to_vec(),
            termination_message_path: spec.termination_message_path,
            volume_mounts: spec.volume_mounts,
            cluster_domain: self.inner.cluster_domain.clone(),
            recursive_read_only: self.inner.facts.borrow().recursive_read_only_mounts,
        };
        self.on_disk(move || Ok(job.run())).await.map_err(|error| VolumeError::Mount(error.to_string()))?
    }

    /// The block volumes of one container, as its volumeDevices name them.
    pub fn block_devices(&self, pod: &Pod, container: &str, placed: &Placed) -> Result<Vec<DeviceNode>, VolumeError> {
        let spec = container_mounts(pod, container);
        let devices = spec.map(|spec| spec.volume_devices).unwrap_or_default();
        devices.iter().map(|device| block_device(device, container, placed)).collect()
    }

    /// An environment file that a container wrote into a volume, and where it lies; `None`: it is not there. It never
    /// leads out of the volume.
    pub async fn env_file(
        &self,
        placed: &Placed,
        volume: &str,
        path: &str,
    ) -> Result<Option<(PathBuf, String)>, VolumeError> {
        let root = placed.paths.get(volume).cloned();
        let root = root.ok_or_else(|| VolumeError::Mount(format!("volume {volume:?} is not in the pod")))?;
        let (whole, path) = (root.join(path), path.to_owned());
        let read = self.on_disk(move || env_file::read(&root, &path)).await;
        read.map(|text| text.map(|text| (whole, text)))
            .map_err(|error| VolumeError::Mount(format!("cannot read environment file: {error}")))
    }

    /// `<root-dir>/pods/<uid>`.
    pub fn folder(&self, uid: &PodUid) -> Option<PathBuf> {
        Some(PodDir::new(&self.inner.root_dir, uid)?.path().to_owned())
    }

    /// Where an emptyDir of that pod lies.
    pub fn empty_dir(&self, uid: &PodUid, volume: &str) -> Option<PathBuf> {
        let dir = PodDir::new(&self.inner.root_dir, uid)?;
        is_file_name(volume).then(|| dir.volume(EMPTY_DIR, volume))
    }

    /// The file behind `/dev/termination-log` of that attempt (for a container whose mounts the runtime does not tell).
    pub fn termination_log(&self, uid: &PodUid, container: &str, attempt: u32) -> Option<PathBuf> {
        let dir = PodDir::new(&self.inner.root_dir, uid)?;
        is_file_name(container).then(|| termination_log(&dir, container, attempt))
    }

    /// Idempotent: unmounts and removes everything of that pod; an error names the path that is stuck.
    pub async fn remove(&self, uid: &PodUid) -> Result<(), VolumeError> {
        self.inner.tokens.forget(uid);
        self.inner.extents.forget(uid);
        self.end(uid, true, |root, dir| {
            block::unmap_local(root, dir)?;
            remove_tree(dir.path())
        })
        .await
    }

    /// Idempotent: unmounts what was mounted for that pod and leaves its files.
    pub async fn unmount(&self, uid: &PodUid) -> Result<(), VolumeError> {
        self.end(uid, false, |root, dir| {
            block::unmap_local(root, dir)?;
            mounts::unmount_below(dir.path())
        })
        .await
    }

    /// Has drivers take back their volumes, then does the rest. `strict`: not without them, as their drivers may know of
    /// what is mounted. Nobody else does anything to the pod's volumes meanwhile.
    async fn end(
        &self,
        uid: &PodUid,
        strict: bool,
        rest: impl FnOnce(&Path, &PodDir) -> Result<(), (PathBuf, io::Error)> + Send + 'static,
    ) -> Result<(), VolumeError> {
        let Some(dir) = PodDir::new(&self.inner.root_dir, uid) else { return Ok(()) };
        let stuck = |path: PathBuf, error: String| VolumeError::Remove { path, message: error };
        let turn = self.turn(&dir).await.map_err(|busy| stuck(dir.path().to_owned(), busy.to_string()))?;
        let turns = match self.tear_down_csi(&dir).await {
            Ok(turns) => turns,
            Err(error) if strict => return Err(error),
            Err(error) => {
                // Its driver may have been a pod that has ended before it.
                tracing::warn!(%uid, %error, "volume not taken back by its driver");
                Vec::new()
            }
        };
        let (root, path) = (self.inner.root_dir.clone(), dir.path().to_owned());
        let work = move || {
            let _alone = turns;
            Ok(rest(&root, &dir))
        };
        let ended = self.on_disk_in(&turn, work).await.map_err(|error| stuck(path, error.to_string()))?;
        ended.map_err(|(path, error)| stuck(path, error.to_string()))
    }

    /// UIDs of the pods that have a directory (what a restart finds).
    pub fn pods_on_disk(&self) -> io::Result<Vec<PodUid>> {
        match std::fs::read_dir(self.inner.root_dir.join("pods")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(entries) => entries.map(|entry| Ok(PodUid::new(entry?.file_name().to_string_lossy()))).collect(),
        }
    }

    async fn place_one(
        &self,
        pod: &Arc<Pod>,
        dir: &PodDir,
        volume: &Volume,
        offline: bool,
        turn: Turn,
    ) -> Result<One, VolumeError> {
        let failed = |message: String| VolumeError::SetUp { volume: volume.name.clone(), message };
        if !is_file_name(&volume.name) {
            return Err(failed("a volume's name must be a single file name".into()));
        }
        let name = volume.name.clone();
        if let Some(plugin) = content_plugin(volume) {
            let facts = self.inner.facts.borrow().clone();
            let (cluster, tokens) = (&*self.inner.cluster, &self.inner.tokens);
            let sources = Sources { cluster, tokens, facts: &facts, pod, offline };
            let payload = match sources.collect(volume).await {
                Some(Err(_)) if offline && atomic::is_written(&dir.volume(plugin, &name)) => {
                    return Ok(One::plain(name.clone(), dir.volume(plugin, &name)));
                }
                Some(payload) => payload.map_err(failed)?,
                None => Payload::new(),
            };
            let medium = match plugin {
                CONFIG_MAP => Medium::Disk,
                _ => Medium::Memory(empty_dir::memory_size(pod, allocatable_memory(&facts), None)),
            };
            let (path, group, dir) = (dir.volume(plugin, &name), fs_group(pod), dir.clone());
            let target = path.clone();
            let marker = format!("wrapped_{name}");
            let write = move || {
                empty_dir::set_up(&dir, &target, &marker, medium, None)?;
                atomic::write(&target, &payload, group, clock::now().wall)
            };
            self.on_disk_in(&turn, write).await.map_err(|error| failed(error.to_string()))?;
            return Ok(One::plain(name, path));
        }
        if let Some(source) = &volume.empty_dir {
            let medium = match source.medium.as_deref().unwrap_or_default() {
                "" => Medium::Disk,
                "Memory" => {
                    let limit = source.size_limit.as_ref().and_then(|limit| Bytes::parse(limit).ok());
                    Medium::Memory(empty_dir::memory_size(pod, allocatable_memory(&self.inner.facts.borrow()), limit))
                }
                huge if huge.starts_with("HugePages") => {
                    Medium::HugePages(empty_dir::page_size(pod, huge).map_err(failed)?)
                }
                other => return Err(failed(format!("unknown storage medium {other:?}"))),
            };
            let (path, group, dir) = (dir.volume(EMPTY_DIR, &name), fs_group(pod), dir.clone());
            let (target, marker) = (path.clone(), name.clone());
            let make = move || empty_dir::set_up(&dir, &target, &marker, medium, group);
            self.on_disk_in(&turn, make).await.map_err(|error| failed(error.to_string()))?;
            return Ok(One::plain(name, path));
        }
        match Backing::of(volume, pod, &*self.inner.cluster).await {
            Some(Ok(backing)) => self.place_backing(pod, dir, name, backing, turn).await,
            Some(Err(message)) => Err(VolumeError::Claim { volume: name, message }),
            None => Err(failed("this kind of volume is not supported by this node".into())),
        }
    }

    async fn place_backing(
        &self,
        pod: &Arc<Pod>,
        dir: &PodDir,
        name: String,
        backing: Backing,
        turn: Turn,
    ) -> Result<One, VolumeError> {
        let (read_only, block) = (backing.read_only, backing.block);
        let extent = backing.extent(&self.inner.root_dir, dir);
        let failed = |message: String| VolumeError::SetUp { volume: name.clone(), message };
        backing.check(&self.inner.facts.borrow())?;
        let path = match backing.source {
            Source::Csi(wanted) => {
                // As slow as its driver; it has turns of its own.
                drop(turn);
                self.place_csi(pod, dir, &wanted).await.map_err(|error| match error {
                    // Of which the pod speaks by its own name.
                    VolumeError::NotAttached { .. } => VolumeError::NotAttached { volume: name.clone() },
                    error => error,
                })?
            }
            _ => {
                let (root, dir, owner) = (self.inner.root_dir.clone(), dir.clone(), Owner::of(pod));
                let place = move || if block { Ok(backing.map(&root, &dir)) } else { backing.place(&dir, owner) };
                self.on_disk_in(&turn, place).await.map_err(|error| failed(error.to_string()))??
            }
        };
        if let Some(extent) = extent {
            self.inner.extents.note(pod, &name, extent);
        }
        Ok(One { name, path, read_only, block })
    }

    fn pod_dir(&self, pod: &Pod) -> Result<PodDir, VolumeError> {
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        PodDir::new(&self.inner.root_dir, &uid)
            .ok_or_else(|| VolumeError::Mount(format!("pod uid {:?} is no file name", uid.as_str())))
    }

    async fn turn(&self, dir: &PodDir) -> Result<Turn, Busy> {
        self.inner.turns.take(dir.uid().to_owned()).await
    }

    /// The same as `on_disk`, by whoever has that turn: it is kept until the work has ended, also when nobody waits for it
    /// any more.
    async fn on_disk_in<T: Send + 'static>(
        &self,
        turn: &Turn,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = turn.clone();
        let work = move || {
            let _alone = turn;
            work()
        };
        self.on_disk(work).await
    }

    /// Does what drivers are asked for to its end, also when whoever asked is dropped meanwhile: what they are about to do
    /// is taken back only after it was done.
    async fn to_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, VolumeError>> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.spawn("volume", async move {
            // Nobody waits any more when the pod's worker has gone.
            let _ = sender.send(work.await);
        });
        receiver.await.unwrap_or_else(|_| Err(VolumeError::Mount("the agent is stopping".to_owned())))
    }

    /// Disk work off the async threads, with a deadline: any path can lie on a file system that hangs.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        match tokio::time::timeout(DISK_DEADLINE, tokio::task::spawn_blocking(work)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panicked)) => Err(io::Error::other(panicked)),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the disk did not answer within {DISK_DEADLINE:?}"),
            )),
        }
    }
}

/// `storage_operation_duration_seconds`.
fn count_mount(volume: &Volume, succeeded: bool, took: Duration) {
    let status = if succeeded { "success" } else { "fail-unknown" };
    catalog::STORAGE_OPERATIONS.observe(["false", "volume_mount", status, plugin_name(volume)], took);
}

/// The plugin of a volume, as the kubelet's metrics spell it.
pub fn plugin_name(volume: &Volume) -> &'static str {
    if volume.empty_dir.is_some() {
        "kubernetes.io/empty-dir"
    } else if volume.config_map.is_some() {
        "kubernetes.io/configmap"
    } else if volume.secret.is_some() {
        "kubernetes.io/secret"
    } else if volume.projected.is_some() {
        "kubernetes.io/projected"
    } else if volume.downward_api.is_some() {
        "kubernetes.io/downward-api"
    } else if volume.host_path.is_some() {
        "kubernetes.io/host-path"
    } else if volume.image.is_some() {
        "kubernetes.io/image"
    } else if volume.nfs.is_some() {
        "kubernetes.io/nfs"
    } else if volume.csi.is_some() {
        "kubernetes.io/csi"
    } else if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        "kubernetes.io/persistent-claim"
    } else {
        "unknown"
    }
}

const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
const CONFIG_MAP: &str = "kubernetes.io~configmap";

/// Directory name of a volume whose content we write.
fn content_plugin(volume: &Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        Some(CONFIG_MAP)
    } else if volume.secret.is_some() {
        Some("kubernetes.io~secret")
    } else if volume.downward_api.is_some() {
        Some("kubernetes.io~downward-api")
    } else if volume.projected.is_some() {
        Some("kubernetes.io~projected")
    } else {
        None
    }
}

fn volumes_of(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

fn allocatable_memory(facts: &NodeFacts) -> Option<Bytes> {
    facts.allocatable.get("memory").and_then(|memory| Bytes::parse(memory).ok())
}

fn make_pod_dirs(dir: &PodDir) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    for path in [dir.path().to_owned(), dir.path().join("volumes"), dir.path().join("plugins")] {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
    }
    Ok(())
}

/// Unmounts first; only when nothing is mounted below any more are files deleted.
fn remove_tree(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    mounts::unmount_below(path)?;
    remove::remove_folder(path).map_err(|error| (path.to_owned(), error))
}
