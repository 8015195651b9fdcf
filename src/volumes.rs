//! The pod's volumes on the host: placed before its containers start, removed after they ended.

mod atomic;
mod collect;
mod content;
mod downward;
mod empty_dir;
mod host_path;
mod hosts;
mod layout;
mod mounts;
mod ownership;
mod sub_path;
#[cfg(test)]
mod tests;
mod tokens;

use self::atomic::Payload;
use self::collect::{Sources, fs_group};
use self::empty_dir::Medium;
use self::layout::{PodDir, is_below, is_file_name};
use self::tokens::Tokens;
use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use crate::ids::PodUid;
use crate::model::node::NodeFacts;
use crate::runtime::{Mount, Propagation};
use crate::units::Bytes;
use k8s_openapi::api::core::v1::{Pod, Volume, VolumeMount};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A disk that does not answer within this time (a dead NFS server behind a hostPath) fails the attempt.
const DISK_DEADLINE: Duration = Duration::from_secs(120);

/// Why a volume is not there yet; the text is the kubelet's (`MountVolume.SetUp failed for volume "x" : …`).
#[derive(Debug, Clone, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
    SetUp { volume: String, message: String },
    /// A container's mount cannot be made (subPath, hosts file, termination log).
    #[error("{0}")]
    Mount(String),
    /// What a removed pod left cannot be cleared away.
    #[error("cannot remove {}: {message}", path.display())]
    Remove { path: PathBuf, message: String },
    #[error("{0}")]
    Cluster(#[from] ClusterError),
}

/// Where each volume of a placed pod lies on the host.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    pub paths: BTreeMap<String, PathBuf>,
}

/// Places and removes volumes under `<root-dir>/pods/<uid>/`; cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    root_dir: PathBuf,
    cluster_domain: String,
    cluster: Arc<dyn Cluster>,
    facts: watch::Receiver<NodeFacts>,
    tokens: Tokens,
}

impl Volumes {
    /// `facts` serve downwardAPI resources and the size of memory volumes.
    pub fn new(
        root_dir: &Path,
        cluster_domain: &str,
        cluster: Arc<dyn Cluster>,
        facts: watch::Receiver<NodeFacts>,
    ) -> Self {
        let inner = Inner {
            root_dir: root_dir.to_owned(),
            cluster_domain: cluster_domain.to_owned(),
            cluster,
            facts,
            tokens: Tokens::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Idempotent: renders and places every volume of the pod, makes the pod's directories as the kubelet lays them out.
    pub async fn place(&self, pod: &Arc<Pod>) -> Result<Placed, VolumeError> {
        let dir = self.pod_dir(pod)?;
        let made = dir.clone();
        self.on_disk(move || make_pod_dirs(&made)).await.map_err(|message| VolumeError::Mount(message.to_string()))?;
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let placed = futures::future::join_all(volumes.iter().map(|volume| self.place_one(pod, &dir, volume))).await;
        let paths = placed.into_iter().collect::<Result<BTreeMap<_, _>, _>>()?;
        Ok(Placed { paths })
    }

    /// Idempotent: refreshes configMap, secret, downwardAPI and projected content of a running pod.
    pub async fn refresh(&self, pod: &Arc<Pod>) -> Result<(), VolumeError> {
        let dir = self.pod_dir(pod)?;
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let content = volumes.iter().filter(|volume| content_plugin(volume).is_some());
        let all = futures::future::join_all(content.map(|volume| self.place_one(pod, &dir, volume))).await;
        all.into_iter().try_for_each(|placed| placed.map(drop))
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

    /// The file behind `/dev/termination-log` of that attempt (for a container whose mounts the runtime does not tell).
    pub fn termination_log(&self, uid: &PodUid, container: &str, attempt: u32) -> Option<PathBuf> {
        let dir = PodDir::new(&self.inner.root_dir, uid)?;
        is_file_name(container).then(|| termination_log(&dir, container, attempt))
    }

    /// Idempotent: unmounts and removes everything of that pod; an error names the path that is stuck.
    pub async fn remove(&self, uid: &PodUid) -> Result<(), VolumeError> {
        self.inner.tokens.forget(uid);
        let Some(dir) = PodDir::new(&self.inner.root_dir, uid) else { return Ok(()) };
        let path = dir.path().to_owned();
        let stuck = |path: PathBuf, error: io::Error| VolumeError::Remove { path, message: error.to_string() };
        self.on_disk(move || Ok(remove_tree(dir.path())))
            .await
            .map_err(|error| stuck(path, error))?
            .map_err(|(path, error)| stuck(path, error))
    }

    /// UIDs of the pods that have a directory (what a restart finds).
    pub fn pods_on_disk(&self) -> io::Result<Vec<PodUid>> {
        match std::fs::read_dir(self.inner.root_dir.join("pods")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(entries) => entries.map(|entry| Ok(PodUid::new(entry?.file_name().to_string_lossy()))).collect(),
        }
    }

    async fn place_one(&self, pod: &Arc<Pod>, dir: &PodDir, volume: &Volume) -> Result<(String, PathBuf), VolumeError> {
        let failed = |message: String| VolumeError::SetUp { volume: volume.name.clone(), message };
        if !is_file_name(&volume.name) {
            return Err(failed("a volume's name must be a single file name".into()));
        }
        let name = volume.name.clone();
        if let Some(plugin) = content_plugin(volume) {
            let facts = self.inner.facts.borrow().clone();
            let sources = Sources { cluster: &*self.inner.cluster, tokens: &self.inner.tokens, facts: &facts, pod };
            let payload = match sources.collect(volume).await {
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
            self.on_disk(write).await.map_err(|error| failed(error.to_string()))?;
            return Ok((name, path));
        }
        if let Some(source) = &volume.empty_dir {
            let medium = match source.medium.as_deref().unwrap_or_default() {
                "" => Medium::Disk,
                "Memory" => {
                    let limit = source.size_limit.as_ref().and_then(|limit| Bytes::parse(limit).ok());
                    Medium::Memory(empty_dir::memory_size(pod, allocatable_memory(&self.inner.facts.borrow()), limit))
                }
                other => return Err(failed(format!("unknown storage medium {other:?}"))),
            };
            let (path, group, dir) = (dir.volume("kubernetes.io~empty-dir", &name), fs_group(pod), dir.clone());
            let (target, marker) = (path.clone(), name.clone());
            let make = move || empty_dir::set_up(&dir, &target, &marker, medium, group);
            self.on_disk(make).await.map_err(|error| failed(error.to_string()))?;
            return Ok((name, path));
        }
        if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            let (checked, kind) = (path.clone(), source.type_.clone().unwrap_or_default());
            let check = move || Ok(host_path::check(&checked, &kind));
            self.on_disk(check).await.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
            return Ok((name, path));
        }
        Err(failed("this kind of volume is not supported by this node".into()))
    }

    fn pod_dir(&self, pod: &Pod) -> Result<PodDir, VolumeError> {
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        PodDir::new(&self.inner.root_dir, &uid)
            .ok_or_else(|| VolumeError::Mount(format!("pod uid {:?} is no file name", uid.as_str())))
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

/// Unmounts first; only when nothing is mounted below any more are files deleted, without following links.
fn remove_tree(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    mounts::unmount_below(path)?;
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((path.to_owned(), error)),
        _ => Ok(()),
    }
}

/// 8 hex digits, the same for the same attempt: a repeated CreateContainer leaves one file.
fn termination_log(dir: &PodDir, container: &str, attempt: u32) -> PathBuf {
    // Odd multiplier, so a bijection: two attempts never share a file.
    dir.container(container).join(format!("{:08x}", attempt.wrapping_add(1).wrapping_mul(0x9e37_79b1)))
}

/// What the spec says of one container's mounts.
struct ContainerMounts {
    volume_mounts: Vec<VolumeMount>,
    termination_message_path: String,
}

fn container_mounts(pod: &Pod, name: &str) -> Option<ContainerMounts> {
    let spec = pod.spec.as_ref()?;
    let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let regular = regular.map(|c| (&c.name, &c.volume_mounts, &c.termination_message_path));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| (&c.name, &c.volume_mounts, &c.termination_message_path));
    let (_, mounts, message) = regular.chain(ephemeral).find(|(known, _, _)| *known == name)?;
    Some(ContainerMounts {
        volume_mounts: mounts.clone().unwrap_or_default(),
        termination_message_path: message.clone().unwrap_or_else(|| "/dev/termination-log".into()),
    })
}

/// One container's mounts, made on a blocking thread.
struct MountJob {
    dir: PodDir,
    pod: Arc<Pod>,
    container: String,
    attempt: u32,
    placed: Placed,
    ips: Vec<IpAddr>,
    env: Vec<(String, String)>,
    volume_mounts: Vec<VolumeMount>,
    termination_message_path: String,
    cluster_domain: String,
    recursive_read_only: bool,
}

impl MountJob {
    fn run(self) -> Result<Vec<Mount>, VolumeError> {
        if !is_file_name(&self.container) {
            return Err(VolumeError::Mount(format!("container name {:?} is no file name", self.container)));
        }
        let mut mounts = Vec::with_capacity(self.volume_mounts.len() + 2);
        for (index, mount) in self.volume_mounts.iter().enumerate() {
            mounts.push(self.volume_mount(index, mount).map_err(VolumeError::Mount)?);
        }
        mounts
            .extend(self.hosts().map_err(|error| VolumeError::Mount(format!("cannot write the hosts file: {error}")))?);
        let log = self.termination_log();
        mounts.extend(log.map_err(|error| VolumeError::Mount(format!("cannot create the termination log: {error}")))?);
        Ok(mounts)
    }

    fn volume_mount(&self, index: usize, mount: &VolumeMount) -> Result<Mount, String> {
        let volume = self.placed.paths.get(&mount.name).ok_or_else(|| {
            format!("cannot find volume {:?} to mount into container {:?}", mount.name, self.container)
        })?;
        let read_only = mount.read_only.unwrap_or(false) || self.is_content(&mount.name);
        let recursive_read_only = match mount.recursive_read_only.as_deref() {
            Some("Enabled") => true,
            Some("IfPossible") => self.recursive_read_only,
            _ => false,
        };
        let host_path = match self.sub_path(mount)? {
            None => volume.clone(),
            Some(sub_path) => self.bind_sub_path(index, mount, volume, Path::new(&sub_path))?,
        };
        Ok(Mount {
            host_path,
            container_path: absolute(&mount.mount_path),
            read_only,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
            recursive_read_only,
            selinux_relabel: false,
        })
    }

    /// The subPath with variables replaced, checked to be relative and without a way up.
    fn sub_path(&self, mount: &VolumeMount) -> Result<Option<String>, String> {
        let path = match (mount.sub_path_expr.as_deref(), mount.sub_path.as_deref()) {
            (Some(expression), _) if !expression.is_empty() => sub_path::expand(expression, &self.env)?,
            (_, Some(path)) if !path.is_empty() => path.to_owned(),
            _ => return Ok(None),
        };
        if Path::new(&path).is_absolute() {
            return Err(format!("error SubPath `{path}` must not be an absolute path"));
        }
        if !is_below(Path::new(&path)) {
            return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
        }
        Ok(Some(path))
    }

    fn bind_sub_path(&self, index: usize, mount: &VolumeMount, volume: &Path, path: &Path) -> Result<PathBuf, String> {
        let (name, container) = (&mount.mount_path, &self.container);
        sub_path::make(volume, path).map_err(|error| {
            tracing::warn!(%error, volume = mount.name, "subPath directory not made");
            format!("failed to create subPath directory for volumeMount {name:?} of container {container:?}")
        })?;
        let target = self.dir.sub_path(&mount.name, container, index);
        sub_path::bind(volume, path, &target).map_err(|error| {
            tracing::warn!(%error, volume = mount.name, "subPath not bound");
            format!("failed to prepare subPath for volumeMount {name:?} of container {container:?}")
        })?;
        Ok(target)
    }

    fn is_content(&self, volume: &str) -> bool {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.filter(|known| known.name == volume).any(|known| content_plugin(known).is_some())
    }

    /// Written anew at each container start, into the same file that running containers have mounted.
    fn hosts(&self) -> io::Result<Option<Mount>> {
        let own = self.volume_mounts.iter().any(|mount| mount.mount_path == "/etc/hosts");
        let host_network = self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        if own || (self.ips.is_empty() && !host_network) {
            return Ok(None);
        }
        let text = match host_network {
            true => hosts::host_network_hosts(&self.pod, &std::fs::read_to_string("/etc/hosts").unwrap_or_default()),
            false => hosts::pod_hosts(&self.pod, &self.ips, &self.cluster_domain),
        };
        let path = self.dir.etc_hosts();
        write_with_mode(&path, text.as_bytes(), 0o644)?;
        Ok(Some(plain_mount(path, "/etc/hosts".into())))
    }

    fn termination_log(&self) -> io::Result<Option<Mount>> {
        use std::os::unix::fs::DirBuilderExt;
        if self.termination_message_path.is_empty() {
            return Ok(None);
        }
        let path = termination_log(&self.dir, &self.container, self.attempt);
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(self.dir.container(&self.container))?;
        // Any user of the container may write its last words.
        write_with_mode(&path, b"", 0o666)?;
        Ok(Some(plain_mount(path, absolute(&self.termination_message_path))))
    }
}

fn write_with_mode(path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, data)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn plain_mount(host_path: PathBuf, container_path: String) -> Mount {
    Mount {
        host_path,
        container_path,
        read_only: false,
        propagation: Propagation::Private,
        recursive_read_only: false,
        selinux_relabel: false,
    }
}

/// Relative container paths count from the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
