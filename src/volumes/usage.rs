//! How full volumes are that are not made by us: drivers say it of theirs, of others the file system does.

use super::{Volumes, block};
use crate::clock;
use crate::disk;
use crate::ids::PodUid;
use crate::model::stats::FsUse;
use crate::plugins::csi::Figures;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Figures are asked for while somebody waits for them: a driver that takes longer is left out.
const DEADLINE: Duration = Duration::from_secs(10);
/// How the use of a volume is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// By its file system.
    FileSystem(PathBuf),
    /// It has a size and nothing else.
    Device(PathBuf),
    /// By the driver, which knows it by this handle and sees it there.
    Driver { driver: String, handle: String, path: PathBuf },
}

/// What a volume holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub fs: FsUse,
    /// Its driver finds something wrong with it; `None`: nobody looked.
    pub abnormal: Option<bool>,
}

/// Those of all pods, from when each was placed until its pod is removed.
#[derive(Default)]
pub(super) struct Extents {
    known: Mutex<BTreeMap<PodUid, Known>>,
    /// Where somebody looks and may be kept by a server that is gone: nobody else does so meanwhile.
    looked_at: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// A look at a path, until it ends.
struct Look {
    path: PathBuf,
    all: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Drop for Look {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// A pod's volumes, and what was found of them last.
#[derive(Default)]
struct Known {
    extents: BTreeMap<String, Extent>,
    found: Option<(Instant, BTreeMap<String, Use>)>,
}

impl Extents {
    pub(super) fn note(&self, pod: &Pod, volume: &str, extent: Extent) {
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        let mut all = self.all();
        let known = all.entry(uid).or_default();
        if known.extents.get(volume) != Some(&extent) {
            known.extents.insert(volume.to_owned(), extent);
            known.found = None;
        }
    }

    pub(super) fn forget(&self, uid: &PodUid) {
        self.all().remove(uid);
    }

    fn of(&self, uid: &PodUid) -> BTreeMap<String, Extent> {
        self.all().get(uid).map(|known| known.extents.clone()).unwrap_or_default()
    }

    /// What was found lately enough.
    fn found(&self, uid: &PodUid, now: Instant, max_age: Duration) -> Option<BTreeMap<String, Use>> {
        let all = self.all();
        let (at, found) = all.get(uid)?.found.as_ref()?;
        (now.duration_since(*at) < max_age).then(|| found.clone())
    }

    fn keep(&self, uid: &PodUid, at: Instant, found: &BTreeMap<String, Use>) {
        if let Some(known) = self.all().get_mut(uid) {
            known.found = Some((at, found.clone()));
        }
    }

    /// `None`: somebody looks there, and has not come back.
    fn look(&self, path: &Path) -> Option<Look> {
        let new = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        new.then(|| Look { path: path.to_owned(), all: self.looked_at.clone() })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<PodUid, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volumes {
    /// Of the pod's volumes that are not made by us, by name; without those whose driver does not say, and none where
    /// volumes are not measured.
    pub async fn uses(&self, pod: &Pod) -> BTreeMap<String, Use> {
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        let now = clock::now().mono;
        // Who watches limits looks every few seconds: drivers are asked that often at most, which together with how long
        // their answers are kept elsewhere comes to about that period.
        let Some(period) = self.measured_every else { return BTreeMap::new() };
        if let Some(found) = self.inner.extents.found(&uid, now, period / 2) {
            return found;
        }
        let asked = self.inner.extents.of(&uid).into_iter().map(|(name, extent)| async move {
            let look = async {
                match extent {
                    Extent::FileSystem(path) => self.measure(path, |path| Ok(disk::usage(path)?.into())).await,
                    Extent::Device(path) => {
                        let size = |path: &Path| Ok(FsUse { capacity: block::size(path)?, ..FsUse::default() });
                        self.measure(path, size).await
                    }
                    Extent::Driver { driver, handle, path } => {
                        self.ask_driver(pod, &name, &driver, &handle, &path).await
                    }
                }
            };
            let found = tokio::time::timeout(DEADLINE, look).await.ok().flatten();
            Some((name, found?))
        });
        let found = futures::future::join_all(asked).await.into_iter().flatten().collect();
        self.inner.extents.keep(&uid, now, &found);
        found
    }

    async fn measure(
        &self,
        path: PathBuf,
        how: impl FnOnce(&Path) -> io::Result<FsUse> + Send + 'static,
    ) -> Option<Use> {
        let look = self.inner.extents.look(&path)?;
        let fs = self.on_disk(move || how(&look.path)).await.ok()?;
        Some(Use { fs, abnormal: None })
    }

    async fn ask_driver(&self, pod: &Pod, volume: &str, driver: &str, handle: &str, path: &Path) -> Option<Use> {
        let driver = self.inner.csi.drivers.get(driver).ok()?;
        let able = driver.capabilities().await.ok().filter(|able| able.stats)?;
        let asked = driver.figures(handle, path).await;
        let figures = asked.inspect_err(|error| tracing::debug!(volume, %error, "volume not measured")).ok()?;
        let Figures { bytes, inodes, abnormal } = figures;
        let abnormal = abnormal.filter(|_| self.health && able.condition);
        if let (Some(why), Some(recorder)) = (abnormal.iter().flatten().next(), &self.recorder) {
            recorder.pod(pod, None, true, "VolumeConditionAbnormal", format!("Volume {volume}: {why}"));
        }
        let fs = FsUse {
            capacity: bytes.total,
            used: bytes.used,
            available: bytes.available,
            inodes: inodes.total,
            inodes_used: inodes.used,
            inodes_free: inodes.available,
        };
        Some(Use { fs, abnormal: abnormal.map(|found| found.is_some()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_where_somebody_is_kept() {
        let extents = Extents::default();
        let first = extents.look(Path::new("/a")).unwrap();
        assert!(extents.look(Path::new("/a")).is_none() && extents.look(Path::new("/b")).is_some());
        drop(first);
        assert!(extents.look(Path::new("/a")).is_some());
    }
}
