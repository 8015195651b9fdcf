//! Configuration of the server: kube-apiserver's flag names where they exist, resolved.

use crate::store::sqlite::SqliteOptions;
use std::net::IpAddr;
use std::path::PathBuf;

/// Which engine holds the objects (`--store`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Memory,
    Sqlite {
        /// The database file.
        path: PathBuf,
        options: SqliteOptions,
    },
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
}
