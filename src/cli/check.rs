//! `skiff check`: what this machine has and lacks for a node; each lack with its remedy.

pub(super) mod preflight;

use super::flags::DataDirFlags;
use super::machine::{self, CniPlugins};
use super::standalone::containerd::SYSTEM_SOCKET;
use clap::Args;
use node_config::kubelet::{KubeletConfiguration, Sources};
use preflight::Finding;
use skiff::clock;
use skiff::runtime::cri::CriRuntime;
use skiff::runtime::{Runtime, RuntimeInfo};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a container runtime may take to say what it is.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    data: DataDirFlags,
    /// The KubeletConfiguration that the node will have; what it says is held against the machine
    #[arg(long, value_name = "file")]
    config: Option<PathBuf>,
    /// The container runtime that the node will use; what it says is held against the configuration
    #[arg(long, value_parser = super::flags::endpoint, value_name = "endpoint")]
    container_runtime_endpoint: Option<PathBuf>,
    /// Where the CNI plugins are; searched for in the usual places otherwise
    #[arg(long, value_name = "path")]
    cni_bin_dir: Option<PathBuf>,
    /// Where a network add-on writes its configuration
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "path")]
    cni_conf_dir: PathBuf,
    /// Ports that must be free
    #[arg(long, value_name = "ports", value_delimiter = ',', default_values_t = [6443, 10250, 10248])]
    ports: Vec<u16>,
}

/// Prints one line a finding; fails when a node could not run.
pub(crate) async fn run(flags: Flags) -> ExitCode {
    let mut findings: Vec<(String, Finding)> = Vec::new();
    machine_findings(&flags, &mut findings);
    let sources = Sources { file: flags.config.clone(), ..Sources::default() };
    match KubeletConfiguration::load(&sources) {
        Ok(kubelet) => {
            if let Some(path) = &flags.config {
                findings.push(("configuration".into(), Finding::Fine(path.display().to_string())));
            }
            node_findings(&flags, &kubelet, &mut findings).await;
        }
        Err(error) => findings.push(("configuration".into(), Finding::Failure(error.to_string()))),
    }
    for (what, finding) in &findings {
        match finding {
            Finding::Fine(found) => println!("ok    {what:<16} {found}"),
            Finding::Warning(lack) => println!("WARN  {what:<16} {lack}"),
            Finding::Failure(lack) => println!("FAIL  {what:<16} {lack}"),
        }
    }
    let failed = findings.iter().any(|(_, finding)| matches!(finding, Finding::Failure(_)));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What any node needs.
fn machine_findings(flags: &Flags, findings: &mut Vec<(String, Finding)>) {
    let mut add = |what: &str, result: Result<String, machine::Lack>| {
        let finding = result.map_or_else(|lack| Finding::Failure(lack.to_string()), Finding::Fine);
        findings.push((what.to_owned(), finding));
    };
    add("root", machine::root().map(|()| "yes".to_owned()));
    for program in machine::PROGRAMS {
        add(program.name, machine::find_program(program).map(|path| path.display().to_string()));
    }
    let plugins = CniPlugins::find(flags.cni_bin_dir.as_deref());
    add("CNI plugins", plugins.map(|plugins| plugins.dir.display().to_string()));
    add("cgroups", machine::cgroups());
    for &port in &flags.ports {
        let free = machine::port_is_free("", IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        add(&format!("port {port}"), free.map(|()| "free".to_owned()));
    }
    let route = machine::default_address();
    let address =
        route.map_or("no default route: pods' bridge will carry the node's address".into(), |a| a.to_string());
    add("node address", Ok(address));
    add("data directory", Ok(flags.data.data_dir.display().to_string()));
}

/// What depends on how the node is configured, and on its runtime.
async fn node_findings(flags: &Flags, kubelet: &KubeletConfiguration, findings: &mut Vec<(String, Finding)>) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut add = |what: &str, finding| findings.push((what.to_owned(), finding));
    add("swap", preflight::swap(&read("/proc/swaps"), kubelet.fail_swap_on.unwrap_or(true)));
    add("cgroup version", preflight::cgroup_v1(machine::has_cgroup_v1(), kubelet));
    add("file systems", preflight::overlay(&read("/proc/filesystems")));
    let sysctl = |key: &str| {
        let value = std::fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).ok()?;
        Some(value.trim().to_owned())
    };
    for (key, finding) in preflight::kernel(sysctl) {
        add(key, finding);
    }
    let asked =
        std::process::Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    let synchronized = asked.ok().filter(|output| output.status.success());
    let synchronized = synchronized.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    add("clock", preflight::clock(synchronized.as_deref(), clock::now().wall.as_second()));
    add("CNI configuration", preflight::cni_configuration(&flags.cni_conf_dir));
    let (socket, asked_for) = match &flags.container_runtime_endpoint {
        Some(socket) => (socket.clone(), true),
        None => (SYSTEM_SOCKET.into(), false),
    };
    match runtime(&socket).await {
        Ok(info) => {
            add("runtime", preflight::containerd(&info));
            add("cgroup driver", preflight::cgroup_driver(&kubelet.cgroup_driver, &info));
        }
        Err(why) if asked_for || flags.config.is_some() => {
            let text = format!("none answers at {} ({why}): systemctl start containerd", socket.display());
            add("runtime", Finding::Failure(text));
        }
        Err(_) => add("runtime", Finding::Fine("none runs: skiff standalone starts its own".into())),
    }
}

async fn runtime(socket: &std::path::Path) -> Result<RuntimeInfo, String> {
    if !socket.exists() {
        return Err("there is no such socket".into());
    }
    match tokio::time::timeout(RUNTIME_DEADLINE, CriRuntime::lazy(socket).info()).await {
        Ok(info) => info.map_err(|error| error.to_string()),
        Err(_) => Err("no answer within 5 s".into()),
    }
}
