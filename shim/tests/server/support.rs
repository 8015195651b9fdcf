//! A real server for tests: memory store, TLS on a free port, certificates of its own.

use node_config::pki::{self, Names, Pki};
use skiff_shim::app::Server;
use skiff_shim::audit::AuditConfig;
use skiff_shim::config::{Limits, ServerConfig, StoreConfig};
use skiff_shim::store::sqlite::SqliteOptions;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A server and its files; both go when it is dropped (call `stop` to have it end cleanly).
pub struct Fixture {
    pub server: Server,
    pub pki: Pki,
    config: ServerConfig,
    dir: TempDir,
}

/// Certificate files of that client.
pub struct ClientPaths {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Fixture {
    pub async fn start() -> Self {
        Self::with_controllers("").await
    }

    /// Stops the server cleanly and starts it again on a store that is a file from now on; what a file held before is
    /// there again.
    pub async fn restart(self) -> Self {
        let Self { server, pki, mut config, dir } = self;
        server.stop().await;
        config.store = StoreConfig::Sqlite { path: dir.path().join("state.db"), options: SqliteOptions::default() };
        Self { server: Server::start(config.clone()).await.unwrap(), pki, config, dir }
    }

    /// A server that runs these controllers, as `--controllers` names them.
    pub async fn with_controllers(spec: &str) -> Self {
        Self::configured(spec, |_| ()).await
    }

    /// The same, with its configuration changed by `edit`.
    pub async fn configured(spec: &str, edit: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        let names = Names {
            node_name: "n1".into(),
            hostname: "localhost".into(),
            node_ips: vec![],
            api_addresses: vec![Ipv4Addr::LOCALHOST.into()],
            service_ip: None,
            cluster_domain: "cluster.local".into(),
            server: true,
            node: true,
        };
        pki::ensure(&pki, &names, std::fs::metadata(dir.path()).unwrap().modified().unwrap()).unwrap();
        let client = pki.apiserver_kubelet_client();
        let mut config = ServerConfig {
            bind_address: Ipv4Addr::LOCALHOST.into(),
            secure_port: 0,
            advertise_address: None,
            service_cluster_ip_range: "10.43.0.0/16".into(),
            store: StoreConfig::Memory,
            etcd_healthcheck_timeout: Duration::from_secs(2),
            tls_cert_file: pki.apiserver().cert,
            tls_private_key_file: pki.apiserver().key,
            client_ca_file: pki.ca().cert,
            root_ca_file: pki.ca().cert,
            cluster_signing_cert_file: pki.ca().cert,
            cluster_signing_key_file: pki.ca().key,
            cluster_signing_duration: Duration::from_secs(365 * 24 * 3600),
            kubelet_client_certificate: client.cert,
            kubelet_client_key: client.key,
            kubelet_certificate_authority: pki.ca().cert,
            service_account_key_file: pki.service_account_key(),
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
            controllers: skiff_shim::control::select(spec).unwrap(),
            limits: Limits::default(),
            election: None,
            audit: AuditConfig::default(),
        };
        edit(&mut config);
        Self { server: Server::start(config.clone()).await.unwrap(), pki, config, dir }
    }

    /// The administrator's certificate (group `system:masters`).
    pub fn admin(&self) -> ClientPaths {
        let pair = self.pki.admin();
        ClientPaths { certificate: pair.cert, key: pair.key }
    }
}
