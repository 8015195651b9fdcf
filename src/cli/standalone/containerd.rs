//! Our own containerd: started in a session of its own, found again after our restart, restarted when it dies.
//!
//! The child writes its own pid file before it becomes containerd (`skiff` re-executed under a hidden command): no
//! crash of ours leaves a containerd that the next start does not know. There is never a second one on the same root.

use super::process::{ProcessHandle, ProcessId};
use crate::cli::machine;
use anyhow::Context;
use clap::Args;
use node_config::data_dir::Layout;
use node_config::files;
use node_config::shipped::{ContainerdConfig, ContainerdFormat};
use rustix::process::Signal;
use skiff::clock;
use skiff::supervisor::Supervisor;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;

/// Name of the hidden command that becomes containerd.
pub(crate) const EXEC: &str = "exec-containerd";
/// Where a containerd of the system listens.
pub(crate) const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";

/// How long containerd may take from its start to its readiness.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Then it is killed; its shims and the pods stay.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Wait before a restart: none after a good run, else doubling.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const GOOD_RUN: Duration = Duration::from_secs(60);
/// The log is started anew above this size; one older one is kept.
const LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// `sun_path` of unix(7), with its closing NUL.
const SOCKET_PATH_MAX: usize = 108;

/// Which containerd the node uses.
#[derive(Debug)]
pub(crate) enum Runtime {
    External {
        socket: PathBuf,
    },
    /// `adopted`: it already runs, started by an earlier skiff.
    Own {
        adopted: Option<ProcessHandle>,
    },
}

/// What the flag says; else ours if it still runs (our pods are in it), else the system's if it answers, else ours.
pub(crate) async fn choose(layout: &Layout, given: Option<&Path>) -> anyhow::Result<Runtime> {
    if let Some(given) = given {
        answers(given).with_context(|| {
            format!("no container runtime answers at {} (--container-runtime-endpoint)", given.display())
        })?;
        return Ok(Runtime::External { socket: given.to_owned() });
    }
    if let Some(running) = ProcessId::read(&pid_file(layout)).and_then(|id| id.open()) {
        return Ok(Runtime::Own { adopted: Some(running) });
    }
    if answers(Path::new(SYSTEM_SOCKET)).is_ok() {
        return Ok(Runtime::External { socket: SYSTEM_SOCKET.into() });
    }
    Ok(Runtime::Own { adopted: None })
}

/// Whether something accepts connections there.
fn answers(socket: &Path) -> io::Result<()> {
    UnixStream::connect(socket).map(drop)
}

fn pid_file(layout: &Layout) -> PathBuf {
    layout.run().join("containerd.pid")
}

/// What starting it anew takes.
#[derive(Clone, Debug)]
struct Recipe {
    layout: Layout,
    program: PathBuf,
    config_file: PathBuf,
}

/// A containerd of ours that runs, kept running until `stop`.
#[derive(Debug)]
pub(crate) struct Containerd {
    socket: PathBuf,
    state: PathBuf,
    description: String,
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl Containerd {
    /// Returns once it answers; a task then restarts it whenever it ends.
    pub(crate) async fn start(
        layout: &Layout,
        adopted: Option<ProcessHandle>,
        cni_bin_dir: &Path,
        cni_conf_dir: &Path,
        tasks: &Supervisor,
    ) -> anyhow::Result<Self> {
        let program = machine::find_program(&machine::CONTAINERD)?;
        machine::find_program(&machine::RUNC)?;
        let socket = layout.containerd_socket();
        check_socket_length(&socket)?;
        let version = version(&program).await?;
        let state = layout.run().join("containerd");
        let config_file = layout.containerd().join("config.toml");
        let config = ContainerdConfig {
            format: version.format,
            root: &layout.containerd().join("root"),
            state: &state,
            socket: &socket,
            cni_bin_dir,
            cni_conf_dir,
            restrict_oom_score_adj: machine::oom_score_is_restricted(),
            systemd_cgroup: false,
        };
        files::write_if_changed(&config_file, config.render(), files::PUBLIC)?;
        let recipe = Recipe { layout: layout.clone(), program, config_file };
        let (running, how) = match adopted {
            Some(running) => {
                wait_for_socket(&running, &socket).await?;
                (running, "adopted")
            }
            None => (recipe.spawn().await?, "started"),
        };
        let description = format!("{} (process {}, {how})", version.text, running.id.pid);
        // Ends with the other tasks too, when the boot fails further on.
        let (stop, stopped) = (tasks.stopping().child_token(), CancellationToken::new());
        tasks.spawn_to_end("containerd", keep_running(recipe, running, stop.clone(), stopped.clone()));
        Ok(Self { socket, state, description, stop, stopped })
    }

    /// Where it keeps what does not outlive a reboot: mounts, sockets of shims.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Version and process, for people.
    pub(crate) fn describe(&self) -> &str {
        &self.description
    }

    /// Stops containerd; its shims, and with them the pods, go on.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}

/// Watches it, and starts it again when it ends.
async fn keep_running(recipe: Recipe, mut running: ProcessHandle, stop: CancellationToken, stopped: CancellationToken) {
    let mut backoff = Duration::ZERO;
    'run: loop {
        let since = clock::now().mono;
        // Both arms are cancel-safe.
        tokio::select! {
            result = running.ended() => {
                if let Err(error) = result {
                    tracing::error!(%error, "cannot watch containerd");
                    break 'run;
                }
            }
            () = stop.cancelled() => {
                end(&running).await;
                break 'run;
            }
        }
        let lasted = clock::now().mono - since;
        backoff = next_backoff(backoff, lasted);
        let log = recipe.log_file();
        tracing::warn!(pid = running.id.pid, ?lasted, ?backoff, log = %log.display(), "containerd ended: starting it again");
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = stop.cancelled() => break 'run,
            }
            match recipe.spawn().await {
                Ok(started) => {
                    tracing::info!(pid = started.id.pid, "containerd is back");
                    running = started;
                    break;
                }
                Err(error) => {
                    backoff = next_backoff(backoff, Duration::ZERO);
                    tracing::error!(error = format!("{error:#}"), ?backoff, "containerd does not start");
                }
            }
        }
    }
    let _ = fs::remove_file(pid_file(&recipe.layout));
    stopped.cancel();
}

/// Wait before the next start, after a run of that length.
fn next_backoff(last: Duration, lasted: Duration) -> Duration {
    if lasted >= GOOD_RUN { Duration::ZERO } else { (last * 2).clamp(BACKOFF_FIRST, BACKOFF_MAX) }
}

async fn end(running: &ProcessHandle) {
    running.signal(Signal::TERM);
    if tokio::time::timeout(STOP_LIMIT, running.ended()).await.is_err() {
        tracing::warn!(pid = running.id.pid, "containerd does not stop: killing it (its pods stay)");
        running.signal(Signal::KILL);
        let _ = tokio::time::timeout(STOP_LIMIT, running.ended()).await;
    }
}

impl Recipe {
    fn log_file(&self) -> PathBuf {
        self.layout.containerd().join("containerd.log")
    }

    /// Starts it and waits until it says that it is ready (sd_notify(3)), dies, or takes too long.
    async fn spawn(&self) -> anyhow::Result<ProcessHandle> {
        let ready = self.layout.run().join("containerd-ready.sock");
        let _ = fs::remove_file(&ready);
        let notify = UnixDatagram::bind(&ready).with_context(|| format!("cannot listen on {}", ready.display()))?;
        let _ = fs::remove_file(pid_file(&self.layout));
        let log = self.open_log()?;
        let path = std::env::join_paths(machine::search_path()).unwrap_or_default();
        let mut child = tokio::process::Command::new(std::env::current_exe().context("cannot find skiff itself")?)
            .arg(EXEC)
            .arg("--pid-file")
            .arg(pid_file(&self.layout))
            .arg("--")
            .arg(&self.program)
            .arg("--config")
            .arg(&self.config_file)
            .env("PATH", path)
            .env("NOTIFY_SOCKET", &ready)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start containerd")?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("containerd ended at once")?;
        // Cancel-safe: on the other arms the process is given up.
        let failure = tokio::select! {
            result = said_ready(&notify) => {
                result.context("cannot hear of containerd's readiness")?;
                None
            }
            status = child.wait() => Some(format!("it ended with {}", status?)),
            () = tokio::time::sleep(READY_LIMIT) => Some(format!("it is not ready after {} s", READY_LIMIT.as_secs())),
        };
        let _ = fs::remove_file(&ready);
        if let Some(failure) = failure {
            // On a root that another process holds it would wait for ever.
            let _ = child.start_kill();
            let log = self.log_file();
            let last = last_complaint(&log).map_or(String::new(), |line| format!(": {line}"));
            anyhow::bail!("containerd does not start: {failure}{last} (its log: {})", log.display());
        }
        // The runtime reaps the child: dropping the handle neither kills nor forgets it.
        ProcessId::of(pid).and_then(|id| id.open()).context("containerd ended at once")
    }

    fn open_log(&self) -> anyhow::Result<File> {
        let path = self.log_file();
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
            let _ = fs::rename(&path, path.with_extension("log.1"));
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }
}

/// Completes when a `READY=1` arrives.
async fn said_ready(notify: &UnixDatagram) -> io::Result<()> {
    let mut message = [0; 4096];
    loop {
        let length = notify.recv(&mut message).await?;
        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return Ok(());
        }
    }
}

/// An adopted one may itself still be starting: it answers as soon as its socket is there.
async fn wait_for_socket(running: &ProcessHandle, socket: &Path) -> anyhow::Result<()> {
    let mut pause = Duration::from_millis(20);
    let deadline = clock::now().mono + READY_LIMIT;
    while answers(socket).is_err() {
        anyhow::ensure!(
            clock::now().mono < deadline,
            "containerd (process {}) does not answer at {}; end it and start skiff again",
            running.id.pid,
            socket.display()
        );
        // Both arms are cancel-safe.
        tokio::select! {
            _ = running.ended() => anyhow::bail!("containerd (process {}) ended while skiff took it over", running.id.pid),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
        }
    }
    Ok(())
}

/// The last error in containerd's log, which usually says why it ended.
fn last_complaint(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(16 * 1024)..]).into_owned();
    let serious =
        |line: &&str| line.contains("level=fatal") || line.contains("level=error") || line.starts_with("containerd: ");
    tail.lines().rev().find(serious).map(|line| line.trim().to_owned())
}

/// containerd listens on the socket's name with `.ttrpc` after it, too.
fn check_socket_length(socket: &Path) -> anyhow::Result<()> {
    let length = socket.as_os_str().len() + ".ttrpc".len();
    anyhow::ensure!(
        length < SOCKET_PATH_MAX,
        "{} is too long for a unix socket ({length} bytes of {SOCKET_PATH_MAX}); choose a shorter --data-dir",
        socket.display()
    );
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    text: String,
    format: ContainerdFormat,
}

async fn version(program: &Path) -> anyhow::Result<Version> {
    let output = tokio::process::Command::new(program).arg("--version").output().await;
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&text).with_context(|| format!("{} --version says {text:?}: not a containerd", program.display()))
}

/// `containerd <source> <version> <commit>`.
fn parse_version(text: &str) -> Option<Version> {
    let word = text.split_whitespace().nth(2)?;
    let version = word.strip_prefix('v').unwrap_or(word);
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let format = if major >= 2 { ContainerdFormat::V3 } else { ContainerdFormat::V2 };
    Some(Version { text: version.split(['+', '~']).next()?.to_owned(), format })
}

/// Flags of the hidden command.
#[derive(Args, Debug)]
pub(crate) struct ExecFlags {
    #[arg(long)]
    pid_file: PathBuf,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Leaves our session, writes the pid file, becomes containerd. Returns only an error.
pub(crate) fn exec(flags: &ExecFlags) -> anyhow::Result<()> {
    // So that neither a terminal's end nor a signal to our process group reaches it; EPERM: already a leader.
    let _ = nix::unistd::setsid();
    let pid = i32::try_from(std::process::id())?;
    ProcessId::of(pid).context("cannot read /proc/self/stat")?.write(&flags.pid_file)?;
    let (program, arguments) = flags.command.split_first().context("no command")?;
    Err(std::process::Command::new(program).args(arguments).exec()).context("cannot execute containerd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_choose_the_configuration_format() {
        for (text, expected) in [
            ("containerd github.com/containerd/containerd/v2 2.1.9+unknown \n", Some(("2.1.9", ContainerdFormat::V3))),
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                Some(("1.6.20", ContainerdFormat::V2)),
            ),
            ("containerd github.com/containerd/containerd v1.7.27 05044ec", Some(("1.7.27", ContainerdFormat::V2))),
            ("docker 27", None),
        ] {
            let found = parse_version(text);
            assert_eq!(found.as_ref().map(|found| (&*found.text, found.format)), expected, "{text}");
        }
    }

    #[test]
    fn restarts_wait_longer_each_time_unless_the_run_was_good() {
        let seconds = Duration::from_secs;
        let mut waits = Vec::new();
        let mut backoff = Duration::ZERO;
        for _ in 0..8 {
            backoff = next_backoff(backoff, seconds(1));
            waits.push(backoff.as_millis());
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(next_backoff(backoff, GOOD_RUN), Duration::ZERO);
    }

    #[test]
    fn a_data_directory_too_deep_for_a_socket_is_refused() {
        assert!(check_socket_length(Path::new("/var/lib/skiff/run/containerd.sock")).is_ok());
        let error = check_socket_length(&Path::new("/").join("x".repeat(110))).unwrap_err().to_string();
        assert!(error.contains("choose a shorter --data-dir"), "{error}");
    }
}
