//! `process_*` and the like: the agent itself, as Prometheus' Go client shows a process.

use crate::metrics::text::{Kind, Text};

/// `USER_HZ`.
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/proc/self` says.
#[derive(Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: f64,
    /// Since boot.
    started_seconds: f64,
    threads: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

/// `/proc/self/stat`: the name in brackets may hold anything, so fields are counted from its end.
fn parse_stat(text: &str) -> Option<Process> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    // Numbered from 3 in proc(5).
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<f64>().ok();
    Some(Process {
        cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
        threads: field(20)?,
        started_seconds: field(22)? / TICKS_PER_SECOND,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)?,
    })
}

/// `Max open files            1024                 4096                 files`
fn max_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(super) fn write(text: &mut Text, booted: jiff::Timestamp) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let Some(process) = parse_stat(&read("/proc/self/stat")) else { return };
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().count();
    let tasks = tokio::runtime::Handle::try_current().map_or(0, |handle| handle.metrics().num_alive_tasks());
    let mut one = |name, help, kind, value: f64| {
        text.family(name, help, kind);
        text.sample("", &[], value);
    };
    // Tasks are what goroutines are: dashboards draw them to see leaks.
    one("go_goroutines", "Number of goroutines that currently exist.", Kind::Gauge, tasks as f64);
    one("go_threads", "Number of OS threads created.", Kind::Gauge, process.threads);
    one(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        Kind::Counter,
        process.cpu_seconds,
    );
    if let Some(most) = max_files(&read("/proc/self/limits")) {
        one("process_max_fds", "Maximum number of open file descriptors.", Kind::Gauge, most);
    }
    one("process_open_fds", "Number of open file descriptors.", Kind::Gauge, open as f64);
    let resident = process.resident_bytes * page as f64;
    one("process_resident_memory_bytes", "Resident memory size in bytes.", Kind::Gauge, resident);
    one(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        Kind::Gauge,
        booted.as_second() as f64 + process.started_seconds,
    );
    one("process_virtual_memory_bytes", "Virtual memory size in bytes.", Kind::Gauge, process.virtual_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let text =
            "42 (a ) (b) S 1 42 42 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 7 0 1234 1000000 200 18446744073709551615 1 1";
        let expected = Process {
            cpu_seconds: 3.0,
            started_seconds: 12.34,
            threads: 7.0,
            virtual_bytes: 1_000_000.0,
            resident_bytes: 200.0,
        };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat(""), None);
        assert_eq!(
            max_files("Limit  Soft\nMax open files            1024                 4096    files\n"),
            Some(1024.0)
        );
        let mut text = Text::default();
        write(&mut text, jiff::Timestamp::UNIX_EPOCH);
        assert!(text.as_str().contains("\nprocess_resident_memory_bytes "));
    }
}
