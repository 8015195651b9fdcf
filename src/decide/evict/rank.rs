//! Which pod goes first (`rankMemoryPressure`, `rankPIDPressure`, `rankDiskPressureFunc`).

use crate::decide::requests;
use crate::model::eviction::{Resource, Signal};
use crate::model::stats::{PodUse, TreeUse};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

/// A pod that may have to go, and what it was last seen to use.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub pod: Arc<Pod>,
    pub used: Option<Arc<PodUse>>,
}

/// How the node's disks are laid out: what a pod uses of which of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// Images lie on another file system than pods' volumes and logs.
    pub separate_images: bool,
    /// Writable layers do not lie with the images.
    pub separate_layers: bool,
}

/// The pods, those first that should go first.
pub fn order(mut pods: Vec<Candidate>, signal: Signal, disks: Disks) -> Vec<Candidate> {
    match signal.resource() {
        Resource::Memory => {
            let excess = |one: &Candidate| {
                let asked = one.pod.spec.as_ref().map_or(0, |spec| requests::of(spec).memory.0);
                memory(one).map(|used| used.saturating_sub_unsigned(asked.max(0).unsigned_abs()))
            };
            pods.sort_by(|a, b| {
                above_request_first(excess(a), excess(b))
                    .then_with(|| by_priority(a, b))
                    .then_with(|| largest_first(excess(a), excess(b)))
            });
        }
        Resource::Pids => {
            let processes =
                |one: &Candidate| one.used.as_ref()?.cgroup.as_ref().map(|cgroup| signed(cgroup.pids.threads));
            pods.sort_by(|a, b| by_priority(a, b).then_with(|| largest_first(processes(a), processes(b))));
        }
        Resource::EphemeralStorage | Resource::Inodes => {
            let inodes = signal.resource() == Resource::Inodes;
            let used = |one: &Candidate| {
                let tree = on_disk(one.used.as_ref()?, signal, disks)?;
                Some(signed(if inodes { tree.inodes } else { tree.bytes }))
            };
            let excess = |one: &Candidate| {
                // Nobody can ask for inodes.
                let asked = |spec: &PodSpec| if inodes { 0 } else { requests::of(spec).ephemeral_storage.0 };
                used(one).map(|used| used - one.pod.spec.as_ref().map_or(0, asked))
            };
            pods.sort_by(|a, b| {
                above_request_first(excess(a), excess(b))
                    .then_with(|| by_priority(a, b))
                    .then_with(|| largest_first(excess(a), excess(b)))
            });
        }
    }
    pods
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// Working set, by the pod's cgroup or that of its containers together.
fn memory(one: &Candidate) -> Option<i64> {
    let used = one.used.as_ref()?;
    let whole = used.cgroup.as_ref().map(|cgroup| cgroup.memory.working_set);
    let parts =
        || used.containers.iter().filter_map(|c| c.cgroup.as_ref()).map(|cgroup| cgroup.memory.working_set).sum();
    Some(signed(whole.unwrap_or_else(parts)))
}

/// What of the pod lies on the file system that the signal speaks of.
fn on_disk(used: &PodUse, signal: Signal, disks: Disks) -> Option<TreeUse> {
    let disk = used.disk.as_ref()?;
    let layers = || disk.layers.values().copied().sum::<TreeUse>();
    let rest = || {
        let volumes = disk.volumes.values().filter(|volume| volume.local);
        let volumes = volumes.map(|volume| TreeUse { bytes: volume.fs.used, inodes: volume.fs.inodes_used });
        disk.logs.values().copied().chain(volumes).sum::<TreeUse>() + disk.own
    };
    Some(match signal {
        Signal::NodeFs | Signal::NodeFsInodes if disks.separate_images && !disks.separate_layers => rest(),
        Signal::ImageFs | Signal::ImageFsInodes if disks.separate_layers => TreeUse::default(),
        Signal::ImageFs | Signal::ImageFsInodes if disks.separate_images => layers(),
        _ => layers() + rest(),
    })
}

/// One of which nothing is known counts as above all it asked for.
fn above_request_first(a: Option<i64>, b: Option<i64>) -> Ordering {
    let above = |excess: Option<i64>| excess.is_none_or(|excess| excess > 0);
    above(b).cmp(&above(a)).then_with(|| b.is_none().cmp(&a.is_none()))
}

fn by_priority(a: &Candidate, b: &Candidate) -> Ordering {
    let priority = |one: &Candidate| one.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    priority(a).cmp(&priority(b))
}

fn largest_first(a: Option<i64>, b: Option<i64>) -> Ordering {
    Reverse(a).cmp(&Reverse(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerName, PodKey, PodUid};
    use crate::model::stats::{CgroupUse, FsUse, PodDisk, VolumeUse};
    use serde_json::json;

    /// A pod of some priority that asks for and uses some memory (MiB), processes, and disk (MiB of layer, of volume).
    fn candidate(name: &str, priority: i32, asks: u64, memory: Option<u64>, disk: (u64, u64)) -> Candidate {
        let request = format!("{asks}Mi");
        let requests = json!({"memory": request, "ephemeral-storage": request});
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]},
        }));
        let tree = |mib: u64| TreeUse { bytes: mib << 20, inodes: mib };
        let volume = VolumeUse {
            local: true,
            fs: FsUse { used: disk.1 << 20, inodes_used: disk.1, ..Default::default() },
            ..VolumeUse::default()
        };
        let used = memory.map(|memory| {
            let mut cgroup = CgroupUse::default();
            cgroup.memory.working_set = memory << 20;
            cgroup.pids.threads = memory;
            Arc::new(PodUse {
                uid: PodUid::new(name),
                key: PodKey::new("d", name),
                cgroup: Some(cgroup),
                containers: Vec::new(),
                network: Vec::new(),
                disk: Some(PodDisk {
                    layers: [(ContainerName::new("c"), tree(disk.0))].into(),
                    volumes: [("v".to_owned(), volume)].into(),
                    ..Default::default()
                }),
            })
        });
        Candidate { pod: Arc::new(pod.unwrap()), used }
    }

    fn check(pods: &[Candidate], signal: Signal, disks: Disks, expected: &str) {
        let names = |pods: Vec<Candidate>| {
            pods.iter().filter_map(|one| one.pod.metadata.name.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(order(pods.to_vec(), signal, disks)), expected, "{signal:?} {disks:?}");
        let mut reversed = pods.to_vec();
        reversed.reverse();
        assert_eq!(names(order(reversed, signal, disks)), expected, "whatever the order they come in");
    }

    #[test]
    fn memory_takes_those_above_their_request_then_the_least_important_then_the_largest() {
        let pods = [
            candidate("within-large", 0, 900, Some(800), (0, 0)),
            candidate("above-little", 0, 100, Some(110), (0, 0)),
            candidate("above-much", 0, 100, Some(500), (0, 0)),
            candidate("above-important", 1000, 0, Some(900), (0, 0)),
            candidate("unknown", 5000, 0, None, (0, 0)),
            candidate("within-unimportant", -1, 100, Some(10), (0, 0)),
        ];
        let expected = "unknown above-much above-little above-important within-unimportant within-large";
        check(&pods, Signal::Memory, Disks::default(), expected);
        check(&pods, Signal::AllocatableMemory, Disks::default(), expected);
        let pids = "within-unimportant within-large above-much above-little above-important unknown";
        check(&pods, Signal::Pids, Disks::default(), pids);
    }

    #[test]
    fn a_disk_counts_what_lies_on_it() {
        let pods = [candidate("layer", 0, 0, Some(1), (80, 1)), candidate("volume", 0, 0, Some(1), (1, 70))];
        let one = Disks::default();
        let two = Disks { separate_images: true, separate_layers: false };
        let apart = Disks { separate_images: true, separate_layers: true };
        check(&pods, Signal::NodeFs, one, "layer volume");
        check(&pods, Signal::ImageFs, one, "layer volume");
        check(&pods, Signal::NodeFsInodes, two, "volume layer");
        check(&pods, Signal::NodeFs, two, "volume layer");
        check(&pods, Signal::ImageFs, two, "layer volume");
        check(&pods, Signal::NodeFs, apart, "layer volume");
    }

    #[test]
    fn who_asked_for_disk_goes_after_who_did_not() {
        let pods = [candidate("asked", 0, 200, Some(1), (150, 0)), candidate("not", 0, 0, Some(1), (1, 0))];
        check(&pods, Signal::NodeFs, Disks::default(), "not asked");
        // Nobody can ask for inodes.
        check(&pods, Signal::NodeFsInodes, Disks::default(), "asked not");
    }
}
