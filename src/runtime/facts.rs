//! What translation must know of the machine, found once at start.

use super::translate::CPU_PERIOD_MICROSECONDS;
use std::fs;
use std::path::{Path, PathBuf};

/// Facts of this machine that container configs depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Controllers are in the unified (v2) tree.
    pub cgroup_v2: bool,
    /// Swap of a cgroup can be limited.
    pub swap_controller: bool,
    /// As cgroup files name them: `2MB`, `1GB`.
    pub huge_page_sizes: Vec<String>,
    /// `/sys/devices/system/cpu/cpu<n>/thermal_throttle` where it exists; masked in containers.
    pub thermal_throttle: Vec<String>,
    /// Where `Localhost` seccomp profiles are looked up.
    pub seccomp_profiles: PathBuf,
    /// `seccompDefault` of the kubelet configuration: RuntimeDefault where a pod says nothing.
    pub seccomp_default: bool,
    /// CPU limits become CFS quotas (`cpuCFSQuota`).
    pub cpu_cfs_quota: bool,
    /// Their period in microseconds (`cpuCFSQuotaPeriod`).
    pub cpu_period: i64,
    /// The kernel kills one process of a container that is out of memory, not all (`singleProcessOOMKill`; v2 only).
    pub single_process_oom_kill: bool,
    /// The machine's swap in bytes where pods may use their share of it (`memorySwap.swapBehavior: LimitedSwap`).
    pub limited_swap: Option<i64>,
    /// The static CPU policy gives whole CPUs away: their owners need no quota (`DisableCPUQuotaWithExclusiveCPUs`).
    pub whole_cpus_are_owned: bool,
}

impl Default for HostFacts {
    /// A cgroup v2 machine without swap or huge pages, and the kubelet's defaults.
    fn default() -> Self {
        Self {
            cgroup_v2: true,
            swap_controller: false,
            huge_page_sizes: Vec::new(),
            thermal_throttle: Vec::new(),
            seccomp_profiles: "/var/lib/kubelet/seccomp".into(),
            seccomp_default: false,
            cpu_cfs_quota: true,
            cpu_period: CPU_PERIOD_MICROSECONDS,
            single_process_oom_kill: false,
            limited_swap: None,
            whole_cpus_are_owned: false,
        }
    }
}

impl HostFacts {
    /// Reads `/sys` and `/proc` of this machine.
    pub fn detect() -> Self {
        let cgroup = Path::new("/sys/fs/cgroup");
        let cgroup_v2 = cgroup.join("cgroup.controllers").exists();
        let swap_file = if cgroup_v2 {
            // The root cgroup has no memory files: look at our own.
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
            cgroup.join(own).join("memory.swap.max")
        } else {
            cgroup.join("memory/memory.memsw.limit_in_bytes")
        };
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            names
        };
        Self {
            cgroup_v2,
            swap_controller: swap_file.exists(),
            huge_page_sizes: names("/sys/kernel/mm/hugepages").iter().filter_map(|name| page_size(name)).collect(),
            thermal_throttle: names("/sys/devices/system/cpu")
                .into_iter()
                .map(|cpu| format!("/sys/devices/system/cpu/{cpu}/thermal_throttle"))
                .filter(|path| Path::new(path).exists())
                .collect(),
            ..Self::default()
        }
    }

    /// The machine's swap; 0 where there is none.
    pub fn swap_bytes() -> i64 {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("SwapTotal:")?.trim().strip_suffix("kB"));
        total.and_then(|kib| kib.trim().parse::<i64>().ok()).unwrap_or(0).saturating_mul(1024)
    }
}

/// `hugepages-2048kB` → `2MB`.
fn page_size(folder: &str) -> Option<String> {
    let kib: u64 = folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(size_name(kib * 1024))
}

/// A size with the largest binary unit that divides it, as the hugetlb controller names its files (`2MB`).
pub(super) fn size_name(mut bytes: u64) -> String {
    let mut units = ["B", "KB", "MB", "GB", "TB", "PB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    while bytes >= 1024 && bytes.is_multiple_of(1024) {
        let Some(next) = units.next() else { break };
        unit = next;
        bytes /= 1024;
    }
    format!("{bytes}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_named_as_in_cgroup_files() {
        assert_eq!(page_size("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(page_size("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(page_size("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(page_size("other"), None);
    }
}
