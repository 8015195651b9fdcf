//! Configuration of the server: kube-apiserver's flag names where they exist, resolved.

use crate::audit::AuditConfig;
use crate::store::etcd::EtcdConfig;
use crate::store::sqlite::SqliteOptions;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Which engine holds the objects (`--store`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Memory,
    Sqlite {
        /// The database file.
        path: PathBuf,
        options: SqliteOptions,
    },
    Etcd(EtcdConfig),
}

/// Resolved configuration of one server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub bind_address: IpAddr,
    /// 0 takes a free port (tests).
    pub secure_port: u16,
    pub advertise_address: Option<IpAddr>,
    /// `10.43.0.0/16`.
    pub service_cluster_ip_range: String,
    pub store: StoreConfig,
    /// How long the store may take to answer a health check.
    pub etcd_healthcheck_timeout: Duration,
    /// Serving certificate, PEM files.
    pub tls_cert_file: PathBuf,
    pub tls_private_key_file: PathBuf,
    /// Client certificates are verified against this CA.
    pub client_ca_file: PathBuf,
    /// The cluster's CA bundle for `kube-root-ca.crt`.
    pub root_ca_file: PathBuf,
    /// The API server's own client certificate towards agents (:10250), and the CA that signed the agents' serving ones.
    pub kubelet_client_certificate: PathBuf,
    pub kubelet_client_key: PathBuf,
    pub kubelet_certificate_authority: PathBuf,
    /// Service account token key pair.
    pub service_account_key_file: PathBuf,
    pub service_account_issuer: String,
    /// Names of the controllers to run, resolved from `--controllers` by `control::select`.
    pub controllers: Vec<&'static str>,
    pub limits: Limits,
    pub audit: AuditConfig,
}

/// How much the server takes on at once, and for how long; the defaults are kube-apiserver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests served at once that only read (`--max-requests-inflight`); 0 is no limit.
    pub max_requests_inflight: usize,
    /// Requests served at once that write (`--max-mutating-requests-inflight`); 0 is no limit.
    pub max_mutating_requests_inflight: usize,
    /// How long a request may take that is no watch or stream (`--request-timeout`).
    pub request_timeout: Duration,
    /// A watch without `timeoutSeconds` ends between this and twice this (`--min-request-timeout`).
    pub min_request_timeout: Duration,
    /// How long the server still serves once it is asked to stop, unready already (`--shutdown-delay-duration`).
    pub shutdown_delay: Duration,
    /// Requests at once on one HTTP/2 connection (`--http2-max-streams-per-connection`).
    pub max_streams_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            shutdown_delay: Duration::ZERO,
            max_streams_per_connection: 250,
        }
    }
}
