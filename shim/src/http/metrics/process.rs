//! The process as Prometheus' client libraries show it, read from `/proc/self` at each scrape, and what was built.

use crate::clock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::fs::read_to_string;

#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since the epoch.
    started: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    git_version: String,
    major: String,
    minor: String,
    platform: String,
}

impl Process {
    pub(super) fn new() -> Self {
        Self { started: clock::now().wall.as_millisecond() as f64 / 1000.0 }
    }
}

/// Kernel ticks per second, as `/proc` counts CPU time (USER_HZ, the same on every Linux).
const TICKS: f64 = 100.0;

/// Seconds on a processor, from `/proc/self/stat`: fields 14 and 15, counted after the name, which may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

/// A line of `/proc/self/status` in KiB, as bytes.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit of open files, from `/proc/self/limits`.
fn max_files(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let read = |name: &str| read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&read("stat")) {
            let help = "Total user and system CPU time spent in seconds";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        let status = read("status");
        let files = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes", status_bytes(&status, "VmRSS")),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", status_bytes(&status, "VmSize")),
            ("process_open_fds", "Number of open file descriptors", files),
            ("process_max_fds", "Maximum number of open file descriptors", max_files(&read("limits"))),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as f64).encode(metric)?;
        }
        let help = "Start time of the process since unix epoch in seconds";
        let metric = encoder.encode_descriptor("process_start_time_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.started).encode(metric)?;
        let help = "A metric with a constant '1' value labeled by major, minor, git version and platform";
        let mut metric = encoder.encode_descriptor("kubernetes_build_info", help, None, MetricType::Gauge)?;
        // As `/version` says it.
        let version = crate::http::discovery::version();
        let text = |field: &str| version[field].as_str().unwrap_or_default().to_owned();
        let build = Build {
            git_version: text("gitVersion"),
            major: text("major"),
            minor: text("minor"),
            platform: text("platform"),
        };
        ConstGauge::new(1i64).encode(metric.encode_family(&build)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        let stat = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(status_bytes("VmPeak:\t1 kB\nVmRSS:\t   12 kB\n", "VmRSS"), Some(12 * 1024));
        let limits = "Limit    Soft Limit   Hard Limit   Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(max_files(limits), Some(1024));
        for text in ["", "x", "1 (a) "] {
            assert_eq!((cpu_seconds(text), status_bytes(text, "VmRSS"), max_files(text)), (None, None, None));
        }
    }
}
