//! `skiff agent`: the node agent against an API server elsewhere, in the kubelet's place.

use super::check::preflight::{self, Finding};
use super::flags::NodeFlags;
use super::logging::Format;
use super::machine;
use super::progress::Progress;
use super::signals::{Signals, notify_ready};
use super::tunables;
use super::watchdog;
use anyhow::Context;
use clap::Args;
use node_config::agent::AgentConfig;
use node_config::kubeconfig;
use node_config::kubelet::{ConfigError, KubeletConfiguration};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use skiff::actors::node::claim;
use skiff::app::Agent;
use skiff::cgroups::{CgroupError, Cgroups};
use skiff::cluster::{Connection, ContactError, KubeCluster, ServerVersion};
use skiff::identity::bootstrap::{self, Bootstrap};
use skiff::identity::self_signed;
use skiff::server::set_verbosity;
use skiff::supervisor::Supervisor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// How to reach the API server, and as whom
    #[arg(long, default_value = "/etc/kubernetes/kubelet.conf", value_name = "file")]
    kubeconfig: PathBuf,
    /// Directory of the certificates that the agent asks for or makes
    #[arg(long, default_value = "/var/lib/kubelet/pki", value_name = "path")]
    cert_dir: PathBuf,
    /// The container runtime's socket [default: unix:///run/containerd/containerd.sock]
    #[arg(long, value_parser = super::flags::endpoint, value_name = "endpoint")]
    container_runtime_endpoint: Option<PathBuf>,
    /// Addresses of this node's pods
    #[arg(long, value_name = "cidr")]
    pod_cidr: Option<node_config::net::Cidr>,
    /// Kubeconfig to ask for a first client certificate with, as by a bootstrap token; --kubeconfig is then written
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
    fn resolve(&self) -> Result<Resolved, ConfigError> {
        let mut kubelet = self.node.kubelet(json!({}))?;
        if let Some(socket) = &self.container_runtime_endpoint {
            kubelet.container_runtime_endpoint = format!("unix://{}", socket.display());
        }
        if let Some(cidr) = &self.pod_cidr {
            kubelet.pod_cidr = cidr.to_string();
        }
        let own = kubelet.tls_cert_file.is_empty();
        if own {
            let file = |name| self.cert_dir.join(name).display().to_string();
            let (cert, key) = match kubelet.server_tls_bootstrap {
                true => (CURRENT_SERVING, CURRENT_SERVING),
                false => ("kubelet.crt", "kubelet.key"),
            };
            (kubelet.tls_cert_file, kubelet.tls_private_key_file) = (file(cert), file(key));
        } else {
            // Files that are given need nobody to sign.
            kubelet.server_tls_bootstrap = false;
        }
        let config = AgentConfig {
            cert_dir: self.cert_dir.clone(),
            bootstrap_kubeconfig: self.bootstrap_kubeconfig.clone(),
            ..self.node.resolve(self.kubeconfig.clone(), kubelet)
        };
        Ok(Resolved { self_signs: own && !config.server_tls_bootstrap, config })
    }
}

/// The certificate that `serverTLSBootstrap` gets, with its key.
const CURRENT_SERVING: &str = "kubelet-server-current.pem";

struct Resolved {
    config: AgentConfig,
    /// No serving certificate is given, and none is asked for.
    self_signs: bool,
}

/// `verbosity`: what the command line says of it, which beats the configuration.
pub(crate) async fn run(flags: Flags, format: Format, verbosity: Option<u32>) -> anyhow::Result<()> {
    let progress = Progress::new(format);
    let tasks = Supervisor::new();
    let stop = tasks.stopping();
    tasks.spawn("signals", Signals::listen()?.watch(stop.clone()));
    tasks.spawn("watchdog", watchdog::run());

    machine::root()?;
    let Resolved { config, self_signs } = flags.resolve()?;
    if verbosity.is_none() && config.kubelet.logging.verbosity > 0 {
        set_verbosity(config.kubelet.logging.verbosity).map_err(|why| anyhow::anyhow!("logging.verbosity: {why}"))?;
    }
    ready_machine(&config.kubelet)?;
    if config.kubelet.enable_server != Some(false) {
        machine::port_is_free("port", config.address, config.port)?;
    }
    machine::port_is_free("healthz-port", config.healthz_bind_address, config.healthz_port)?;
    // Cancel-safe: a request that was made is found again by the next start.
    let joined = tokio::select! {
        joined = join(&config) => joined?,
        () = stop.cancelled() => return Ok(()),
    };
    if self_signs {
        self_signed::ensure(&config.tls_cert_file, &config.tls_private_key_file, &config.node_name)?;
    }
    let name = config.node_name.clone();
    let agent = Agent::start(config).await.context("the agent cannot start")?;
    progress.ready("agent", format!("node {name} of {joined}"));
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

/// What the kubelet asks of the machine, and sets for itself, before anything else.
fn ready_machine(kubelet: &KubeletConfiguration) -> anyhow::Result<()> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if let Finding::Failure(why) = preflight::swap(&swaps, kubelet.fail_swap_on != Some(false)) {
        anyhow::bail!("running with swap on is not supported: it is {why}");
    }
    match preflight::cgroup_v1(machine::has_cgroup_v1(), kubelet) {
        Finding::Failure(why) => return Err(ConfigError::Field(why).into()),
        Finding::Warning(why) => tracing::warn!(why, "control groups"),
        Finding::Fine(_) => {}
    }
    tunables::set(Path::new("/proc/sys"), kubelet.protect_kernel_defaults)?;
    if !kubelet.kubelet_cgroups.is_empty()
        && let Err(error) = enter_cgroup(&kubelet.kubelet_cgroups)
    {
        tracing::warn!(%error, cgroup = kubelet.kubelet_cgroups, "the agent stays in the cgroup that it was started in");
    }
    let score = kubelet.oom_score_adj.unwrap_or_default();
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::info!(%error, score, "oom_score_adj not set: short of memory, the kernel may end the agent early");
    }
    let files = u64::try_from(kubelet.max_open_files).ok();
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files }) {
        // As many as without leave to ask for more.
        let maximum = getrlimit(Resource::Nofile).maximum;
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        tracing::info!(%error, wanted = files, limit = maximum, raised = raised.is_ok(), "not so many files may be open");
    }
    Ok(())
}

/// `kubeletCgroups`: containers' cgroups are made by their own drivers; the agent's is no slice of anybody.
fn enter_cgroup(path: &str) -> Result<(), CgroupError> {
    Cgroups::detect(Path::new("/sys/fs/cgroup"), "cgroupfs")?.enter(path, std::process::id())
}

/// Makes sure of the node's identity and of whom it speaks to; the answer is the API server's address.
async fn join(config: &AgentConfig) -> anyhow::Result<String> {
    bootstrap::ensure(&Bootstrap {
        kubeconfig: config.kubeconfig.clone(),
        bootstrap_kubeconfig: config.bootstrap_kubeconfig.clone(),
        cert_dir: config.cert_dir.clone(),
        node_name: config.node_name.clone(),
    })
    .await
    .context("the node has no identity")?;
    let server = kubeconfig::look(&config.kubeconfig)?.server;
    let shown = config.kubeconfig.display();
    let connection = Arc::new(Connection::open(&config.kubeconfig).await?);
    match connection.server_version().await {
        Ok(version) => {
            check_version(&version, &server)?;
            claim::check(&KubeCluster::over(connection, &config.node_name), &config.node_name).await?;
        }
        // Pods that the node knows run without it.
        Err(ContactError::Unavailable(why)) => {
            tracing::warn!(server, why, "the API server does not answer yet; trying on");
        }
        Err(ContactError::Untrusted(why)) => anyhow::bail!(
            "the API server at {server} is not the one that {shown} trusts ({why}): put the cluster's CA into its \
             certificate-authority-data, and check the address"
        ),
        Err(ContactError::Refused(why)) => anyhow::bail!(
            "the API server at {server} refuses the client certificate of {shown} ({why}): remove that file and join again \
             with a token of kubeadm token create --print-join-command"
        ),
    }
    Ok(server)
}

/// API servers that this agent is tried with; older ones lack what it relies on.
const OLDEST_MINOR: u32 = 34;
const NEWEST_MINOR: u32 = 37;

fn check_version(version: &ServerVersion, server: &str) -> anyhow::Result<()> {
    let ServerVersion { major, minor, text } = version;
    if (*major, *minor) < (1, OLDEST_MINOR) {
        anyhow::bail!(
            "the API server at {server} is {text}, which this agent does not work with: it needs 1.{OLDEST_MINOR} to \
             1.{NEWEST_MINOR}; upgrade the control plane first, or use the kubelet of its version"
        );
    }
    if (*major, *minor) > (1, NEWEST_MINOR) {
        tracing::warn!(server, version = text, "the API server is newer than what this agent was tried with");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_servers_that_are_too_old_are_refused_with_the_versions_that_are_not() {
        let of = |minor| ServerVersion { major: 1, minor, text: format!("v1.{minor}.0") };
        for minor in [34, 37, 38] {
            check_version(&of(minor), "https://a").unwrap();
        }
        let text = check_version(&of(33), "https://a").unwrap_err().to_string();
        assert!(text.contains("https://a is v1.33.0") && text.contains("1.34 to 1.37"), "{text}");
    }
}
