//! The fields of KubeletConfiguration v1beta1 under upstream's names, as they are written and shown (`/configz`).
//!
//! Go's pointers are `Option`: absent and zero differ. Durations and structs are always written, other zero values never
//! (`omitempty`).

use crate::duration::Duration;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

type Map<T> = BTreeMap<String, T>;

/// `kubelet.config.k8s.io/v1beta1`, kind `KubeletConfiguration`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    #[serde(skip_serializing)]
    pub kind: String,
    #[serde(skip_serializing)]
    pub api_version: String,
    /// Names of the fields that somebody wrote.
    #[serde(skip)]
    pub written: BTreeSet<String>,
    /// The HTTP API on `port` is served.
    #[serde(skip_serializing_if = "zero")]
    pub enable_server: Option<bool>,
    /// Directory of static pod manifests.
    #[serde(skip_serializing_if = "zero")]
    pub static_pod_path: String,
    /// Directory of the containers' logs.
    #[serde(skip_serializing_if = "zero")]
    pub pod_logs_dir: String,
    /// How often running pods are looked at anew.
    pub sync_frequency: Duration,
    /// How often `staticPodPath` is read.
    pub file_check_frequency: Duration,
    /// How often `staticPodURL` is fetched.
    pub http_check_frequency: Duration,
    /// URL of static pod manifests.
    #[serde(rename = "staticPodURL", skip_serializing_if = "zero")]
    pub static_pod_url: String,
    /// Headers of that request.
    #[serde(rename = "staticPodURLHeader", skip_serializing_if = "zero")]
    pub static_pod_url_header: Map<Vec<String>>,
    /// Where the HTTP API listens.
    #[serde(skip_serializing_if = "zero")]
    pub address: String,
    /// Its port.
    #[serde(skip_serializing_if = "zero")]
    pub port: i32,
    /// Port without authentication; 0 is none.
    #[serde(skip_serializing_if = "zero")]
    pub read_only_port: i32,
    /// Serving certificate.
    #[serde(skip_serializing_if = "zero")]
    pub tls_cert_file: String,
    /// Its key.
    #[serde(skip_serializing_if = "zero")]
    pub tls_private_key_file: String,
    /// Go's names of the cipher suites allowed below TLS 1.3.
    #[serde(skip_serializing_if = "zero")]
    pub tls_cipher_suites: Vec<String>,
    /// `VersionTLS12` or `VersionTLS13`.
    #[serde(skip_serializing_if = "zero")]
    pub tls_min_version: String,
    /// The client certificate is renewed by CSR.
    #[serde(skip_serializing_if = "zero")]
    pub rotate_certificates: bool,
    /// The serving certificate is asked for by CSR.
    #[serde(rename = "serverTLSBootstrap", skip_serializing_if = "zero")]
    pub server_tls_bootstrap: bool,
    /// Who may speak to the HTTP API.
    pub authentication: Authentication,
    /// What they may do.
    pub authorization: Authorization,
    /// Image pulls a second; 0 is no limit.
    #[serde(rename = "registryPullQPS", skip_serializing_if = "zero")]
    pub registry_pull_qps: Option<i32>,
    /// Pulls at once above that.
    #[serde(skip_serializing_if = "zero")]
    pub registry_burst: i32,
    /// When a pod must show that it may use an image that is there already.
    #[serde(skip_serializing_if = "zero")]
    pub image_pull_credentials_verification_policy: String,
    /// Images for which it need not.
    #[serde(skip_serializing_if = "zero")]
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// Events a second; 0 is no limit.
    #[serde(rename = "eventRecordQPS", skip_serializing_if = "zero")]
    pub event_record_qps: Option<i32>,
    /// Events at once above that.
    #[serde(skip_serializing_if = "zero")]
    pub event_burst: i32,
    /// Logs, exec, attach, port-forward are served.
    #[serde(skip_serializing_if = "zero")]
    pub enable_debugging_handlers: Option<bool>,
    /// Go's lock contention profiles.
    #[serde(skip_serializing_if = "zero")]
    pub enable_contention_profiling: bool,
    /// Port of `/healthz`; 0 is none.
    #[serde(skip_serializing_if = "zero")]
    pub healthz_port: Option<i32>,
    /// Its address.
    #[serde(skip_serializing_if = "zero")]
    pub healthz_bind_address: String,
    /// `oom_score_adj` of the agent itself.
    #[serde(skip_serializing_if = "zero")]
    pub oom_score_adj: Option<i32>,
    /// DNS domain of the cluster.
    #[serde(skip_serializing_if = "zero")]
    pub cluster_domain: String,
    /// DNS servers of pods with policy ClusterFirst.
    #[serde(rename = "clusterDNS", skip_serializing_if = "zero")]
    pub cluster_dns: Vec<String>,
    /// No longer of any effect, upstream too: the runtime closes streams.
    pub streaming_connection_idle_timeout: Duration,
    /// How often the node's status is computed.
    pub node_status_update_frequency: Duration,
    /// How often it is written when nothing changed.
    pub node_status_report_frequency: Duration,
    /// Duration of the node's Lease.
    #[serde(skip_serializing_if = "zero")]
    pub node_lease_duration_seconds: i32,
    /// An unused image is kept this long.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Duration,
    /// An image unused for longer goes; 0 is never.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: Duration,
    /// Disk usage above which images go.
    #[serde(rename = "imageGCHighThresholdPercent", skip_serializing_if = "zero")]
    pub image_gc_high_threshold_percent: Option<i32>,
    /// Disk usage down to which they go.
    #[serde(rename = "imageGCLowThresholdPercent", skip_serializing_if = "zero")]
    pub image_gc_low_threshold_percent: Option<i32>,
    /// How often volumes are measured; negative is never.
    pub volume_stats_agg_period: Duration,
    /// Cgroup of the agent.
    #[serde(skip_serializing_if = "zero")]
    pub kubelet_cgroups: String,
    /// Cgroup of all else that is not in one.
    #[serde(skip_serializing_if = "zero")]
    pub system_cgroups: String,
    /// Parent of `kubepods`.
    #[serde(skip_serializing_if = "zero")]
    pub cgroup_root: String,
    /// A cgroup for each class of service, and one for each pod.
    #[serde(rename = "cgroupsPerQOS", skip_serializing_if = "zero")]
    pub cgroups_per_qos: Option<bool>,
    /// `cgroupfs` or `systemd`.
    #[serde(skip_serializing_if = "zero")]
    pub cgroup_driver: String,
    /// `none` or `static`.
    #[serde(skip_serializing_if = "zero")]
    pub cpu_manager_policy: String,
    /// On cgroup v2: one process is killed, not the container.
    #[serde(rename = "singleProcessOOMKill", skip_serializing_if = "zero")]
    pub single_process_oom_kill: Option<bool>,
    /// Options of the static policy.
    #[serde(skip_serializing_if = "zero")]
    pub cpu_manager_policy_options: Map<String>,
    /// How often it is checked.
    pub cpu_manager_reconcile_period: Duration,
    /// `None` or `Static`.
    #[serde(skip_serializing_if = "zero")]
    pub memory_manager_policy: String,
    /// `none`, `best-effort`, `restricted` or `single-numa-node`.
    #[serde(skip_serializing_if = "zero")]
    pub topology_manager_policy: String,
    /// `container` or `pod`.
    #[serde(skip_serializing_if = "zero")]
    pub topology_manager_scope: String,
    /// Options of that policy.
    #[serde(skip_serializing_if = "zero")]
    pub topology_manager_policy_options: Map<String>,
    /// Percentages of resources kept for classes of service.
    #[serde(skip_serializing_if = "zero")]
    pub qos_reserved: Map<String>,
    /// Deadline of a call of the runtime that is not a long one.
    pub runtime_request_timeout: Duration,
    /// How a pod reaches itself by a service.
    #[serde(skip_serializing_if = "zero")]
    pub hairpin_mode: String,
    /// How many pods the node takes.
    #[serde(skip_serializing_if = "zero")]
    pub max_pods: i32,
    /// Addresses of pods, for a node without a cluster.
    #[serde(rename = "podCIDR", skip_serializing_if = "zero")]
    pub pod_cidr: String,
    /// Processes of a pod; -1 is the node's limit.
    #[serde(skip_serializing_if = "zero")]
    pub pod_pids_limit: Option<i64>,
    /// DNS configuration that pods inherit; empty is none.
    #[serde(skip_serializing_if = "zero")]
    pub resolv_conf: Option<String>,
    /// Refused: upstream removed the mode.
    #[serde(skip_serializing_if = "zero")]
    pub run_once: bool,
    /// CPU limits are enforced.
    #[serde(rename = "cpuCFSQuota", skip_serializing_if = "zero")]
    pub cpu_cfs_quota: Option<bool>,
    /// Period of that quota.
    #[serde(rename = "cpuCFSQuotaPeriod", skip_serializing_if = "zero")]
    pub cpu_cfs_quota_period: Option<Duration>,
    /// Images named in the node's status; -1 is all.
    #[serde(skip_serializing_if = "zero")]
    pub node_status_max_images: Option<i32>,
    /// The agent's own limit of open files.
    #[serde(skip_serializing_if = "zero")]
    pub max_open_files: i64,
    /// Encoding of requests to the API server.
    #[serde(skip_serializing_if = "zero")]
    pub content_type: String,
    /// Requests a second to the API server.
    #[serde(rename = "kubeAPIQPS", skip_serializing_if = "zero")]
    pub kube_api_qps: Option<i32>,
    /// Requests at once above that.
    #[serde(rename = "kubeAPIBurst", skip_serializing_if = "zero")]
    pub kube_api_burst: i32,
    /// One pull at a time.
    #[serde(skip_serializing_if = "zero")]
    pub serialize_image_pulls: Option<bool>,
    /// Pulls at a time otherwise; absent is no limit.
    #[serde(skip_serializing_if = "zero")]
    pub max_parallel_image_pulls: Option<i32>,
    /// Signal to threshold: below it pods are evicted at once.
    #[serde(skip_serializing_if = "zero")]
    pub eviction_hard: Option<Map<String>>,
    /// Signal to threshold: below it for the grace period, pods are evicted.
    #[serde(skip_serializing_if = "zero")]
    pub eviction_soft: Map<String>,
    /// Signal to that period.
    #[serde(skip_serializing_if = "zero")]
    pub eviction_soft_grace_period: Map<String>,
    /// A pressure condition stays this long.
    pub eviction_pressure_transition_period: Duration,
    /// Grace in seconds of pods evicted softly.
    #[serde(skip_serializing_if = "zero")]
    pub eviction_max_pod_grace_period: i32,
    /// Signal to what is freed at least.
    #[serde(skip_serializing_if = "zero")]
    pub eviction_minimum_reclaim: Map<String>,
    /// Signals not named in `evictionHard` keep their default.
    #[serde(skip_serializing_if = "zero")]
    pub merge_default_eviction_settings: Option<bool>,
    /// Pods a core, below `maxPods`; 0 is no limit.
    #[serde(skip_serializing_if = "zero")]
    pub pods_per_core: i32,
    /// Volumes are attached by the controller.
    #[serde(skip_serializing_if = "zero")]
    pub enable_controller_attach_detach: Option<bool>,
    /// Wrong kernel settings are an error, not put right.
    #[serde(skip_serializing_if = "zero")]
    pub protect_kernel_defaults: bool,
    /// The chain KUBE-IPTABLES-HINT is made.
    #[serde(rename = "makeIPTablesUtilChains", skip_serializing_if = "zero")]
    pub make_iptables_util_chains: Option<bool>,
    /// No longer of any effect, upstream too.
    #[serde(skip_serializing_if = "zero")]
    pub iptables_masquerade_bit: Option<i32>,
    /// No longer of any effect, upstream too.
    #[serde(skip_serializing_if = "zero")]
    pub iptables_drop_bit: Option<i32>,
    /// Features switched on or off.
    #[serde(skip_serializing_if = "zero")]
    pub feature_gates: Map<bool>,
    /// Swap is an error.
    #[serde(skip_serializing_if = "zero")]
    pub fail_swap_on: Option<bool>,
    /// Swap of pods.
    pub memory_swap: MemorySwap,
    /// A container's log is rotated above this size.
    #[serde(skip_serializing_if = "zero")]
    pub container_log_max_size: String,
    /// Logs kept of a container.
    #[serde(skip_serializing_if = "zero")]
    pub container_log_max_files: Option<i32>,
    /// Rotations at a time.
    #[serde(skip_serializing_if = "zero")]
    pub container_log_max_workers: Option<i32>,
    /// How often their size is looked at.
    #[serde(skip_serializing_if = "zero")]
    pub container_log_monitor_interval: Option<Duration>,
    /// `Get`, `Cache` or `Watch`.
    #[serde(skip_serializing_if = "zero")]
    pub config_map_and_secret_change_detection_strategy: String,
    /// Resources kept for the system.
    #[serde(skip_serializing_if = "zero")]
    pub system_reserved: Map<String>,
    /// Resources kept for Kubernetes.
    #[serde(skip_serializing_if = "zero")]
    pub kube_reserved: Map<String>,
    /// CPUs kept for both.
    #[serde(rename = "reservedSystemCPUs", skip_serializing_if = "zero")]
    pub reserved_system_cpus: String,
    /// Metrics hidden since that version are shown.
    #[serde(skip_serializing_if = "zero")]
    pub show_hidden_metrics_for_version: String,
    /// Cgroup on which `systemReserved` is enforced.
    #[serde(skip_serializing_if = "zero")]
    pub system_reserved_cgroup: String,
    /// Cgroup on which `kubeReserved` is enforced.
    #[serde(skip_serializing_if = "zero")]
    pub kube_reserved_cgroup: String,
    /// `pods`, `system-reserved`, `kube-reserved`, …, or `none`.
    #[serde(skip_serializing_if = "zero")]
    pub enforce_node_allocatable: Option<Vec<String>>,
    /// Sysctls that pods may set beyond the safe ones.
    #[serde(skip_serializing_if = "zero")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Directory of flexvolume plugins.
    #[serde(skip_serializing_if = "zero")]
    pub volume_plugin_dir: String,
    /// The cloud's name of the node.
    #[serde(rename = "providerID", skip_serializing_if = "zero")]
    pub provider_id: String,
    /// The kernel tells of memory pressure.
    #[serde(skip_serializing_if = "zero")]
    pub kernel_memcg_notification: bool,
    /// How the agent logs.
    pub logging: Logging,
    /// `/logs` is served.
    #[serde(skip_serializing_if = "zero")]
    pub enable_system_log_handler: Option<bool>,
    /// Its query form too.
    #[serde(skip_serializing_if = "zero")]
    pub enable_system_log_query: Option<bool>,
    /// By how long a shutdown of the machine is delayed.
    pub shutdown_grace_period: Duration,
    /// The part of that for critical pods.
    pub shutdown_grace_period_critical_pods: Duration,
    /// The same by priority.
    #[serde(skip_serializing_if = "zero")]
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriod>,
    /// How long crashing containers wait.
    pub crash_loop_back_off: CrashLoopBackOff,
    /// Memory of NUMA nodes that the memory manager leaves alone.
    #[serde(skip_serializing_if = "zero")]
    pub reserved_memory: Vec<MemoryReservation>,
    /// Go's `/debug/pprof`.
    #[serde(skip_serializing_if = "zero")]
    pub enable_profiling_handler: Option<bool>,
    /// `/debug/flags/v`.
    #[serde(skip_serializing_if = "zero")]
    pub enable_debug_flags_handler: Option<bool>,
    /// `RuntimeDefault` where a pod names no seccomp profile.
    #[serde(skip_serializing_if = "zero")]
    pub seccomp_default: Option<bool>,
    /// `memory.high` as a part of the limit, on cgroup v2.
    #[serde(skip_serializing_if = "zero")]
    pub memory_throttling_factor: Option<f64>,
    /// `None` or `TieredReservation`: what `memory.min` and `memory.low` protect.
    #[serde(skip_serializing_if = "zero")]
    pub memory_reservation_policy: String,
    /// Taints at registration.
    #[serde(skip_serializing_if = "zero")]
    pub register_with_taints: Vec<Taint>,
    /// The node registers itself.
    #[serde(skip_serializing_if = "zero")]
    pub register_node: Option<bool>,
    /// OpenTelemetry.
    #[serde(skip_serializing_if = "zero")]
    pub tracing: Option<Tracing>,
    /// Ephemeral storage is measured and limited.
    #[serde(skip_serializing_if = "zero")]
    pub local_storage_capacity_isolation: Option<bool>,
    /// The container runtime's socket.
    pub container_runtime_endpoint: String,
    /// The image service's socket; the runtime's by default.
    #[serde(skip_serializing_if = "zero")]
    pub image_service_endpoint: String,
    /// cgroup v1 is an error.
    #[serde(skip_serializing_if = "zero")]
    pub fail_cgroup_v1: Option<bool>,
    /// How many IDs a pod's user namespace has.
    #[serde(skip_serializing_if = "zero")]
    pub user_namespaces: Option<UserNamespaces>,
}

/// Who may speak to the HTTP API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authentication {
    pub x509: X509Authentication,
    pub webhook: WebhookAuthentication,
    pub anonymous: AnonymousAuthentication,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct X509Authentication {
    /// The CA whose client certificates are believed.
    #[serde(rename = "clientCAFile", skip_serializing_if = "zero")]
    pub client_ca_file: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookAuthentication {
    /// Bearer tokens are shown to the API server (TokenReview).
    #[serde(skip_serializing_if = "zero")]
    pub enabled: Option<bool>,
    /// How long its answer holds.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnonymousAuthentication {
    #[serde(skip_serializing_if = "zero")]
    pub enabled: Option<bool>,
}

/// What they may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authorization {
    /// `AlwaysAllow` or `Webhook` (SubjectAccessReview).
    #[serde(skip_serializing_if = "zero")]
    pub mode: String,
    pub webhook: WebhookAuthorization,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookAuthorization {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: Duration,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemorySwap {
    /// `NoSwap` or `LimitedSwap`.
    #[serde(skip_serializing_if = "zero")]
    pub swap_behavior: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// The longest wait of a crashing container.
    #[serde(skip_serializing_if = "zero")]
    pub max_container_restart_period: Option<Duration>,
}

/// `k8s.io/component-base/logs/api/v1` LoggingConfiguration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// `text` or `json`.
    #[serde(skip_serializing_if = "zero")]
    pub format: String,
    /// A duration, or a count of nanoseconds.
    pub flush_frequency: FlushFrequency,
    pub verbosity: u32,
    #[serde(skip_serializing_if = "zero")]
    pub vmodule: Vec<VModule>,
    pub options: LoggingOptions,
}

/// `logsapi.TimeOrMetaDuration`: older files have a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlushFrequency {
    Text(Duration),
    Nanoseconds(i64),
}

impl Default for FlushFrequency {
    fn default() -> Self {
        Self::Nanoseconds(0)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VModule {
    pub file_pattern: String,
    pub verbosity: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoggingOptions {
    pub text: OutputOptions,
    pub json: OutputOptions,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutputOptions {
    #[serde(skip_serializing_if = "zero")]
    pub split_stream: bool,
    /// A quantity.
    #[serde(skip_serializing_if = "zero")]
    pub info_buffer_size: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShutdownGracePeriod {
    pub priority: i32,
    pub shutdown_grace_period_seconds: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryReservation {
    pub numa_node: i32,
    /// Resource to quantity.
    pub limits: Map<String>,
}

/// core/v1 Taint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    pub key: String,
    #[serde(skip_serializing_if = "zero")]
    pub value: String,
    pub effect: String,
    #[serde(skip_serializing_if = "zero")]
    pub time_added: Option<String>,
}

/// `k8s.io/component-base/tracing/api/v1` TracingConfiguration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    #[serde(skip_serializing_if = "zero")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "zero")]
    pub sampling_rate_per_million: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespaces {
    /// A multiple of 65536.
    #[serde(rename = "idsPerPod", skip_serializing_if = "zero")]
    pub ids_per_pod: Option<i64>,
}

/// Go's `omitempty`, pointers being `None`.
fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
