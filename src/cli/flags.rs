//! Flags under upstream's names, and what they resolve to.

mod audit;
pub(crate) mod etcd;
mod kubelet;
mod leader;
mod limits;

use audit::AuditFlags;
use clap::{Args, ValueEnum};
use etcd::EtcdFlags;
use kubelet::KubeletFields;
use leader::LeaderFlags;
use limits::LimitFlags;
use node_config::agent::AgentConfig;
use node_config::credential_provider;
use node_config::data_dir::{DEFAULT_PATH, Layout};
use node_config::duration::DurationError;
use node_config::kubelet::{ConfigError, KubeletConfiguration, Sources};
use node_config::net::Cidr;
use node_config::pki::Pki;
use skiff_shim::config::{ServerConfig, StoreConfig};
use skiff_shim::store::sqlite::SqliteOptions;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct DataDirFlags {
    /// Directory of everything that is kept: certificates, store, images, containers
    #[arg(long, default_value = DEFAULT_PATH, value_name = "path")]
    pub(crate) data_dir: PathBuf,
}

/// Flags of kube-apiserver.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server")]
pub(crate) struct ServerFlags {
    /// Address on which the API server listens
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED), value_name = "ip")]
    pub(crate) bind_address: IpAddr,
    /// Port on which the API server listens
    #[arg(long, default_value_t = 6443, value_name = "port")]
    pub(crate) secure_port: u16,
    /// Address under which others reach the API server; the node's by default
    #[arg(long, value_name = "ip")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Addresses that services get
    #[arg(long, default_value = "10.43.0.0/16", value_name = "cidr")]
    pub(crate) service_cluster_ip_range: Cidr,
    /// Where objects are kept: in etcd where --etcd-servers is given, in sqlite otherwise
    #[arg(long, value_enum, value_name = "engine")]
    store: Option<StoreEngine>,
    /// Bytes that the embedded store may use (etcd's flag); from there on it takes only deletes; 0 is no limit
    #[arg(long, default_value_t = SqliteOptions::default().quota_bytes, value_name = "bytes")]
    pub(crate) quota_backend_bytes: u64,
    /// How long the embedded store keeps history, for clients that resume (etcd's flag), as in 5m
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "duration")]
    pub(crate) auto_compaction_retention: Duration,
    /// How many revisions of history the embedded store keeps at most
    #[arg(long, default_value_t = SqliteOptions::default().history_revisions, value_name = "count")]
    pub(crate) auto_compaction_revisions: u64,
    /// Controllers to run, the scheduler being one of them: '*' is all, 'name' adds one, '-name' leaves one out,
    /// '-*' is none
    #[arg(long, default_value = "*", allow_hyphen_values = true, value_name = "names")]
    pub(crate) controllers: String,
    /// The CA's certificate that signs what CertificateSigningRequests ask for; the cluster's by default
    #[arg(long, requires = "cluster_signing_key_file", value_name = "file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// The key of that CA
    #[arg(long, requires = "cluster_signing_cert_file", value_name = "file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// How long certificates are valid that are signed so, unless they ask for less
    #[arg(long, default_value = "8760h", value_parser = duration, value_name = "duration")]
    cluster_signing_duration: Duration,
    /// Issuer of service account tokens
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local", value_name = "url")]
    pub(crate) service_account_issuer: String,
    #[command(flatten)]
    leader: LeaderFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    audit: AuditFlags,
    #[command(flatten)]
    etcd: EtcdFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreEngine {
    /// A database file in the data directory
    Sqlite,
    /// Nothing survives the process
    Memory,
    /// The etcd that --etcd-servers names
    Etcd,
}

impl ServerFlags {
    /// Which engine is meant.
    fn store(&self, layout: &Layout) -> anyhow::Result<StoreConfig> {
        let sqlite = || StoreConfig::Sqlite {
            path: database(layout),
            options: SqliteOptions {
                quota_bytes: self.quota_backend_bytes,
                history: self.auto_compaction_retention,
                history_revisions: self.auto_compaction_revisions,
            },
        };
        match (self.store, self.etcd.resolve()) {
            (None | Some(StoreEngine::Etcd), Some(etcd)) => Ok(StoreConfig::Etcd(etcd)),
            (None | Some(StoreEngine::Sqlite), None) => Ok(sqlite()),
            (Some(StoreEngine::Memory), None) => Ok(StoreConfig::Memory),
            (Some(StoreEngine::Etcd), None) => anyhow::bail!("--store=etcd needs --etcd-servers"),
            (Some(StoreEngine::Sqlite | StoreEngine::Memory), Some(_)) => {
                anyhow::bail!("--etcd-servers and another --store than etcd contradict each other: leave one out")
            }
        }
    }

    pub(crate) fn resolve(
        &self,
        layout: &Layout,
        advertise: Option<IpAddr>,
        controllers: Vec<&'static str>,
    ) -> anyhow::Result<ServerConfig> {
        let pki = Pki::new(layout.pki());
        let store = self.store(layout)?;
        Ok(ServerConfig {
            bind_address: self.bind_address,
            secure_port: self.secure_port,
            advertise_address: self.advertise_address.or(advertise),
            service_cluster_ip_range: self.service_cluster_ip_range.to_string(),
            election: self.leader.resolve(matches!(store, StoreConfig::Etcd(_)))?,
            store,
            etcd_healthcheck_timeout: self.etcd.etcd_healthcheck_timeout,
            tls_cert_file: pki.apiserver().cert,
            tls_private_key_file: pki.apiserver().key,
            client_ca_file: pki.ca().cert,
            root_ca_file: pki.ca().cert,
            cluster_signing_cert_file: self.cluster_signing_cert_file.clone().unwrap_or_else(|| pki.ca().cert),
            cluster_signing_key_file: self.cluster_signing_key_file.clone().unwrap_or_else(|| pki.ca().key),
            cluster_signing_duration: self.cluster_signing_duration,
            kubelet_client_certificate: pki.apiserver_kubelet_client().cert,
            kubelet_client_key: pki.apiserver_kubelet_client().key,
            kubelet_certificate_authority: pki.ca().cert,
            service_account_key_file: pki.service_account_key(),
            service_account_issuer: self.service_account_issuer.clone(),
            controllers,
            limits: self.limits.resolve(),
            audit: self.audit.resolve(),
        })
    }

    /// Addresses of the API server that its certificate must name beyond the node's.
    pub(crate) fn api_addresses(&self) -> Vec<IpAddr> {
        let bound = Some(self.bind_address).filter(|address| !address.is_unspecified());
        self.advertise_address.into_iter().chain(bound).collect()
    }

    /// Address under which this machine's own clients reach the API server.
    pub(crate) fn local_address(&self) -> IpAddr {
        if self.bind_address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.bind_address }
    }
}

/// The embedded store's file.
pub(crate) fn database(layout: &Layout) -> PathBuf {
    layout.store().join("state.db")
}

/// Flags of the kubelet that every node has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeFlags {
    /// Name of the node; the host name by default
    #[arg(long, visible_alias = "hostname-override", value_name = "name", value_parser = node_name)]
    pub(crate) node_name: Option<String>,
    /// Address of the node, or two of different families; that of the default route by default
    #[arg(long, value_name = "ip", value_parser = node_ips)]
    pub(crate) node_ip: Option<NodeIps>,
    /// Labels of the node, as in key=value,key=value
    #[arg(long, value_delimiter = ',', value_parser = pair, value_name = "labels")]
    node_labels: Vec<(String, String)>,
    /// Directory of the pods' volumes
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "path")]
    root_dir: PathBuf,
    /// KubeletConfiguration; flags beat what it says
    #[arg(long, value_name = "file")]
    config: Option<PathBuf>,
    /// Directory of more of them (*.conf), merged in the order of their names
    #[arg(long, value_name = "path")]
    config_dir: Option<PathBuf>,
    /// CredentialProviderConfig, or a directory of them: programs that give passwords for images
    #[arg(long, requires = "image_credential_provider_bin_dir", value_name = "path")]
    image_credential_provider_config: Option<PathBuf>,
    /// Directory of those programs
    #[arg(long, value_name = "path")]
    image_credential_provider_bin_dir: Option<PathBuf>,
    #[command(flatten)]
    fields: KubeletFields,
}

/// `--node-ip`: one address, or one of each family with the main one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeIps {
    pub(crate) first: IpAddr,
    second: Option<IpAddr>,
}

fn node_ips(text: &str) -> Result<NodeIps, String> {
    let ips: Vec<IpAddr> = text
        .split(',')
        .map(|ip| ip.trim().parse().map_err(|_| format!("{ip:?} is no IP address")))
        .collect::<Result<_, _>>()?;
    match ips.as_slice() {
        [first] => Ok(NodeIps { first: *first, second: None }),
        [first, second] if first.is_ipv4() != second.is_ipv4() => Ok(NodeIps { first: *first, second: Some(*second) }),
        _ => Err("must contain either a single IP or a dual-stack pair of IPs".to_owned()),
    }
}

impl NodeFlags {
    pub(crate) fn name(&self) -> String {
        self.node_name.clone().unwrap_or_else(super::machine::hostname)
    }

    /// The kubelet's configuration by file and flags; `presumed` fields hold where neither says anything.
    pub(crate) fn kubelet(&self, presumed: serde_json::Value) -> Result<KubeletConfiguration, ConfigError> {
        let serde_json::Value::Object(presumed) = presumed else { return Ok(KubeletConfiguration::defaulted()) };
        let kubelet = KubeletConfiguration::load(&Sources {
            presumed,
            file: self.config.clone(),
            drop_ins: self.config_dir.clone(),
            flags: self.fields.0.clone(),
        })?;
        for (field, would) in kubelet.pending() {
            tracing::warn!(field, would, "set in the configuration and not acted on yet");
        }
        Ok(kubelet)
    }

    /// What flags and configuration say about an agent; certificates and runtime are the caller's.
    pub(crate) fn resolve(&self, kubeconfig: PathBuf, kubelet: KubeletConfiguration) -> AgentConfig {
        let programs =
            self.image_credential_provider_config.clone().zip(self.image_credential_provider_bin_dir.clone());
        AgentConfig {
            credential_providers: programs.map(|(config, bin_dir)| credential_provider::Sources { config, bin_dir }),
            node_ip: self.node_ip.map(|ips| ips.first),
            second_node_ip: self.node_ip.and_then(|ips| ips.second),
            root_dir: self.root_dir.clone(),
            node_labels: self.node_labels.iter().cloned().collect(),
            ..AgentConfig::resolve(self.name(), kubeconfig, kubelet)
        }
    }
}

/// A duration as Go writes it: `300ms`, `1h30m`, `0`; not a negative one.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration: node_config::duration::Duration = text.parse().map_err(|error: DurationError| error.to_string())?;
    if duration < node_config::duration::Duration::ZERO {
        return Err(format!("{text:?} must not be negative"));
    }
    Ok(duration.to_std())
}

/// `unix:///run/x.sock` or a path.
pub(crate) fn endpoint(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(format!("{text:?} is not a unix socket, as in unix:///run/containerd/containerd.sock"))
    }
}

/// A node name is a DNS subdomain name (RFC 1123), as the API server would say later.
fn node_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character"
            .to_owned())
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        for (text, expected) in [
            ("unix:///run/c.sock", Some("/run/c.sock")),
            ("/run/c.sock", Some("/run/c.sock")),
            ("tcp://127.0.0.1:1", None),
            ("c.sock", None),
        ] {
            assert_eq!(endpoint(text).ok().as_deref(), expected.map(Path::new), "{text}");
        }
    }

    #[test]
    fn durations_are_waits() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["5", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_checked_as_the_api_would() {
        assert!(node_name("n1.example.org").is_ok());
        for bad in ["", "N1", "-a", "a..b", "a_b"] {
            assert!(node_name(bad).is_err(), "{bad}");
        }
    }
}
