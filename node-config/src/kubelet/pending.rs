//! Fields that are read and checked but not acted on yet: each is named once at start with what it would do.

use super::types::KubeletConfiguration;
use serde_json::Value;

/// Field → what it would do. A field leaves this table when the agent acts on it.
const PENDING: [(&str, &str); 13] = [
    ("imagePullCredentialsVerificationPolicy", "ask for credentials of images that are there already"),
    ("preloadedImagesVerificationAllowlist", "spare images from that"),
    ("streamingConnectionIdleTimeout", "close streams that are silent"),
    ("kubeletCgroups", "move the agent into that cgroup"),
    ("systemCgroups", "move other processes into that cgroup"),
    ("cgroupsPerQOS", "do without cgroups of classes of service"),
    ("qosReserved", "reserve memory for classes of service"),
    ("cpuCFSQuotaPeriod", "enforce CPU limits over another period"),
    ("kubeAPIQPS", "limit requests to the API server"),
    ("kubeAPIBurst", "allow more requests at once"),
    ("containerLogMaxWorkers", "rotate several logs at a time"),
    ("kernelMemcgNotification", "hear of short memory from the kernel, sooner than every 10 s"),
    ("tracing", "send traces"),
];

pub(super) fn pending(config: &KubeletConfiguration) -> Vec<(&'static str, &'static str)> {
    // A configuration has no value that cannot be written as JSON; if it had, nothing would be said of it.
    let fields = |config| serde_json::to_value(config).unwrap_or(Value::Null);
    let (config, default) = (fields(config), fields(&KubeletConfiguration::defaulted()));
    PENDING.into_iter().filter(|(field, _)| config.get(field) != default.get(field)).collect()
}
