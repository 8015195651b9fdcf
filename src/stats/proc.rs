//! What `/proc` says: memory and tasks of the machine, files of a process, traffic of a network namespace.

use super::tree::Buffer;
use crate::model::stats::{InterfaceUse, MemoryUse, Traffic};
use jiff::Timestamp;
use std::io;
use std::path::Path;

/// Memory of the whole machine, from `/proc/meminfo`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemInfo {
    pub total: u64,
    pub free: u64,
    pub inactive_file: u64,
    pub cached: u64,
    pub anon: u64,
    pub mapped: u64,
    pub swap_total: u64,
    pub swap_free: u64,
}

impl MemInfo {
    pub(super) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let bytes = value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024;
            match key {
                "MemTotal" => found.total = bytes,
                "MemFree" => found.free = bytes,
                "Inactive(file)" => found.inactive_file = bytes,
                "Cached" => found.cached = bytes,
                "AnonPages" => found.anon = bytes,
                "Mapped" => found.mapped = bytes,
                "SwapTotal" => found.swap_total = bytes,
                "SwapFree" => found.swap_free = bytes,
                _ => {}
            }
        }
        found
    }

    /// As a cgroup's figures: the root cgroup of v2 has no memory files (runc's `rootMemoryStats`).
    pub(super) fn usage(&self) -> MemoryUse {
        let usage = self.total.saturating_sub(self.free);
        MemoryUse {
            usage,
            working_set: usage.saturating_sub(self.inactive_file),
            rss: self.anon,
            cache: self.cached,
            mapped_file: self.mapped,
            swap: self.swap_total.saturating_sub(self.swap_free),
            ..MemoryUse::default()
        }
    }
}

/// Rows of `/proc/<pid>/net/dev`, loopback left out as cadvisor leaves it out.
pub(super) fn interfaces(text: &str) -> Vec<InterfaceUse> {
    let rows = text.lines().filter_map(|line| line.split_once(':')).map(|(name, row)| (name.trim(), row));
    let ours = rows.filter(|(name, _)| *name != "lo");
    let parsed = ours.filter_map(|(name, row)| {
        let mut columns = row.split_ascii_whitespace().map(|column| column.parse::<u64>());
        let mut next = || columns.next()?.ok();
        let receive = Traffic { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? };
        // fifo, frame, compressed, multicast
        for _ in 0..4 {
            next()?;
        }
        let transmit = Traffic { bytes: next()?, packets: next()?, errors: next()?, dropped: next()? };
        Some(InterfaceUse { name: name.to_owned(), receive, transmit })
    });
    parsed.collect()
}

/// The interfaces of the network namespace that a process is in; none when it has ended.
pub(super) fn interfaces_of(pid: i32, buffer: &mut Buffer) -> Vec<InterfaceUse> {
    buffer.read(Path::new(&format!("/proc/{pid}/net/dev"))).map(interfaces).unwrap_or_default()
}

/// Open files of a process, and how many of them are sockets; 0 when it has ended.
pub(super) fn open_files(pid: i32) -> (u64, u64) {
    let folder = format!("/proc/{pid}/fd");
    let (mut files, mut sockets) = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        files += 1;
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        sockets += u64::from(is_socket);
    }
    (files, sockets)
}

/// `kernel.pid_max` (or what threads there may be, if less) and the tasks there are.
pub(super) fn tasks(buffer: &mut Buffer) -> io::Result<(u64, u64)> {
    let mut number =
        |path: &str| -> io::Result<u64> { Ok(buffer.read(Path::new(path))?.trim().parse().unwrap_or(u64::MAX)) };
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = buffer.read(Path::new("/proc/loadavg"))?;
    Ok((most, running_tasks(load)))
}

/// `0.20 0.18 0.12 1/80 11206`: the tasks are behind the slash.
fn running_tasks(loadavg: &str) -> u64 {
    let tasks = loadavg.split(' ').nth(3).and_then(|word| word.split_once('/'));
    tasks.and_then(|(_, tasks)| tasks.parse().ok()).unwrap_or(0)
}

/// When the machine was booted, from `/proc/stat`.
pub fn boot_time() -> Timestamp {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "));
    let seconds = seconds.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_stands_for_the_root_cgroup() {
        let text = "MemTotal:  1000 kB\nMemFree:   400 kB\nCached: 300 kB\nAnonPages: 200 kB\nInactive(file): 100 kB\n\
                    SwapTotal: 50 kB\nSwapFree: 20 kB\nHugePages_Total: 0\n";
        let found = MemInfo::parse(text);
        assert_eq!((found.total, found.swap_total), (1000 << 10, 50 << 10));
        let usage = found.usage();
        assert_eq!((usage.usage, usage.working_set, usage.swap), (600 << 10, 500 << 10, 30 << 10));
    }

    #[test]
    fn traffic_is_read_by_interface_without_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
                    \x20   lo: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0\n  eth0:2490 10 1 2 0 0 0 7 613 6 3 4 0 0 0 0\n";
        let eth0 = InterfaceUse {
            name: "eth0".into(),
            receive: Traffic { bytes: 2490, packets: 10, errors: 1, dropped: 2 },
            transmit: Traffic { bytes: 613, packets: 6, errors: 3, dropped: 4 },
        };
        assert_eq!(interfaces(text), [eth0]);
    }

    #[test]
    fn tasks_and_files_are_counted() {
        assert_eq!(running_tasks("0.20 0.18 0.12 1/80 11206\n"), 80);
        let mut buffer = Buffer::default();
        let (most, now) = tasks(&mut buffer).unwrap();
        assert!(most > now && now > 0);
        let own = i32::try_from(std::process::id()).unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let (files, sockets) = open_files(own);
        assert!(files > sockets && sockets > 0);
        drop(socket);
        assert!(boot_time() > Timestamp::UNIX_EPOCH);
    }
}
