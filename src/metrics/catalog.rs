//! Every counter and histogram there is: names, help, labels and buckets of the kubelet's `pkg/kubelet/metrics`, of
//! client-go's and of the volume manager's. What can be read at the moment of a scrape is not here but in `server`.

use super::{Counter, DEFAULT_BUCKETS, Family, Gauge, Histogram};

/// `podStartupDurationBuckets`.
const POD_START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// `ExponentialBuckets(.005, 2.5, 14)`.
const RUNTIME: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
/// `ExponentialBuckets(.05, 2, 15)`, milliseconds.
const ADMISSION_MILLIS: &[f64] =
    &[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2];
/// `imagePullDurationBuckets`.
const IMAGE_PULL: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
    3600.0,
];
const STATUS_SYNC: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
const STORAGE: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
const REST: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

macro_rules! families {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $value:expr;)*) => {
        $($(#[$doc])* pub static $name: $kind = $value;)*
        /// All of them, in the order of their names.
        pub static ALL: &[&dyn Family] = &[$(&$name),*];
    };
}

families! {
    /// Methods as gRPC names them: `/csi.v1.Node/NodePublishVolume`, …
    CSI_OPERATIONS: Histogram<4> = Histogram::new(
        "csi_operations_seconds",
        "[ALPHA] Container Storage Interface operation duration with gRPC error code status total",
        ["driver_name", "grpc_status_code", "method_name", "migrated"],
        STORAGE,
    );
    /// Methods: create, update, destroy.
    CGROUP_MANAGER: Histogram<1> = Histogram::new(
        "kubelet_cgroup_manager_duration_seconds",
        "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.",
        ["operation_type"],
        DEFAULT_BUCKETS,
    );
    CLIENT_CERTIFICATE_RENEW_ERRORS: Counter<0> = Counter::new(
        "kubelet_certificate_manager_client_expiration_renew_errors",
        "[ALPHA] Counter of certificate renewal errors.",
        [],
    );
    /// Scopes: container, pod. Boundaries: numa_node, physical_cpu, uncore_cache.
    ALIGNED: Counter<2> = Counter::new(
        "kubelet_container_aligned_compute_resources_count",
        "[ALPHA] Cumulative number of aligned compute resources allocated to containers by alignment type.",
        ["boundary", "scope"],
    );
    NOT_ALIGNED: Counter<2> = Counter::new(
        "kubelet_container_aligned_compute_resources_failure_count",
        "[ALPHA] Cumulative number of failures to allocate aligned compute resources to containers by alignment type.",
        ["boundary", "scope"],
    );
    OWNED_CPUS_OF_NODES: Gauge<1> = Gauge::labelled(
        "kubelet_cpu_manager_allocation_per_numa",
        "[ALPHA] Number of CPUs allocated per NUMA node",
        ["numa_node"],
    );
    OWNED_CPUS: Gauge = Gauge::new(
        "kubelet_cpu_manager_exclusive_cpu_allocation_count",
        "[ALPHA] The total number of CPUs exclusively allocated to containers running on this node",
    );
    CPU_PINNING_ERRORS: Counter<0> = Counter::new(
        "kubelet_cpu_manager_pinning_errors_total",
        "[ALPHA] The number of cpu core allocations which required pinning failed.",
        [],
    );
    CPU_PINNING: Counter<0> = Counter::new(
        "kubelet_cpu_manager_pinning_requests_total",
        "[ALPHA] The number of cpu core allocations which required pinning.",
        [],
    );
    SHARED_CPUS: Gauge = Gauge::new(
        "kubelet_cpu_manager_shared_pool_size_millicores",
        "[ALPHA] The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.",
    );
    PROVIDER_DURATION: Histogram<1> = Histogram::new(
        "kubelet_credential_provider_plugin_duration",
        "[ALPHA] Duration of execution in seconds for credential provider plugin",
        ["plugin_name"],
        DEFAULT_BUCKETS,
    );
    PROVIDER_ERRORS: Counter<1> = Counter::new(
        "kubelet_credential_provider_plugin_errors_total",
        "[ALPHA] Number of errors from credential provider plugin",
        ["plugin_name"],
    );
    DEVICE_ALLOCATION: Histogram<1> = Histogram::new(
        "kubelet_device_plugin_alloc_duration_seconds",
        "[ALPHA] Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.",
        ["resource_name"],
        DEFAULT_BUCKETS,
    );
    DEVICE_REGISTRATIONS: Counter<1> = Counter::new(
        "kubelet_device_plugin_registration_total",
        "[ALPHA] Cumulative number of device plugin registrations. Broken down by resource name.",
        ["resource_name"],
    );
    /// Signals: `memory.available`, `nodefs.available`, …
    EVICTIONS: Counter<1> = Counter::new(
        "kubelet_evictions",
        "[ALPHA] Cumulative number of pod evictions by eviction signal",
        ["eviction_signal"],
    );
    EVICTION_STATS_AGE: Histogram<1> = Histogram::new(
        "kubelet_eviction_stats_age_seconds",
        "[ALPHA] Time between when stats are collected, and when pod is evicted based on those stats by eviction signal",
        ["eviction_signal"],
        DEFAULT_BUCKETS,
    );
    HTTP_DURATION: Histogram<4> = Histogram::new(
        "kubelet_http_requests_duration_seconds",
        "[ALPHA] Duration in seconds to serve http requests",
        ["long_running", "method", "path", "server_type"],
        DEFAULT_BUCKETS,
    );
    HTTP_REQUESTS: Counter<4> = Counter::new(
        "kubelet_http_requests_total",
        "[ALPHA] Number of the http requests received since the server started",
        ["long_running", "method", "path", "server_type"],
    );
    /// Reasons: `age`, `space`.
    IMAGES_COLLECTED: Counter<1> = Counter::new(
        "kubelet_image_garbage_collected_total",
        "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
        ["reason"],
    );
    /// Whether the image is here (true, false, unknown), the pull policy in lower case, whether it must be pulled.
    IMAGE_REQUESTS: Counter<3> = Counter::new(
        "kubelet_image_manager_ensure_image_requests_total",
        "[ALPHA] Number of ensure-image requests processed by the kubelet.",
        ["present_locally", "pull_policy", "pull_required"],
    );
    /// Results: `credentialPolicyAllowed`, `credentialRecordFound`, `mustAuthenticate`, `error`.
    IMAGE_CHECKS: Counter<1> = Counter::new(
        "kubelet_imagemanager_image_mustpull_checks_total",
        "[ALPHA] Counter for how many times kubelet checked whether credentials need to be re-verified to access an image",
        ["result"],
    );
    /// By size: `0-10MB`, …, `N/A`. The wait for other pulls is in it.
    IMAGE_PULLS: Histogram<1> = Histogram::new(
        "kubelet_image_pull_duration_seconds",
        "[ALPHA] Duration in seconds to pull an image.",
        ["image_size_in_bytes"],
        IMAGE_PULL,
    );
    PULLS_KEPT: Gauge = Gauge::new(
        "kubelet_imagemanager_ondisk_pulledrecords",
        "[ALPHA] Number of ImagePulledRecords stored on disk.",
    );
    PULLS_BEGUN: Gauge = Gauge::new(
        "kubelet_imagemanager_ondisk_pullintents",
        "[ALPHA] Number of ImagePullIntents stored on disk.",
    );
    MEMORY_PINNING_ERRORS: Counter<0> = Counter::new(
        "kubelet_memory_manager_pinning_errors_total",
        "[ALPHA] The number of memory pages allocations which required pinning that failed.",
        [],
    );
    MEMORY_PINNING: Counter<0> = Counter::new(
        "kubelet_memory_manager_pinning_requests_total",
        "[ALPHA] The number of memory pages allocations which required pinning.",
        [],
    );
    ORPHANED_PODS: Counter<0> = Counter::new(
        "kubelet_orphaned_runtime_pods_total",
        "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod \
         worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the \
         local configuration, which is unusual.",
        [],
    );
    PLEG_LAST_SEEN: Gauge =
        Gauge::new("kubelet_pleg_last_seen_seconds", "[ALPHA] Timestamp in seconds when PLEG was last seen active.");
    PLEG_RELIST: Histogram<0> = Histogram::new(
        "kubelet_pleg_relist_duration_seconds",
        "[ALPHA] Duration in seconds for relisting pods in PLEG.",
        [],
        DEFAULT_BUCKETS,
    );
    PLEG_RELIST_INTERVAL: Histogram<0> = Histogram::new(
        "kubelet_pleg_relist_interval_seconds",
        "[ALPHA] Interval in seconds between relisting in PLEG.",
        [],
        DEFAULT_BUCKETS,
    );
    /// Details: `static_pod`, `guaranteed_pod_cpu_manager_static_policy`, …
    INFEASIBLE_RESIZES: Counter<1> = Counter::new(
        "kubelet_pod_infeasible_resizes_total",
        "[ALPHA] Number of infeasible resizes for pods.",
        ["reason_detail"],
    );
    POD_RESOURCES_GET_ERRORS: Counter<1> = Counter::new(
        "kubelet_pod_resources_endpoint_errors_get",
        "[ALPHA] Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version.",
        ["server_api_version"],
    );
    POD_RESOURCES_GET: Counter<1> = Counter::new(
        "kubelet_pod_resources_endpoint_requests_get",
        "[ALPHA] Number of requests to the PodResource Get endpoint. Broken down by server api version.",
        ["server_api_version"],
    );
    POD_RESOURCES_GET_ALLOCATABLE: Counter<1> = Counter::new(
        "kubelet_pod_resources_endpoint_requests_get_allocatable",
        "[ALPHA] Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.",
        ["server_api_version"],
    );
    POD_RESOURCES_LIST: Counter<1> = Counter::new(
        "kubelet_pod_resources_endpoint_requests_list",
        "[ALPHA] Number of requests to the PodResource List endpoint. Broken down by server api version.",
        ["server_api_version"],
    );
    POD_RESOURCES_REQUESTS: Counter<1> = Counter::new(
        "kubelet_pod_resources_endpoint_requests_total",
        "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.",
        ["server_api_version"],
    );
    POD_STARTS: Histogram<0> = Histogram::new(
        "kubelet_pod_start_duration_seconds",
        "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
        [],
        POD_START,
    );
    POD_START_SLI: Histogram<0> = Histogram::new(
        "kubelet_pod_start_sli_duration_seconds",
        "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from \
         pod creation timestamp to when all its containers are reported as started and observed via watch",
        [],
        POD_START,
    );
    POD_START_TOTAL: Histogram<0> = Histogram::new(
        "kubelet_pod_start_total_duration_seconds",
        "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init \
         containers, measured from pod creation timestamp to when all its containers are reported as started and observed \
         via watch",
        [],
        POD_START,
    );
    POD_STATUS_SYNC: Histogram<0> = Histogram::new(
        "kubelet_pod_status_sync_duration_seconds",
        "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status \
         until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
        [],
        STATUS_SYNC,
    );
    /// Types: create, update, sync, kill.
    POD_WORKER: Histogram<1> = Histogram::new(
        "kubelet_pod_worker_duration_seconds",
        "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
        ["operation_type"],
        DEFAULT_BUCKETS,
    );
    POD_WORKER_START: Histogram<0> = Histogram::new(
        "kubelet_pod_worker_start_duration_seconds",
        "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.",
        [],
        DEFAULT_BUCKETS,
    );
    RUNTIME_OPERATIONS_DURATION: Histogram<1> = Histogram::new(
        "kubelet_runtime_operations_duration_seconds",
        "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
        ["operation_type"],
        RUNTIME,
    );
    RUNTIME_OPERATIONS_ERRORS: Counter<1> = Counter::new(
        "kubelet_runtime_operations_errors_total",
        "[ALPHA] Cumulative number of runtime operation errors by operation type.",
        ["operation_type"],
    );
    RUNTIME_OPERATIONS: Counter<1> = Counter::new(
        "kubelet_runtime_operations_total",
        "[ALPHA] Cumulative number of runtime operations by operation type.",
        ["operation_type"],
    );
    SERVER_CERTIFICATE_RENEW_ERRORS: Counter<0> = Counter::new(
        "kubelet_server_expiration_renew_errors",
        "[ALPHA] Counter of certificate renewal errors.",
        [],
    );
    STARTED_CONTAINERS_ERRORS: Counter<2> = Counter::new(
        "kubelet_started_containers_errors_total",
        "[ALPHA] Cumulative number of errors when starting containers",
        ["code", "container_type"],
    );
    /// Types: container, init_container, ephemeral_container.
    STARTED_CONTAINERS: Counter<1> = Counter::new(
        "kubelet_started_containers_total",
        "[ALPHA] Cumulative number of containers started",
        ["container_type"],
    );
    STARTED_PODS_ERRORS: Counter<0> = Counter::new(
        "kubelet_started_pods_errors_total",
        "[ALPHA] Cumulative number of errors when starting pods",
        [],
    );
    STARTED_PODS: Counter<0> =
        Counter::new("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started", []);
    /// In milliseconds.
    ADMISSION_DURATION: Histogram<0> = Histogram::new(
        "kubelet_topology_manager_admission_duration_ms",
        "[ALPHA] Duration in milliseconds to serve a pod admission request.",
        [],
        ADMISSION_MILLIS,
    );
    ADMISSION_ERRORS: Counter<0> = Counter::new(
        "kubelet_topology_manager_admission_errors_total",
        "[ALPHA] The number of admission request failures where resources could not be aligned.",
        [],
    );
    ADMISSIONS: Counter<0> = Counter::new(
        "kubelet_topology_manager_admission_requests_total",
        "[ALPHA] The number of admission requests where resources have to be aligned.",
        [],
    );
    REST_DURATION: Histogram<2> = Histogram::new(
        "rest_client_request_duration_seconds",
        "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
        ["host", "verb"],
        REST,
    );
    REST_REQUESTS: Counter<3> = Counter::new(
        "rest_client_requests_total",
        "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
        ["code", "host", "method"],
    );
    /// Operations: volume_mount, volume_unmount.
    STORAGE_OPERATIONS: Histogram<4> = Histogram::new(
        "storage_operation_duration_seconds",
        "[ALPHA] Storage operation duration",
        ["migrated", "operation_name", "status", "volume_plugin"],
        STORAGE,
    );
}

/// A CRI call as `instrumented_services.go` names it; `None`: not one of CRI's (containerd's own API).
pub fn runtime_operation(call: &'static str) -> Option<&'static str> {
    Some(match call {
        "Version" => "version",
        "Status" => "status",
        "RuntimeConfig" => "runtime_config",
        "RunPodSandbox" => "run_podsandbox",
        "StopPodSandbox" => "stop_podsandbox",
        "RemovePodSandbox" => "remove_podsandbox",
        "PodSandboxStatus" => "podsandbox_status",
        "ListPodSandbox" => "list_podsandbox",
        "CreateContainer" => "create_container",
        "StartContainer" => "start_container",
        "StopContainer" => "stop_container",
        "RemoveContainer" => "remove_container",
        "ContainerStatus" => "container_status",
        "ListContainers" => "list_containers",
        "UpdateContainerResources" => "update_container",
        "ReopenContainerLog" => "reopen_container_log",
        "CheckpointContainer" => "checkpoint_container",
        "ExecSync" => "exec_sync",
        "Exec" => "exec",
        "Attach" => "attach",
        "PortForward" => "port_forward",
        "ListContainerStats" => "list_container_stats",
        "UpdateRuntimeConfig" => "update_runtime_config",
        "ListImages" => "list_images",
        "ImageStatus" => "image_status",
        "PullImage" => "pull_image",
        "RemoveImage" => "remove_image",
        "ImageFsInfo" => "image_fs_info",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Text;

    #[test]
    fn every_family_has_a_name_of_its_own() {
        let mut text = Text::default();
        // A family with labels shows nothing before the first value.
        PLEG_LAST_SEEN.set(1.0);
        EVICTIONS.inc(["memory.available"]);
        ALL.iter().for_each(|family| family.write(&mut text));
        let mut names: Vec<&str> = text.as_str().lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(
            names.contains(&"kubelet_evictions counter")
                && names.contains(&"kubelet_pod_start_duration_seconds histogram")
        );
    }
}
