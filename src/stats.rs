//! What the node, its pods and their containers use, read when somebody asks: cgroup files, `/proc`, file systems.
//!
//! Nothing is polled. Who asks says which pods there are (`Subject`), so that a look at a hundred pods needs no call of
//! the runtime; only file systems of the runtime and sizes of writable layers come from it, one call for all. What costs
//! much (walks over volumes and logs) is kept for a while.

mod cgroup;
mod disks;
mod proc;
mod rates;
mod tree;

pub use self::proc::boot_time;
use crate::cgroups::Cgroups;
use crate::clock;
use crate::disk;
use crate::ids::{ContainerId, PodUid};
use crate::model::observed::{ContainerState, ObservedPod};
use crate::model::stats::{CgroupUse, ContainerUse, Device, FsUse, InterfaceUse, NodeUse, PodDisk, PodUse};
use crate::runtime::{ImageFs, Runtime, RuntimeError, Storage};
use crate::volumes::Volumes;
use cgroup::Reader;
use disks::DiskCache;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use proc::MemInfo;
use rates::Rates;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tree::Buffer;

/// A disk or a runtime that takes longer is not waited for.
const DEADLINE: Duration = Duration::from_secs(20);
/// A scrape of all cgroups shows figures of at most this age, as cadvisor does, which looks each 10 s
/// (`--housekeeping-interval`); a pod or container that came or went is seen at once.
const GROUPS_AGE: Duration = Duration::from_secs(10);

/// Why the figures could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    #[error("cannot read {what}: {source}")]
    Read { what: String, source: io::Error },
    #[error("the container runtime does not tell its file systems: {0}")]
    Runtime(#[from] RuntimeError),
    #[error("figures were not read within {DEADLINE:?}: does a disk hang?")]
    Late,
}

/// A pod to look at: as the API has it, and as the runtime showed it last.
#[derive(Clone, Debug)]
pub struct Subject {
    pub pod: Arc<Pod>,
    pub seen: Arc<ObservedPod>,
}

impl Subject {
    pub fn uid(&self) -> PodUid {
        PodUid::new(self.pod.metadata.uid.as_deref().unwrap_or_default())
    }

    /// Changes with whatever may change its limits.
    fn version(&self) -> &str {
        self.pod.metadata.resource_version.as_deref().unwrap_or_default()
    }

    fn host_network(&self) -> bool {
        self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
    }
}

/// How closely to look; each depth has all that those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// CPU, memory and threads: what `kubectl top` and eviction want.
    Usage,
    /// Limits and network.
    Limits,
    /// Disk traffic and high-water marks.
    Full,
    /// Processes and their files.
    Processes,
}

/// One cgroup of the tree as cadvisor shows it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its path.
    pub id: String,
    pub owner: Owner,
    pub started_at: Timestamp,
    pub figures: CgroupUse,
    pub network: Vec<InterfaceUse>,
}

impl Group {
    /// Whether disk traffic, high-water marks and processes were read too (`Depth::Full`).
    pub fn is_detailed(&self) -> bool {
        match self.owner {
            Owner::Node | Owner::Container(..) => true,
            Owner::Pod(_) | Owner::Sandbox(..) => false,
        }
    }
}

/// Whose cgroup it is.
#[derive(Clone, Debug)]
pub enum Owner {
    /// The root, `kubepods` or a QoS level.
    Node,
    Pod(Arc<Pod>),
    Sandbox(Arc<Pod>, String),
    /// Pod, id, name and image.
    Container(Arc<Pod>, ContainerId, String, String),
}

/// Reads figures; cheap to clone.
#[derive(Clone)]
pub struct Stats {
    inner: Arc<Inner>,
}

struct Inner {
    cgroups: Cgroups,
    runtime: Arc<dyn Runtime>,
    volumes: Volumes,
    root_dir: PathBuf,
    pod_logs: PathBuf,
    booted: Timestamp,
    reader: Mutex<Reader>,
    rates: Mutex<Rates>,
    disks: DiskCache,
    devices: Mutex<BTreeMap<Device, String>>,
    groups: Mutex<Option<Look>>,
}

/// A look at all cgroups.
struct Look {
    at: tokio::time::Instant,
    /// What ran then.
    running: Vec<String>,
    groups: Vec<Arc<Group>>,
}

impl Stats {
    pub fn new(
        cgroups: Cgroups,
        runtime: Arc<dyn Runtime>,
        volumes: Volumes,
        root_dir: &Path,
        pod_logs: &Path,
    ) -> Self {
        let inner = Inner {
            reader: Mutex::new(Reader::new(&cgroups)),
            cgroups,
            runtime,
            volumes,
            root_dir: root_dir.to_owned(),
            pod_logs: pod_logs.to_owned(),
            booted: proc::boot_time(),
            rates: Mutex::default(),
            disks: DiskCache::default(),
            devices: Mutex::default(),
            groups: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// When the machine was booted.
    pub fn booted(&self) -> Timestamp {
        self.inner.booted
    }

    /// CPU and memory of the machine, without its file systems (which stay zero).
    pub async fn machine(&self) -> Result<NodeUse, StatsError> {
        self.blocking(Inner::machine).await
    }

    /// The machine with its file systems. A runtime that does not tell its own leaves these out.
    pub async fn node(&self) -> Result<NodeUse, StatsError> {
        let (machine, image_fs) =
            tokio::join!(self.blocking(Inner::machine), tokio::time::timeout(DEADLINE, self.inner.runtime.image_fs()));
        let mut node = machine?;
        let image_fs = match image_fs {
            Ok(Ok(image_fs)) => image_fs,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the runtime does not tell its file systems");
                ImageFs::default()
            }
            Err(_) => ImageFs::default(),
        };
        self.blocking(move |inner| {
            let root = inner.root_dir.clone();
            let nodefs =
                disk::usage(&root).map_err(|source| StatsError::Read { what: root.display().to_string(), source })?;
            node.nodefs = nodefs.into();
            node.imagefs = image_fs.images.as_ref().and_then(storage);
            node.containerfs = image_fs.containers.as_ref().and_then(storage).or(node.imagefs);
            Ok(node)
        })
        .await
    }

    /// CPU, memory and (deeper than `Usage`) network of these pods and their running containers. No call of the runtime.
    pub async fn pods(&self, subjects: Vec<Subject>, depth: Depth) -> Result<Vec<PodUse>, StatsError> {
        self.blocking(move |inner| subjects.iter().map(|subject| inner.pod(subject, depth)).collect()).await
    }

    /// What these pods keep on disk, not older than `max_age`.
    pub async fn disks(
        &self,
        subjects: &[Subject],
        max_age: Duration,
    ) -> Result<BTreeMap<PodUid, PodDisk>, StatsError> {
        let found = self.inner.disks.get(&self.inner, subjects, max_age);
        tokio::time::timeout(disks::WALK_DEADLINE, found).await.map_err(|_| StatsError::Late)?
    }

    /// Every cgroup that cadvisor would show: the machine, `kubepods` and its levels, pods, sandboxes, containers.
    pub async fn groups(&self, subjects: Vec<Subject>) -> Result<Vec<Arc<Group>>, StatsError> {
        self.blocking(move |inner| inner.recent_groups(&subjects)).await
    }

    /// One cgroup below the root, such as `kubepods`; `None`: there is none.
    pub async fn cgroup(&self, path: String) -> Result<Option<CgroupUse>, StatsError> {
        let booted = self.inner.booted;
        self.blocking(move |inner| inner.read(&path, Depth::Usage, None, booted)).await
    }

    /// Interfaces of the host.
    pub async fn host_network(&self) -> Result<Vec<InterfaceUse>, StatsError> {
        self.blocking(|_| Ok(own_network())).await
    }

    /// The path of `kubepods`.
    pub fn kubepods(&self) -> String {
        let [top, ..] = self.inner.cgroups.levels();
        top
    }

    /// The node's file system and the device that it lies on; `None` while the disk cannot be asked.
    pub fn root_disk(&self) -> Option<(String, FsUse)> {
        use std::os::unix::fs::MetadataExt;
        let root = &self.inner.root_dir;
        let number = std::fs::metadata(root).ok()?.dev();
        let device =
            Device { major: nix::sys::stat::major(number) as u32, minor: nix::sys::stat::minor(number) as u32 };
        Some((self.device_name(device), disk::usage(root).ok()?.into()))
    }

    /// `/dev/vda` of `254:0`; empty for what the kernel does not name.
    pub fn device_name(&self, device: Device) -> String {
        let mut known = self.inner.devices.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(device).or_insert_with(|| disks::device_name(device)).clone()
    }

    /// File work off the async threads, with a deadline.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StatsError> + Send + 'static,
    ) -> Result<T, StatsError> {
        let inner = self.inner.clone();
        match tokio::time::timeout(DEADLINE, tokio::task::spawn_blocking(move || inner.look(work))).await {
            Ok(Ok(result)) => result,
            // Only a panic in the work gets here.
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => Err(StatsError::Late),
        }
    }
}

/// The file system that the runtime keeps something on, and what it says that takes.
fn storage(storage: &Storage) -> Option<FsUse> {
    let disk = disk::usage(&storage.path).ok()?;
    Some(FsUse { used: storage.used_bytes, inodes_used: storage.inodes_used, ..disk.into() })
}

impl Inner {
    fn look<T>(&self, work: impl FnOnce(&Self) -> T) -> T {
        let found = work(self);
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).close();
        found
    }

    fn machine(&self) -> Result<NodeUse, StatsError> {
        let read = |what: &str, source| StatsError::Read { what: what.to_owned(), source };
        let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| read("/proc/meminfo", error))?;
        let memory = MemInfo::parse(&text);
        let root = self.root_cgroup(&memory)?;
        let (max_pids, current_pids) =
            proc::tasks(&mut Buffer::default()).map_err(|error| read("the tasks of /proc", error))?;
        Ok(NodeUse {
            root,
            memory_capacity: memory.total,
            swap_capacity: memory.swap_total,
            max_pids,
            current_pids,
            ..NodeUse::default()
        })
    }

    /// The root cgroup, which has no memory of its own to tell in v2, and no limits.
    fn root_cgroup(&self, memory: &MemInfo) -> Result<CgroupUse, StatsError> {
        let mut root = self.read("/", Depth::Full, None, self.booted)?.unwrap_or_default();
        if root.memory.usage == 0 {
            root.memory = memory.usage();
        }
        Ok(root)
    }

    fn pod(&self, subject: &Subject, depth: Depth) -> Result<PodUse, StatsError> {
        let parent = self.cgroups.pod_parent(&subject.pod);
        let started = created(subject).unwrap_or(self.booted);
        let mut containers = Vec::new();
        for (container, started_at) in running(&subject.seen) {
            let path = self.cgroups.container_path(&parent, container.id.as_str());
            containers.push(ContainerUse {
                name: container.name.clone(),
                id: container.id.clone(),
                started_at,
                cgroup: self.read(&path, depth, Some(subject.version()), started_at)?,
            });
        }
        let (namespace, name) = (&subject.pod.metadata.namespace, &subject.pod.metadata.name);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Ok(PodUse {
            uid: subject.uid(),
            key: crate::ids::PodKey::new(text(namespace), text(name)),
            cgroup: self.read(&parent, depth, Some(subject.version()), started)?,
            network: if depth > Depth::Usage { self.network(subject, &parent)? } else { Vec::new() },
            containers,
            disk: None,
        })
    }

    /// Who scrapes at the same time waits for one look.
    fn recent_groups(&self, subjects: &[Subject]) -> Result<Vec<Arc<Group>>, StatsError> {
        let mut last = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let at = clock::now().mono;
        let running = running_ids(subjects);
        if let Some(look) = last.as_ref().filter(|look| at < look.at + GROUPS_AGE && look.running == running) {
            return Ok(look.groups.clone());
        }
        // Not two sets of figures in memory at once.
        *last = None;
        let groups: Vec<_> = self.groups(subjects)?.into_iter().map(Arc::new).collect();
        *last = Some(Look { at, running, groups: groups.clone() });
        Ok(groups)
    }

    fn groups(&self, subjects: &[Subject]) -> Result<Vec<Group>, StatsError> {
        let mut groups = Vec::with_capacity(subjects.len() * 3 + 4);
        let memory = MemInfo::parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
        let node =
            |id: String, figures, network| Group { id, owner: Owner::Node, started_at: self.booted, figures, network };
        groups.push(node("/".to_owned(), self.root_cgroup(&memory)?, own_network()));
        for path in self.cgroups.levels() {
            if let Some(figures) = self.read(&path, Depth::Full, None, self.booted)? {
                groups.push(node(path, figures, Vec::new()));
            }
        }
        for subject in subjects {
            self.pod_groups(subject, &mut groups)?;
        }
        Ok(groups)
    }

    fn pod_groups(&self, subject: &Subject, groups: &mut Vec<Group>) -> Result<(), StatsError> {
        let parent = self.cgroups.pod_parent(&subject.pod);
        let started_at = created(subject).unwrap_or(self.booted);
        let version = Some(subject.version());
        // What a pod as a whole writes and how it came to it is the sum of its containers, which tell it themselves.
        let Some(figures) = self.read(&parent, Depth::Limits, version, started_at)? else { return Ok(()) };
        let pod = &subject.pod;
        for sandbox in subject.seen.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            let id = self.cgroups.container_path(&parent, sandbox.id.as_str());
            let Some(figures) = self.read(&id, Depth::Limits, version, sandbox.created_at)? else { continue };
            let owner = Owner::Sandbox(pod.clone(), sandbox.id.to_string());
            let network = self.interfaces(subject, &id);
            groups.push(Group { id, owner, started_at: sandbox.created_at, figures, network });
        }
        for (container, started_at) in running(&subject.seen) {
            let id = self.cgroups.container_path(&parent, container.id.as_str());
            let Some(figures) = self.read(&id, Depth::Processes, version, started_at)? else { continue };
            let (name, image) = (container.name.to_string(), container.image.clone());
            let owner = Owner::Container(pod.clone(), container.id.clone(), name, image);
            groups.push(Group { id, owner, started_at, figures, network: Vec::new() });
        }
        groups.push(Group { id: parent, owner: Owner::Pod(pod.clone()), started_at, figures, network: Vec::new() });
        Ok(())
    }

    /// Interfaces of a pod whose sandbox was not looked at yet.
    fn network(&self, subject: &Subject, parent: &str) -> Result<Vec<InterfaceUse>, StatsError> {
        let Some(sandbox) = subject.seen.sandboxes.iter().find(|sandbox| sandbox.ready) else { return Ok(Vec::new()) };
        let path = self.cgroups.container_path(parent, sandbox.id.as_str());
        self.read(&path, Depth::Limits, Some(subject.version()), sandbox.created_at)?;
        Ok(self.interfaces(subject, &path))
    }

    /// Interfaces of the pod's network namespace, seen through the process of the sandbox that was looked at just now.
    fn interfaces(&self, subject: &Subject, sandbox: &str) -> Vec<InterfaceUse> {
        if subject.host_network() {
            return Vec::new();
        }
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match reader.leader(sandbox) {
            Some(pid) => proc::interfaces_of(pid, &mut reader.buffer),
            None => Vec::new(),
        }
    }

    fn read(
        &self,
        path: &str,
        depth: Depth,
        version: Option<&str>,
        started: Timestamp,
    ) -> Result<Option<CgroupUse>, StatsError> {
        let found = self.reader.lock().unwrap_or_else(PoisonError::into_inner).read(path, depth, version);
        let found = found.map_err(|source| StatsError::Read { what: format!("cgroup {path}"), source })?;
        Ok(found.map(|mut figures| {
            let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
            figures.cpu.rate = rates.of(path, figures.at, figures.cpu.total, started, clock::now().mono);
            figures
        }))
    }
}

/// The agent runs in the host's network namespace.
fn own_network() -> Vec<InterfaceUse> {
    proc::interfaces_of(i32::try_from(std::process::id()).unwrap_or_default(), &mut Buffer::default())
}

/// When the pod's sandbox was made.
fn created(subject: &Subject) -> Option<Timestamp> {
    subject.seen.sandboxes.first().map(|sandbox| sandbox.created_at)
}

/// Of ready sandboxes and running containers.
fn running_ids(subjects: &[Subject]) -> Vec<String> {
    let of = |subject: &Subject| {
        let sandboxes = subject.seen.sandboxes.iter().filter(|sandbox| sandbox.ready);
        let ids = sandboxes.map(|sandbox| sandbox.id.to_string());
        ids.chain(running(&subject.seen).map(|(container, _)| container.id.to_string())).collect::<Vec<_>>()
    };
    let mut ids: Vec<_> = subjects.iter().flat_map(of).collect();
    ids.sort_unstable();
    ids
}

fn running(seen: &ObservedPod) -> impl Iterator<Item = (&crate::model::observed::ObservedContainer, Timestamp)> {
    seen.containers.iter().filter_map(|container| match container.state {
        ContainerState::Running { started_at } => Some((container, started_at)),
        ContainerState::Created | ContainerState::Exited { .. } | ContainerState::Unknown => None,
    })
}

#[cfg(test)]
mod tests;
