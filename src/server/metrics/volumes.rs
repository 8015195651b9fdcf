//! Series about volumes: how many there are by plugin, and how full claims are (`kubelet_volume_stats_*`).

use crate::ids::PodUid;
use crate::metrics::text::{Kind, Text};
use crate::model::stats::{FsUse, PodDisk, VolumeUse};
use crate::volumes::plugin_name;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `volume_manager_total_volumes`: desired of all pods, actual of those that run.
pub(super) fn totals(text: &mut Text, pods: &[Arc<Pod>], runs: impl Fn(&PodUid) -> bool) {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for pod in pods {
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        let running = runs(&uid);
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            *counts.entry((plugin_name(volume), "desired_state_of_world")).or_default() += 1;
            if running {
                *counts.entry((plugin_name(volume), "actual_state_of_world")).or_default() += 1;
            }
        }
    }
    text.family("volume_manager_total_volumes", "[ALPHA] Number of volumes in Volume Manager", Kind::Gauge);
    for ((plugin, state), number) in counts {
        text.sample("", &[("plugin_name", plugin), ("state", state)], f64::from(number));
    }
}

/// Name, help and figure of a claim's series.
type Series = (&'static str, &'static str, fn(&FsUse) -> u64);

const CLAIMS: [Series; 6] = [
    ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |fs| fs.available),
    ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |fs| fs.capacity),
    ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |fs| fs.inodes),
    ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |fs| fs.inodes_free),
    ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |fs| fs.inodes_used),
    ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |fs| fs.used),
];

/// Each claim once, whichever of the pods that use it comes first.
pub(super) fn claims(text: &mut Text, pods: &[Arc<Pod>], disks: &BTreeMap<PodUid, PodDisk>) {
    let mut found: BTreeMap<(&str, &str), &VolumeUse> = BTreeMap::new();
    for pod in pods {
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for volume in disks.get(&uid).into_iter().flat_map(|disk| disk.volumes.values()) {
            if let Some(claim) = &volume.claim {
                found.entry((namespace, claim)).or_insert(volume);
            }
        }
    }
    for (name, help, value) in CLAIMS {
        text.family(name, help, Kind::Gauge);
        for ((namespace, claim), volume) in &found {
            text.sample("", &[("namespace", namespace), ("persistentvolumeclaim", claim)], value(&volume.fs) as f64);
        }
    }
    text.family(
        "kubelet_volume_stats_health_status_abnormal",
        "[ALPHA] Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 \
         indicates volume is healthy",
        Kind::Gauge,
    );
    for ((namespace, claim), volume) in &found {
        if let Some(abnormal) = volume.abnormal {
            let labels = [("namespace", *namespace), ("persistentvolumeclaim", *claim)];
            text.sample("", &labels, f64::from(u8::from(abnormal)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stats::VolumeUse;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn volumes_are_counted_by_plugin_and_claims_shown_once() {
        let pod = |uid: &str| -> Arc<Pod> {
            let pod = json!({
                "metadata": {"name": uid, "namespace": "ns", "uid": uid},
                "spec": {"containers": [], "volumes": [
                    {"name": "a", "emptyDir": {}},
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                ]},
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let pods = [pod("u1"), pod("u2")];
        let fs = FsUse { capacity: 100, used: 30, available: 70, inodes: 9, inodes_free: 5, inodes_used: 4 };
        let volume = VolumeUse { fs, local: false, claim: Some("data".to_owned()), abnormal: Some(true) };
        let disk = PodDisk { volumes: [("data".to_owned(), volume)].into(), ..PodDisk::default() };
        let disks = [(PodUid::new("u1"), disk.clone()), (PodUid::new("u2"), disk)].into();
        let mut text = Text::default();
        totals(&mut text, &pods, |uid| uid.as_str() == "u1");
        claims(&mut text, &pods, &disks);
        let samples: Vec<&str> = text.as_str().lines().filter(|line| !line.starts_with('#')).collect();
        expect![[r#"
            volume_manager_total_volumes{plugin_name="kubernetes.io/empty-dir",state="actual_state_of_world"} 1
            volume_manager_total_volumes{plugin_name="kubernetes.io/empty-dir",state="desired_state_of_world"} 2
            volume_manager_total_volumes{plugin_name="kubernetes.io/persistent-claim",state="actual_state_of_world"} 1
            volume_manager_total_volumes{plugin_name="kubernetes.io/persistent-claim",state="desired_state_of_world"} 2
            kubelet_volume_stats_available_bytes{namespace="ns",persistentvolumeclaim="data"} 70
            kubelet_volume_stats_capacity_bytes{namespace="ns",persistentvolumeclaim="data"} 100
            kubelet_volume_stats_inodes{namespace="ns",persistentvolumeclaim="data"} 9
            kubelet_volume_stats_inodes_free{namespace="ns",persistentvolumeclaim="data"} 5
            kubelet_volume_stats_inodes_used{namespace="ns",persistentvolumeclaim="data"} 4
            kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="data"} 30
            kubelet_volume_stats_health_status_abnormal{namespace="ns",persistentvolumeclaim="data"} 1"#]]
        .assert_eq(&samples.join("\n"));
    }
}
