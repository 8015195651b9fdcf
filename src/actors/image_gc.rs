//! Removes images that nobody uses: when the disk they lie on is too full, when they are too old, when eviction asks.

use crate::actors::pods::PodsHandle;
use crate::clock;
use crate::cluster::Recorder;
use crate::decide::image_gc::{self, Held, Policy, Records, Shortfall, Unused};
use crate::images::Images;
use crate::images::pulls::PullRecords;
use crate::metrics::catalog;
use crate::runtime::{Runtime, RuntimeError};
use crate::stats::{Stats, StatsError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use node_config::kubelet::KubeletConfiguration;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What `kubelet_image_garbage_collected_total` calls the reasons.
const AGE: &str = "age";
const SPACE: &str = "space";

/// Why images were not removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageGcError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Stats(#[from] StatsError),
    #[error("{0}")]
    Disk(String),
    /// The kubelet's words.
    #[error(
        "Insufficient free disk space on the node's image filesystem ({used_percent}% of {} used). Failed to free \
         sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used \
         by active images, logs, volumes, or other data.",
        image_gc::size_text(*capacity)
    )]
    NotEnough { used_percent: u64, capacity: u64, freed: u64 },
    /// Some could not be removed; the others were.
    #[error("wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {problems}")]
    Deletion { wanted: u64, freed: u64, problems: String },
}

/// Collects images; cheap to clone.
#[derive(Clone)]
pub struct ImageGc {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Arc<dyn Runtime>,
    stats: Stats,
    pods: PodsHandle,
    recorder: Recorder,
    archives: Images,
    pulls: Option<Arc<PullRecords>>,
    policy: Policy,
    began: Instant,
    /// Held for the whole of a collection: a second one beside it would remove the same images.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Records,
    failed_before: bool,
}

/// What `ImageGc` is made of.
pub struct Deps {
    pub runtime: Arc<dyn Runtime>,
    pub stats: Stats,
    pub pods: PodsHandle,
    pub recorder: Recorder,
    /// Knows which images are pinned where the runtime does not tell (containerd before 1.7).
    pub archives: Images,
    /// What is kept of pulls goes with the images.
    pub pulls: Option<Arc<PullRecords>>,
}

impl ImageGc {
    pub fn new(deps: Deps, kubelet: &KubeletConfiguration) -> Self {
        let percent =
            |given: Option<i32>, default: u64| given.and_then(|given| u64::try_from(given).ok()).unwrap_or(default);
        let policy = Policy {
            high_percent: percent(kubelet.image_gc_high_threshold_percent, 85),
            low_percent: percent(kubelet.image_gc_low_threshold_percent, 80),
            min_age: kubelet.image_minimum_gc_age.to_std(),
            max_age: kubelet.image_maximum_gc_age.to_std(),
        };
        let Deps { runtime, stats, pods, recorder, archives, pulls } = deps;
        let (began, state) = (clock::now().mono, Mutex::default());
        Self { inner: Arc::new(Inner { runtime, stats, pods, recorder, archives, pulls, policy, began, state }) }
    }

    /// The periodic collection. The first failure may be a runtime that is just starting: only the next one is told.
    pub async fn collect(&self) {
        let mut state = self.inner.state.lock().await;
        let begun = clock::now().wall;
        match self.inner.collect(&mut state.records).await {
            Ok(()) => state.failed_before = false,
            Err(error) => {
                if std::mem::replace(&mut state.failed_before, true) {
                    self.inner.recorder.node(true, "ImageGCFailed", error.to_string());
                }
                tracing::warn!(%error, "images not collected");
            }
        }
        self.inner.forget_pulls(begun).await;
    }

    /// Has the runtime free what removed containers took; another runtime than containerd does so by itself.
    pub async fn sweep(&self) -> Result<(), RuntimeError> {
        match self.inner.archives.sweep().await {
            Err(RuntimeError::Unimplemented(_)) => Ok(()),
            answer => answer,
        }
    }

    /// All that may go (`DeleteUnusedImages`): bytes freed.
    pub async fn remove_unused(&self) -> Result<u64, ImageGcError> {
        let mut state = self.inner.state.lock().await;
        let begun = clock::now().wall;
        let now = self.inner.look(&mut state.records).await?;
        let (unused, _) = state.records.to_free(u64::MAX, self.inner.policy, now);
        let freed = self.inner.remove(&mut state.records, unused, u64::MAX, SPACE).await;
        self.inner.forget_pulls(begun).await;
        freed
    }
}

impl Inner {
    async fn collect(&self, records: &mut Records) -> Result<(), ImageGcError> {
        let now = self.look(records).await?;
        let old = records.too_old(self.policy, self.began, now);
        let wanted = old.iter().map(|image| image.size).sum();
        self.remove(records, old, wanted, AGE).await?;
        // 100 switches the rest off.
        if self.policy.high_percent >= 100 {
            return Ok(());
        }
        let Some(disk) = self.stats.node().await?.imagefs else { return Ok(()) };
        let wanted = image_gc::wanted(disk, self.policy).map_err(|problem| {
            self.recorder.node(true, "InvalidDiskCapacity", problem.clone());
            ImageGcError::Disk(problem)
        })?;
        let Some(Shortfall { bytes: wanted, used_percent }) = wanted else { return Ok(()) };
        tracing::info!(bytes = wanted, used_percent, "the disk of images is too full: removing unused ones");
        let (unused, _) = records.to_free(wanted, self.policy, now);
        let freed = self.remove(records, unused, wanted, SPACE).await?;
        if freed < wanted {
            let error = ImageGcError::NotEnough { used_percent, capacity: disk.capacity, freed };
            self.recorder.node(true, "FreeDiskSpaceFailed", error.to_string());
            return Err(error);
        }
        Ok(())
    }

    /// Brings the records up to what there is.
    async fn look(&self, records: &mut Records) -> Result<Instant, ImageGcError> {
        let pinned: BTreeSet<String> = match self.archives.pinned().await {
            Ok(pinned) => pinned.into_iter().collect(),
            // Another runtime than containerd: its CRI tells which images are pinned.
            Err(RuntimeError::Unimplemented(_)) => BTreeSet::new(),
            Err(error) => return Err(error.into()),
        };
        let images = self.runtime.images().await?;
        let held: Vec<Held> = images
            .into_iter()
            .map(|image| Held {
                pinned: image.pinned || image.tags.iter().any(|tag| pinned.contains(tag)),
                names: image.tags.into_iter().chain(image.digests).collect(),
                id: image.id,
                size: image.size,
            })
            .collect();
        let mut in_use: BTreeSet<String> = self.runtime.pods().await?.into_iter().flat_map(|pod| pod.images).collect();
        // Pulled for a container that is about to be made, or mounted as a volume.
        in_use.extend(self.pods.list().iter().flat_map(|pod| wanted_by(pod)).map(|name| image_gc::full_name(&name)));
        let now = clock::now().mono;
        records.look(&held, &in_use, now);
        Ok(now)
    }

    /// Removes these, for that reason; one that the runtime does not remove leaves the others to go.
    async fn remove(
        &self,
        records: &mut Records,
        unused: Vec<Unused>,
        wanted: u64,
        reason: &'static str,
    ) -> Result<u64, ImageGcError> {
        let (mut freed, mut problems) = (0, Vec::new());
        for Unused { id, size } in unused {
            if let Err(error) = self.runtime.remove_image(&id).await {
                tracing::warn!(image = id, %error, "an unused image was not removed");
                problems.push(error.to_string());
                continue;
            }
            tracing::info!(image = id, bytes = size, "removed an unused image");
            catalog::IMAGES_COLLECTED.inc([reason]);
            records.forget(&id);
            freed += size;
        }
        match problems.is_empty() {
            true => Ok(freed),
            // As Go joins them.
            false if problems.len() == 1 => Err(ImageGcError::Deletion { wanted, freed, problems: problems.remove(0) }),
            false => Err(ImageGcError::Deletion { wanted, freed, problems: format!("[{}]", problems.join(", ")) }),
        }
    }

    /// Who pulled an image that is gone means nothing for one that comes by another way. `begun`: when the collection was.
    async fn forget_pulls(&self, begun: Timestamp) {
        let Some(pulls) = self.pulls.as_ref().filter(|pulls| !pulls.is_empty()) else { return };
        match self.runtime.images().await {
            Ok(images) => pulls.prune(images.into_iter().map(|image| image.id).collect(), begun).await,
            Err(error) => tracing::warn!(%error, "images not listed: all records of pulls stay"),
        }
    }
}

/// Names of the images that a pod that has not ended wants.
fn wanted_by(pod: &Pod) -> Vec<String> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let Some(spec) = pod.spec.as_ref().filter(|_| !matches!(phase, Some("Succeeded" | "Failed"))) else {
        return Vec::new();
    };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let containers = containers.filter_map(|container| container.image.clone());
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|container| container.image.clone());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.clone());
    containers.chain(ephemeral).chain(volumes).collect()
}
