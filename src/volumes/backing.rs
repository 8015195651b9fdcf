//! What lies behind a volume that is not made by us: a directory of the host, a local disk, an NFS export, or a claim
//! that is bound to one of these.

use super::block::Mapping;
use super::csi::Wanted;
use super::layout::{PodDir, is_file_name};
use super::mount_command::{mount, mount_disk};
use super::ownership::Owner;
use super::usage::Extent;
use super::{VolumeError, host_path, mounts};
use crate::cluster::{Cluster, ClusterError};
use crate::decide::admit;
use crate::model::node::NodeFacts;
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, NFSVolumeSource, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, Pod, Volume, VolumeDevice, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

/// Filesystem of a local block device where the volume names none.
const DEFAULT_FS_TYPE: &str = "ext4";
/// Directories of such volumes in a pod's.
const LOCAL: &str = "kubernetes.io~local-volume";
const NFS: &str = "kubernetes.io~nfs";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    HostPath {
        path: PathBuf,
        /// `Directory`, `FileOrCreate`, … or empty.
        kind: String,
    },
    Local {
        path: PathBuf,
        fs_type: String,
    },
    Nfs {
        server: String,
        export: String,
        read_only: bool,
    },
    /// Whatever a driver makes of it.
    Csi(Box<Wanted>),
}

/// Where a volume's content is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backing {
    pub source: Source,
    /// Name of its directory among the pod's volumes: the volume's, or the persistent volume's.
    pub name: String,
    /// Every mount of it is read-only, whatever the container says.
    pub read_only: bool,
    /// It is given as a device, not as a file system.
    pub block: bool,
    pub mount_options: Vec<String>,
    /// The nodes that it is for; `None`: for all.
    pub nodes: Option<Vec<NodeSelectorTerm>>,
}

impl Backing {
    /// What a volume of the pod is made from; `None`: it is of another kind.
    pub(super) async fn of(volume: &Volume, pod: &Pod, cluster: &dyn Cluster) -> Option<Result<Self, String>> {
        let plain = |source| Self {
            source,
            name: volume.name.clone(),
            read_only: false,
            block: false,
            mount_options: Vec::new(),
            nodes: None,
        };
        if let Some(source) = &volume.host_path {
            return Some(Ok(plain(host(source))));
        }
        if let Some(source) = &volume.nfs {
            let read_only = source.read_only.unwrap_or(false);
            return Some(Ok(Self { read_only, ..plain(nfs(source, read_only)) }));
        }
        if let Some(source) = &volume.csi {
            let read_only = source.read_only.unwrap_or(false);
            let wanted = Box::new(Wanted::inline(pod, volume, source));
            return Some(Ok(Self { read_only, ..plain(Source::Csi(wanted)) }));
        }
        let (claim, read_only) = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => (claim.claim_name.clone(), claim.read_only.unwrap_or(false)),
            // The claim that the ephemeral volume controller makes for the pod.
            (None, Some(_)) => (format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name), false),
            (None, None) => return None,
        };
        let owner = volume.ephemeral.is_some().then_some(pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let bound = bound(cluster, namespace, &claim, read_only, owner).await;
        Some(bound.and_then(|backing| check_use(pod, &volume.name, backing.block).map(|()| backing)))
    }

    /// Whether it is for this node, and can be as it is asked for (`checkNodeAffinity`, `checkMountOptionSupport`).
    pub(super) fn check(&self, node: &NodeFacts) -> Result<(), VolumeError> {
        let volume = || self.name.clone();
        if self.nodes.as_ref().is_some_and(|terms| !admit::reaches_node(terms, node)) {
            let message = "no matching NodeSelectorTerms";
            return Err(match self.block {
                false => VolumeError::Check { what: "NodeAffinity", volume: volume(), message },
                true => VolumeError::Map {
                    what: "NodeAffinity check failed",
                    volume: volume(),
                    message: message.to_owned(),
                },
            });
        }
        match self.source {
            Source::HostPath { .. } if !self.mount_options.is_empty() => {
                let message = "mount options are not supported for this volume type";
                Err(VolumeError::Check { what: "MountOptionSupport", volume: volume(), message })
            }
            Source::HostPath { .. } | Source::Local { .. } | Source::Nfs { .. } | Source::Csi(_) => Ok(()),
        }
    }

    /// How to find out what of it is used; `None`: it is the host's.
    pub(super) fn extent(&self, root_dir: &Path, dir: &PodDir) -> Option<Extent> {
        match &self.source {
            Source::HostPath { .. } => None,
            Source::Local { .. } if self.block => {
                Some(Extent::Device(Mapping::local(root_dir, dir, &self.name).bound().to_owned()))
            }
            Source::Local { .. } => Some(Extent::FileSystem(dir.volume(LOCAL, &self.name))),
            Source::Nfs { .. } => Some(Extent::FileSystem(dir.volume(NFS, &self.name))),
            Source::Csi(wanted) => Some(wanted.extent(root_dir, dir)),
        }
    }

    /// Makes the device of a block volume available; doing it again changes nothing. Blocks.
    pub(super) fn map(&self, root_dir: &Path, dir: &PodDir) -> Result<PathBuf, VolumeError> {
        let failed = |what, message: String| VolumeError::Map { what, volume: self.name.clone(), message };
        let Source::Local { path, .. } = &self.source else {
            let what = "FindMapperPluginBySpec failed to find BlockVolumeMapper plugin. Volume plugin is nil.";
            return Err(failed(what, "this kind of volume is no device".to_owned()));
        };
        let mapping = Mapping::local(root_dir, dir, &self.name);
        if !mapping.is_mapped() {
            let mapped = mapping.note(path).and_then(|()| mapping.map(path));
            mapped.map_err(|error| failed("MapBlockVolume failed", error.to_string()))?;
        }
        Ok(mapping.link)
    }

    /// Makes the content available on the host; doing it again changes nothing. Blocks.
    pub(super) fn place(&self, dir: &PodDir, owner: Option<Owner>) -> io::Result<Result<PathBuf, VolumeError>> {
        let failed = |message| VolumeError::SetUp { volume: self.name.clone(), message };
        self.place_as(dir, owner).map(|placed| placed.map_err(failed))
    }

    fn place_as(&self, dir: &PodDir, owner: Option<Owner>) -> io::Result<Result<PathBuf, String>> {
        match &self.source {
            Source::HostPath { path, kind } => Ok(host_path::check(path, kind).map(|()| path.clone())),
            Source::Local { path, fs_type } => self.place_local(path, fs_type, dir, owner),
            Source::Csi(wanted) => Ok(Err(format!("driver {} places it", wanted.driver))),
            Source::Nfs { server, export, read_only } => {
                let target = dir.volume(NFS, &self.name);
                make_target(&target)?;
                if mounts::is_mount_point(&target)? {
                    return Ok(Ok(target));
                }
                let mut options = self.mount_options.clone();
                options.extend(read_only.then(|| "ro".to_owned()));
                // An IPv6 address has colons of its own.
                let server = if server.parse::<Ipv6Addr>().is_ok() { &format!("[{server}]") } else { server };
                Ok(mount("nfs", &format!("{server}:{export}"), &target, &options).map(|()| target))
            }
        }
    }

    /// It is shown only once it is the group's: who was interrupted before that begins again.
    fn place_local(
        &self,
        path: &Path,
        fs_type: &str,
        dir: &PodDir,
        owner: Option<Owner>,
    ) -> io::Result<Result<PathBuf, String>> {
        let target = dir.volume(LOCAL, &self.name);
        let Ok(found) = fs::metadata(path) else {
            return Ok(Err(format!("path {:?} does not exist", path.display().to_string())));
        };
        make_target(&target)?;
        if mounts::is_mount_point(&target)? {
            return Ok(Ok(target));
        }
        let owner = owner.filter(|_| !self.read_only);
        let first = if owner.is_some() { dir.plugin(LOCAL, &self.name) } else { target.clone() };
        make_target(&first)?;
        if !mounts::is_mount_point(&first)? {
            if found.file_type().is_block_device() {
                let mut options = self.mount_options.clone();
                options.extend(self.read_only.then(|| "ro".to_owned()));
                if let Err(why) = mount_disk(fs_type, path, &first, &options) {
                    let (device, at) = (path.display(), first.display());
                    return Ok(Err(format!(
                        "local: failed to mount device {device} at {at} (fstype: {fs_type}), error {why}"
                    )));
                }
            } else {
                mounts::bind(path, &first)?;
            }
        }
        if let Some(owner) = owner {
            owner.take(&first)?;
            mounts::bind(&first, &target)?;
            mounts::unmount(&first)?;
            fs::remove_dir(&first)?;
        }
        Ok(Ok(target))
    }
}

fn make_target(target: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(target)
}

/// `owner`: the pod that the claim must have been made for.
async fn bound(
    cluster: &dyn Cluster,
    namespace: &str,
    name: &str,
    read_only: bool,
    owner: Option<&Pod>,
) -> Result<Backing, String> {
    let failed = |why: String| format!("error processing PVC {namespace}/{name}: {why}");
    let claim = cluster.persistent_volume_claim(namespace, name).await;
    let claim = claim.map_err(|error| failed(format!("failed to fetch PVC from API server: {error}")))?;
    let volume = volume_of(&claim).map_err(failed)?;
    owner.map_or(Ok(()), |pod| check_made_for(&claim, pod))?;
    let found = cluster.persistent_volume(volume).await.map_err(|error| match error {
        ClusterError::NotFound(_) => failed(format!("failed to fetch PV {volume} from API server: {error}")),
        error => failed(error.to_string()),
    })?;
    of_volume(&found, &claim, read_only).map_err(failed)
}

/// Somebody else's claim may have the name of the one that is made for a pod's ephemeral volume (`VolumeIsForPod`).
fn check_made_for(claim: &PersistentVolumeClaim, pod: &Pod) -> Result<(), String> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true)).map(|owner| &owner.uid);
    if controller.is_some() && controller == pod.metadata.uid.as_ref() {
        return Ok(());
    }
    let full = |meta: &ObjectMeta| {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        format!("{}/{}", text(&meta.namespace), text(&meta.name))
    };
    let (claim, pod) = (full(&claim.metadata), full(&pod.metadata));
    Err(format!("PVC {claim} was not created for pod {pod} (pod is not owner)"))
}

/// Name of the volume that a claim is bound to.
fn volume_of(claim: &PersistentVolumeClaim) -> Result<&str, String> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    match (phase, volume) {
        (Some("Bound"), Some(volume)) => Ok(volume),
        _ => Err("PVC is not bound".to_owned()),
    }
}

/// The persistent volume's content, once volume and claim name one another.
fn of_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim, read_only: bool) -> Result<Backing, String> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    if !is_file_name(&name) {
        return Err(format!("PV {name:?}: its name is no file name"));
    }
    let Some(spec) = &volume.spec else { return Err(format!("PV {name} has no spec")) };
    let Some(holder) = &spec.claim_ref else {
        let why = "it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim";
        return Err(format!("found PV object {name} but {why}"));
    };
    if holder.uid != claim.metadata.uid {
        let uid = |uid: &Option<String>| uid.clone().unwrap_or_default();
        let (holder, claim) = (uid(&holder.uid), uid(&claim.metadata.uid));
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {holder} does not point to claim.UID {claim}"
        ));
    }
    let csi = || Wanted::of_volume(volume, claim, read_only).map(|wanted| Source::Csi(Box::new(wanted)));
    let source = source_of(spec, read_only).or_else(csi).ok_or_else(|| {
        format!("PV {name} is of a kind that this node does not support: only hostPath, local, nfs and csi are")
    })?;
    let mount_options = spec.mount_options.clone().unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    let nodes = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let nodes = nodes.map(|selector| selector.node_selector_terms.clone());
    Ok(Backing { source, name, read_only, block, mount_options, nodes })
}

/// Containers must take it for what it is (`desiredStateOfWorldPopulator.createVolumeSpec`).
fn check_use(pod: &Pod, volume: &str, block: bool) -> Result<(), String> {
    let mounts = |mounts: &Option<Vec<VolumeMount>>| mounts.iter().flatten().any(|mount| mount.name == volume);
    let devices = |devices: &Option<Vec<VolumeDevice>>| devices.iter().flatten().any(|device| device.name == volume);
    let spec = pod.spec.iter();
    let mut uses = spec.flat_map(|spec| {
        let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let regular = regular.map(|c| (&c.volume_mounts, &c.volume_devices));
        regular.chain(spec.ephemeral_containers.iter().flatten().map(|c| (&c.volume_mounts, &c.volume_devices)))
    });
    match block {
        true if uses.any(|(named, _)| mounts(named)) => {
            Err(format!("volume {volume} has volumeMode Block, but is specified in volumeMounts"))
        }
        false if uses.any(|(_, named)| devices(named)) => {
            Err(format!("volume {volume} has volumeMode Filesystem, but is specified in volumeDevices"))
        }
        _ => Ok(()),
    }
}

/// `read_only`: the pod says so of its claim, which is all that counts (`getVolumeSource`).
fn source_of(spec: &PersistentVolumeSpec, read_only: bool) -> Option<Source> {
    if let Some(source) = &spec.host_path {
        return Some(host(source));
    }
    if let Some(source) = &spec.local {
        let fs_type = source.fs_type.clone().unwrap_or_else(|| DEFAULT_FS_TYPE.to_owned());
        return Some(Source::Local { path: PathBuf::from(&source.path), fs_type });
    }
    spec.nfs.as_ref().map(|source| nfs(source, read_only))
}

fn host(source: &HostPathVolumeSource) -> Source {
    Source::HostPath { path: PathBuf::from(&source.path), kind: source.type_.clone().unwrap_or_default() }
}

fn nfs(source: &NFSVolumeSource, read_only: bool) -> Source {
    Source::Nfs { server: source.server.clone(), export: source.path.clone(), read_only }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(volume: Value, claim: Value, expected: &str) {
        let volume = serde_json::from_value(volume).unwrap();
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let answer = volume_of(&claim).and_then(|_| of_volume(&volume, &claim, false));
        let text = match answer {
            Ok(backing) => format!("{:?}", backing.source),
            Err(why) => why,
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn a_claim_leads_to_the_volume_that_is_bound_to_it() {
        let claim = |phase: &str| json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"volumeName": "pv"}, "status": {"phase": phase}});
        let volume = |uid: &str, source: Value| {
            let mut volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"name": "c", "uid": uid}}});
            volume["spec"].as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            volume
        };
        let disk = json!({"hostPath": {"path": "/data", "type": "Directory"}});
        check(volume("u", disk.clone()), claim("Pending"), "PVC is not bound");
        check(volume("u", disk.clone()), claim("Bound"), "HostPath { path: \"/data\", kind: \"Directory\" }");
        check(
            volume("x", disk),
            claim("Bound"),
            "found PV object pv but its pv.Spec.ClaimRef.UID x does not point to claim.UID u",
        );
        check(
            json!({"metadata": {"name": "pv"}, "spec": {"hostPath": {"path": "/data"}}}),
            claim("Bound"),
            "found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim",
        );
        check(
            volume("u", json!({"local": {"path": "/mnt/ssd"}})),
            claim("Bound"),
            "Local { path: \"/mnt/ssd\", fs_type: \"ext4\" }",
        );
        check(
            volume("u", json!({"nfs": {"server": "s", "path": "/e", "readOnly": true}})),
            claim("Bound"),
            "Nfs { server: \"s\", export: \"/e\", read_only: false }",
        );
        check(
            volume("u", json!({"iscsi": {"targetPortal": "t", "iqn": "i", "lun": 0}})),
            claim("Bound"),
            "PV pv is of a kind that this node does not support: only hostPath, local, nfs and csi are",
        );
    }

    #[test]
    fn an_ephemeral_volumes_claim_must_have_been_made_for_the_pod() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}})).unwrap();
        let owner = |uid: &str, controller: bool| json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": controller}]);
        for (owners, is_its_own) in
            [(owner("u", true), true), (owner("u", false), false), (owner("x", true), false), (json!([]), false)]
        {
            let meta = json!({"name": "p-v", "namespace": "d", "ownerReferences": owners});
            let claim = serde_json::from_value(json!({"metadata": meta})).unwrap();
            let refused = "PVC d/p-v was not created for pod d/p (pod is not owner)".to_owned();
            assert_eq!(check_made_for(&claim, &pod), if is_its_own { Ok(()) } else { Err(refused) });
        }
    }

    #[test]
    fn a_volume_of_another_node_and_options_that_nobody_mounts_with_are_refused() {
        let claim = json!({"metadata": {"uid": "u"}, "spec": {}});
        let claim = serde_json::from_value(claim).unwrap();
        let labels = [("zone".to_owned(), "b".to_owned())].into();
        let node = NodeFacts { labels, ..NodeFacts::default() };
        let of_zone = |zone: &str| {
            let rule = json!({"key": "zone", "operator": "In", "values": [zone]});
            json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}})
        };
        let affinity = "check failed for volume \"pv\" : no matching NodeSelectorTerms";
        for (more, refused) in [
            (json!({"local": {"path": "/d"}}), String::new()),
            (json!({"local": {"path": "/d"}, "nodeAffinity": of_zone("b")}), String::new()),
            (json!({"local": {"path": "/d"}, "nodeAffinity": of_zone("a")}), format!("MountVolume.NodeAffinity {affinity}")),
            (
                json!({"local": {"path": "/d"}, "nodeAffinity": of_zone("a"), "volumeMode": "Block"}),
                format!("MapVolume.NodeAffinity {affinity}"),
            ),
            (json!({"nfs": {"server": "s", "path": "/e"}, "mountOptions": ["hard"]}), String::new()),
            (
                json!({"hostPath": {"path": "/d"}, "mountOptions": ["hard"]}),
                "MountVolume.MountOptionSupport check failed for volume \"pv\" : mount options are not supported for this volume type".to_owned(),
            ),
        ] {
            let mut spec = json!({"claimRef": {"uid": "u"}});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let volume = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap();
            let checked = of_volume(&volume, &claim, false).unwrap().check(&node);
            assert_eq!(checked.map_err(|error| error.to_string()).err().unwrap_or_default(), refused, "{more}");
        }
    }

    #[test]
    fn a_local_directory_is_bound_and_a_missing_one_is_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = PodDir::new(root.path(), &crate::ids::PodUid::new("u")).unwrap();
        let backing = |path: &Path| Backing {
            source: Source::Local { path: path.to_owned(), fs_type: "ext4".into() },
            name: "pv".into(),
            read_only: false,
            block: false,
            mount_options: Vec::new(),
            nodes: None,
        };
        let missing = root.path().join("none");
        let why = backing(&missing).place_as(&dir, None).unwrap().unwrap_err();
        assert_eq!(why, format!("path {:?} does not exist", missing.display().to_string()));
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: bind mounts need root");
            return;
        }
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("f"), "here").unwrap();
        for _ in 0..2 {
            let placed = backing(&data).place(&dir, None).unwrap().unwrap();
            assert_eq!(fs::read_to_string(placed.join("f")).unwrap(), "here");
        }
        super::super::remove_tree(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(data.join("f")).unwrap(), "here", "never deleted across the mount");
    }
}
