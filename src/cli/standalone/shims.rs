//! What containerd has forgotten, shims and mounts.
//!
//! Shims: when a pod's pause process dies while its containers run, the shim refuses to
//! shut down, and nobody asks it again once they are gone (containerd 1.6 to 2.1). They hold nothing and stay for ever.

use super::process::ProcessId;
use rustix::process::Signal;
use std::fs;
use std::path::Path;

/// Ends the shims of the containerd behind `socket` that have no processes. To be called when its pods are stopped and
/// it has stopped itself: a shim without processes is then no shim that is just starting.
pub(super) fn end_empty(socket: &Path) {
    for pid in shims_of(socket).into_iter().filter(|pid| is_empty(*pid)) {
        if let Some(shim) = ProcessId::of(pid).and_then(|id| id.open()) {
            tracing::info!(pid, "ending a shim that containerd has forgotten");
            shim.signal(Signal::KILL);
        }
    }
}

/// Unmounts what is left below the state folder of a containerd whose pods are stopped: it skips the `/dev/shm` of a
/// sandbox whose shim was killed, until that sandbox is removed.
pub(super) fn unmount_left(state: &Path) {
    if let Err((point, error)) = skiff::volumes::unmount_below(state) {
        tracing::warn!(mount = %point.display(), %error, "a mount that containerd has left is still there");
    }
}

fn shims_of(socket: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_shim(&line, socket))).collect()
}

/// Is this the command line (arguments ended by NUL) of a shim of that containerd?
fn is_shim(command_line: &[u8], socket: &Path) -> bool {
    let mut arguments = command_line.split(|byte| *byte == 0);
    let program = arguments.next().map(String::from_utf8_lossy).unwrap_or_default();
    let is_shim = program.rsplit('/').next().is_some_and(|name| name.starts_with("containerd-shim-"));
    let address = arguments.skip_while(|argument| *argument != b"-address").nth(1);
    is_shim && address.is_some_and(|address| address == socket.as_os_str().as_encoded_bytes())
}

/// No children: what it does not show is taken for a child.
fn is_empty(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| fs::read_to_string(thread.path().join("children")).is_ok_and(|text| text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shims_of_that_socket_count() {
        let line = |text: &str| text.replace(' ', "\0").into_bytes();
        let socket = Path::new("/run/a.sock");
        for (text, expected) in [
            ("/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id x -address /run/a.sock ", true),
            ("/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id x -address /run/b.sock ", false),
            ("grep containerd-shim-runc-v2 -address /run/a.sock ", false),
            ("/usr/bin/containerd-shim-runc-v2 -address", false),
        ] {
            assert_eq!(is_shim(&line(text), socket), expected, "{text}");
        }
    }

    #[test]
    fn a_process_with_a_child_is_not_empty() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_empty(own));
        assert!(is_empty(i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
