//! What pods keep on disk: logs, writable layers, volumes. Walks are bounded, and their results kept for a while.

use super::{Inner, StatsError, Subject};
use crate::clock;
use crate::disk;
use crate::ids::{ContainerName, PodUid};
use crate::model::stats::{Device, FsUse, PodDisk, TreeUse, VolumeUse};
use crate::volumes::Use;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Volume;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Walks over all pods together; a tree that takes longer lies on a disk that hangs.
pub(super) const WALK_DEADLINE: Duration = Duration::from_secs(60);

/// The last walk of each pod. Behind one lock for the time of a walk: who asks meanwhile shares its result.
#[derive(Default)]
pub(super) struct DiskCache {
    known: Arc<Mutex<BTreeMap<PodUid, (Instant, PodDisk)>>>,
}

impl DiskCache {
    pub(super) async fn get(
        &self,
        inner: &Inner,
        subjects: &[Subject],
        max_age: Duration,
    ) -> Result<BTreeMap<PodUid, PodDisk>, StatsError> {
        let mut known = self.known.clone().lock_owned().await;
        let begun = clock::now().mono;
        let fresh = |known: &BTreeMap<PodUid, (Instant, PodDisk)>, uid: &PodUid| {
            known.get(uid).is_some_and(|(at, _)| begun.duration_since(*at) < max_age)
        };
        let stale: Vec<&Subject> = subjects.iter().filter(|subject| !fresh(&known, &subject.uid())).collect();
        if !stale.is_empty() {
            let uses = join_all(stale.iter().map(|subject| inner.volumes.uses(&subject.pod)));
            let (layers, uses) = tokio::join!(layers(inner), uses);
            let stale = stale.into_iter().zip(uses);
            let jobs: Vec<Job> = stale.map(|(subject, uses)| Job::new(inner, subject, &layers, uses)).collect();
            // The lock goes with the walk: a second one beside it would only make the disk slower.
            known = tokio::task::spawn_blocking(move || {
                for job in jobs {
                    let uid = job.uid.clone();
                    known.insert(uid, (clock::now().mono, job.run()));
                }
                known
            })
            .await
            .map_err(|error| StatsError::Read { what: "the disk".to_owned(), source: std::io::Error::other(error) })?;
            // Only pods that are asked for stay: the others are gone, or will be walked again.
            known.retain(|uid, _| subjects.iter().any(|subject| subject.uid() == *uid));
        }
        Ok(known.iter().map(|(uid, (_, disk))| (uid.clone(), disk.clone())).collect())
    }
}

/// Writable layers by pod and container; none where the runtime does not say.
async fn layers(inner: &Inner) -> BTreeMap<(PodUid, String), TreeUse> {
    match inner.runtime.stats().await {
        Ok(stats) => stats
            .into_iter()
            .filter_map(|one| {
                let layer = TreeUse { bytes: one.writable_layer_used_bytes, inodes: one.writable_layer_inodes_used };
                Some(((one.pod?.0, one.name), layer))
            })
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "disk usage of containers not read");
            BTreeMap::new()
        }
    }
}

/// One pod's walk, with all that it needs to know beforehand.
struct Job {
    uid: PodUid,
    logs: PathBuf,
    containers: Vec<ContainerName>,
    layers: BTreeMap<ContainerName, TreeUse>,
    folder: Option<PathBuf>,
    /// Those that are made by us, and whether what they hold is the node's ephemeral storage.
    own: Vec<(String, bool)>,
    /// The others, and the claims behind them.
    uses: Vec<(String, Use, Option<String>)>,
}

impl Job {
    fn new(
        inner: &Inner,
        subject: &Subject,
        layers: &BTreeMap<(PodUid, String), TreeUse>,
        mut uses: BTreeMap<String, Use>,
    ) -> Self {
        let meta = &subject.pod.metadata;
        let uid = subject.uid();
        let (namespace, name) =
            (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let names: Vec<ContainerName> = subject.seen.containers.iter().map(|c| c.name.clone()).collect();
        let layer = |name: &ContainerName| layers.get(&(uid.clone(), name.to_string())).copied();
        let volumes = || subject.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let used = |volume: &Volume| Some((volume.name.clone(), uses.remove(&volume.name)?, claim(volume, name)));
        Self {
            logs: inner.pod_logs.join(format!("{namespace}_{name}_{uid}")),
            layers: names.iter().filter_map(|name| Some((name.clone(), layer(name)?))).collect(),
            folder: inner.volumes.folder(&uid),
            own: volumes().filter_map(|volume| Some((volume.name.clone(), is_local(volume)?))).collect(),
            uses: volumes().filter_map(used).collect(),
            containers: names,
            uid,
        }
    }

    fn run(self) -> PodDisk {
        let logs = self.containers.iter().map(|name| (name.clone(), disk::tree(&self.logs.join(name.as_str()))));
        let mut found = PodDisk { logs: logs.collect(), layers: self.layers, ..PodDisk::default() };
        let Some(folder) = self.folder else { return found };
        found.own = disk::tree(&folder.join("containers")) + disk::tree(&folder.join("etc-hosts"));
        for (name, local) in self.own {
            let Some(path) = volume_path(&folder, &name) else { continue };
            let Ok(usage) = disk::usage(&path) else { continue };
            let tree = disk::tree(&path);
            let fs = FsUse { used: tree.bytes, inodes_used: tree.inodes, ..usage.into() };
            found.volumes.insert(name, VolumeUse { fs, local, ..VolumeUse::default() });
        }
        for (name, used, claim) in self.uses {
            let Use { fs, abnormal } = used;
            found.volumes.insert(name, VolumeUse { fs, local: false, claim, abnormal });
        }
        found
    }
}

/// Of volumes that are made by us. True: its content is the node's ephemeral storage.
fn is_local(volume: &Volume) -> Option<bool> {
    if let Some(source) = &volume.empty_dir {
        return Some(source.medium.as_deref().unwrap_or_default().is_empty());
    }
    let content = volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some();
    // Secrets and what is projected lie in memory.
    (content || volume.projected.is_some()).then_some(volume.config_map.is_some())
}

/// The claim behind a volume of that pod, its own if it has one made for itself.
fn claim(volume: &Volume, pod: &str) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)))
}

/// `<pod>/volumes/<plugin>/<name>`, whichever the plugin is.
fn volume_path(folder: &Path, name: &str) -> Option<PathBuf> {
    let plugins = std::fs::read_dir(folder.join("volumes")).ok()?.flatten();
    plugins.map(|plugin| plugin.path().join(name)).find(|path| path.exists())
}

/// `/dev/<name>` as `/sys/dev/block` links it.
pub(super) fn device_name(device: Device) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{}:{}", device.major, device.minor));
    let name = link.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.map_or_else(String::new, |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_lies_on_the_nodes_disk_is_local() {
        let table = [
            (json!({"emptyDir": {}}), Some(true)),
            (json!({"emptyDir": {"medium": "Memory"}}), Some(false)),
            (json!({"configMap": {"name": "x"}}), Some(true)),
            (json!({"secret": {"secretName": "x"}}), Some(false)),
            (json!({"projected": {}}), Some(false)),
            (json!({"hostPath": {"path": "/"}}), None),
            (json!({"persistentVolumeClaim": {"claimName": "x"}}), None),
        ];
        for (mut volume, expected) in table {
            volume["name"] = json!("v");
            assert_eq!(is_local(&serde_json::from_value(volume.clone()).unwrap()), expected, "{volume}");
        }
    }
}
