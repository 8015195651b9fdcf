//! A process known across our own restarts: pid, start time and boot, so that a reused pid is never taken for it.

use node_config::files::{self, FileError};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Identity of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks since boot: field 22 of /proc/PID/stat.
    start_time: u64,
    boot_id: String,
}

impl ProcessId {
    /// The process that has that pid now; `None` when there is none (or only its zombie).
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start_time: start_time(&stat)?, boot_id: boot_id()? })
    }

    /// Reads what `write` wrote; `None` when there is nothing usable.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        let process = Self {
            pid: words.next()?.parse().ok()?,
            start_time: words.next()?.parse().ok()?,
            boot_id: words.next()?.to_owned(),
        };
        Some(process)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), FileError> {
        let Self { pid, start_time, boot_id } = self;
        files::write_atomic(path, format!("{pid} {start_time} {boot_id}\n"), files::PUBLIC)
    }

    /// A handle on the process if it still runs. The identity is checked after the handle is open: from then on the
    /// pid cannot be reused under us.
    pub(crate) fn open(&self) -> Option<ProcessHandle> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::NONBLOCK).ok()?;
        (Self::of(self.pid).as_ref() == Some(self)).then(|| ProcessHandle { id: self.clone(), fd })
    }
}

/// An open pidfd: watches and signals exactly that process.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pub(crate) id: ProcessId,
    fd: OwnedFd,
}

impl ProcessHandle {
    /// Completes when the process has ended. Cancel-safe.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        // Deprecated for types whose descriptor may change while registered; an OwnedFd's cannot.
        #[allow(deprecated)]
        let fd = AsyncFd::with_interest(self.fd.try_clone()?, Interest::READABLE)?;
        fd.readable().await.map(drop)
    }

    /// Already gone is fine.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.fd, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.id.pid, ?signal, %error, "cannot signal");
        }
    }
}

fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// Start time from the text of /proc/PID/stat; `None` for a zombie. The second field is the program's name in
/// parentheses and may hold anything, parentheses and spaces included.
fn start_time(stat: &str) -> Option<u64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // `state` was the third field; start time is the 22nd.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_start_time_is_found_behind_any_program_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 0";
        assert_eq!(start_time(stat), Some(777));
        assert_eq!(start_time(&stat.replace(" S 1", " Z 1")), None);
        assert_eq!(start_time("nonsense"), None);
    }

    #[tokio::test]
    async fn a_process_is_recognised_until_it_ends_and_never_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        id.write(&path).unwrap();
        assert_eq!(ProcessId::read(&path), Some(id.clone()));
        let impostor = ProcessId { start_time: id.start_time + 1, ..id.clone() };
        assert!(impostor.open().is_none(), "a reused pid is another process");
        let handle = id.open().unwrap();
        handle.signal(Signal::TERM);
        handle.ended().await.unwrap();
        assert!(id.open().is_none(), "a zombie has ended");
        child.wait().unwrap();
        handle.signal(Signal::TERM);
    }
}
