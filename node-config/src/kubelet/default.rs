//! What the kubelet fills in (`SetDefaults_KubeletConfiguration` of 1.36).

use super::types::{FlushFrequency, KubeletConfiguration, UserNamespaces};
use crate::duration::Duration;
use std::collections::BTreeMap;

/// Thresholds of `evictionHard` on Linux (`eviction.DefaultEvictionHard`).
const EVICTION_HARD: [(&str, &str); 5] = [
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
];

/// A pod's user namespace when none is said.
const IDS_PER_POD: i64 = 65536;

impl KubeletConfiguration {
    /// Fills in what is absent; a zero duration or text counts as absent, as upstream.
    pub(super) fn set_defaults(&mut self) {
        self.set_server_defaults();
        self.set_node_defaults();
        self.set_pod_defaults();
    }

    /// The HTTP API, its callers, and what it tells of itself.
    fn set_server_defaults(&mut self) {
        some(&mut self.enable_server, true);
        text(&mut self.address, "0.0.0.0");
        number(&mut self.port, 10250);
        some(&mut self.authentication.anonymous.enabled, false);
        some(&mut self.authentication.webhook.enabled, true);
        duration(&mut self.authentication.webhook.cache_ttl, Duration::from_secs(120));
        text(&mut self.authorization.mode, "Webhook");
        duration(&mut self.authorization.webhook.cache_authorized_ttl, Duration::from_secs(300));
        duration(&mut self.authorization.webhook.cache_unauthorized_ttl, Duration::from_secs(30));
        some(&mut self.enable_debugging_handlers, true);
        some(&mut self.healthz_port, 10248);
        text(&mut self.healthz_bind_address, "127.0.0.1");
        duration(&mut self.streaming_connection_idle_timeout, Duration::from_secs(4 * 3600));
        some(&mut self.enable_system_log_handler, true);
        some(&mut self.enable_profiling_handler, true);
        some(&mut self.enable_debug_flags_handler, true);
        some(&mut self.event_record_qps, 50);
        number(&mut self.event_burst, 100);
        text(&mut self.content_type, "application/vnd.kubernetes.protobuf");
        some(&mut self.kube_api_qps, 50);
        number(&mut self.kube_api_burst, 100);
        text(&mut self.logging.format, "text");
        if matches!(self.logging.flush_frequency, FlushFrequency::Nanoseconds(0)) {
            self.logging.flush_frequency = FlushFrequency::Text(Duration::from_secs(5));
        }
        text(&mut self.logging.options.text.info_buffer_size, "0");
        text(&mut self.logging.options.json.info_buffer_size, "0");
    }

    /// The node, its status, its resources.
    fn set_node_defaults(&mut self) {
        duration(&mut self.sync_frequency, Duration::from_secs(60));
        duration(&mut self.file_check_frequency, Duration::from_secs(20));
        duration(&mut self.http_check_frequency, Duration::from_secs(20));
        some(&mut self.oom_score_adj, -999);
        // A status frequency that is said holds for reports too (compatibility, upstream's).
        if self.node_status_report_frequency.is_zero() {
            self.node_status_report_frequency = match self.node_status_update_frequency {
                Duration::ZERO => Duration::from_secs(300),
                said => said,
            };
        }
        duration(&mut self.node_status_update_frequency, Duration::from_secs(10));
        number(&mut self.node_lease_duration_seconds, 40);
        some(&mut self.node_status_max_images, 50);
        number(&mut self.max_pods, 110);
        if self.max_open_files == 0 {
            self.max_open_files = 1_000_000;
        }
        some(&mut self.cgroups_per_qos, true);
        text(&mut self.cgroup_driver, "cgroupfs");
        text(&mut self.cpu_manager_policy, "none");
        duration(&mut self.cpu_manager_reconcile_period, Duration::from_secs(10));
        text(&mut self.memory_manager_policy, "None");
        text(&mut self.topology_manager_policy, "none");
        text(&mut self.topology_manager_scope, "container");
        some(&mut self.enforce_node_allocatable, vec!["pods".to_owned()]);
        some(&mut self.fail_swap_on, true);
        some(&mut self.fail_cgroup_v1, true);
        some(&mut self.register_node, true);
        some(&mut self.memory_throttling_factor, 0.9);
        some(&mut self.merge_default_eviction_settings, false);
        let defaults = || EVICTION_HARD.map(|(signal, threshold)| (signal.to_owned(), threshold.to_owned()));
        let thresholds = self.eviction_hard.get_or_insert_with(|| defaults().into());
        if self.merge_default_eviction_settings == Some(true) {
            let said = std::mem::replace(thresholds, BTreeMap::from(defaults()));
            thresholds.extend(said);
        }
        duration(&mut self.eviction_pressure_transition_period, Duration::from_secs(300));
        text(&mut self.container_runtime_endpoint, "unix:///run/containerd/containerd.sock");
        duration(&mut self.runtime_request_timeout, Duration::from_secs(120));
    }

    /// Pods: images, volumes, logs, network.
    fn set_pod_defaults(&mut self) {
        text(&mut self.pod_logs_dir, "/var/log/pods");
        some(&mut self.registry_pull_qps, 5);
        number(&mut self.registry_burst, 10);
        if self.feature_gates.get("KubeletEnsureSecretPulledImages") != Some(&false) {
            text(&mut self.image_pull_credentials_verification_policy, "NeverVerifyPreloadedImages");
        }
        duration(&mut self.image_minimum_gc_age, Duration::from_secs(120));
        some(&mut self.image_gc_high_threshold_percent, 85);
        some(&mut self.image_gc_low_threshold_percent, 80);
        duration(&mut self.volume_stats_agg_period, Duration::from_secs(60));
        text(&mut self.hairpin_mode, "promiscuous-bridge");
        // Negative is the node's limit, whatever the number.
        self.pod_pids_limit = Some(self.pod_pids_limit.filter(|limit| *limit >= 0).unwrap_or(-1));
        some(&mut self.resolv_conf, "/etc/resolv.conf".to_owned());
        some(&mut self.cpu_cfs_quota, true);
        some(&mut self.cpu_cfs_quota_period, Duration::from_millis(100));
        // Who allows several pulls need not say that they are not serial.
        some(&mut self.serialize_image_pulls, self.max_parallel_image_pulls.is_none_or(|pulls| pulls < 2));
        some(&mut self.enable_controller_attach_detach, true);
        some(&mut self.make_iptables_util_chains, true);
        some(&mut self.iptables_masquerade_bit, 14);
        some(&mut self.iptables_drop_bit, 15);
        text(&mut self.container_log_max_size, "10Mi");
        some(&mut self.container_log_max_files, 5);
        some(&mut self.container_log_max_workers, 1);
        some(&mut self.container_log_monitor_interval, Duration::from_secs(10));
        text(&mut self.config_map_and_secret_change_detection_strategy, "Watch");
        text(&mut self.volume_plugin_dir, "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/");
        some(&mut self.seccomp_default, false);
        some(&mut self.local_storage_capacity_isolation, true);
        some(&mut self.crash_loop_back_off.max_container_restart_period, Duration::from_secs(300));
        if let Some(UserNamespaces { ids_per_pod }) = &mut self.user_namespaces {
            some(ids_per_pod, IDS_PER_POD);
        }
    }
}

fn some<T>(field: &mut Option<T>, default: T) {
    field.get_or_insert(default);
}

fn text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn number(field: &mut i32, default: i32) {
    if *field == 0 {
        *field = default;
    }
}

fn duration(field: &mut Duration, default: Duration) {
    if field.is_zero() {
        *field = default;
    }
}
