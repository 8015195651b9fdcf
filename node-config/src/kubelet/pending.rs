//! Fields that are read and checked but not acted on yet: each is named once at start with what it would do.

use super::types::KubeletConfiguration;
use serde_json::Value;

/// Field → what it would do. A field leaves this table when the agent acts on it.
const PENDING: [(&str, &str); 29] = [
    ("enableServer", "switch the HTTP API off"),
    ("readOnlyPort", "serve part of the API without authentication"),
    ("tlsCipherSuites", "choose cipher suites"),
    ("imagePullCredentialsVerificationPolicy", "ask for credentials of images that are there already"),
    ("preloadedImagesVerificationAllowlist", "spare images from that"),
    ("enableDebuggingHandlers", "switch logs, exec, attach and port-forward off"),
    ("oomScoreAdj", "set the agent's own oom_score_adj"),
    ("streamingConnectionIdleTimeout", "close streams that are silent"),
    ("nodeStatusUpdateFrequency", "compute the node's status more or less often"),
    ("volumeStatsAggPeriod", "measure volumes more or less often"),
    ("kubeletCgroups", "move the agent into that cgroup"),
    ("systemCgroups", "move other processes into that cgroup"),
    ("cgroupsPerQOS", "do without cgroups of classes of service"),
    ("singleProcessOOMKill", "have the kernel kill one process, not the container"),
    ("qosReserved", "reserve memory for classes of service"),
    ("runtimeRequestTimeout", "give calls of the runtime another deadline"),
    ("cpuCFSQuota", "leave CPU limits unenforced"),
    ("cpuCFSQuotaPeriod", "enforce CPU limits over another period"),
    ("nodeStatusMaxImages", "name more or fewer images in the node's status"),
    ("maxOpenFiles", "set the agent's limit of open files"),
    ("kubeAPIQPS", "limit requests to the API server"),
    ("kubeAPIBurst", "allow more requests at once"),
    ("podsPerCore", "limit pods by the number of cores"),
    ("protectKernelDefaults", "refuse to start on other kernel settings"),
    ("failSwapOn", "run on a machine with swap"),
    ("memorySwap", "let pods swap"),
    ("containerLogMaxWorkers", "rotate several logs at a time"),
    ("enableSystemLogQuery", "serve the machine's logs"),
    ("tracing", "send traces"),
];

pub(super) fn pending(config: &KubeletConfiguration) -> Vec<(&'static str, &'static str)> {
    // A configuration has no value that cannot be written as JSON; if it had, nothing would be said of it.
    let fields = |config| serde_json::to_value(config).unwrap_or(Value::Null);
    let (config, default) = (fields(config), fields(&KubeletConfiguration::defaulted()));
    PENDING.into_iter().filter(|(field, _)| config.get(field) != default.get(field)).collect()
}
