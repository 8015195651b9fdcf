//! The pod's volumes on the host: placed before its containers start, removed after they ended.

use crate::cluster::ClusterError;
use crate::ids::PodUid;
use crate::runtime::Mount;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a volume is not there yet; the text is the kubelet's (`MountVolume.SetUp failed for volume "x" : …`).
#[derive(Debug, Clone, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {message}")]
    SetUp { volume: String, message: String },
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
    // A3 fills.
}

impl Volumes {
    /// Idempotent: renders and places every volume of the pod, makes the pod's directories as the kubelet lays them out.
    pub async fn place(&self, _pod: &Arc<Pod>) -> Result<Placed, VolumeError> {
        todo!("A3")
    }
    /// Idempotent: refreshes configMap, secret, downwardAPI and projected content of a running pod.
    pub async fn refresh(&self, _pod: &Arc<Pod>) -> Result<(), VolumeError> {
        todo!("A3")
    }
    /// The mounts of one container: its volumeMounts (subPath resolved safely), /etc/hosts, /dev/termination-log.
    pub async fn mounts(
        &self,
        _pod: &Arc<Pod>,
        _container: &str,
        _attempt: u32,
        _placed: &Placed,
        _ips: &[std::net::IpAddr],
    ) -> Result<Vec<Mount>, VolumeError> {
        todo!("A3")
    }
    /// Idempotent: unmounts and removes everything of that pod; an error names the path that is stuck.
    pub async fn remove(&self, _uid: &PodUid) -> Result<(), VolumeError> {
        todo!("A3")
    }
}
