//! systemd-logind as the agent needs it: a lock that delays a shutdown, and word of one that is about to begin.
//!
//! Spoken through systemd's own `busctl` and `systemd-inhibit`, as `cgroups` speaks to systemd: a D-Bus library would
//! bring thirty crates and switch on tokio's tracing in all of the binary, for three calls and a signal.

use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const MANAGER: [&str; 3] = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"];
/// The kubelet's own name for it: one that took this node over before is replaced.
const OVERRIDE: &str = "logind.conf.d/99-kubelet.conf";

/// Why a shutdown cannot be delayed.
#[derive(Debug, thiserror::Error)]
pub enum LogindError {
    #[error("{program}: {source}")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} failed: {message}")]
    Failed { program: &'static str, message: String },
    #[error("{program} did not answer within {CALL_TIMEOUT:?}")]
    Late { program: &'static str },
    #[error("cannot write {}: {source}", path.display())]
    Override { path: PathBuf, source: io::Error },
    #[error("logind delays a shutdown by {has:?} at most, and not by the {wanted:?} that are configured")]
    TooShort { has: Duration, wanted: Duration },
}

/// logind of this machine.
#[derive(Clone, Debug)]
pub struct Logind {
    /// `/etc/systemd`.
    configuration: PathBuf,
    /// Where the programs are, in front of `PATH`; tests put others there.
    programs: Option<PathBuf>,
}

/// Delays a shutdown for as long as it is held.
#[derive(Debug)]
pub struct Lock {
    // Killed when dropped: the lock is the process.
    _holder: Child,
}

/// Word of shutdowns, in order.
#[derive(Debug)]
pub struct Shutdowns {
    _monitor: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Logind {
    pub fn system() -> Self {
        Self { configuration: "/etc/systemd".into(), programs: None }
    }

    /// With programs and a configuration folder of a test's own.
    pub fn fake(programs: &Path, configuration: &Path) -> Self {
        Self { configuration: configuration.to_owned(), programs: Some(programs.to_owned()) }
    }

    /// Sees to it that logind waits that long (`InhibitDelayMaxSec`).
    pub async fn allow_delay(&self, wanted: Duration) -> Result<(), LogindError> {
        if self.delay().await? >= wanted {
            return Ok(());
        }
        let path = self.configuration.join(OVERRIDE);
        let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs());
        let error = |source| LogindError::Override { path: path.clone(), source };
        tokio::fs::create_dir_all(path.parent().unwrap_or(&path)).await.map_err(error)?;
        tokio::fs::write(&path, text).await.map_err(error)?;
        let reload = ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"];
        let kill = ["org.freedesktop.systemd1.Manager", "KillUnit", "ssi", "systemd-logind.service", "all", "1"];
        self.output("busctl", &[&reload[..], &kill[..]].concat()).await?;
        let has = self.delay().await?;
        if has < wanted { Err(LogindError::TooShort { has, wanted }) } else { Ok(()) }
    }

    /// How long it waits for locks now.
    async fn delay(&self) -> Result<Duration, LogindError> {
        let arguments = [&["--json=short", "get-property"][..], &MANAGER, &["InhibitDelayMaxUSec"]].concat();
        let text = self.output("busctl", &arguments).await?;
        let value: Option<Value> = serde_json::from_str(&text).ok();
        let micros = value.as_ref().and_then(|value| value["data"].as_u64());
        micros.map(Duration::from_micros).ok_or(LogindError::Failed { program: "busctl", message: text })
    }

    /// Takes the lock.
    pub fn inhibit(&self) -> Result<Lock, LogindError> {
        let mut command = self.command("systemd-inhibit");
        command.args(["--what=shutdown", "--mode=delay", "--who=kubelet"]);
        command.args(["--why=Kubelet needs time to handle node shutdown", "sleep", "infinity"]);
        let holder = command.stdout(Stdio::null()).spawn();
        let holder = holder.map_err(|source| LogindError::Run { program: "systemd-inhibit", source })?;
        Ok(Lock { _holder: holder })
    }

    /// Listens for shutdowns from now on.
    pub fn shutdowns(&self) -> Result<Shutdowns, LogindError> {
        let rule = "type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown'";
        let mut command = self.command("busctl");
        command.args(["--json=short", "monitor", &format!("--match={rule}")]).stdout(Stdio::piped());
        let failed = |source| LogindError::Run { program: "busctl", source };
        let mut monitor = command.spawn().map_err(failed)?;
        let stdout = monitor.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Shutdowns { lines: BufReader::new(stdout).lines(), _monitor: monitor })
    }

    async fn output(&self, program: &'static str, arguments: &[&str]) -> Result<String, LogindError> {
        let output = self.command(program).args(arguments).stdout(Stdio::piped()).output();
        let output = tokio::time::timeout(CALL_TIMEOUT, output).await.map_err(|_| LogindError::Late { program })?;
        let output = output.map_err(|source| LogindError::Run { program, source })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LogindError::Failed { program, message });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, program: &'static str) -> Command {
        let mut command = match &self.programs {
            Some(folder) => Command::new(folder.join(program)),
            None => Command::new(program),
        };
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

impl Shutdowns {
    /// The next word: `true` when a shutdown begins, `false` when it was called off; `None`: the bus is gone.
    /// Cancel-safe: a line that was read in part is read on by the next call.
    pub async fn next(&mut self) -> Option<bool> {
        loop {
            let line = self.lines.next_line().await.ok()??;
            if let Some(begins) = prepares(&line) {
                return Some(begins);
            }
        }
    }
}

/// What a line of `busctl monitor` says of a shutdown; `None`: something else.
fn prepares(line: &str) -> Option<bool> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["member"] != "PrepareForShutdown" {
        return None;
    }
    message["payload"]["data"][0].as_bool()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shutdown_is_word_of_one() {
        let line = |member: &str, data: &str| {
            format!(
                r#"{{"type":"signal","path":"/org/freedesktop/login1","interface":"org.freedesktop.login1.Manager","member":"{member}","payload":{{"type":"b","data":[{data}]}}}}"#
            )
        };
        assert_eq!(prepares(&line("PrepareForShutdown", "true")), Some(true));
        assert_eq!(prepares(&line("PrepareForShutdown", "false")), Some(false));
        assert_eq!(prepares(&line("PrepareForSleep", "true")), None);
        assert_eq!(prepares("Monitoring bus message stream."), None);
    }
}
