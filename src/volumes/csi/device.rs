//! Block volumes of drivers: published as a device, which is mapped for the pod (`csi_block.go`).

use super::record::{self, Progress, Record, gone};
use super::{Job, Map};
use crate::plugins::Verdict;
use crate::volumes::block::{self, Mapping};
use crate::volumes::layout::PodDir;
use crate::volumes::{VolumeError, Volumes};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where the kubelet keeps what about one block volume.
pub(super) struct Places {
    volume: PathBuf,
    /// What a pod that has it is told by: holds the record.
    pub data: PathBuf,
    pub staging: PathBuf,
    /// Holds what the driver publishes, by the pods' uids.
    published: PathBuf,
    global: PathBuf,
}

impl Places {
    pub(super) fn new(root_dir: &Path, volume: &str) -> Self {
        let all = root_dir.join("plugins/kubernetes.io/csi").join(block::FOLDER);
        let own = all.join(volume);
        Self {
            data: own.join("data"),
            global: own.join("dev"),
            volume: own,
            staging: all.join("staging").join(volume),
            published: all.join("publish").join(volume),
        }
    }

    /// Where the driver publishes it for that pod.
    pub(super) fn target(&self, dir: &PodDir) -> PathBuf {
        self.published.join(dir.uid())
    }

    pub(super) fn mapping(&self, dir: &PodDir, volume: &str) -> Mapping {
        Mapping::new(self.global.clone(), dir, record::PLUGIN, volume)
    }

    /// How far it has come with the pod that has this link to it.
    pub(super) fn progress(&self, link: &Path) -> Progress {
        match fs::read_link(link) {
            Ok(to) if to == self.data => Progress::Begun,
            // What is published is linked to before it is there and, where it is the device itself, ever after.
            Ok(to) if to.starts_with(&self.published) && !self.is_bound(&to) => Progress::Shown,
            Ok(_) | Err(_) => Progress::Given,
        }
    }

    /// Whether the pod has what is published there for it.
    fn is_bound(&self, published: &Path) -> bool {
        published.file_name().is_some_and(|uid| block::is_device(&self.global.join(uid)))
    }

    /// Notes that the pod is to have it: its link says how far it has come, as the record is all pods'. Nor does the
    /// kubelet write whose life the volume has: it is never the pod's.
    pub(super) fn begin(&self, dir: &PodDir, record: Record) -> io::Result<()> {
        let mapping = self.mapping(dir, &record.name);
        if Record::read(&self.data)?.is_none() {
            let record = Record { volume_lifecycle_mode: String::new(), progress: Progress::Given, ..record };
            record.write(&self.data)?;
        }
        if mapping.link.is_symlink() { Ok(()) } else { mapping.note(&self.data) }
    }

    /// After the last pod; what is not empty is not ours.
    pub(super) fn remove(&self) -> io::Result<()> {
        gone(fs::remove_dir(&self.published))?;
        gone(fs::remove_dir(&self.staging))?;
        gone(fs::remove_dir(&self.global))?;
        Record::remove_file(&self.data)?;
        gone(fs::remove_dir(&self.data))?;
        gone(fs::remove_dir(&self.volume))
    }
}

impl Job<'_> {
    /// As far as it is not done; returns the link to the device.
    pub(super) async fn run_device(&self, dir: &PodDir) -> Result<PathBuf, VolumeError> {
        let wanted = self.wanted;
        let failed =
            |what: &'static str, message: String| VolumeError::Map { what, volume: wanted.name.clone(), message };
        let places = Places::new(&self.volumes.inner.root_dir, &wanted.name);
        let (mapping, target) = (places.mapping(dir, &wanted.name), places.target(dir));
        let look = mapping.clone();
        let mapped = self.volumes.on_disk(move || Ok(look.is_mapped())).await;
        let mapped = mapped.map_err(|error| failed("MapBlockVolume failed", error.to_string()))?;
        if !mapped {
            self.check_alone(dir).await.map_err(|why| failed("SetUpDevice failed", why))?;
            if self.able.stage {
                self.stage_device(&places, &mapping).await.map_err(|why| failed("SetUpDevice failed", why))?;
            }
            let (note, shown) = (mapping.clone(), target.clone());
            let noted = self.volumes.on_disk(move || note.note(&shown)).await;
            noted.map_err(|error| failed("MapPodDevice failed", error.to_string()))?;
            self.publish_device(&places, &target).await.map_err(|why| failed("MapPodDevice failed", why))?;
            let (map, device) = (mapping.clone(), target.clone());
            let done = self.volumes.on_disk(move || map.map(&device)).await;
            done.map_err(|error| failed("MapBlockVolume failed", error.to_string()))?;
            self.tell_mapped(&mapping);
        }
        let staging = self.able.stage.then_some(places.staging.as_path());
        self.grow(staging, &target, mapped)
            .await
            .map_err(|why| failed("MarkVolumeAsMounted failed while expanding volume", why))?;
        Ok(mapping.link)
    }

    async fn stage_device(&self, places: &Places, mapping: &Mapping) -> Result<(), String> {
        let (look, staging) = (mapping.clone(), places.staging.clone());
        let prepare = move || {
            let (staged, is_new) = (look.is_mapped_for_any()?, !staging.try_exists()?);
            DirBuilder::new().recursive(true).mode(0o750).create(staging)?;
            Ok((staged, is_new))
        };
        let (staged, is_new) = self.volumes.on_disk(prepare).await.map_err(|error| error.to_string())?;
        if staged {
            return Ok(());
        }
        let secrets = self.secrets(self.wanted.stage_secret.as_ref()).await;
        let secrets = secrets.map_err(|no| format!("failed to get NodeStageSecretRef {}: {}", no.place, no.why))?;
        let staged = self.driver.stage(self.call().stage(&places.staging, secrets)).await;
        if is_new && matches!(&staged, Err(error) if error.verdict() != Verdict::Open) {
            // There is nothing to take back. Where that cannot be noted, the driver is asked to nevertheless.
            let staging = places.staging.clone();
            if let Err(error) = self.volumes.on_disk(move || gone(fs::remove_dir(staging))).await {
                tracing::debug!(volume = self.wanted.name, %error, "staging folder not removed");
            }
        }
        staged.map_err(|error| error.to_string())
    }

    /// Of the pod the driver is told nothing here.
    async fn publish_device(&self, places: &Places, target: &Path) -> Result<(), String> {
        let folder = places.published.clone();
        let prepare = move || DirBuilder::new().recursive(true).mode(0o750).create(folder);
        self.volumes.on_disk(prepare).await.map_err(|error| {
            let folder = places.published.display();
            format!("kubernetes.io/csi: blockMapper.publishVolumeForBlock failed to create dir {folder}:  {error}")
        })?;
        let secrets = self.secrets(self.wanted.publish_secret.as_ref()).await.map_err(|no| {
            let failed = "kubernetes.io/csi: blockMapper.publishVolumeForBlock failed to get NodePublishSecretRef";
            format!("{failed} {}: {}", no.place, no.why)
        })?;
        // As the kubelet: whether it was staged or not.
        let request = self.call().publish(Some(&places.staging), target, secrets, Map::new());
        self.driver.publish(request).await.map_err(|error| error.to_string())
    }

    fn tell_mapped(&self, mapping: &Mapping) {
        let Some(recorder) = &self.volumes.recorder else { return };
        let paths = [("globalMapPath", Some(mapping.global.as_path())), ("volumeMapPath", mapping.link.parent())];
        for (name, path) in paths {
            let (volume, path) = (&self.wanted.name, path.unwrap_or(&mapping.link).display().to_string());
            let message = format!("MapVolume.MapPodDevice succeeded for volume {volume:?} {name} {path:?}");
            recorder.pod(self.pod, None, false, "SuccessfulMountVolume", message);
        }
    }
}

impl Volumes {
    /// What of a device is the pod's.
    pub(super) async fn unmap_device(&self, dir: &PodDir, record: &Record) -> Result<(), String> {
        let mapping = Places::new(&self.inner.root_dir, &record.name).mapping(dir, &record.name);
        let unmapped = self.on_disk(move || mapping.unmap()).await;
        unmapped.map_err(|error| format!("UnmapVolume.UnmapBlockVolume failed: {error}"))
    }
}
