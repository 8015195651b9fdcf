//! Which values make no sense together (`ValidateKubeletConfiguration`): every finding, each with its field and remedy.

use super::quantity;
use super::tls;
use super::types::{KubeletConfiguration, Taint};
use crate::duration::Duration;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

/// Signals that `evictionHard`, `evictionSoft`, `evictionSoftGracePeriod` and `evictionMinimumReclaim` may name.
const SIGNALS: [&str; 9] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "allocatableMemory.available",
    "pid.available",
];

/// What is wrong, in the order of the rules; empty when nothing is.
pub(super) fn validate(config: &KubeletConfiguration) -> Vec<String> {
    let mut check = Check::default();
    ranges(config, &mut check);
    choices(config, &mut check);
    images(config, &mut check);
    shutdown(config, &mut check);
    allocatable(config, &mut check);
    eviction(config, &mut check);
    addresses_and_paths(config, &mut check);
    check.findings
}

/// Findings so far.
#[derive(Default)]
struct Check {
    findings: Vec<String>,
}

impl Check {
    fn that(&mut self, holds: bool, finding: impl FnOnce() -> String) {
        if !holds {
            self.findings.push(finding());
        }
    }

    fn at_least<T: PartialOrd + Display>(&mut self, field: &str, value: T, least: T) {
        self.that(value >= least, || format!("{field}: {value} must be at least {least}"));
    }

    fn between<T: PartialOrd + Display>(&mut self, field: &str, value: T, least: T, most: T) {
        self.that(value >= least && value <= most, || format!("{field}: {value} must be between {least} and {most}"));
    }

    fn one_of(&mut self, field: &str, value: &str, allowed: &[&str]) {
        self.that(allowed.contains(&value), || format!("{field}: {value:?} must be one of {}", allowed.join(", ")));
    }
}

fn ranges(config: &KubeletConfiguration, check: &mut Check) {
    check.at_least("nodeLeaseDurationSeconds", config.node_lease_duration_seconds, 1);
    check.between("port", config.port, 1, 65535);
    check.between("readOnlyPort", config.read_only_port, 0, 65535);
    check.between("healthzPort", config.healthz_port.unwrap_or(0), 0, 65535);
    check.between("oomScoreAdj", config.oom_score_adj.unwrap_or(0), -1000, 1000);
    check.between("iptablesMasqueradeBit", config.iptables_masquerade_bit.unwrap_or(0), 0, 31);
    check.between("iptablesDropBit", config.iptables_drop_bit.unwrap_or(0), 0, 31);
    for (field, value) in [
        ("eventBurst", config.event_burst),
        ("eventRecordQPS", config.event_record_qps.unwrap_or(0)),
        ("kubeAPIBurst", config.kube_api_burst),
        ("kubeAPIQPS", config.kube_api_qps.unwrap_or(0)),
        ("maxPods", config.max_pods),
        ("podsPerCore", config.pods_per_core),
        ("registryBurst", config.registry_burst),
        ("registryPullQPS", config.registry_pull_qps.unwrap_or(0)),
    ] {
        check.at_least(field, value, 0);
    }
    check.at_least("nodeStatusMaxImages", config.node_status_max_images.unwrap_or(0), -1);
    check.at_least("maxOpenFiles", config.max_open_files, 0);
    check.at_least("containerLogMaxFiles", config.container_log_max_files.unwrap_or(5), 2);
    check.at_least("containerLogMaxWorkers", config.container_log_max_workers.unwrap_or(1), 1);
    let interval = config.container_log_monitor_interval.unwrap_or(Duration::from_secs(10));
    check.that(interval >= Duration::from_secs(3), || {
        format!("containerLogMonitorInterval: {interval} must be at least 3s")
    });
    check.that(quantity::is(&config.container_log_max_size), || {
        format!("containerLogMaxSize: {:?} is not a quantity, as in 10Mi", config.container_log_max_size)
    });
    let period = config.cpu_cfs_quota_period.unwrap_or(Duration::from_millis(100));
    check.that(period >= Duration::from_millis(1) && period <= Duration::from_secs(1), || {
        format!("cpuCFSQuotaPeriod: {period} must be between 1ms and 1s")
    });
    let may_differ = config.feature_gates.get("CustomCPUCFSQuotaPeriod") == Some(&true);
    check.that(may_differ || period == Duration::from_millis(100), || {
        format!("cpuCFSQuotaPeriod: {period} requires feature gate CustomCPUCFSQuotaPeriod")
    });
    for (field, period) in [
        ("syncFrequency", config.sync_frequency),
        ("fileCheckFrequency", config.file_check_frequency),
        ("httpCheckFrequency", config.http_check_frequency),
        ("nodeStatusUpdateFrequency", config.node_status_update_frequency),
        ("nodeStatusReportFrequency", config.node_status_report_frequency),
        ("runtimeRequestTimeout", config.runtime_request_timeout),
        ("cpuManagerReconcilePeriod", config.cpu_manager_reconcile_period),
        ("evictionPressureTransitionPeriod", config.eviction_pressure_transition_period),
    ] {
        check.that(period >= Duration::ZERO, || format!("{field}: {period} must not be negative"));
    }
    if let Some(factor) = config.memory_throttling_factor {
        check.that(factor > 0.0 && factor <= 1.0, || {
            format!("memoryThrottlingFactor: {factor} must be greater than 0 and at most 1.0")
        });
    }
    if let Some(longest) = config.crash_loop_back_off.max_container_restart_period {
        check.that(longest >= Duration::from_secs(1) && longest <= Duration::from_secs(300), || {
            format!("crashLoopBackOff.maxContainerRestartPeriod: {longest} must be between 1s and 300s")
        });
    }
    if let Some(ids) = config.user_namespaces.as_ref().and_then(|namespaces| namespaces.ids_per_pod) {
        check.that(ids > 0 && ids % 65536 == 0 && ids < 1 << 32, || {
            format!("userNamespaces.idsPerPod: {ids} must be a multiple of 65536 and less than 2^32")
        });
    }
}

fn choices(config: &KubeletConfiguration, check: &mut Check) {
    check.one_of("cgroupDriver", &config.cgroup_driver, &["cgroupfs", "systemd"]);
    check.one_of("authorization.mode", &config.authorization.mode, &["AlwaysAllow", "Webhook"]);
    check.one_of("hairpinMode", &config.hairpin_mode, &["promiscuous-bridge", "hairpin-veth", "none"]);
    check.one_of("cpuManagerPolicy", &config.cpu_manager_policy, &["none", "static"]);
    check.one_of("memoryManagerPolicy", &config.memory_manager_policy, &["None", "Static"]);
    let policies = ["none", "best-effort", "restricted", "single-numa-node"];
    check.one_of("topologyManagerPolicy", &config.topology_manager_policy, &policies);
    check.one_of("topologyManagerScope", &config.topology_manager_scope, &["container", "pod"]);
    check.one_of("memorySwap.swapBehavior", &config.memory_swap.swap_behavior, &["", "NoSwap", "LimitedSwap"]);
    check.one_of("memoryReservationPolicy", &config.memory_reservation_policy, &["", "None", "TieredReservation"]);
    check.one_of("logging.format", &config.logging.format, &["text", "json"]);
    let versions = ["", "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"];
    check.one_of("tlsMinVersion", &config.tls_min_version, &versions);
    for suite in &config.tls_cipher_suites {
        check.that(tls::is_suite(suite), || {
            format!(
                "tlsCipherSuites: Cipher suite {suite} not supported or doesn't exist, in the names of Go's crypto/tls"
            )
        });
    }
    let strategy = &config.config_map_and_secret_change_detection_strategy;
    check.one_of("configMapAndSecretChangeDetectionStrategy", strategy, &["Get", "Cache", "Watch"]);
    check.that(!config.run_once, || "runOnce: the mode was removed; leave it out".to_owned());
    check.that(config.system_cgroups.is_empty() || !config.cgroup_root.is_empty(), || {
        "systemCgroups: cgroupRoot must be given with it".to_owned()
    });
    let query = config.enable_system_log_query == Some(true);
    check.that(!query || config.enable_system_log_handler == Some(true), || {
        "enableSystemLogQuery: enableSystemLogHandler must be true with it".to_owned()
    });
    for taint in &config.register_with_taints {
        taint_is_right(taint, check);
    }
}

fn taint_is_right(taint: &Taint, check: &mut Check) {
    check.that(!taint.key.is_empty(), || "registerWithTaints: a taint without a key".to_owned());
    let field = format!("registerWithTaints[{}].effect", taint.key);
    check.one_of(&field, &taint.effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    check
        .that(taint.time_added.is_none(), || format!("registerWithTaints[{}].timeAdded: must not be given", taint.key));
}

fn images(config: &KubeletConfiguration, check: &mut Check) {
    let (high, low) =
        (config.image_gc_high_threshold_percent.unwrap_or(85), config.image_gc_low_threshold_percent.unwrap_or(80));
    check.between("imageGCHighThresholdPercent", high, 0, 100);
    check.between("imageGCLowThresholdPercent", low, 0, 100);
    check.that(low < high, || {
        format!("imageGCLowThresholdPercent: {low} must be less than imageGCHighThresholdPercent, {high}")
    });
    let (least, most) = (config.image_minimum_gc_age, config.image_maximum_gc_age);
    check.that(least >= Duration::ZERO, || format!("imageMinimumGCAge: {least} must not be negative"));
    check.that(most >= Duration::ZERO, || format!("imageMaximumGCAge: {most} must not be negative"));
    check.that(most <= Duration::ZERO || most > least, || {
        format!("imageMaximumGCAge: {most} must be greater than imageMinimumGCAge, {least}")
    });
    if let Some(pulls) = config.max_parallel_image_pulls {
        check.at_least("maxParallelImagePulls", pulls, 1);
        check.that(pulls < 2 || config.serialize_image_pulls == Some(false), || {
            format!("maxParallelImagePulls: {pulls} contradicts serializeImagePulls: true")
        });
    }
    verification(config, check);
}

/// Who may use images that are on the node (`KubeletEnsureSecretPulledImages`).
fn verification(config: &KubeletConfiguration, check: &mut Check) {
    const GATE: &str = "KubeletEnsureSecretPulledImages";
    const LISTED: &str = "NeverVerifyAllowlistedImages";
    let policy = config.image_pull_credentials_verification_policy.as_str();
    let patterns = &config.preloaded_images_verification_allowlist;
    if config.feature_gates.get(GATE) == Some(&false) {
        for (field, is_empty) in [
            ("imagePullCredentialsVerificationPolicy", policy.is_empty()),
            ("preloadedImagesVerificationAllowlist", patterns.is_empty()),
        ] {
            check.that(is_empty, || format!("{field}: must not be set while the feature gate {GATE} is off"));
        }
        return;
    }
    let policies = ["NeverVerify", "NeverVerifyPreloadedImages", LISTED, "AlwaysVerify"];
    check.one_of("imagePullCredentialsVerificationPolicy", policy, &policies);
    check.that(patterns.is_empty() || policy == LISTED, || {
        format!("preloadedImagesVerificationAllowlist: only with imagePullCredentialsVerificationPolicy: {LISTED}")
    });
    for pattern in patterns {
        if let Err(why) = allowlist_pattern(pattern) {
            check.that(false, || format!("preloadedImagesVerificationAllowlist: {why}: {pattern:?}"));
        }
    }
}

/// A repository in full, or all below a registry or a folder of it (`getAllowlistImagePattern`).
fn allowlist_pattern(pattern: &str) -> Result<(), &'static str> {
    let folder = pattern.strip_suffix('*').filter(|folder| folder.ends_with('/'));
    let name = folder.unwrap_or(pattern);
    if pattern != pattern.trim() {
        return Err("leading/trailing spaces are not allowed");
    }
    if name.is_empty() {
        return Err("the supplied pattern is too short");
    }
    if name.contains('*') {
        return Err("not a valid wildcard pattern, only patterns ending with '/*' are allowed");
    }
    if folder.is_some() {
        return if name == "/" { Err("at least registry hostname is required") } else { Ok(()) };
    }
    let (registry, path) = name.split_once('/').unwrap_or(("", name));
    if path.contains([':', '@']) {
        return Err("neither tag nor digest is accepted in an image reference");
    }
    let is_registry = registry.contains(['.', ':']) || registry == "localhost";
    let is_default = registry == "index.docker.io" || (registry == "docker.io" && !path.contains('/'));
    let parts = path.split('/').all(|part| {
        !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    });
    if is_registry && !is_default && parts {
        Ok(())
    } else {
        Err("an image is to be named in full, as in docker.io/library/busybox")
    }
}

fn shutdown(config: &KubeletConfiguration, check: &mut Check) {
    let (all, critical) = (config.shutdown_grace_period, config.shutdown_grace_period_critical_pods);
    for (field, value) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        check.that(value.is_zero() || value >= Duration::from_secs(1), || {
            format!("{field}: {value} must be 0s or at least 1s")
        });
    }
    check.that(critical <= all, || {
        format!("shutdownGracePeriodCriticalPods: {critical} must not exceed shutdownGracePeriod, {all}")
    });
    check
        .that(config.shutdown_grace_period_by_pod_priority.is_empty() || (all.is_zero() && critical.is_zero()), || {
            "shutdownGracePeriodByPodPriority: not together with shutdownGracePeriod".to_owned()
        });
}

fn allocatable(config: &KubeletConfiguration, check: &mut Check) {
    const OPTIONS: [&str; 6] = [
        "none",
        "pods",
        "system-reserved",
        "system-reserved-compressible",
        "kube-reserved",
        "kube-reserved-compressible",
    ];
    const FIELD: &str = "enforceNodeAllocatable";
    let chosen: &[String] = config.enforce_node_allocatable.as_deref().unwrap_or_default();
    let has = |option: &str| chosen.iter().any(|chosen| chosen == option);
    let distinct: BTreeSet<&String> = chosen.iter().collect();
    check.that(distinct.len() == chosen.len(), || format!("{FIELD}: {} names one twice", chosen.join(", ")));
    for option in chosen {
        check.one_of(FIELD, option, &OPTIONS);
        check.that(option == "none" || config.cgroups_per_qos != Some(false), || {
            format!("{FIELD}: {option:?} needs cgroupsPerQOS: true")
        });
    }
    check.that(!has("none") || chosen.len() == 1, || format!("{FIELD}: nothing beside \"none\""));
    for (reserved, cgroup, field) in [
        ("system-reserved", &config.system_reserved_cgroup, "systemReservedCgroup"),
        ("kube-reserved", &config.kube_reserved_cgroup, "kubeReservedCgroup"),
    ] {
        let compressible = format!("{reserved}-compressible");
        check.that(!(has(reserved) && has(&compressible)), || {
            format!("{FIELD}: {reserved:?} and {compressible:?} exclude one another")
        });
        check.that(!(has(reserved) || has(&compressible)) || !cgroup.is_empty(), || {
            format!("{field}: must be given with {reserved:?} in {FIELD}")
        });
    }
    for (field, reserved) in [("systemReserved", &config.system_reserved), ("kubeReserved", &config.kube_reserved)] {
        for (resource, amount) in reserved {
            let field = format!("{field}.{resource}");
            check.one_of(&field, resource, &["cpu", "memory", "ephemeral-storage", "pid"]);
            check.that(quantity::is(amount) && !amount.starts_with('-'), || {
                format!("{field}: {amount:?} is not a quantity of at least 0, as in 100m or 1Gi")
            });
        }
    }
    let cpus = &config.reserved_system_cpus;
    check.that(cpus.is_empty() || cpu_list(cpus), || {
        format!("reservedSystemCPUs: {cpus:?} is not a list of CPUs, as in 0-1,4")
    });
    let cgroups = config.system_reserved_cgroup.is_empty() && config.kube_reserved_cgroup.is_empty();
    check.that(cpus.is_empty() || cgroups, || {
        "reservedSystemCPUs: not together with systemReservedCgroup or kubeReservedCgroup".to_owned()
    });
    let mut reserved = BTreeSet::new();
    for reservation in &config.reserved_memory {
        for (resource, amount) in &reservation.limits {
            let field = format!("reservedMemory[{}].limits.{resource}", reservation.numa_node);
            check.that(resource == "memory" || resource.starts_with("hugepages-"), || {
                format!("{field}: must be memory or hugepages-<size>")
            });
            check.that(quantity::is(amount), || format!("{field}: {amount:?} is not a quantity, as in 1Gi"));
            check.that(reserved.insert((reservation.numa_node, resource)), || format!("{field}: given twice"));
        }
    }
}

fn eviction(config: &KubeletConfiguration, check: &mut Check) {
    let hard = config.eviction_hard.iter().flatten();
    for (field, thresholds) in [
        ("evictionHard", hard.collect::<Vec<_>>()),
        ("evictionSoft", config.eviction_soft.iter().collect()),
        ("evictionMinimumReclaim", config.eviction_minimum_reclaim.iter().collect()),
    ] {
        for (signal, threshold) in thresholds {
            let field = format!("{field}.{signal}");
            signal_is_known(&field, signal, check);
            check.that(percentage(threshold).unwrap_or_else(|| quantity::is(threshold)), || {
                format!("{field}: {threshold:?} is neither a quantity, as in 100Mi, nor a percentage, as in 10%")
            });
        }
    }
    for (signal, period) in &config.eviction_soft_grace_period {
        let field = format!("evictionSoftGracePeriod.{signal}");
        signal_is_known(&field, signal, check);
        let right = period.parse::<Duration>().is_ok_and(|period| period > Duration::ZERO);
        check.that(right, || format!("{field}: {period:?} is not a positive duration, as in 1m30s"));
    }
    for signal in config.eviction_soft.keys() {
        check.that(config.eviction_soft_grace_period.contains_key(signal), || {
            format!("evictionSoft.{signal}: evictionSoftGracePeriod.{signal} must be given with it")
        });
    }
}

fn signal_is_known(field: &str, signal: &str, check: &mut Check) {
    check.that(SIGNALS.contains(&signal), || format!("{field}: unknown signal; known are {}", SIGNALS.join(", ")));
}

fn addresses_and_paths(config: &KubeletConfiguration, check: &mut Check) {
    let mut addresses = vec![("address", &config.address), ("healthzBindAddress", &config.healthz_bind_address)];
    addresses.extend(config.cluster_dns.iter().map(|address| ("clusterDNS", address)));
    for (field, address) in addresses {
        check.that(address.parse::<IpAddr>().is_ok(), || format!("{field}: {address:?} is not an IP address"));
    }
    for (field, path, optional) in [
        ("podLogsDir", &config.pod_logs_dir, false),
        ("staticPodPath", &config.static_pod_path, true),
        ("tlsCertFile", &config.tls_cert_file, true),
        ("tlsPrivateKeyFile", &config.tls_private_key_file, true),
        ("authentication.x509.clientCAFile", &config.authentication.x509.client_ca_file, true),
    ] {
        check.that((optional && path.is_empty()) || path.starts_with('/'), || {
            format!("{field}: {path:?} must be an absolute path")
        });
    }
    check.that(config.tls_cert_file.is_empty() == config.tls_private_key_file.is_empty(), || {
        "tlsCertFile and tlsPrivateKeyFile: both or none".to_owned()
    });
    let normal = !config.pod_logs_dir.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    check.that(normal, || format!("podLogsDir: {:?} must be normalized", config.pod_logs_dir));
    for (field, endpoint) in [
        ("containerRuntimeEndpoint", &config.container_runtime_endpoint),
        ("imageServiceEndpoint", &config.image_service_endpoint),
    ] {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        check.that(endpoint.is_empty() || path.starts_with('/'), || {
            format!("{field}: {endpoint:?} is not a unix socket, as in unix:///run/containerd/containerd.sock")
        });
    }
}

/// `Some` when it is written as a percentage: whether it is one.
fn percentage(text: &str) -> Option<bool> {
    let number = text.strip_suffix('%')?;
    Some(number.parse::<f64>().is_ok_and(|percent| (0.0..=100.0).contains(&percent)))
}

/// `0-3,8`: the kernel's list format.
fn cpu_list(text: &str) -> bool {
    text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => matches!((first.parse::<u32>(), last.parse::<u32>()), (Ok(a), Ok(b)) if a <= b),
        None => part.parse::<u32>().is_ok(),
    })
}
