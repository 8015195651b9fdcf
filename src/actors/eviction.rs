//! Measures what pods with limits use of the disk, and has those evicted that use more than they may.

use crate::actors::pods::PodsHandle;
use crate::clock;
use crate::decide::evict::{self, DiskUse};
use crate::ids::PodUid;
use crate::model::observed::ContainerState;
use crate::runtime::Runtime;
use crate::volumes::Volumes;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The kubelet's monitoring interval (`evictionMonitoringPeriod`).
const PERIOD: Duration = Duration::from_secs(10);
/// A tree that takes longer to walk lies on a disk that hangs; its pod is measured again the next time.
const WALK_DEADLINE: Duration = Duration::from_secs(60);

/// A pod that is to go, and the message that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub uid: PodUid,
    pub message: String,
}

/// The actor; `run` it under the supervisor.
pub struct EvictionTask {
    pub runtime: Arc<dyn Runtime>,
    pub volumes: Volumes,
    pub pods: PodsHandle,
    pub pod_logs: PathBuf,
    pub evictions: mpsc::Sender<Eviction>,
}

impl EvictionTask {
    pub async fn run(self) {
        let mut next = clock::now().mono + PERIOD;
        loop {
            tokio::time::sleep_until(next).await;
            next = clock::now().mono + PERIOD;
            let limited: Vec<_> = self.pods.list().into_iter().filter(|pod| runs_limited(pod)).collect();
            if limited.is_empty() {
                continue;
            }
            let layers = self.layers().await;
            for pod in limited {
                let (Some(spec), Some(uid)) = (&pod.spec, pod.metadata.uid.as_deref().map(PodUid::new)) else {
                    continue;
                };
                let Some(used) = self.measure(&pod, spec, &uid, &layers).await else { continue };
                if let Some(message) = evict::exceeds(spec, &used)
                    && self.evictions.send(Eviction { uid, message }).await.is_err()
                {
                    return;
                }
            }
        }
    }

    /// Bytes of each container's writable layer, by pod and name; unknown where the runtime does not say.
    async fn layers(&self) -> BTreeMap<(PodUid, String), u64> {
        match self.runtime.stats().await {
            Ok(stats) => stats
                .into_iter()
                .filter_map(|one| Some(((one.pod?.0, one.name), one.writable_layer_used_bytes)))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "disk usage of containers not read");
                BTreeMap::new()
            }
        }
    }

    /// `None`: could not look.
    async fn measure(
        &self,
        pod: &Pod,
        spec: &PodSpec,
        uid: &PodUid,
        layers: &BTreeMap<(PodUid, String), u64>,
    ) -> Option<DiskUse> {
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let (namespace, name) = (of(&pod.metadata.namespace), of(&pod.metadata.name));
        let logs = self.pod_logs.join(format!("{namespace}_{name}_{uid}"));
        let on_disk = |volume: &&k8s_openapi::api::core::v1::Volume| {
            volume.empty_dir.as_ref().is_some_and(|source| source.medium.as_deref().unwrap_or_default().is_empty())
        };
        let volumes: Vec<(String, PathBuf)> = spec
            .volumes
            .iter()
            .flatten()
            .filter(on_disk)
            .filter_map(|volume| Some((volume.name.clone(), self.volumes.empty_dir(uid, &volume.name)?)))
            .collect();
        let containers: Vec<String> = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .filter(|container| self.is_alive(uid, &container.name))
            .map(|container| container.name.clone())
            .collect();
        let layers: Vec<u64> = containers
            .iter()
            .map(|container| layers.get(&(uid.clone(), container.clone())).copied().unwrap_or(0))
            .collect();
        let walk = move || DiskUse {
            volumes: volumes.into_iter().map(|(name, path)| (name, size_of(&path))).collect(),
            containers: containers
                .into_iter()
                .zip(layers)
                .map(|(name, layer)| {
                    let logs = size_of(&logs.join(&name));
                    (name, layer + logs)
                })
                .collect(),
        };
        tokio::time::timeout(WALK_DEADLINE, tokio::task::spawn_blocking(walk)).await.ok()?.ok()
    }

    fn is_alive(&self, uid: &PodUid, container: &str) -> bool {
        self.pods.observed(uid).is_some_and(|seen| {
            let mut named = seen.containers.iter().filter(|known| known.name.as_str() == container);
            named.any(|known| matches!(known.state, ContainerState::Running { .. }))
        })
    }
}

fn runs_limited(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let runs = !matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none();
    runs && pod.spec.as_ref().is_some_and(evict::is_limited)
}

/// Bytes that a tree takes on its disk, as `du` counts them; links are not followed, what vanishes meanwhile counts nothing.
fn size_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    /// `st_blocks` counts these, whatever the file system's own block size.
    const BLOCK_BYTES: u64 = 512;
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    let below = match meta.is_dir() {
        true => std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size_of(&entry.path())).sum(),
        false => 0,
    };
    meta.blocks() * BLOCK_BYTES + below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_as_large_as_its_files_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 1 << 20]).unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let size = size_of(dir.path());
        assert!((1 << 20..3 << 19).contains(&size), "{size}");
        assert_eq!(size_of(&dir.path().join("none")), 0);
    }
}
