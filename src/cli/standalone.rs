//! `skiff standalone`: data directory, certificates, containerd, API server, scheduler, agent; the one place that
//! composes the agent and the API server.

mod archives;
pub(crate) mod certificates;
pub(crate) mod containerd;
mod masquerade;
mod network;
mod process;
mod shims;

use super::flags::{DataDirFlags, NodeFlags, ServerFlags};
use super::logging::Format;
use super::machine::{self, CniPlugins};
use super::progress::Progress;
use super::server::controllers;
use super::signals::{Signals, notify_ready};
use super::watchdog;
use anyhow::Context;
use clap::Args;
use containerd::{Containerd, Runtime};
use node_config::agent::AgentConfig;
use node_config::data_dir::{DataDir, Layout};
use node_config::kubelet::KubeletConfiguration;
use node_config::net::Cidr;
use node_config::pki::Pki;
use node_config::shipped;
use serde_json::json;
use skiff::app::Agent;
use skiff::cluster::Connection;
use skiff::images::Images;
use skiff::supervisor::Supervisor;
use skiff_shim::app::Server;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// DNS domain of the cluster unless flags say another.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// How long each part may take before it counts as failed.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Parts of the ten seconds that a stop may take; pods that are stopped too get their grace period beyond it.
const AGENT_STOP_LIMIT: Duration = Duration::from_secs(4);
const PODS_STOP_LIMIT: Duration = Duration::from_secs(120);
const SERVER_STOP_LIMIT: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    data: DataDirFlags,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
    #[command(flatten)]
    node: NodeFlags,
    #[command(flatten)]
    runtime: RuntimeFlags,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Containers")]
struct RuntimeFlags {
    /// The container runtime's socket; by default the system's containerd if it runs, else one of skiff's own
    #[arg(long, value_parser = super::flags::endpoint, value_name = "endpoint")]
    container_runtime_endpoint: Option<PathBuf>,
    /// Addresses that pods get
    #[arg(long, default_value = "10.42.0.0/24", value_name = "cidr")]
    pod_cidr: Cidr,
    /// Directory of the CNI configuration; what is there is used, an empty one is filled
    #[arg(long, value_name = "path")]
    cni_conf_dir: Option<PathBuf>,
    /// Where the CNI plugins are; searched for in the usual places otherwise
    #[arg(long, value_name = "path")]
    cni_bin_dir: Option<PathBuf>,
    /// Name of the pods' bridge, when skiff configures the network
    #[arg(long, hide = true, value_parser = network::bridge_name, value_name = "name")]
    cni_bridge: Option<String>,
    /// Stop the pods too when skiff stops
    #[arg(long)]
    stop_pods: bool,
}

/// What is up, in the order in which it is stopped.
struct Node {
    agent: Agent,
    server: Server,
    containerd: Option<Containerd>,
    network: network::Network,
}

pub(crate) async fn run(flags: Flags, format: Format) -> anyhow::Result<()> {
    // Signals outlive the tasks that they stop.
    let (tasks, signals) = (Supervisor::new(), Supervisor::new());
    let stop = CancellationToken::new();
    signals.spawn("signals", Signals::listen()?.watch(stop.clone()));
    signals.spawn("watchdog", watchdog::run());
    let result = boot_and_run(&flags, format, &tasks, stop).await;
    // Whatever a failed boot had started, our containerd among it.
    tasks.stop().await;
    result
}

async fn boot_and_run(
    flags: &Flags,
    format: Format,
    tasks: &Supervisor,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let progress = Progress::new(format);

    let controllers = controllers(&flags.server)?;
    machine::root()?;
    let data = DataDir::open(&flags.data.data_dir)?;
    progress.ready("data directory", data.layout().root().display());
    // Both by the cluster that this command makes itself, on machines of either cgroup version.
    let kubelet = flags.node.kubelet(json!({ "clusterDomain": CLUSTER_DOMAIN, "failCgroupV1": false }))?;
    preflight(flags, &kubelet)?;

    // Cancel-safe: what was started is found again by the next start.
    let node = tokio::select! {
        node = start(flags, kubelet, controllers, data.layout(), tasks, progress) => node?,
        () = stop.cancelled() => return Ok(()),
    };
    let imports = tasks.child();
    imports
        .spawn("image archives", archives::follow(data.layout().images(), Images::new(&runtime_socket(&node, flags))));
    // Both arms are cancel-safe: readiness is only reported.
    let ready = tokio::select! {
        ready = progress.wait("the node to be Ready", START_LIMIT, node.agent.ready()) => Some(ready),
        () = stop.cancelled() => None,
    };
    match ready {
        Some(Ok(())) => {
            progress.ready("node Ready", flags.node.name());
            notify_ready();
            say_how_to_use(data.layout(), format);
        }
        // The agent goes on trying; its conditions say what is amiss.
        Some(Err(too_long)) => tracing::warn!(error = %too_long, "see: kubectl describe node"),
        None => {}
    }
    stop.cancelled().await;
    imports.cancel();
    shut_down(node, flags.runtime.stop_pods, tasks).await;
    Ok(())
}

fn runtime_socket(node: &Node, flags: &Flags) -> PathBuf {
    match (&node.containerd, &flags.runtime.container_runtime_endpoint) {
        (Some(own), _) => own.socket().to_owned(),
        (None, Some(given)) => given.clone(),
        (None, None) => containerd::SYSTEM_SOCKET.into(),
    }
}

/// What would fail later, said before anything is started.
fn preflight(flags: &Flags, kubelet: &KubeletConfiguration) -> Result<(), machine::Lack> {
    machine::cgroups()?;
    machine::port_is_free("secure-port", flags.server.bind_address, flags.server.secure_port)?;
    let agent = flags.node.resolve(PathBuf::new(), kubelet.clone());
    machine::port_is_free("port", agent.address, agent.port)?;
    machine::port_is_free("healthz-port", agent.healthz_bind_address, agent.healthz_port)
}

async fn start(
    flags: &Flags,
    kubelet: KubeletConfiguration,
    controllers: Vec<&'static str>,
    layout: &Layout,
    tasks: &Supervisor,
    progress: Progress,
) -> anyhow::Result<Node> {
    let runtime = containerd::choose(layout, flags.runtime.container_runtime_endpoint.as_deref()).await?;
    let plugins = CniPlugins::find(flags.runtime.cni_bin_dir.as_deref())?;
    machine::find_program(&machine::IPTABLES)?;
    let network = network::prepare(&network::Wanted {
        layout,
        own_containerd: matches!(runtime, Runtime::Own { .. }),
        conf_dir: flags.runtime.cni_conf_dir.as_deref(),
        pod_cidr: flags.runtime.pod_cidr,
        bridge: flags.runtime.cni_bridge.as_deref(),
    })?;
    let node_ip = match flags.node.node_ip.map(|ips| ips.first).or_else(machine::default_address) {
        Some(address) => address,
        None => network.make_bridge(tasks).await.context("cannot make the pods' bridge for the node's address")?,
    };
    let names = certificates::node_names(&flags.server, flags.node.name(), &kubelet.cluster_domain, node_ip);
    let issued = certificates::ensure(layout, &names)?;
    progress.ready("certificates", issued);

    // containerd and the API server know nothing of one another: both start at once.
    let (runtime, server) = tokio::try_join!(
        start_runtime(runtime, layout, &plugins, &network, tasks, progress),
        start_server(flags, controllers, layout, node_ip, progress),
    )?;
    let (socket, containerd) = runtime;
    let config = agent_config(flags, kubelet, layout, node_ip, &socket);
    let port = config.port;
    let address = SocketAddr::new(flags.server.local_address(), server.address().port());
    let connection = Arc::new(connect(&server, address, &flags.node.name())?);
    let agent = Agent::start_with(config, connection).await.context("the agent cannot start")?;
    progress.ready("agent", format!("https://{}", SocketAddr::new(node_ip, port)));
    Ok(Node { agent, server, containerd, network })
}

/// The agent's way to the server beside it: as the user that the node's certificate names.
fn connect(server: &Server, address: SocketAddr, node_name: &str) -> anyhow::Result<Connection> {
    let url = http::Uri::builder().scheme("https").authority(address.to_string()).path_and_query("/").build()?;
    let client = server.client(&format!("system:node:{node_name}"), &["system:nodes"]);
    Ok(Connection::in_process(client, &url))
}

async fn start_runtime(
    runtime: Runtime,
    layout: &Layout,
    plugins: &CniPlugins,
    network: &network::Network,
    tasks: &Supervisor,
    progress: Progress,
) -> anyhow::Result<(PathBuf, Option<Containerd>)> {
    let (socket, own) = match runtime {
        Runtime::External { socket } => {
            progress.ready("containerd", format!("{} (not ours)", socket.display()));
            (socket, None)
        }
        Runtime::Own { adopted } => {
            let starting = Containerd::start(layout, adopted, &plugins.dir, &network.conf_dir, tasks);
            let containerd = progress.wait("containerd", START_LIMIT, starting).await??;
            progress.ready("containerd", containerd.describe());
            (containerd.socket().to_owned(), Some(containerd))
        }
    };
    if own.is_some() {
        let images = Images::new(&socket);
        let importing = images.import_pause(shipped::PAUSE, shipped::PAUSE_IMAGE);
        progress.wait("the pause image", START_LIMIT, importing).await?.context("cannot import the pause image")?;
    }
    Ok((socket, own))
}

async fn start_server(
    flags: &Flags,
    controllers: Vec<&'static str>,
    layout: &Layout,
    node_ip: IpAddr,
    progress: Progress,
) -> anyhow::Result<Server> {
    let scheduler = controllers.contains(&"scheduler");
    let config = flags.server.resolve(layout, Some(node_ip), controllers)?;
    let server = progress.wait("the API server", START_LIMIT, Server::start(config)).await?;
    let server = server.context("the API server cannot start")?;
    let port = server.address().port();
    certificates::write_admin_kubeconfig(layout, &flags.server, port)?;
    // For who wants to run the agent apart.
    certificates::write_kubelet_kubeconfig(layout, &flags.server, port)?;
    progress.ready("API server", format!("https://{}", SocketAddr::new(flags.server.local_address(), port)));
    progress.ready("scheduler", if scheduler { "runs" } else { "left out (--controllers)" });
    Ok(server)
}

fn agent_config(
    flags: &Flags,
    mut kubelet: KubeletConfiguration,
    layout: &Layout,
    node_ip: IpAddr,
    socket: &Path,
) -> AgentConfig {
    let pki = Pki::new(layout.pki());
    let text = |path: &Path| path.display().to_string();
    kubelet.container_runtime_endpoint = format!("unix://{}", socket.display());
    kubelet.tls_cert_file = text(&pki.kubelet().cert);
    kubelet.tls_private_key_file = text(&pki.kubelet().key);
    kubelet.authentication.x509.client_ca_file = text(&pki.ca().cert);
    kubelet.pod_cidr = flags.runtime.pod_cidr.to_string();
    // Certificates are made at start by this command itself.
    kubelet.server_tls_bootstrap = false;
    let config = flags.node.resolve(pki.kubelet_kubeconfig(), kubelet);
    AgentConfig { node_ip: Some(node_ip), cert_dir: layout.pki(), rotate_certificates: false, ..config }
}

fn say_how_to_use(layout: &Layout, format: Format) {
    if format == Format::Text {
        println!("\nThe node is ready. To use it:\n");
        println!("  export KUBECONFIG={}", layout.admin_kubeconfig().display());
        println!("  kubectl get nodes,pods -A\n");
    }
}

/// Stops what depends on others first. Each part has its time; what overruns it is left to the end of the process.
async fn shut_down(node: Node, stop_pods: bool, tasks: &Supervisor) {
    let limit = if stop_pods { PODS_STOP_LIMIT } else { AGENT_STOP_LIMIT };
    if tokio::time::timeout(limit, node.agent.stop(stop_pods)).await.is_err() {
        tracing::warn!(seconds = limit.as_secs(), "the agent did not stop in time");
    }
    if tokio::time::timeout(SERVER_STOP_LIMIT, node.server.stop()).await.is_err() {
        tracing::warn!(seconds = SERVER_STOP_LIMIT.as_secs(), "the API server did not stop in time");
    }
    if let Some(containerd) = node.containerd {
        let (socket, state) = (containerd.socket().to_owned(), containerd.state().to_owned());
        containerd.stop().await;
        if stop_pods {
            shims::end_empty(&socket);
            shims::unmount_left(&state);
        }
    }
    if stop_pods {
        node.network.remove(tasks).await;
    }
    tracing::info!("stopped");
}
