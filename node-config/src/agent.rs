//! `AgentConfig`: everything the node agent is told, defaults filled, units typed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
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
    pub registry_burst: u32,
    /// Folder (or file) of manifests of pods that this node runs by itself; `None`: none.
    pub static_pod_path: Option<PathBuf>,
    /// The same from a web server, asked every `http_check_frequency`.
    pub static_pod_url: Option<String>,
    pub http_check_frequency: Duration,
    pub event_record_qps: u32,
    pub event_burst: u32,
}

impl AgentConfig {
    /// An agent with the kubelet's defaults (KubeletConfiguration v1beta1); callers change what they were told.
    pub fn new(node_name: impl Into<String>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ip: None,
            kubeconfig: kubeconfig.into(),
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            runtime_endpoint: "/run/containerd/containerd.sock".into(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 10250,
            tls_cert_file: "/var/lib/kubelet/pki/kubelet.crt".into(),
            tls_private_key_file: "/var/lib/kubelet/pki/kubelet.key".into(),
            client_ca_file: "/etc/kubernetes/pki/ca.crt".into(),
            healthz_bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            healthz_port: 10248,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 110,
            cgroup_root: "/".into(),
            cgroup_driver: "cgroupfs".into(),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            pod_cidr: None,
            node_status_report_frequency: Duration::from_secs(5 * 60),
            node_lease_duration: Duration::from_secs(40),
            kube_reserved: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            eviction_hard: [
                ("imagefs.available", "15%"),
                ("imagefs.inodesFree", "5%"),
                ("memory.available", "100Mi"),
                ("nodefs.available", "10%"),
                ("nodefs.inodesFree", "5%"),
            ]
            .map(|(signal, threshold)| (signal.to_owned(), threshold.to_owned()))
            .into(),
            container_log_max_size: 10 * 1024 * 1024,
            container_log_max_files: 5,
            serialize_image_pulls: true,
            registry_pull_qps: 5,
            registry_burst: 10,
            static_pod_path: None,
            static_pod_url: None,
            http_check_frequency: Duration::from_secs(20),
            event_record_qps: 50,
            event_burst: 100,
        }
    }
}
