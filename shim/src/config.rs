//! Configuration of the server: kube-apiserver's flag names where they exist, resolved.

use crate::audit::AuditConfig;
use crate::store::etcd::EtcdConfig;
use crate::store::sqlite::SqliteOptions;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
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
    /// The CA that signs what CertificateSigningRequests ask for, and how long that is valid at most
    /// (kube-controller-manager's `--cluster-signing-…`).
    pub cluster_signing_cert_file: PathBuf,
    pub cluster_signing_key_file: PathBuf,
    pub cluster_signing_duration: Duration,
    /// The API server's own client certificate towards agents (:10250), and the CA that signed the agents' serving ones.
    pub kubelet_client_certificate: PathBuf,
    pub kubelet_client_key: PathBuf,
    pub kubelet_certificate_authority: PathBuf,
    /// Service account token key pair.
    pub service_account_key_file: PathBuf,
    pub service_account_issuer: String,
    /// Names of the controllers to run, resolved from `--controllers` by `control::select`.
    pub controllers: Vec<&'static str>,
    /// `--leader-elect`: where servers share a store, one of them runs the controllers.
    pub election: Option<Election>,
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

/// As whom and how patiently a server stands for election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// `<host>_<uuid>`, as client-go's components call themselves.
    pub identity: Arc<str>,
    pub timing: Timing,
}

/// How long leading lasts; kube-controller-manager's flags and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Others wait this long after the last renewal they saw (`--leader-elect-lease-duration`).
    pub lease_duration: Duration,
    /// A leader that could not renew for so long leads no more (`--leader-elect-renew-deadline`).
    pub renew_deadline: Duration,
    /// How often a leader renews, and how long after a failure it tries again (`--leader-elect-retry-period`).
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease_duration: seconds(15), renew_deadline: seconds(10), retry_period: seconds(2) }
    }
}

impl Timing {
    /// client-go's own conditions, in its flags' names.
    pub fn check(&self) -> Result<(), String> {
        if self.lease_duration <= self.renew_deadline {
            return Err("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline".to_owned());
        }
        if self.renew_deadline.as_secs_f64() <= JITTER * self.retry_period.as_secs_f64() {
            return Err(format!(
                "--leader-elect-renew-deadline must be greater than {JITTER} times --leader-elect-retry-period"
            ));
        }
        match self.retry_period.is_zero() {
            true => Err("--leader-elect-retry-period must be greater than zero".to_owned()),
            false => Ok(()),
        }
    }
}

/// client-go's `JitterFactor`.
pub(crate) const JITTER: f64 = 1.2;
