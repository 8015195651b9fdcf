//! Fields that are read and checked but not acted on yet: each is named once at start with what it would do.

use super::types::KubeletConfiguration;
use serde_json::Value;

/// Field → what it would do. A field leaves this table when the agent acts on it.
pub(super) const PENDING: [(&str, &str); 13] = [
    ("enableControllerAttachDetach", "attach volumes by itself"),
    ("makeIPTablesUtilChains", "leave iptables alone, as this agent always does"),
    ("systemCgroups", "move other processes into that cgroup"),
    ("cgroupsPerQOS", "do without cgroups of classes of service"),
    ("qosReserved", "reserve memory for classes of service"),
    ("memoryThrottlingFactor", "set memory.high where the feature gate MemoryQoS is on"),
    ("memoryReservationPolicy", "set memory.min and memory.low where the feature gate MemoryQoS is on"),
    ("contentType", "speak another encoding than JSON with the API server"),
    ("configMapAndSecretChangeDetectionStrategy", "hear of changes later than by a watch"),
    ("showHiddenMetricsForVersion", "show metrics that were removed"),
    ("volumePluginDir", "look for flexvolume plugins there"),
    ("enableContentionProfiling", "profile locks of Go"),
    ("tracing", "send traces"),
];

pub(super) fn pending(config: &KubeletConfiguration) -> Vec<(&'static str, &'static str)> {
    // A configuration has no value that cannot be written as JSON; if it had, nothing would be said of it.
    let fields = |config| serde_json::to_value(config).unwrap_or(Value::Null);
    let (config, default) = (fields(config), fields(&KubeletConfiguration::defaulted()));
    PENDING.into_iter().filter(|(field, _)| config.get(field) != default.get(field)).collect()
}
