//! Has the kernel tell when a cgroup's use of memory comes to a mark (`kernelMemcgNotification`), sooner than a look would.

use super::{Cgroups, Version};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// cgroup v2 has no marks on use: there the kernel tells when tasks wait for memory, 100 ms of any second (microseconds).
const STALL: &str = "some 100000 1000000";

/// Told once the mark is passed, upwards or downwards; until it is dropped.
#[derive(Debug)]
pub struct MemoryMark {
    told: AsyncFd<OwnedFd>,
    interest: Interest,
}

impl Cgroups {
    /// A mark of so many bytes (page cache included) on the use of a cgroup below the root, such as `/kubepods`.
    pub fn memory_mark(&self, path: &str, bytes: u64) -> io::Result<MemoryMark> {
        let root = self.controller_root("memory").ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let folder = root.join(path.trim_start_matches('/'));
        let (told, interest) = match self.version {
            Version::V1 => {
                let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
                let watched = File::open(folder.join("memory.usage_in_bytes"))?;
                let words = format!("{} {} {bytes}", event.as_raw_fd(), watched.as_raw_fd());
                // In one write, as the kernel wants it.
                OpenOptions::new()
                    .write(true)
                    .open(folder.join("cgroup.event_control"))?
                    .write_all(words.as_bytes())?;
                (OwnedFd::from(event), Interest::READABLE)
            }
            Version::V2 => {
                let mut pressure = OpenOptions::new().read(true).write(true).open(folder.join("memory.pressure"))?;
                pressure.write_all(STALL.as_bytes())?;
                (OwnedFd::from(pressure), Interest::PRIORITY)
            }
        };
        // Deprecated for types whose descriptor may change while registered; an OwnedFd's cannot.
        #[allow(deprecated)]
        let told = AsyncFd::with_interest(told, interest)?;
        Ok(MemoryMark { told, interest })
    }
}

impl MemoryMark {
    /// Completes when the kernel tells. Cancel-safe: what was told is told again.
    pub async fn crossed(&self) {
        match self.told.ready(self.interest).await {
            Ok(mut ready) => {
                if self.interest.is_readable() {
                    // How often it was crossed does not matter, and what cannot be read is read by the next look.
                    let _ = nix::unistd::read(&self.told, &mut [0; 8]);
                }
                ready.clear_ready();
            }
            // The reactor has ended, and so does whoever waits.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    /// On cgroup v1 in a cgroup of the test's own; elsewhere the kernel's list of pressure files decides what can be said.
    #[tokio::test]
    async fn the_kernel_tells_when_memory_passes_the_mark() {
        let cgroups = Cgroups::detect(Path::new("/sys/fs/cgroup"), "cgroupfs").unwrap();
        let path = format!("/skiff-mark-{}", std::process::id());
        let folder = Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/'));
        if cgroups.version() != Version::V1 || std::fs::create_dir(&folder).is_err() {
            eprintln!("skipped: no cgroup v1 to write to");
            return;
        }
        let mark = cgroups.memory_mark(&path, 8 << 20).unwrap();
        // Its argument comes when it is in the cgroup; tail keeps what it reads.
        let script = "read go; head -c 32M /dev/zero | tail -c 32M >/dev/null";
        let mut child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        std::fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let told = tokio::time::timeout(Duration::from_secs(60), mark.crossed()).await;
        child.wait().unwrap();
        drop(mark);
        std::fs::remove_dir(&folder).unwrap();
        told.expect("a word from the kernel");
    }
}
