//! The eviction manager: looks at the node every 10 s, lets it help itself, and has pods leave where that is not enough.

mod alarm;

use self::alarm::Alarm;
use crate::actors::image_gc::ImageGc;
use crate::actors::pods::PodsHandle;
use crate::cgroups::Cgroups;
use crate::clock;
use crate::cluster::Recorder;
use crate::decide::evict::rank::{self, Candidate, Disks};
use crate::decide::evict::thresholds::{self, Verdict, Watcher};
use crate::decide::evict::{self, local, words};
use crate::ids::PodUid;
use crate::metrics::catalog;
use crate::model::eviction::{Distress, Reading, Readings, Removal, Signal, Threshold, readings};
use crate::model::observed::ContainerState;
use crate::model::stats::MemoryUse;
use crate::runtime::{Runtime, RuntimeError};
use crate::stats::{Depth, Stats, StatsError, Subject};
use crate::units::Bytes;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use node_config::kubelet::KubeletConfiguration;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The kubelet's monitoring interval (`evictionMonitoringPeriod`).
const PERIOD: Duration = Duration::from_secs(10);
/// How long the next look waits for a pod to be gone (`podCleanupTimeout`).
const CLEANUP: Duration = Duration::from_secs(30);

/// How often it looks whether the pod's cgroup is gone (`podCleanupPollFreq`).
const CLEANUP_LOOK: Duration = Duration::from_secs(1);

/// A pod that is to leave the node, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub uid: PodUid,
    pub removal: Removal,
}

/// The actor; `run` it under the supervisor.
pub struct EvictionTask {
    pub runtime: Arc<dyn Runtime>,
    pub stats: Stats,
    pub cgroups: Cgroups,
    pub pods: PodsHandle,
    pub images: ImageGc,
    pub recorder: Recorder,
    pub kubelet: Arc<KubeletConfiguration>,
    pub root_dir: PathBuf,
    pub evictions: mpsc::Sender<Eviction>,
    /// What the node is short of, for its conditions and for admission.
    pub distress: watch::Sender<Distress>,
}

/// What is remembered from look to look.
struct Memory {
    watcher: Watcher,
    alarm: Alarm,
    /// Pods that were told to go.
    told: BTreeSet<PodUid>,
}

/// One reading of the node.
struct Observed {
    readings: Readings,
    memory: BTreeMap<Signal, MemoryUse>,
}

impl EvictionTask {
    pub async fn run(self) {
        let transition = self.kubelet.eviction_pressure_transition_period.to_std();
        let mut memory = Memory {
            watcher: Watcher::new(thresholds::configured(&self.kubelet), transition),
            alarm: Alarm::new(self.kubelet.kernel_memcg_notification.then(|| self.cgroups.clone())),
            told: BTreeSet::new(),
        };
        loop {
            let evictions = self.look(&mut memory).await;
            if evictions.is_empty() {
                memory.alarm.wait(PERIOD).await;
                continue;
            }
            let uids: Vec<PodUid> = evictions.iter().map(|eviction| eviction.uid.clone()).collect();
            memory.told.extend(uids.iter().cloned());
            for eviction in evictions {
                if self.evictions.send(eviction).await.is_err() {
                    return;
                }
            }
            self.cleaned(&uids).await;
        }
    }

    /// One look at the node. All pods go that use more than they may; else at most one, since that may be enough.
    async fn look(&self, memory: &mut Memory) -> Vec<Eviction> {
        let pods = self.active(memory);
        let disks = self.disks().await;
        let observed = self.observe().await;
        let verdict = observed.as_ref().map(|observed| {
            memory.alarm.set(&self.marks(&memory.watcher, observed));
            let verdict = memory.watcher.look(&observed.readings, clock::now().mono);
            let short = verdict.short.clone();
            self.distress.send_if_modified(|known| std::mem::replace(&mut known.short, short.clone()) != short);
            verdict
        });
        let over = self.over_limit(&pods, disks).await;
        match (observed, verdict) {
            (Some(observed), Some(verdict)) if over.is_empty() => {
                self.relieve(pods, &memory.watcher, &verdict, &observed.readings, disks).await.into_iter().collect()
            }
            _ => over,
        }
    }

    /// The pods that something may run of. One that has gone may be shown as running as long as no API server takes its
    /// status.
    fn active(&self, memory: &mut Memory) -> Vec<Arc<Pod>> {
        let listed = self.pods.list();
        memory.told.retain(|told| listed.iter().any(|pod| uid(pod) == *told));
        let active = |pod: &Arc<Pod>| !is_over(pod) && (!memory.told.contains(&uid(pod)) || self.runs(&uid(pod)));
        listed.into_iter().filter(active).collect()
    }

    /// The node helps itself; where that is not enough, a pod goes.
    async fn relieve(
        &self,
        pods: Vec<Arc<Pod>>,
        watcher: &Watcher,
        verdict: &Verdict,
        readings: &Readings,
        disks: Disks,
    ) -> Option<Eviction> {
        let began = clock::now().mono;
        let because = verdict.crossed.first()?.clone();
        let resource = because.signal.resource().as_str();
        tracing::warn!(resource, signal = because.signal.name(), "the node runs short");
        self.recorder.node(true, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        if self.help_itself(watcher, &because, disks).await {
            return None;
        }
        let chosen = self.choose(pods, verdict, &because, readings, disks).await;
        for threshold in &verdict.crossed {
            catalog::EVICTION_STATS_AGE.observe([threshold.signal.name()], clock::now().mono - began);
        }
        chosen
    }

    /// The most expendable pod, and what it is told.
    async fn choose(
        &self,
        pods: Vec<Arc<Pod>>,
        verdict: &Verdict,
        because: &Threshold,
        readings: &Readings,
        disks: Disks,
    ) -> Option<Eviction> {
        let candidates = self.candidates(pods).await;
        let ranked = rank::order(candidates, because.signal, disks);
        let Some(victim) = ranked.iter().find(|one| !evict::is_critical(&one.pod)) else {
            tracing::error!(signal = because.signal.name(), "the node runs short, and no pod can be evicted");
            return None;
        };
        let max_grace = self.kubelet.eviction_max_pod_grace_period;
        let removal = words::removal(victim, &verdict.crossed, because, readings, max_grace);
        catalog::EVICTIONS.inc([because.signal.name()]);
        tracing::warn!(pod = victim.pod.metadata.name, message = removal.message, "evicting");
        Some(Eviction { uid: uid(&victim.pod), removal })
    }

    /// The pods that use more of the disk than they may themselves.
    async fn over_limit(&self, pods: &[Arc<Pod>], layout: Disks) -> Vec<Eviction> {
        let limited = |pod: &&Arc<Pod>| pod.spec.as_ref().is_some_and(local::is_limited);
        let ending = |pod: &Arc<Pod>| pod.metadata.deletion_timestamp.is_some();
        let may_go = |pod: &&Arc<Pod>| limited(pod) && !ending(pod) && !evict::is_critical(pod);
        let subjects = self.subjects(pods.iter().filter(may_go));
        if subjects.is_empty() || self.kubelet.local_storage_capacity_isolation == Some(false) {
            return Vec::new();
        }
        // Each look anew, but not each of those that follow an eviction at once.
        let Some(disks) = told(self.stats.disks(&subjects, PERIOD / 2).await) else { return Vec::new() };
        let over = subjects.iter().filter_map(|subject| {
            let used = disks.get(&subject.uid())?;
            let excess = local::exceeds(subject.pod.spec.as_ref()?, used, layout.separate_images)?;
            catalog::EVICTIONS.inc([excess.signal]);
            Some(Eviction { uid: subject.uid(), removal: Removal::over_limit(excess.message) })
        });
        over.collect()
    }

    /// Gives up dead containers and unused images where they lie on the disk that is short; whether that was enough.
    async fn help_itself(&self, watcher: &Watcher, because: &Threshold, disks: Disks) -> bool {
        let reserves = thresholds::own_reserves(because.signal, disks.separate_images, disks.separate_layers);
        if !reserves.dead_containers && !reserves.unused_images {
            return false;
        }
        if reserves.dead_containers
            && let Err(error) = self.remove_dead().await
        {
            self.recorder.node(true, "ContainerGCFailed", error.to_string());
            tracing::warn!(%error, "dead containers not removed");
        }
        if reserves.unused_images
            && let Err(error) = self.images.remove_unused().await
        {
            tracing::warn!(%error, "unused images not removed");
        }
        self.observe().await.is_some_and(|now| watcher.has_recovered(&now.readings))
    }

    /// What pods that have ended left in the runtime.
    async fn remove_dead(&self) -> Result<(), RuntimeError> {
        for pod in self.pods.list().into_iter().filter(|pod| is_over(pod)) {
            let Some(seen) = self.pods.observed(&uid(&pod)) else { continue };
            for container in seen.containers.iter().filter(|c| matches!(c.state, ContainerState::Exited { .. })) {
                absent_is_fine(self.runtime.remove_container(&container.id).await)?;
            }
            for sandbox in seen.sandboxes.iter().filter(|sandbox| !sandbox.ready) {
                absent_is_fine(self.runtime.remove_sandbox(&sandbox.id).await)?;
            }
        }
        self.images.sweep().await
    }

    async fn observe(&self) -> Option<Observed> {
        let node = told(self.stats.node().await)?;
        let group = told(self.stats.cgroup(self.stats.kubepods()).await)?;
        let reserved = [&self.kubelet.kube_reserved, &self.kubelet.system_reserved];
        let reserved =
            reserved.into_iter().filter_map(|list| Bytes::parse(&Quantity(list.get("memory")?.clone())).ok());
        let reserved: u64 = reserved.map(|bytes| bytes.0.max(0).unsigned_abs()).sum();
        let pods = group.as_ref().map(|group| {
            let capacity = node.memory_capacity.saturating_sub(reserved);
            Reading { available: capacity.saturating_sub(group.memory.working_set), capacity }
        });
        let mut memory = BTreeMap::from([(Signal::Memory, node.root.memory)]);
        memory.extend(group.map(|group| (Signal::AllocatableMemory, group.memory)));
        Some(Observed { readings: readings(&node, pods), memory })
    }

    /// Where the use of memory gets too much, by cgroup.
    fn marks(&self, watcher: &Watcher, observed: &Observed) -> Vec<(String, Vec<u64>)> {
        let marks = |signal| {
            observed.memory.get(&signal).map(|used| watcher.marks(signal, used, &observed.readings)).unwrap_or_default()
        };
        vec![("/".to_owned(), marks(Signal::Memory)), (self.stats.kubepods(), marks(Signal::AllocatableMemory))]
    }

    async fn candidates(&self, pods: Vec<Arc<Pod>>) -> Vec<Candidate> {
        let subjects = self.subjects(&pods);
        let used = told(self.stats.pods(subjects.clone(), Depth::Usage).await).unwrap_or_default();
        let mut disks = told(self.stats.disks(&subjects, PERIOD).await).unwrap_or_default();
        let find = |pod: Arc<Pod>| {
            let found = used.iter().find(|used| used.uid == uid(&pod)).cloned();
            let used = found.map(|mut used| {
                used.disk = disks.remove(&used.uid);
                Arc::new(used)
            });
            Candidate { pod, used }
        };
        pods.into_iter().map(find).collect()
    }

    fn subjects<'a>(&self, pods: impl IntoIterator<Item = &'a Arc<Pod>>) -> Vec<Subject> {
        let subject =
            |pod: &Arc<Pod>| Subject { pod: pod.clone(), seen: self.pods.observed(&uid(pod)).unwrap_or_default() };
        pods.into_iter().map(subject).collect()
    }

    /// Which file systems are one; what the runtime does not tell counts as the node's own.
    async fn disks(&self) -> Disks {
        let Ok(told) = self.runtime.image_fs().await else { return Disks::default() };
        let node = device(&self.root_dir);
        let images = told.images.as_ref().and_then(|storage| device(&storage.path));
        let layers = told.containers.as_ref().and_then(|storage| device(&storage.path)).or(images);
        Disks { separate_images: images.is_some() && images != node, separate_layers: layers != images }
    }

    /// Does anything of the pod run?
    fn runs(&self, uid: &PodUid) -> bool {
        let alive = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
        self.pods.observed(uid).is_some_and(|seen| {
            seen.sandboxes.iter().any(|sandbox| sandbox.ready) || seen.containers.iter().any(|c| alive(&c.state))
        })
    }

    /// Waits until nothing of these pods runs any more, so that the next look sees what that gave back.
    async fn cleaned(&self, uids: &[PodUid]) {
        let mut changes = self.pods.changes();
        let stays = |uid: &PodUid| self.pods.get_uid(uid).is_some_and(|pod| !is_over(&pod) || self.runs(uid));
        let group = async |pod| {
            let subjects = self.subjects([&pod]);
            self.stats.pods(subjects, Depth::Usage).await.is_ok_and(|used| used.iter().any(|one| one.cgroup.is_some()))
        };
        let gone = async {
            while uids.iter().any(stays) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
            // Volumes in memory go with the cgroup, and nothing tells of that.
            for uid in uids {
                while let Some(pod) = self.pods.get_uid(uid)
                    && group(pod).await
                {
                    tokio::time::sleep(CLEANUP_LOOK).await;
                }
            }
        };
        if tokio::time::timeout(CLEANUP, gone).await.is_err() {
            tracing::warn!(?uids, "evicted pods are still not gone");
        }
    }
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| meta.dev())
}

fn uid(pod: &Pod) -> PodUid {
    PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn absent_is_fine(answer: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match answer {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        answer => answer,
    }
}

/// What could not be read is said, and nothing is decided on it.
fn told<T>(answer: Result<T, StatsError>) -> Option<T> {
    answer.map_err(|error| tracing::warn!(%error, "eviction cannot look")).ok()
}
