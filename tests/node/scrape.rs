//! The node's figures as Prometheus and metrics-server read them, on a live node.

use crate::exposition::{Scrape, parse};
use crate::harness::{Containerd, Node};
use crate::pods::sleeper;
use serde_json::{Value, json};
use std::process::Command;

/// `/metrics`: what kubernetes-mixin's kubelet dashboard, its recording rules and its alerts of the kubelet ask for.
const KUBELET: &[&str] = &[
    "go_goroutines",
    "kubelet_certificate_manager_client_expiration_renew_errors",
    "kubelet_certificate_manager_server_ttl_seconds",
    "kubelet_cgroup_manager_duration_seconds_bucket",
    "kubelet_cgroup_manager_duration_seconds_count",
    "kubelet_http_requests_duration_seconds_bucket",
    "kubelet_http_requests_total",
    "kubelet_node_name",
    "kubelet_pleg_last_seen_seconds",
    "kubelet_pleg_relist_duration_seconds_bucket",
    "kubelet_pleg_relist_duration_seconds_count",
    "kubelet_pleg_relist_interval_seconds_bucket",
    "kubelet_pod_start_duration_seconds_bucket",
    "kubelet_pod_start_duration_seconds_count",
    "kubelet_pod_start_sli_duration_seconds_bucket",
    "kubelet_pod_worker_duration_seconds_bucket",
    "kubelet_pod_worker_duration_seconds_count",
    "kubelet_pod_worker_start_duration_seconds_count",
    "kubelet_running_containers",
    "kubelet_running_pods",
    "kubelet_runtime_operations_duration_seconds_bucket",
    "kubelet_runtime_operations_total",
    "kubelet_server_expiration_renew_errors",
    "kubelet_started_containers_total",
    "kubelet_started_pods_errors_total",
    "kubelet_started_pods_total",
    "kubernetes_build_info",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "rest_client_request_duration_seconds_bucket",
    "rest_client_requests_total",
    "storage_operation_duration_seconds_bucket",
    "storage_operation_duration_seconds_count",
    "volume_manager_total_volumes",
];

/// `/metrics/cadvisor`: of a container with limits, as the dashboards of workloads and `CPUThrottlingHigh` ask for it.
const CONTAINER: &[&str] = &[
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_file_descriptors",
    "container_last_seen",
    "container_memory_cache",
    "container_memory_failcnt",
    "container_memory_failures_total",
    "container_memory_mapped_file",
    "container_memory_max_usage_bytes",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_oom_events_total",
    "container_processes",
    "container_sockets",
    "container_spec_cpu_period",
    "container_spec_cpu_quota",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_start_time_seconds",
    "container_threads",
    "container_threads_max",
];

/// The same of a pod's sandbox, which holds its network.
const SANDBOX: &[&str] = &[
    "container_network_receive_bytes_total",
    "container_network_receive_errors_total",
    "container_network_receive_packets_dropped_total",
    "container_network_receive_packets_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_errors_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_transmit_packets_total",
];

/// The same of the machine.
const MACHINE: &[&str] = &[
    "cadvisor_version_info",
    "machine_cpu_cores",
    "machine_memory_bytes",
    "machine_scrape_error",
    "machine_swap_bytes",
];

/// The labels that the kubelet gives to every series of a cgroup.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// Which of the test's ports it is.
const READ_ONLY: u16 = 7;

fn scrape(node: &Node, path: &str) -> Scrape {
    let text = raw(node, path);
    parse(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn raw(node: &Node, path: &str) -> String {
    node.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy{path}", node.slot.node_name())])
}

fn measured() -> Value {
    let mut pod = sleeper("measured");
    pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    let container = &mut pod["spec"]["containers"][0];
    container["resources"] = json!({"limits": {"cpu": "100m", "memory": "64Mi"}});
    container["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    container["readinessProbe"] = json!({"periodSeconds": 1, "exec": {"command": ["true"]}});
    pod
}

#[test]
fn every_scrape_parses_and_holds_what_dashboards_and_alerts_ask_for() {
    let mut node = Node::prepare(Containerd::Current, &[]);
    node.flag(format!("--read-only-port={}", node.slot.port(READ_ONLY)));
    node.flag("--tls-min-version=VersionTLS13".to_owned());
    node.boot();
    node.apply(&measured());
    node.wait_ready(&["measured"]);
    the_kubelets_own(&node);
    cadvisors(&node);
    probes(&node);
    resources(&node);
    the_summary(&node);
    zpages_and_logs(&node);
    the_read_only_port(&node);
    the_least_version_of_tls(&node);
}

fn the_kubelets_own(node: &Node) {
    // A request is counted when it was answered: the scrape itself comes too late to be in it.
    raw(node, "/healthz");
    let kubelet = scrape(node, "/metrics");
    let missing: Vec<_> = KUBELET.iter().filter(|name| !kubelet.has(name, &[])).collect();
    assert!(missing.is_empty(), "/metrics lacks {missing:?}");
    assert!(kubelet.has("kubelet_node_name", &[("node", &node.slot.node_name())]));
    assert!(kubelet.has("kubernetes_build_info", &[("git_version", "v1.36.2"), ("major", "1"), ("minor", "36")]));
    assert!(kubelet.has("kubelet_runtime_operations_total", &[("operation_type", "run_podsandbox")]));
    assert!(kubelet.has("rest_client_requests_total", &[("code", "201"), ("method", "POST")]));
    let volumes = [("plugin_name", "kubernetes.io/empty-dir"), ("state", "actual_state_of_world")];
    assert!(kubelet.has("volume_manager_total_volumes", &volumes));
    let one = |name: &str, labels: &[(&str, &str)]| kubelet.all(name, labels).next().expect("a sample").value;
    assert!((one("kubelet_running_pods", &[]) - 1.0).abs() < 0.5);
    assert!((one("kubelet_running_containers", &[("container_state", "running")]) - 1.0).abs() < 0.5);
    assert!((one("kubelet_pod_start_duration_seconds_count", &[]) - 1.0).abs() < 0.5);
}

fn cadvisors(node: &Node) {
    let cadvisor = scrape(node, "/metrics/cadvisor");
    let container = [("container", "c"), ("namespace", "default"), ("pod", "measured")];
    let sandbox = [("container", ""), ("namespace", "default"), ("pod", "measured"), ("interface", "eth0")];
    let lacks = |names: &[&'static str], labels: &[(&str, &str)]| -> Vec<&str> {
        names.iter().copied().filter(|name| !cadvisor.has(name, labels)).collect()
    };
    let missing = [lacks(CONTAINER, &container), lacks(SANDBOX, &sandbox), lacks(MACHINE, &[])].concat();
    assert!(missing.is_empty(), "/metrics/cadvisor lacks {missing:?}");
    assert!(cadvisor.has("container_cpu_usage_seconds_total", &[("id", "/"), ("cpu", "total")]));
    assert!(cadvisor.has("container_fs_usage_bytes", &[("id", "/")]));
    let limit = cadvisor.all("container_spec_memory_limit_bytes", &container).next().expect("a limit").value;
    assert!((limit - f64::from(64 << 20)).abs() < 1.0, "{limit}");
    for sample in cadvisor.samples.iter().filter(|sample| sample.name.starts_with("container_")) {
        let bare = sample.name == "container_scrape_error";
        assert!(bare || LABELS.iter().all(|label| sample.labels.contains_key(*label)), "{sample:?}");
    }
    let named = cadvisor.all("container_memory_working_set_bytes", &container).next().expect("a container");
    assert!(named.labels["image"].contains("busybox") && named.labels["id"].ends_with(&named.labels["name"]));
}

fn probes(node: &Node) {
    let probes = scrape(node, "/metrics/probes");
    // The pod is Ready, so this one has run.
    let labels = [("container", "c"), ("namespace", "default"), ("pod", "measured"), ("probe_type", "Readiness")];
    assert!(probes.has("prober_probe_duration_seconds_bucket", &labels));
    assert!(probes.all("prober_probe_total", &labels).any(|sample| sample.labels["result"] == "successful"));
}

/// What metrics-server decodes; a pod counts for it only when each container has CPU, memory and start time.
fn resources(node: &Node) {
    let resource = scrape(node, "/metrics/resource");
    let pod = [("namespace", "default"), ("pod", "measured")];
    let container = [("container", "c"), pod[0], pod[1]];
    for name in
        ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"]
    {
        assert!(resource.all(name, &container).all(|sample| sample.value > 0.0), "{name}");
        assert!(resource.has(name, &container), "{name}");
    }
    for name in ["pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes"] {
        assert!(resource.has(name, &pod), "{name}");
    }
    for name in
        ["node_cpu_usage_seconds_total", "node_memory_working_set_bytes", "resource_scrape_error", "scrape_error"]
    {
        assert!(resource.has(name, &[]), "{name}");
    }
    assert!(resource.all("resource_scrape_error", &[]).all(|sample| sample.value.abs() < 0.5));
}

fn the_summary(node: &Node) {
    let summary: Value = serde_json::from_str(&raw(node, "/stats/summary")).expect("the summary");
    let pods = summary["pods"].as_array().expect("pods");
    let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "measured").expect("the pod");
    let container = &pod["containers"][0];
    for figure in [
        &summary["node"]["cpu"]["usageNanoCores"],
        &summary["node"]["memory"]["availableBytes"],
        &summary["node"]["runtime"]["imageFs"]["capacityBytes"],
        &pod["network"]["rxBytes"],
        &pod["volume"][0]["capacityBytes"],
        &pod["ephemeral-storage"]["usedBytes"],
        &container["memory"]["availableBytes"],
        &container["rootfs"]["capacityBytes"],
        &container["logs"]["usedBytes"],
    ] {
        assert!(figure.as_u64().is_some(), "{figure} in {summary:#}");
    }
    let brief: Value =
        serde_json::from_str(&raw(node, "/stats/summary?only_cpu_and_memory=true")).expect("the summary");
    assert!(brief["node"]["cpu"].is_object() && brief["node"]["fs"].is_null());
}

fn zpages_and_logs(node: &Node) {
    assert!(raw(node, "/statusz").contains("kubelet statusz"));
    assert!(raw(node, "/flagz").contains("data-dir="));
    assert!(raw(node, "/healthz?verbose").contains("[+]syncloop ok"));
    assert!(raw(node, "/logs/").contains("<pre>"));
    let path = format!("/api/v1/nodes/{}/proxy/run/default/measured/c?cmd=echo%20said", node.slot.node_name());
    let answer = node.curl("POST", &path, None);
    assert_eq!((answer.code, answer.body), (200, Value::String("said\n".to_owned())));
}

/// Nobody is asked who they are: it shows pods and figures, and runs nothing.
fn the_read_only_port(node: &Node) {
    for (method, path, code) in [
        ("GET", "/healthz", "200"),
        ("GET", "/pods", "200"),
        ("GET", "/metrics/resource", "200"),
        ("GET", "/metrics/slis", "200"),
        ("GET", "/stats/summary?only_cpu_and_memory=true", "200"),
        ("GET", "/containerLogs/default/measured/c", "405"),
        ("POST", "/run/default/measured/c?cmd=id", "405"),
        ("POST", "/exec/default/measured/c?command=id&output=1", "405"),
        ("GET", "/logs/", "405"),
        ("GET", "/configz", "404"),
        ("PUT", "/debug/flags/v", "404"),
        ("POST", "/pods", "405"),
    ] {
        let url = format!("http://127.0.0.1:{}{path}", node.slot.port(READ_ONLY));
        assert_eq!(curl(&["--request", method, &url]), (Some(0), code.to_owned()), "{method} {path}");
    }
}

fn the_least_version_of_tls(node: &Node) {
    let url = format!("https://127.0.0.1:{}/healthz", node.slot.port(1));
    assert_eq!(curl(&["--insecure", &url]), (Some(0), "401".to_owned()));
    /// `CURLE_SSL_CONNECT_ERROR`.
    const NO_TLS: i32 = 35;
    assert_eq!(curl(&["--insecure", "--tls-max", "1.2", &url]), (Some(NO_TLS), "000".to_owned()));
}

/// curl's exit code, and the status of the answer.
fn curl(args: &[&str]) -> (Option<i32>, String) {
    let usual = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "30"];
    let output = Command::new("curl").args(usual).args(args).output().expect("curl");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}
