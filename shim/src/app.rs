//! Wiring of the server: store, caches, pipeline, listener, controllers.

mod bootstrap;
mod port;

use crate::audit::{AuditError, Auditor};
use crate::authn::User;
use crate::authn::token::{KeyError, Tokens};
use crate::client;
use crate::config::{ServerConfig, StoreConfig};
use crate::control::{self, ControlParams, Signing};
use crate::error::ApiError;
use crate::http::tls::{ClientFiles, ServerFiles, ServerTls, TlsError, install_provider};
use crate::http::{Front, listener};
use crate::pipeline::definitions::Definitions;
use crate::pipeline::{self, Api, Settings};
use crate::registry::core::service::allocate::ServiceRange;
use crate::store::Store;
use crate::store::etcd::{EtcdError, EtcdStore};
use crate::store::measured::Measured;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::{OpenError, SqliteStore};
use crate::store::translated::Translated;
use crate::task::Tasks;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;

/// Requests in flight may take this long to finish when the server stops.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A running API server.
pub struct Server {
    front: Arc<Front>,
    address: SocketAddr,
    store: Arc<dyn Store>,
    /// The listener and its connections: stopped first, and waited for.
    serving: Tasks,
    /// Caches and what else lives below HTTP: stopped last.
    base: Tasks,
    /// How long requests are still served, unready already.
    shutdown_delay: Duration,
}

/// Why the server could not start; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("port {port} is taken{}; stop it, or choose another with --secure-port", .process.as_ref().map(|p| format!(" by {p}")).unwrap_or_default())]
    PortTaken { port: u16, process: Option<String> },
    #[error("cannot listen on {address}: {source}; check --bind-address and --secure-port")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("certificate: {0}; remove the file to have it made again, or point the flag at a good one")]
    Certificate(#[from] TlsError),
    #[error("service account key: {0}; remove the file to have it made again (tokens in use become invalid)")]
    Key(#[from] KeyError),
    #[error("the CA bundle {path} cannot be read: {source}")]
    RootCa { path: String, source: std::io::Error },
    #[error("--service-cluster-ip-range {0:?} is not a network like 10.43.0.0/16")]
    ServiceRange(String),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("the store could not be opened: {0}")]
    Opening(#[source] tokio::task::JoinError),
    #[error("the first objects could not be written: {0}")]
    Bootstrap(#[source] ApiError),
}

impl Server {
    /// Opens the store, listens and serves; returns once /readyz answers ok. Controllers run behind it.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        install_provider();
        let service_range = ServiceRange::parse(&config.service_cluster_ip_range)
            .ok_or_else(|| StartError::ServiceRange(config.service_cluster_ip_range.clone()))?;
        let tls = ServerTls::load(ServerFiles {
            certificate: config.tls_cert_file.clone(),
            key: config.tls_private_key_file.clone(),
            client_ca: config.client_ca_file.clone(),
        })?;
        let tokens = Tokens::load(&config.service_account_key_file, &config.service_account_issuer)?;
        let root_ca = std::fs::read_to_string(&config.root_ca_file)
            .map_err(|source| StartError::RootCa { path: config.root_ca_file.display().to_string(), source })?
            .into();
        let socket = listen(SocketAddr::new(config.bind_address, config.secure_port)).await?;
        let address = socket.local_addr().map_err(|source| StartError::Listen {
            address: SocketAddr::new(config.bind_address, config.secure_port),
            source,
        })?;
        let (base, serving) = (Tasks::new(), Tasks::new());
        let store: Arc<dyn Store> = Arc::new(Measured::new(open_store(&config.store, &base).await?));

        let settings = Settings {
            service_range: service_range.clone(),
            // The file of an embedded one is locked.
            shared_store: matches!(config.store, StoreConfig::Etcd(_)),
            min_request_timeout: config.limits.min_request_timeout,
            etcd_healthcheck_timeout: config.etcd_healthcheck_timeout,
        };
        let api = Api::start(store.clone(), settings, Some(tokens), &base, serving.stopping());
        let (definitions, following) = Definitions::load(api.clone()).await.map_err(StartError::Bootstrap)?;
        base.spawn("custom-resources", definitions.run(following));
        let kubelet = ClientFiles {
            certificate: config.kubelet_client_certificate.clone(),
            key: config.kubelet_client_key.clone(),
            ca: config.kubelet_certificate_authority.clone(),
        };
        let auditor = Auditor::open(&config.audit)?;
        let front = Front::new(api.clone(), kubelet, &config.limits, auditor, serving.clone());
        let advertised = SocketAddr::new(advertise(&config), address.port());
        bootstrap::run(&api, &config.service_cluster_ip_range, service_range.first(), advertised)
            .await
            .map_err(StartError::Bootstrap)?;
        api.ready.store(true, Ordering::Release);
        serving.spawn_to_end("listener", listener::run(socket, tls, front.clone(), serving.clone()));
        tracing::info!(%address, "API server is ready");
        let clients = {
            let front = front.clone();
            move |user: &str, groups: &[&str]| {
                client::client(front.clone(), User::authenticated(user, groups.iter().map(|g| (*g).to_owned())))
            }
        };
        control::start_own(client::client(front.clone(), User::apiserver()), &serving);
        let signing = Signing {
            cert_file: config.cluster_signing_cert_file.clone(),
            key_file: config.cluster_signing_key_file.clone(),
            duration: config.cluster_signing_duration,
        };
        let params = ControlParams { root_ca, election: config.election, signing };
        control::start(&config.controllers, clients, &serving, params);
        Ok(Self { front, address, store, serving, base, shutdown_delay: config.limits.shutdown_delay })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An in-process client with that identity (no socket, no TLS); it enters at the pipeline.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        client::client(self.front.clone(), User::authenticated(user, groups.iter().map(|g| (*g).to_owned())))
    }

    /// Turns unready, goes on for `--shutdown-delay-duration`, then closes watches, finishes requests (10 s at most) and
    /// flushes the store.
    pub async fn stop(self) {
        self.front.api.draining.store(true, Ordering::Release);
        tokio::time::sleep(self.shutdown_delay).await;
        if tokio::time::timeout(STOP_DEADLINE, self.serving.stop()).await.is_err() {
            tracing::warn!("some requests did not finish within 10 s; they were cut off");
        }
        if let Some(auditor) = &self.front.auditor {
            auditor.close().await;
        }
        self.base.stop().await;
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "the store could not be closed cleanly");
        }
    }
}

/// Opens the store; what it needs done while it is open becomes a task.
async fn open_store(config: &StoreConfig, tasks: &Tasks) -> Result<Arc<dyn Store>, StartError> {
    match config {
        StoreConfig::Memory => Ok(Arc::new(MemoryStore::new())),
        StoreConfig::Sqlite { path, options } => {
            let (path, options) = (path.clone(), *options);
            // Opening checks the file's integrity: disk reads that must not hold up a worker.
            let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&path, options)).await;
            Ok(Arc::new(opened.map_err(StartError::Opening)??))
        }
        StoreConfig::Etcd(config) => {
            let store = EtcdStore::open(config).await?;
            if !config.compaction_interval.is_zero() {
                tasks.spawn("etcd-compactor", store.compactor(config.compaction_interval));
            }
            Ok(Arc::new(Translated::new(store, pipeline::canonical)))
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            StartError::PortTaken { port: address.port(), process: port::listener(address.port()) }
        }
        _ => StartError::Listen { address, source },
    })
}

/// The address that clients inside the cluster reach the server at.
fn advertise(config: &ServerConfig) -> IpAddr {
    match config.advertise_address {
        Some(address) => address,
        None if config.bind_address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        None => config.bind_address,
    }
}
