//! `skiff agent`: the node agent against an API server elsewhere, in the kubelet's place.

use super::flags::NodeFlags;
use super::logging::Format;
use super::machine;
use super::progress::Progress;
use super::signals::{Signals, notify_ready};
use super::watchdog;
use anyhow::Context;
use clap::Args;
use node_config::agent::AgentConfig;
use node_config::kubeconfig;
use node_config::kubelet::ConfigError;
use serde_json::json;
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
    /// The container runtime's socket [default: unix:///run/containerd/containerd.sock]
    #[arg(long, value_parser = super::flags::endpoint, value_name = "endpoint")]
    container_runtime_endpoint: Option<PathBuf>,
    /// Addresses of this node's pods
    #[arg(long, value_name = "cidr")]
    pod_cidr: Option<node_config::net::Cidr>,
    /// Kubeconfig with a bootstrap token, for a node that has no certificate yet
    #[arg(long, value_name = "file")]
    bootstrap_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    ignored: Ignored,
    #[command(flatten)]
    node: NodeFlags,
}

/// Flags of the kubelet that kubeadm and kind pass and that change nothing here.
#[derive(Args, Debug)]
struct Ignored {
    /// The runtime's own configuration names the sandbox image
    #[arg(long, hide = true)]
    pod_infra_container_image: Option<String>,
    /// The runtime's cgroup is measured only
    #[arg(long, hide = true)]
    runtime_cgroups: Option<String>,
}

impl Flags {
    fn resolve(self) -> Result<AgentConfig, ConfigError> {
        let mut kubelet = self.node.kubelet(json!({}))?;
        if let Some(socket) = &self.container_runtime_endpoint {
            kubelet.container_runtime_endpoint = format!("unix://{}", socket.display());
        }
        if let Some(cidr) = self.pod_cidr {
            kubelet.pod_cidr = cidr.to_string();
        }
        if kubelet.tls_cert_file.is_empty() {
            let file = |name| self.cert_dir.join(name).display().to_string();
            (kubelet.tls_cert_file, kubelet.tls_private_key_file) = (file("kubelet.crt"), file("kubelet.key"));
        }
        Ok(self.node.resolve(self.kubeconfig, kubelet))
    }
}

pub(crate) async fn run(flags: Flags, format: Format) -> anyhow::Result<()> {
    let progress = Progress::new(format);
    let tasks = Supervisor::new();
    let stop = tasks.stopping();
    tasks.spawn("signals", Signals::listen()?.watch(stop.clone()));
    tasks.spawn("watchdog", watchdog::run());

    machine::root()?;
    let access = kubeconfig::read(&flags.kubeconfig).with_context(|| match &flags.bootstrap_kubeconfig {
        Some(_) => {
            "joining by --bootstrap-kubeconfig is not there yet: put the node's client certificate into --kubeconfig"
        }
        None => "the agent needs a kubeconfig (--kubeconfig)",
    })?;
    let config = flags.resolve()?;
    machine::port_is_free("port", config.address, config.port)?;
    machine::port_is_free("healthz-port", config.healthz_bind_address, config.healthz_port)?;
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
