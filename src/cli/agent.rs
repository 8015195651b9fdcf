//! `skiff agent`: the node agent against an API server elsewhere, in the kubelet's place.

use super::flags::NodeFlags;
use super::logging::Format;
use super::machine;
use super::progress::Progress;
use super::signals::{Signals, notify_ready};
use super::standalone::containerd::SYSTEM_SOCKET;
use anyhow::Context;
use clap::Args;
use node_config::agent::AgentConfig;
use node_config::kubeconfig;
use skiff::app::Agent;
use skiff::supervisor::Supervisor;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// How to reach the API server, and as whom
    #[arg(long, default_value = "/etc/kubernetes/kubelet.conf", value_name = "file")]
    kubeconfig: PathBuf,
    /// Directory of the agent's serving certificate (kubelet.crt and kubelet.key)
    #[arg(long, default_value = "/var/lib/kubelet/pki", value_name = "path")]
    cert_dir: PathBuf,
    /// Serving certificate, instead of the one in --cert-dir
    #[arg(long, value_name = "file", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    #[arg(long, value_name = "file", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// The CA whose client certificates may use the agent's API
    #[arg(long, default_value = "/etc/kubernetes/pki/ca.crt", value_name = "file")]
    client_ca_file: PathBuf,
    /// The container runtime's socket
    #[arg(long, default_value = SYSTEM_SOCKET, value_parser = super::flags::endpoint, value_name = "endpoint")]
    container_runtime_endpoint: PathBuf,
    /// Addresses of this node's pods
    #[arg(long, value_name = "cidr")]
    pod_cidr: Option<node_config::net::Cidr>,
    #[command(flatten)]
    node: NodeFlags,
}

impl Flags {
    fn resolve(self) -> AgentConfig {
        AgentConfig {
            runtime_endpoint: self.container_runtime_endpoint,
            tls_cert_file: self.tls_cert_file.unwrap_or_else(|| self.cert_dir.join("kubelet.crt")),
            tls_private_key_file: self.tls_private_key_file.unwrap_or_else(|| self.cert_dir.join("kubelet.key")),
            client_ca_file: self.client_ca_file,
            pod_cidr: self.pod_cidr.map(|cidr| cidr.to_string()),
            ..self.node.resolve(self.kubeconfig)
        }
    }
}

pub(crate) async fn run(flags: Flags, format: Format) -> anyhow::Result<()> {
    let progress = Progress::new(format);
    let tasks = Supervisor::new();
    let stop = tasks.stopping();
    tasks.spawn("signals", Signals::listen()?.watch(stop.clone()));

    machine::root()?;
    machine::port_is_free("port", flags.node.address, flags.node.port)?;
    machine::port_is_free("healthz-port", flags.node.healthz_bind_address, flags.node.healthz_port)?;
    let access = kubeconfig::read(&flags.kubeconfig).context("the agent needs a kubeconfig (--kubeconfig)")?;
    let config = flags.resolve();
    let name = config.node_name.clone();
    let agent = Agent::start(config).await.context("the agent cannot start")?;
    progress.ready("agent", format!("node {name} of {}", access.server));
    notify_ready();
    // Both arms are cancel-safe: readiness is only reported.
    tokio::select! {
        () = agent.ready() => {
            progress.ready("node Ready", &name);
            stop.cancelled().await;
        }
        () = stop.cancelled() => {}
    }
    agent.stop(false).await;
    Ok(())
}
