//! In which order pods end when the machine is switched off (`pkg/kubelet/nodeshutdown`), and in which words.

use crate::model::eviction::Removal;
use k8s_openapi::api::core::v1::Pod;
use node_config::kubelet::KubeletConfiguration;
use std::sync::Arc;
use std::time::Duration;

/// `SystemCriticalPriority`.
const CRITICAL: i32 = 2_000_000_000;
/// What a pod gets that names no grace of its own.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Pods of that priority and above, up to the next group's, end within `period`.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub priority: i32,
    pub period: Duration,
    pub pods: Vec<Arc<Pod>>,
}

/// The groups of a configuration, those first that end first; none: the machine is switched off without them.
pub fn groups(config: &KubeletConfiguration) -> Vec<Group> {
    let group = |priority, period| Group { priority, period, pods: Vec::new() };
    let mut groups: Vec<Group> = config
        .shutdown_grace_period_by_pod_priority
        .iter()
        .map(|entry| {
            group(entry.priority, Duration::from_secs(entry.shutdown_grace_period_seconds.max(0).unsigned_abs()))
        })
        .collect();
    let whole = config.shutdown_grace_period.to_std();
    let critical = config.shutdown_grace_period_critical_pods.to_std();
    if groups.is_empty() && !whole.is_zero() {
        groups = vec![group(0, whole.saturating_sub(critical)), group(CRITICAL, critical)];
    }
    groups.sort_by_key(|group| group.priority);
    groups
}

/// What all groups take together: the machine has to wait that long.
pub fn whole(groups: &[Group]) -> Duration {
    groups.iter().map(|group| group.period).sum()
}

/// Each pod in the group of the highest priority that is not above its own; one below all of them in the first.
pub fn assign(mut groups: Vec<Group>, pods: Vec<Arc<Pod>>) -> Vec<Group> {
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let place = groups.partition_point(|group| group.priority <= priority).saturating_sub(1);
        if let Some(group) = groups.get_mut(place) {
            group.pods.push(pod);
        }
    }
    groups.retain(|group| !group.pods.is_empty());
    groups
}

/// The pod ends within its own grace, or its group's if that is shorter.
pub fn removal(pod: &Pod, period: Duration) -> Removal {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let own = Duration::from_secs(own.unwrap_or(DEFAULT_GRACE_SECONDS).max(0).unsigned_abs());
    Removal {
        reason: "Terminated",
        message: "Pod was terminated in response to imminent node shutdown.".to_owned(),
        grace: own.min(period),
        disrupted: true,
        told: false,
        annotations: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, priority: Option<i32>) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": []}}),
            )
            .unwrap(),
        )
    }

    fn check(fields: Value, expected: &str) {
        let config: KubeletConfiguration = serde_json::from_value(fields).unwrap();
        let pods = vec![
            pod("system", Some(2_000_001_000)),
            pod("none", None),
            pod("negative", Some(-5)),
            pod("high", Some(100_000)),
            pod("middle", Some(99_999)),
        ];
        let show = |group: &Group| {
            let names: Vec<_> = group.pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
            format!("{}s: {}", group.period.as_secs(), names.join(" "))
        };
        let list: Vec<String> = assign(groups(&config), pods).iter().map(show).collect();
        assert_eq!(list.join("; "), expected);
    }

    #[test]
    fn critical_pods_end_last_and_have_their_part_of_the_time() {
        check(
            json!({"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"}),
            "20s: none negative high middle; 10s: system",
        );
        check(json!({}), "");
    }

    #[test]
    fn priorities_make_groups_in_whatever_order_they_are_written() {
        let entry = |priority: i32, seconds: i64| json!({"priority": priority, "shutdownGracePeriodSeconds": seconds});
        check(
            json!({"shutdownGracePeriodByPodPriority": [entry(100_000, 10), entry(0, 60), entry(2_000_000_000, 5), entry(10_000, 20)]}),
            "60s: none negative; 20s: middle; 10s: high; 5s: system",
        );
        check(
            json!({"shutdownGracePeriodByPodPriority": [entry(1_000_000, 10)]}),
            "10s: system none negative high middle",
        );
    }

    #[test]
    fn a_pod_ends_within_its_own_grace_where_that_is_shorter() {
        let removal = removal(&pod("p", None), Duration::from_secs(40));
        assert_eq!((removal.grace.as_secs(), removal.reason), (30, "Terminated"));
        assert_eq!(super::removal(&pod("p", None), Duration::from_secs(4)).grace.as_secs(), 4);
    }
}
