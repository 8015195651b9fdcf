//! `AgentConfig`: everything the node agent is told, defaults filled, units typed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Resolved configuration of one agent; names as KubeletConfiguration's where it has them.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub node_name: String,
    /// `None`: the address of the default route's interface.
    pub node_ip: Option<IpAddr>,
    /// Kubeconfig of the node's identity (`system:node:<name>`).
    pub kubeconfig: PathBuf,
    /// `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// Socket path, without `unix://`.
    pub runtime_endpoint: PathBuf,
    /// Where :10250 listens, its serving certificate, and the CA whose client certificates it trusts.
    pub address: IpAddr,
    pub port: u16,
    pub tls_cert_file: PathBuf,
    pub tls_private_key_file: PathBuf,
    pub client_ca_file: PathBuf,
    pub healthz_bind_address: IpAddr,
    /// 0: none.
    pub healthz_port: u16,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// `/etc/resolv.conf`; empty: none.
    pub resolv_conf: PathBuf,
    pub max_pods: u32,
    /// Parent of `kubepods` in the cgroup tree, `/` by default.
    pub cgroup_root: String,
    /// `cgroupfs` or `systemd`; the runtime's own answer (RuntimeConfig) wins.
    pub cgroup_driver: String,
    pub node_labels: BTreeMap<String, String>,
    /// key, value, effect.
    pub register_with_taints: Vec<(String, String, String)>,
    pub pod_cidr: Option<String>,
    pub node_status_report_frequency: Duration,
    pub node_lease_duration: Duration,
    pub kube_reserved: BTreeMap<String, String>,
    pub system_reserved: BTreeMap<String, String>,
    /// `memory.available` → `100Mi` and the like.
    pub eviction_hard: BTreeMap<String, String>,
    pub container_log_max_size: u64,
    pub container_log_max_files: u32,
    pub serialize_image_pulls: bool,
    pub registry_pull_qps: u32,
    pub event_record_qps: u32,
    pub event_burst: u32,
}
