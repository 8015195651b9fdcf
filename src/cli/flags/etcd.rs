//! The flags of kube-apiserver that say where etcd is.

use super::duration;
use clap::Args;
use skiff_shim::store::etcd::EtcdConfig;
use std::path::PathBuf;
use std::time::Duration;

/// How to get in.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "etcd")]
pub(crate) struct EtcdAccess {
    /// CA that signed etcd's certificates; the system's CAs by default
    #[arg(long, value_name = "path")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "path", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "path", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// Path that all keys in etcd begin with
    #[arg(long, default_value = "/registry", value_name = "path")]
    etcd_prefix: String,
}

impl EtcdAccess {
    /// An etcd at these addresses.
    pub(crate) fn resolve(&self, servers: Vec<String>) -> EtcdConfig {
        EtcdConfig {
            ca_file: self.etcd_cafile.clone(),
            cert_file: self.etcd_certfile.clone(),
            key_file: self.etcd_keyfile.clone(),
            prefix: self.etcd_prefix.clone(),
            ..EtcdConfig::new(servers)
        }
    }
}

/// Flags of kube-apiserver about etcd, under its names and with its defaults.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "etcd")]
pub(crate) struct EtcdFlags {
    /// Keep objects in the etcd at these addresses, as in https://10.0.0.1:2379,https://10.0.0.2:2379
    #[arg(long, value_delimiter = ',', value_name = "urls", value_parser = server, required_if_eq("store", "etcd"))]
    etcd_servers: Vec<String>,
    #[command(flatten)]
    access: EtcdAccess,
    /// How often etcd's history is compacted; 0 leaves that to others
    #[arg(long, default_value = "5m", value_name = "duration", value_parser = duration)]
    etcd_compaction_interval: Duration,
    /// How long the store may take to answer a health check
    #[arg(long, default_value = "2s", value_name = "duration", value_parser = duration)]
    pub(super) etcd_healthcheck_timeout: Duration,
}

impl EtcdFlags {
    /// `None`: no etcd is named.
    pub(super) fn resolve(&self) -> Option<EtcdConfig> {
        (!self.etcd_servers.is_empty()).then(|| EtcdConfig {
            compaction_interval: self.etcd_compaction_interval,
            ..self.access.resolve(self.etcd_servers.clone())
        })
    }
}

/// One address of `--etcd-servers`.
pub(crate) fn server(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.trim_matches('/').is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err(format!("{text:?} is not an address of the form https://10.0.0.1:2379")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_scheme_and_a_host() {
        assert!(server("https://10.0.0.1:2379").is_ok() && server("http://localhost:2379").is_ok());
        for text in ["10.0.0.1:2379", "https://", "", "unix:///run/etcd"] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
