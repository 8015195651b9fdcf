//! The mounts of one container: its volumeMounts, `/etc/hosts` and the termination log. Runs on a blocking thread.

use super::layout::{PodDir, is_below, is_file_name};
use super::{Placed, VolumeError, content_plugin, hosts, sub_path};
use crate::model::devices::DeviceNode;
use crate::runtime::{Mount, Propagation};
use k8s_openapi::api::core::v1::{Pod, VolumeDevice, VolumeMount};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// 8 hex digits, the same for the same attempt: a repeated CreateContainer leaves one file.
pub(super) fn termination_log(dir: &PodDir, container: &str, attempt: u32) -> PathBuf {
    // Odd multiplier, so a bijection: two attempts never share a file.
    dir.container(container).join(format!("{:08x}", attempt.wrapping_add(1).wrapping_mul(0x9e37_79b1)))
}

/// What the spec says of one container's mounts.
pub(super) struct ContainerMounts {
    pub volume_mounts: Vec<VolumeMount>,
    pub volume_devices: Vec<VolumeDevice>,
    pub termination_message_path: String,
}

/// One of a container's volumeDevices (`makeBlockVolumes`).
pub(super) fn block_device(device: &VolumeDevice, container: &str, placed: &Placed) -> Result<DeviceNode, VolumeError> {
    let (name, path) = (&device.name, &device.device_path);
    if !path.starts_with('/') {
        return Err(VolumeError::Mount(format!("error DevicePath `{path}` must be an absolute path")));
    }
    let host_path = placed.devices.get(name).cloned().ok_or_else(|| {
        VolumeError::Mount(format!("cannot find volume {name:?} to pass into container {container:?}"))
    })?;
    let permissions = if placed.read_only.contains(name) { "r" } else { "mrw" };
    Ok(DeviceNode {
        container_path: path.clone(),
        host_path: host_path.display().to_string(),
        permissions: permissions.to_owned(),
    })
}

pub(super) fn container_mounts(pod: &Pod, name: &str) -> Option<ContainerMounts> {
    let spec = pod.spec.as_ref()?;
    let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let regular = regular.map(|c| (&c.name, &c.volume_mounts, &c.volume_devices, &c.termination_message_path));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| (&c.name, &c.volume_mounts, &c.volume_devices, &c.termination_message_path));
    let (_, mounts, devices, message) = regular.chain(ephemeral).find(|(known, ..)| *known == name)?;
    Some(ContainerMounts {
        volume_mounts: mounts.clone().unwrap_or_default(),
        volume_devices: devices.clone().unwrap_or_default(),
        termination_message_path: message.clone().unwrap_or_else(|| "/dev/termination-log".into()),
    })
}

/// One container's mounts to be made.
pub(super) struct MountJob {
    pub dir: PodDir,
    pub pod: Arc<Pod>,
    pub container: String,
    pub attempt: u32,
    pub placed: Placed,
    pub ips: Vec<IpAddr>,
    pub env: Vec<(String, String)>,
    pub volume_mounts: Vec<VolumeMount>,
    pub termination_message_path: String,
    pub cluster_domain: String,
    pub recursive_read_only: bool,
}

impl MountJob {
    pub(super) fn run(self) -> Result<Vec<Mount>, VolumeError> {
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
        if let Some(image) = self.placed.images.get(&mount.name) {
            return Ok(image_mount(mount, image, self.sub_path(mount)?));
        }
        let volume = self.placed.paths.get(&mount.name).ok_or_else(|| {
            format!("cannot find volume {:?} to mount into container {:?}", mount.name, self.container)
        })?;
        let read_only = mount.read_only.unwrap_or(false)
            || self.placed.read_only.contains(&mount.name)
            || self.is_content(&mount.name);
        let recursive_read_only = match mount.recursive_read_only.as_deref() {
            Some("Enabled") if !self.recursive_read_only => {
                let why = "requested recursive read-only mode, but it is not supported by the runtime";
                return Err(format!("failed to resolve recursive read-only mode: volume {:?} {why}", mount.name));
            }
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
            image: None,
            image_sub_path: String::new(),
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
        let (name, container) = (&mount.name, &self.container);
        let made = match fs::metadata(volume.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => sub_path::make(volume, path),
            // As the kubelet: what is there is refused only when it is bound, wherever it is.
            Ok(_) | Err(_) => Ok(()),
        };
        made.map_err(|error| {
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
            true => hosts::host_network_hosts(&self.pod, &fs::read_to_string("/etc/hosts").unwrap_or_default()),
            false => hosts::pod_hosts(&self.pod, &self.ips, &self.cluster_domain),
        };
        let path = self.dir.etc_hosts();
        write_with_mode(&path, text.as_bytes(), 0o644)?;
        Ok(Some(plain_mount(path, "/etc/hosts".into())))
    }

    fn termination_log(&self) -> io::Result<Option<Mount>> {
        if self.termination_message_path.is_empty() {
            return Ok(None);
        }
        let path = termination_log(&self.dir, &self.container, self.attempt);
        DirBuilder::new().recursive(true).mode(0o750).create(self.dir.container(&self.container))?;
        // Any user of the container may write its last words.
        write_with_mode(&path, b"", 0o666)?;
        Ok(Some(plain_mount(path, absolute(&self.termination_message_path))))
    }
}

fn write_with_mode(path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, data)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn plain_mount(host_path: PathBuf, container_path: String) -> Mount {
    Mount {
        host_path,
        container_path,
        read_only: false,
        propagation: Propagation::Private,
        recursive_read_only: false,
        image: None,
        image_sub_path: String::new(),
        selinux_relabel: false,
    }
}

/// An image, or a path within it, as a volume: always read-only.
fn image_mount(mount: &VolumeMount, image: &str, sub_path: Option<String>) -> Mount {
    Mount {
        image: Some(image.to_owned()),
        image_sub_path: sub_path.unwrap_or_default(),
        read_only: true,
        ..plain_mount(PathBuf::new(), absolute(&mount.mount_path))
    }
}

/// Relative container paths count from the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
