//! What nobody waits for: volume content kept current, directories and logs of pods that are gone removed, logs
//! rotated, unused images collected.

use crate::actors::content::shows_volumes;
use crate::actors::image_gc::ImageGc;
use crate::actors::pods::PodsHandle;
use crate::ids::{ContainerId, PodUid};
use crate::logs::rotate;
use crate::model::observed::ContainerState;
use crate::runtime::Runtime;
use crate::volumes::Volumes;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often (the kubelet's `syncFrequency`, 1 min, bounds how late volume content may be).
const PERIOD: Duration = Duration::from_secs(60);
/// How often logs are measured where nothing else is said.
pub const DEFAULT_LOG_PERIOD: Duration = Duration::from_secs(10);
/// How often images are looked at (`ImageGCPeriod`).
const IMAGES_PERIOD: Duration = Duration::from_secs(300);

/// Pods that are seen to at once: their drivers may all be slow.
const AT_ONCE: usize = 16;

/// The housekeeper; `run` it under the supervisor.
pub struct Housekeeping {
    pub runtime: Arc<dyn Runtime>,
    pub volumes: Volumes,
    pub pods: PodsHandle,
    pub images: ImageGc,
    pub pod_logs: PathBuf,
    /// `containerLogMaxSize` in bytes.
    pub log_max_bytes: u64,
    /// `containerLogMaxFiles`, the one being written included.
    pub log_max_files: u32,
    /// `containerLogMaxWorkers`: rotations at a time.
    pub log_workers: usize,
    /// `containerLogMonitorInterval`.
    pub log_period: Duration,
}

impl Housekeeping {
    /// Each by itself: a disk or a driver that does not answer holds up nothing else.
    pub async fn run(self) {
        tokio::join!(
            every(IMAGES_PERIOD, Duration::ZERO, || self.images.collect()),
            every(self.log_period, self.log_period, || self.rotate_logs()),
            every(PERIOD, PERIOD, || self.refresh_content()),
            every(PERIOD, PERIOD, || self.refresh_drivers()),
            every(PERIOD, PERIOD, || self.remove_orphans()),
        );
    }

    fn with_volumes(&self) -> Vec<Arc<Pod>> {
        self.pods.list().into_iter().filter(|pod| shows_volumes(pod)).collect()
    }

    async fn refresh_content(&self) {
        for pod in self.with_volumes() {
            if let Err(error) = self.volumes.refresh(&pod).await {
                tracing::warn!(pod = pod.metadata.name, %error, "volumes not refreshed");
            }
        }
    }

    async fn refresh_drivers(&self) {
        let refresh = |pod: Arc<Pod>| async move {
            if let Err(error) = self.volumes.refresh_drivers(&pod).await {
                tracing::warn!(pod = pod.metadata.name, %error, "volumes of drivers not refreshed");
            }
        };
        stream::iter(self.with_volumes()).for_each_concurrent(AT_ONCE, refresh).await;
    }

    /// Directories are orphans when neither the API nor the runtime knows the pod; "could not ask" keeps them.
    async fn remove_orphans(&self) {
        if !self.pods.is_complete() {
            return;
        }
        let pods = self.pods.list();
        let Ok(held) = self.runtime.pods().await else { return };
        let known: BTreeSet<PodUid> = pods
            .iter()
            .filter_map(|pod| pod.metadata.uid.as_deref().map(PodUid::new))
            .chain(held.into_iter().map(|pod| pod.uid))
            .collect();
        match self.volumes.pods_on_disk() {
            Ok(on_disk) => {
                let orphans = on_disk.into_iter().filter(|uid| !known.contains(uid));
                let remove = |uid: PodUid| async move {
                    if self.pods.get_uid(&uid).is_some() {
                        return;
                    }
                    if let Err(error) = self.volumes.remove(&uid).await {
                        tracing::warn!(%uid, %error, "orphaned pod directory not removed");
                    }
                };
                stream::iter(orphans).for_each_concurrent(AT_ONCE, remove).await;
            }
            Err(error) => tracing::warn!(%error, "pod directories not listed"),
        }
        let gone = |uid: &PodUid| !known.contains(uid) && self.pods.get_uid(uid).is_none();
        if let Err(error) = remove_logs(&self.pod_logs, gone).await {
            tracing::warn!(%error, "orphaned pod logs not removed");
        }
    }

    async fn rotate_logs(&self) {
        let pods = self.pods.list();
        let seen = pods.iter().filter_map(|pod| self.pods.observed(&PodUid::new(pod.metadata.uid.as_deref()?)));
        let seen: Vec<_> = seen.collect();
        let written = seen.iter().flat_map(|seen| &seen.containers).filter(|container| {
            matches!(container.state, ContainerState::Running { .. }) && !container.log_path.is_empty()
        });
        let rotations = stream::iter(written).for_each_concurrent(self.log_workers, async |container| {
            if let Err(error) = self.rotate(&container.id, Path::new(&container.log_path)).await {
                tracing::warn!(container = %container.name, %error, "container log not rotated");
            }
        });
        rotations.await;
    }

    async fn rotate(&self, id: &ContainerId, log: &Path) -> io::Result<()> {
        let (path, max_bytes, max_files) = (log.to_owned(), self.log_max_bytes, self.log_max_files);
        let now = crate::clock::now().wall;
        let work = move || match rotate::is_due(&path, max_bytes)? {
            true => rotate::rotate(&path, max_files, now).map(Some),
            false => Ok(None),
        };
        let Some(rotated) = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?? else { return Ok(()) };
        if let Err(error) = self.runtime.reopen_log(id).await {
            rotate::undo(log, &rotated)?;
            return Err(io::Error::other(error.to_string()));
        }
        Ok(())
    }
}

/// Works again and again, `first` after the start and then each `period` after it was done.
async fn every<F: Future<Output = ()>>(period: Duration, first: Duration, work: impl Fn() -> F) {
    tokio::time::sleep(first).await;
    loop {
        work().await;
        tokio::time::sleep(period).await;
    }
}

/// Removes `<namespace>_<name>_<uid>` folders whose pod is gone.
async fn remove_logs(pod_logs: &Path, gone: impl Fn(&PodUid) -> bool) -> io::Result<()> {
    let mut entries = match tokio::fs::read_dir(pod_logs).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let Some(uid) = name.to_str().and_then(|name| name.rsplit_once('_')).map(|(_, uid)| PodUid::new(uid)) else {
            continue;
        };
        if gone(&uid) {
            tokio::fs::remove_dir_all(entry.path()).await?;
        }
    }
    Ok(())
}
