//! `AgentConfig`: everything the node agent is told, defaults filled, units typed.

use crate::credential_provider;
use crate::kubelet::{KubeletConfiguration, Taint};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Resolved configuration of one agent; names as KubeletConfiguration's where it has them.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub node_name: String,
    /// `None`: the address of the default route's interface.
    pub node_ip: Option<IpAddr>,
    /// On a dual-stack node that of the other family.
    pub second_node_ip: Option<IpAddr>,
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
    /// `None`: nobody comes with a client certificate.
    pub client_ca_file: Option<PathBuf>,
    /// Where certificates that the node asks for are kept (`--cert-dir`).
    pub cert_dir: PathBuf,
    /// With what to ask for a client certificate when the node's own has expired (`--bootstrap-kubeconfig`).
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Renew the client certificate before it ends.
    pub rotate_certificates: bool,
    /// Ask the cluster for the serving certificate, which is then in `cert_dir`.
    pub server_tls_bootstrap: bool,
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
    /// Programs that give passwords for images; `None`: none.
    pub credential_providers: Option<credential_provider::Sources>,
    /// Folder (or file) of manifests of pods that this node runs by itself; `None`: none.
    pub static_pod_path: Option<PathBuf>,
    /// The same from a web server, asked every `http_check_frequency`.
    pub static_pod_url: Option<String>,
    pub http_check_frequency: Duration,
    pub event_record_qps: u32,
    pub event_burst: u32,
    /// The whole configuration, as `/configz` shows it.
    pub kubelet: Arc<KubeletConfiguration>,
}

impl AgentConfig {
    /// An agent with the kubelet's defaults; callers change what they were told.
    pub fn new(node_name: impl Into<String>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self::resolve(node_name, kubeconfig, KubeletConfiguration::defaulted())
    }

    /// What a validated configuration says; the node's identity and what no field says are the caller's.
    pub fn resolve(
        node_name: impl Into<String>,
        kubeconfig: impl Into<PathBuf>,
        mut kubelet: KubeletConfiguration,
    ) -> Self {
        reserve_cpus(&mut kubelet);
        let path = |path: &str, default: &str| PathBuf::from(if path.is_empty() { default } else { path });
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let port = |port: i32| u16::try_from(port).unwrap_or(0);
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        let address = |text: &str, default: Ipv4Addr| text.parse().unwrap_or(IpAddr::V4(default));
        let taint = |taint: &Taint| (taint.key.clone(), taint.value.clone(), taint.effect.clone());
        let endpoint = kubelet.container_runtime_endpoint.as_str();
        Self {
            node_name: node_name.into(),
            node_ip: None,
            second_node_ip: None,
            kubeconfig: kubeconfig.into(),
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: path(&kubelet.pod_logs_dir, ""),
            runtime_endpoint: endpoint.strip_prefix("unix://").unwrap_or(endpoint).into(),
            address: address(&kubelet.address, Ipv4Addr::UNSPECIFIED),
            port: port(kubelet.port),
            tls_cert_file: path(&kubelet.tls_cert_file, "/var/lib/kubelet/pki/kubelet.crt"),
            tls_private_key_file: path(&kubelet.tls_private_key_file, "/var/lib/kubelet/pki/kubelet.key"),
            client_ca_file: some(&kubelet.authentication.x509.client_ca_file).map(PathBuf::from),
            cert_dir: "/var/lib/kubelet/pki".into(),
            bootstrap_kubeconfig: None,
            rotate_certificates: kubelet.rotate_certificates,
            server_tls_bootstrap: kubelet.server_tls_bootstrap,
            healthz_bind_address: address(&kubelet.healthz_bind_address, Ipv4Addr::LOCALHOST),
            healthz_port: kubelet.healthz_port.map_or(0, port),
            cluster_dns: kubelet.cluster_dns.iter().filter_map(|address| address.parse().ok()).collect(),
            cluster_domain: kubelet.cluster_domain.clone(),
            resolv_conf: kubelet.resolv_conf.clone().unwrap_or_default().into(),
            max_pods: count(kubelet.max_pods),
            cgroup_root: some(&kubelet.cgroup_root).unwrap_or_else(|| "/".to_owned()),
            cgroup_driver: kubelet.cgroup_driver.clone(),
            node_labels: BTreeMap::new(),
            register_with_taints: kubelet.register_with_taints.iter().map(taint).collect(),
            pod_cidr: some(&kubelet.pod_cidr),
            node_status_report_frequency: kubelet.node_status_report_frequency.to_std(),
            node_lease_duration: Duration::from_secs(count(kubelet.node_lease_duration_seconds).into()),
            kube_reserved: kubelet.kube_reserved.clone(),
            system_reserved: kubelet.system_reserved.clone(),
            eviction_hard: kubelet.eviction_hard.clone().unwrap_or_default(),
            container_log_max_size: kubelet.container_log_max_bytes(),
            container_log_max_files: kubelet.container_log_max_files.map_or(0, count),
            serialize_image_pulls: kubelet.serialize_image_pulls.unwrap_or(true),
            registry_pull_qps: kubelet.registry_pull_qps.map_or(0, count),
            registry_burst: count(kubelet.registry_burst),
            credential_providers: None,
            static_pod_path: some(&kubelet.static_pod_path).map(PathBuf::from),
            static_pod_url: some(&kubelet.static_pod_url),
            http_check_frequency: kubelet.http_check_frequency.to_std(),
            event_record_qps: kubelet.event_record_qps.map_or(0, count),
            event_burst: count(kubelet.event_burst),
            kubelet: Arc::new(kubelet),
        }
    }
}

/// `reservedSystemCPUs` says how many CPUs the system has: amounts that are given besides do not count.
fn reserve_cpus(kubelet: &mut KubeletConfiguration) {
    // Validated: numbers, and ranges from a lower to a higher one.
    let bounds = |range: &str| -> Option<(u32, u32)> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let ranges = kubelet.reserved_system_cpus.split(',').filter_map(bounds);
    let cpus: std::collections::BTreeSet<u32> = ranges.flat_map(|(first, last)| first..=last).collect();
    if !cpus.is_empty() {
        kubelet.kube_reserved.remove("cpu");
        kubelet.system_reserved.insert("cpu".to_owned(), cpus.len().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_cpus_beat_reserved_amounts() {
        for (list, system, kube) in [("", Some("2"), Some("500m")), ("0-1,4,4", Some("3"), None)] {
            let mut kubelet = KubeletConfiguration { reserved_system_cpus: list.into(), ..Default::default() };
            kubelet.system_reserved.insert("cpu".into(), "2".into());
            kubelet.kube_reserved.insert("cpu".into(), "500m".into());
            let config = AgentConfig::resolve("n", "/k", kubelet);
            assert_eq!(config.system_reserved.get("cpu").map(String::as_str), system, "{list}");
            assert_eq!(config.kube_reserved.get("cpu").map(String::as_str), kube, "{list}");
        }
    }
}
