//! The cgroup tree of pods as the kubelet lays it out: `kubepods`, a level for each QoS class, one cgroup a pod.

mod mark;
mod resize;
mod systemd;
mod values;

pub use crate::model::qos::QosClass;
pub use mark::MemoryMark;
pub use values::{CgroupResources, Version, cpu_weight, files, pod_resources};

use crate::clock;
use crate::ids::PodUid;
use crate::metrics::catalog;
use crate::model::resources::{BadQuantity, has_whole_cpus};
use crate::runtime::translate::{CPU_PERIOD_MICROSECONDS, cpu_shares};
use crate::units::{Bytes, Millicores};
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// Pauses while killed processes leave a cgroup that is to be removed.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Removal gives up after this many tries (about five seconds) and is tried again by the next pass.
const REMOVAL_TRIES: u32 = 10;

/// What can go wrong with cgroups; each names the file or slice.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup controllers under {0}: is the cgroup file system mounted?")]
    NotMounted(PathBuf),
    #[error("unknown cgroup driver {0:?}: it must be cgroupfs or systemd")]
    Driver(String),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(
        "cgroup {0} is not there: make it before the agent starts, or leave its reservation unenforced (enforceNodeAllocatable)"
    )]
    Missing(String),
    #[error("{0} still has processes after they were killed")]
    Busy(PathBuf),
    #[error("attempting to set pod memory limit ({limit}) below current usage ({used})")]
    BelowUsage { limit: i64, used: i64 },
    #[error("systemd slice {slice}: {message}")]
    Systemd { slice: String, message: String },
    #[error(transparent)]
    Resources(#[from] BadQuantity),
}

/// Who makes cgroups; it must be the runtime's own choice too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

/// A mounted tree: one in v2, one for each set of controllers in v1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    controllers: Vec<String>,
}

/// The cgroup tree below one root. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cgroups {
    version: Version,
    driver: Driver,
    hierarchies: Vec<Hierarchy>,
    /// Names from the root to `kubepods`, as the cgroupfs driver spells them.
    parent: Vec<String>,
    /// `podPidsLimit`; `None` is no limit.
    pod_pids: Option<i64>,
    /// CPU limits become quotas (`cpuCFSQuota`).
    cpu_quota: bool,
    /// Of the quotas, in microseconds (`cpuCFSQuotaPeriod`).
    cpu_period: i64,
    /// The static CPU policy gives whole CPUs away: pods that own some have no CPU quota.
    whole_cpus_are_owned: bool,
}

impl Cgroups {
    /// Finds the controllers under `root` (`/sys/fs/cgroup`). `driver`: `cgroupfs` or `systemd`.
    pub fn detect(root: &Path, driver: &str) -> Result<Self, CgroupError> {
        let driver = match driver {
            "cgroupfs" => Driver::Cgroupfs,
            "systemd" => Driver::Systemd,
            other => return Err(CgroupError::Driver(other.to_owned())),
        };
        let (version, hierarchies) = match fs::read_to_string(root.join("cgroup.controllers")) {
            Ok(list) => {
                let controllers = list.split_whitespace().map(str::to_owned).collect();
                (Version::V2, vec![Hierarchy { root: root.to_owned(), controllers }])
            }
            Err(_) => (Version::V1, v1_hierarchies(root)),
        };
        if hierarchies.is_empty() {
            return Err(CgroupError::NotMounted(root.to_owned()));
        }
        let parent = vec!["kubepods".to_owned()];
        Ok(Self {
            version,
            driver,
            hierarchies,
            parent,
            pod_pids: None,
            cpu_quota: true,
            cpu_period: CPU_PERIOD_MICROSECONDS,
            whole_cpus_are_owned: false,
        })
    }

    /// Puts `kubepods` below `cgroup_root` (`--cgroup-root`, `/` by default).
    pub fn under(mut self, cgroup_root: &str) -> Self {
        let names = cgroup_root.split('/').filter(|name| !name.is_empty()).map(str::to_owned);
        self.parent = names.chain(["kubepods".to_owned()]).collect();
        self
    }

    /// Limits the processes of each pod (`podPidsLimit`).
    pub fn with_pod_pids(mut self, limit: Option<i64>) -> Self {
        self.pod_pids = limit.filter(|&limit| limit > 0);
        self
    }

    /// Whether pods are held to their CPU limits (`cpuCFSQuota`), and over which period in microseconds.
    pub fn with_cpu_quota(mut self, enforced: bool, period: i64) -> Self {
        (self.cpu_quota, self.cpu_period) = (enforced, period);
        self
    }

    /// Leaves pods that own CPUs without a quota (`DisableCPUQuotaWithExclusiveCPUs` under the static CPU policy).
    pub fn with_owned_cpus(mut self, owned: bool) -> Self {
        self.whole_cpus_are_owned = owned;
        self
    }

    /// What a pod's cgroup is given.
    fn resources_of(&self, pod: &Pod, pids: Option<i64>) -> Result<CgroupResources, BadQuantity> {
        let mut resources = pod_resources(pod, pids, self.cpu_period)?;
        if !self.cpu_quota || (self.whole_cpus_are_owned && has_whole_cpus(pod)) {
            resources.cpu_quota = None;
        }
        Ok(resources)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// `cgroup_parent` of the pod's sandbox: `/kubepods/burstable/pod<uid>`, or with systemd
    /// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _>.slice`.
    pub fn pod_parent(&self, pod: &Pod) -> String {
        self.path(&self.pod_names(QosClass::of(pod), pod.metadata.uid.as_deref().unwrap_or_default()))
    }

    /// Cgroup of a container (or sandbox) of the pod whose cgroup is `parent`, as containerd names it.
    pub fn container_path(&self, parent: &str, id: &str) -> String {
        match self.driver {
            Driver::Cgroupfs => format!("{parent}/{id}"),
            Driver::Systemd => format!("{parent}/cri-containerd-{id}.scope"),
        }
    }

    /// `kubepods` and its two lower QoS levels: cgroups that are there whatever pods there are.
    pub fn levels(&self) -> [String; 3] {
        [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort].map(|class| self.path(&self.qos_names(class)))
    }

    /// Where the files of that controller are; `None`: it is not mounted.
    pub fn controller_root(&self, controller: &str) -> Option<&Path> {
        let all = self.version == Version::V2;
        let holds = |hierarchy: &&Hierarchy| all || hierarchy.controllers.iter().any(|known| known == controller);
        self.hierarchies.iter().find(holds).map(|hierarchy| hierarchy.root.as_path())
    }

    /// Moves a process into the cgroup `path` of every hierarchy (`kubeletCgroups`); what is not there is made.
    pub fn enter(&self, path: &str, pid: u32) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.make(path.trim_matches('/'), self.version)?;
            write(&folder.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Makes `kubepods` and its QoS levels and limits the whole to what the node can give to pods.
    pub async fn create_tree(&self, cpu: Millicores, memory: Bytes, pids: Option<i64>) -> Result<(), CgroupError> {
        let all = CgroupResources {
            cpu_shares: Some(cpu_shares(cpu)),
            memory_bytes: Some(memory.0).filter(|&bytes| bytes > 0),
            pids,
            ..Default::default()
        };
        self.create(&self.parent, &all).await?;
        let least = CgroupResources { cpu_shares: Some(cpu_shares(Millicores(0))), ..Default::default() };
        self.create(&self.qos_names(QosClass::BestEffort), &least).await?;
        self.create(&self.qos_names(QosClass::Burstable), &least).await
    }

    /// Gives the burstable level the CPU weight of its pods' requests together; to be called as they come and go.
    pub async fn set_burstable_requests(&self, cpu: Millicores) -> Result<(), CgroupError> {
        let resources = CgroupResources { cpu_shares: Some(cpu_shares(cpu)), ..Default::default() };
        self.create(&self.qos_names(QosClass::Burstable), &resources).await
    }

    /// Makes the pod's cgroup with its limits; doing it again changes nothing.
    pub async fn create_pod(&self, pod: &Pod) -> Result<(), CgroupError> {
        let begun = clock::now().mono;
        let resources = self.resources_of(pod, self.pod_pids)?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let made = self.create(&self.pod_names(QosClass::of(pod), uid), &resources).await;
        catalog::CGROUP_MANAGER.observe(["create"], begun.elapsed());
        made
    }

    /// Kills what is left in the pod's cgroup and removes it, in whichever QoS level it is.
    pub async fn remove_pod(&self, uid: &PodUid) -> Result<(), CgroupError> {
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let names = self.pod_names(class, uid.as_str());
            let folders: Vec<_> = self.folders(&names).filter(|folder| folder.exists()).collect();
            if folders.is_empty() {
                continue;
            }
            let begun = clock::now().mono;
            blocking(move || remove(&folders)).await?;
            catalog::CGROUP_MANAGER.observe(["destroy"], begun.elapsed());
            if self.driver == Driver::Systemd {
                let slice = slice_name(&names);
                systemd::busctl(&slice, systemd::stop_unit(&slice)).await?;
            }
        }
        Ok(())
    }

    /// Kills what is left of a container or sandbox that the runtime says is removed: containerd forgets the process of a
    /// sandbox whose maker died meanwhile. `parent`: its pod's cgroup.
    pub async fn remove_container(&self, parent: &str, id: &str) -> Result<(), CgroupError> {
        let path = self.container_path(parent, id);
        let folders = self.hierarchies.iter().map(|hierarchy| hierarchy.root.join(path.trim_start_matches('/')));
        let folders: Vec<_> = folders.filter(|folder| folder.exists()).collect();
        if folders.is_empty() { Ok(()) } else { blocking(move || remove(&folders)).await }
    }

    /// Pods that have a cgroup: those that are not wanted any more are orphans.
    pub async fn pods(&self) -> Result<Vec<PodUid>, CgroupError> {
        let levels =
            [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort].map(|class| self.qos_names(class));
        let this = self.clone();
        blocking(move || {
            let mut uids = BTreeSet::new();
            for names in levels {
                let prefix = match this.driver {
                    Driver::Cgroupfs => "pod".to_owned(),
                    Driver::Systemd => format!("{}-pod", names.join("-")),
                };
                for folder in this.folders(&names) {
                    uids.extend(subfolders(&folder)?.iter().filter_map(|folder| this.pod_of(folder, &prefix)));
                }
            }
            Ok(uids.into_iter().collect())
        })
        .await
    }

    fn pod_of(&self, folder: &Path, prefix: &str) -> Option<PodUid> {
        let uid = folder.file_name()?.to_str()?.strip_prefix(prefix)?;
        match self.driver {
            Driver::Cgroupfs => Some(PodUid::new(uid)),
            Driver::Systemd => Some(PodUid::new(uid.strip_suffix(".slice")?.replace('_', "-"))),
        }
    }

    fn qos_names(&self, class: QosClass) -> Vec<String> {
        let level = match class {
            QosClass::Guaranteed => None,
            QosClass::Burstable => Some("burstable"),
            QosClass::BestEffort => Some("besteffort"),
        };
        self.parent.iter().cloned().chain(level.map(str::to_owned)).collect()
    }

    fn pod_names(&self, class: QosClass, uid: &str) -> Vec<String> {
        let mut names = self.qos_names(class);
        names.push(format!("pod{uid}"));
        names
    }

    /// The cgroup's path as the driver spells it.
    fn path(&self, names: &[String]) -> String {
        match self.driver {
            Driver::Cgroupfs => format!("/{}", names.join("/")),
            Driver::Systemd => (1..=names.len()).map(|n| format!("/{}", slice_name(&names[..n]))).collect(),
        }
    }

    fn folders(&self, names: &[String]) -> impl Iterator<Item = PathBuf> + use<'_> {
        let path = self.path(names);
        self.hierarchies.iter().map(move |hierarchy| hierarchy.root.join(path.trim_start_matches('/')))
    }

    async fn create(&self, names: &[String], resources: &CgroupResources) -> Result<(), CgroupError> {
        if self.driver == Driver::Systemd {
            let (slice, parent) = (slice_name(names), slice_name(&names[..names.len() - 1]));
            return systemd::busctl(&slice, systemd::start_slice(&slice, &parent, resources, self.version)).await;
        }
        let (this, path, values) = (self.clone(), self.path(names), files(resources, self.version));
        blocking(move || {
            for hierarchy in &this.hierarchies {
                let folder = hierarchy.make(path.trim_start_matches('/'), this.version)?;
                for (controller, file, value) in &values {
                    if hierarchy.controllers.iter().any(|c| c == controller) {
                        write(&folder.join(file), value)?;
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

impl Hierarchy {
    /// Makes a cgroup and those above it.
    fn make(&self, path: &str, version: Version) -> Result<PathBuf, CgroupError> {
        let mut folder = self.root.clone();
        for name in path.split('/') {
            if version == Version::V2 {
                // A v2 cgroup has the controllers that its parent hands down. One at a time: some may be unusable here.
                let handed = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
                for controller in self.controllers.iter().filter(|c| !handed.split_whitespace().any(|h| h == *c)) {
                    if let Err(error) = write(&folder.join("cgroup.subtree_control"), &format!("+{controller}")) {
                        tracing::debug!(%error, controller, "a cgroup controller cannot be handed down");
                    }
                }
            }
            let parent = folder.clone();
            folder.push(name);
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(CgroupError::File { path: folder, source }),
            }
            if version == Version::V1 && self.controllers.iter().any(|c| c == "cpuset") {
                // A new v1 cpuset is empty, and no process may enter an empty one.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let inherited = read(&parent.join(file))?;
                    write(&folder.join(file), inherited.trim())?;
                }
            }
        }
        Ok(folder)
    }
}

/// v1 mounts below `root`, each named by its controllers. Links (`cpu` → `cpu,cpuacct`) are the same tree again.
fn v1_hierarchies(root: &Path) -> Vec<Hierarchy> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let named = folders.filter_map(|entry| {
        // `unified` of a hybrid machine has no controllers, but runc makes its cgroups there too.
        let name = entry.file_name().into_string().ok()?;
        // An empty folder is a mount point without a mount.
        let root = Some(entry.path()).filter(|path| path.join("cgroup.procs").exists())?;
        Some(Hierarchy { root, controllers: name.split(',').map(str::to_owned).collect() })
    });
    let mut hierarchies: Vec<_> = named.collect();
    hierarchies.sort_by(|a, b| a.root.cmp(&b.root));
    hierarchies
}

/// `["kubepods", "burstable", "pod1-2"]` → `kubepods-burstable-pod1_2.slice`.
fn slice_name(names: &[String]) -> String {
    if names.is_empty() {
        return "-.slice".to_owned();
    }
    let names: Vec<_> = names.iter().map(|name| name.replace('-', "_")).collect();
    format!("{}.slice", names.join("-"))
}

/// Removes cgroups with all below them, killing their processes first.
fn remove(folders: &[PathBuf]) -> Result<(), CgroupError> {
    let mut pause = FIRST_PAUSE;
    for _ in 0..REMOVAL_TRIES {
        let mut left = false;
        for folder in folders {
            kill_all(folder);
            left |= !remove_tree(folder)?;
        }
        if !left {
            return Ok(());
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    Err(CgroupError::Busy(folders.iter().find(|folder| folder.exists()).unwrap_or(&folders[0]).clone()))
}

fn kill_all(folder: &Path) {
    // Linux 5.14 and later, v2 only: the whole tree at once.
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for child in subfolders(folder).unwrap_or_default() {
        kill_all(&child);
    }
    let own = std::process::id().cast_signed();
    let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another PID namespace; kill(0) would be our own group.
    for pid in list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|&pid| pid > 0 && pid != own) {
        // One that has ended meanwhile is as wanted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Deepest first; `false` if something is still busy.
fn remove_tree(folder: &Path) -> Result<bool, CgroupError> {
    let mut removed = true;
    for child in subfolders(folder)? {
        removed &= remove_tree(&child)?;
    }
    if !removed {
        return Ok(false);
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => Ok(false),
        Err(source) => Err(CgroupError::File { path: folder.to_owned(), source }),
    }
}

/// None if the folder is not there.
fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CgroupError::File { path: folder.to_owned(), source }),
    };
    // An entry that vanishes while the folder is read is gone, as wanted.
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).collect())
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::File { path: path.to_owned(), source })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError::File { path: path.to_owned(), source })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CgroupError> + Send + 'static,
) -> Result<T, CgroupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a panic in the work gets here.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests;
