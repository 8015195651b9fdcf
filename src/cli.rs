//! The command line: what each subcommand takes, and how its failure is shown.
//!
//! | module | what |
//! |---|---|
//! | `flags` | flags under upstream's names, resolved into configurations |
//! | `logging` `progress` `signals` `watchdog` | how a long-running command speaks and ends |
//! | `machine` | what this machine has: programs, ports, addresses; each lack with its remedy |
//! | `tunables` | kernel settings that a node runs on |
//! | `standalone` `server` `agent` | the long-running commands |
//! | `standalone/…` | our own containerd, the pod network, archives of images |
//! | `store`, `store/…` | backup, restore, check and copies of what the server keeps |
//! | `check` `images` `kubeconfig` `version` | the short ones |

mod agent;
mod check;
mod flags;
mod images;
mod logging;
mod machine;
mod progress;
mod server;
mod signals;
mod standalone;
mod store;
mod tunables;
mod version;
mod watchdog;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use skiff::app::AgentError;
use skiff::cluster::ClusterError;
use skiff::identity::bootstrap::BootstrapError;
use skiff::server::ServeError;
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const ABOUT: &str = "skiff runs a Kubernetes node in one process.

 Find more in the README of the source tree; every command explains itself with --help.";

/// A start is over by then, also one that waits for a runtime or pulls.
const GIVE_BACK_FIRST: Duration = Duration::from_secs(5);
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);

const HELP: &str = "\
{about-with-newline}
{all-args}{after-help}
Usage:
  {usage}
";

#[derive(Parser)]
#[command(name = "skiff", about = ABOUT, version, subcommand_help_heading = "Commands")]
#[command(disable_help_subcommand = true, arg_required_else_help = true, disable_help_flag = true)]
struct Cli {
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
    #[command(flatten)]
    logging: logging::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole single-node Kubernetes: containerd, API server, scheduler and agent
    Standalone(Box<standalone::Flags>),
    /// Run the API server with its store, scheduler and controllers
    Server(Box<server::Flags>),
    /// Run the node agent, in place of the kubelet
    Agent(Box<agent::Flags>),
    /// Tell whether this machine can run a node, and what to install if not
    Check(check::Flags),
    /// Print the administrator's kubeconfig
    Kubeconfig(flags::DataDirFlags),
    /// Import and list container images
    Images(images::Flags),
    /// Back up, restore, check and copy what the API server keeps
    Store(store::Flags),
    /// Print the version
    Version(version::Flags),
    /// Print a shell's completion script, as in: source <(skiff completion bash)
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man { folder: std::path::PathBuf },
    /// Internal: becomes containerd in a session of its own
    #[command(name = standalone::containerd::EXEC, hide = true)]
    Containerd(standalone::containerd::ExecFlags),
}

/// Parses the command line, runs the command; its failure is the last line on stderr.
pub(crate) fn main() -> ExitCode {
    let arguments = arguments(std::env::args_os().collect());
    // Both end the process with usage or help when the command line is not right.
    let matches = command().get_matches_from(arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", in_one_line(&error));
            exit_code(&error)
        }
    }
}

/// What failed and its causes, those left out that an error above them has named already.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

/// What systemd shows of the failure: 78 is `CONFIG` (`EX_CONFIG` of sysexits.h), 2 (clap's) `INVALIDARGUMENT`.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let configuration = error.chain().any(|cause| {
        cause.is::<node_config::kubelet::ConfigError>()
            || cause.is::<node_config::kubeconfig::KubeconfigError>()
            || cause.downcast_ref().is_some_and(BootstrapError::is_configuration)
            || matches!(cause.downcast_ref(), Some(ClusterError::Kubeconfig { .. }))
            || matches!(cause.downcast_ref(), Some(AgentError::Serve(ServeError::Tls(_))))
    });
    if configuration { ExitCode::from(78) } else { ExitCode::FAILURE }
}

/// The command line, with one shape of help for all commands.
fn command() -> clap::Command {
    let shape = |command: clap::Command| command.help_template(HELP);
    shape(Cli::command()).mut_subcommands(|command| shape(command).mut_subcommands(shape))
}

/// Invoked under the name `kubelet` (a link in the kubelet's place), skiff is its agent.
fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|name| Path::new(name).file_name().map(OsString::from));
    if name.is_some_and(|name| name == "kubelet") {
        arguments.insert(1, "agent".into());
    }
    arguments
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // One crypto provider in the whole process; the error only says that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let format = cli.logging.format;
    match cli.command {
        Command::Standalone(flags) => {
            cli.logging.install();
            block_on(standalone::run(*flags, format))?
        }
        Command::Server(flags) => {
            cli.logging.install();
            block_on(server::run(*flags, format))?
        }
        Command::Agent(flags) => {
            cli.logging.install();
            block_on(agent::run(*flags, format, cli.logging.verbosity))?
        }
        Command::Check(flags) => return block_on(check::run(flags)),
        Command::Kubeconfig(flags) => {
            let path = node_config::data_dir::Layout::new(flags.data_dir).admin_kubeconfig();
            let text = std::fs::read_to_string(&path).map_err(|error| {
                let path = path.display();
                anyhow::anyhow!("cannot read {path}: {error}; skiff standalone writes it (see --data-dir)")
            })?;
            print!("{text}");
            Ok(())
        }
        Command::Images(flags) => block_on(images::run(flags))?,
        Command::Store(flags) => return block_on(store::run(flags))?,
        Command::Version(flags) => {
            version::print(&flags);
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut command(), "skiff", &mut std::io::stdout());
            Ok(())
        }
        // Debian has no section for a program's own commands: skiff.1, skiff-agent.1, …
        Command::Man { folder } => clap_mangen::generate_to(command(), folder).map_err(Into::into),
        Command::Containerd(flags) => standalone::containerd::exec(&flags),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn block_on<T>(command: impl Future<Output = T>) -> anyhow::Result<T> {
    // Two at least, so that one busy task never holds up a health answer; eight serve the biggest machine.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
    skiff::sys::bound_heaps(threads);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = command => result,
            never = stay_small() => match never {},
        }
    });
    // Blocking work that hangs must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_millis(200));
    Ok(result)
}

/// Gives memory back when a start or a burst is over.
async fn stay_small() -> Infallible {
    // A node is ready long before the first time; then an idle one spends a hundred microseconds each time.
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + GIVE_BACK_FIRST, GIVE_BACK_EVERY);
    loop {
        timer.tick().await;
        skiff::sys::give_back_memory();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(arguments(line.split_whitespace().map(OsString::from).collect()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn under_the_name_kubelet_it_is_the_agent() {
        let cli = parse("/usr/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --v=2").unwrap();
        assert!(matches!(cli.command, Command::Agent(_)));
    }

    #[test]
    fn the_command_lines_of_kubeadm_and_kind_are_understood() {
        for line in [
            "kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
             --config=/var/lib/kubelet/config.yaml --node-ip=10.0.0.1 --hostname-override=n1",
            "kubelet --config=/var/lib/kubelet/config.yaml --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
             --pod-infra-container-image=registry.k8s.io/pause:3.10 --node-labels=a=b --provider-id=kind://docker/kind/n1 \
             --runtime-cgroups=/system.slice/containerd.service --cgroup-root=/kubelet --fail-swap-on=false --v=4",
            "kubelet --anonymous-auth=false --rotate-certificates --max-pods=20 --feature-gates=A=true,B=false",
        ] {
            let Command::Agent(_) = parse(line).unwrap().command else { panic!("{line}") };
        }
        let error = parse("kubelet --max-pods=many").err().unwrap();
        assert!(error.contains("\"many\" is not a number"), "{error}");
    }

    #[test]
    fn an_unknown_flag_is_refused_with_the_nearest_name() {
        let error = parse("skiff standalone --secure-prot=1").err().unwrap();
        assert!(error.contains("'--secure-port'"), "{error}");
        let error = parse("skiff standalon").err().unwrap();
        assert!(error.contains("'standalone'"), "{error}");
    }

    #[test]
    fn a_failure_is_one_line_that_repeats_nothing_and_files_to_mend_are_a_configuration() {
        use anyhow::Context;
        let no_way = ClusterError::Kubeconfig { path: "/etc/k.conf".into(), message: "no key".to_owned() };
        for (error, line, code) in [
            (anyhow::anyhow!("c").context("b").context("a"), "a: b: c", 1),
            (anyhow::anyhow!("no key").context("b: no key").context("a"), "a: b: no key", 1),
            (
                Err::<(), _>(no_way).context("a").unwrap_err(),
                "a: kubeconfig /etc/k.conf cannot be used: no key; it must name a server, its CA, and the node's \
                 certificate and key: have it written by kubeadm join, or put one that is whole in its place",
                78,
            ),
        ] {
            assert_eq!(in_one_line(&error), line);
            assert_eq!(exit_code(&error), ExitCode::from(code), "{line}");
        }
    }

    #[test]
    fn a_list_that_begins_with_a_minus_is_a_value() {
        for line in ["skiff standalone --controllers=-scheduler", "skiff standalone --controllers -scheduler,-x"] {
            let Command::Standalone(flags) = parse(line).unwrap().command else { panic!("{line}") };
            assert!(flags.server.controllers.starts_with("-scheduler"), "{line}");
        }
    }
}
