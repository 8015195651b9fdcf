//! What is checked before a machine joins a cluster, as pure functions of what was read; each lack with its remedy.

use node_config::kubelet::KubeletConfiguration;
use skiff::runtime::RuntimeInfo;
use std::path::Path;

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Finding {
    Fine(String),
    /// A node runs, and something about it may surprise.
    Warning(String),
    /// A node does not run like this.
    Failure(String),
}

use Finding::{Failure, Fine, Warning};

/// The text of /proc/swaps against `failSwapOn`.
pub(in crate::cli) fn swap(table: &str, fail_swap_on: bool) -> Finding {
    let devices: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let devices = devices.join(", ");
    match (devices.is_empty(), fail_swap_on) {
        (true, _) => Fine("off".into()),
        (false, true) => Failure(format!(
            "on ({devices}): swapoff --all and remove it from /etc/fstab, or set failSwapOn: false in the configuration"
        )),
        (false, false) => Fine(format!("on ({devices}), as failSwapOn: false allows")),
    }
}

/// cgroup v1 against `failCgroupV1`. The kubelet refuses it unless told otherwise; a node of ours runs on it, and refuses
/// it where somebody says so.
pub(in crate::cli) fn cgroup_v1(is_v1: bool, kubelet: &KubeletConfiguration) -> Finding {
    match (is_v1, kubelet.fail_cgroup_v1, kubelet.is_written("failCgroupV1")) {
        (false, ..) => Fine("v2".into()),
        (true, Some(true), true) => Failure(
            "failCgroupV1: kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and \
             will be removed in a future release: start the machine with systemd.unified_cgroup_hierarchy=1, or set \
             failCgroupV1: false"
                .into(),
        ),
        (true, Some(true), false) => Warning(
            "v1: a kubelet would not start here without failCgroupV1: false; start the machine with \
             systemd.unified_cgroup_hierarchy=1"
                .into(),
        ),
        (true, Some(false) | None, _) => Fine("v1, as failCgroupV1: false allows".into()),
    }
}

/// Files under /proc/sys with the value that pods' networks need; `read` gives a file's value.
pub(super) fn kernel(read: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, Finding)> {
    let mut found = Vec::new();
    for (key, without) in [
        ("net.ipv4.ip_forward", "pods reach nothing beyond their node"),
        ("net.bridge.bridge-nf-call-iptables", "services do not reach pods of the same node"),
    ] {
        let module = if key.starts_with("net.bridge") { "modprobe br_netfilter and " } else { "" };
        found.push((
            key,
            match read(key).as_deref() {
                Some("1") => Fine("1".into()),
                other => Warning(format!(
                    "{}: {without}; {module}sysctl -w {key}=1, and keep it in /etc/sysctl.d/99-kubernetes.conf",
                    other.unwrap_or("absent")
                )),
            },
        ));
    }
    /// Each container log that is followed, each watcher of files takes one.
    const INSTANCES: u64 = 128;
    let key = "fs.inotify.max_user_instances";
    let value = read(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    found.push((
        key,
        match value >= INSTANCES {
            true => Fine(value.to_string()),
            false => Warning(format!("{value}: few for a node; sysctl -w {key}=8192, and keep it in /etc/sysctl.d")),
        },
    ));
    found
}

/// Whether containers' file systems can be stacked; the text of /proc/filesystems.
pub(super) fn overlay(table: &str) -> Finding {
    match table.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        true => Fine("overlay".into()),
        false => Failure(
            "the kernel has no overlay file system: modprobe overlay, and name it in /etc/modules-load.d".into(),
        ),
    }
}

/// Whether the runtime's network is configured.
pub(super) fn cni_configuration(dir: &Path) -> Finding {
    let is_one = |name: &str| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| is_one(name));
    names.sort();
    match names.into_iter().next() {
        Some(first) => Fine(dir.join(first).display().to_string()),
        None => Warning(format!(
            "{} is empty: the node stays NotReady until a network add-on writes there (skiff standalone brings its own)",
            dir.display()
        )),
    }
}

/// Versions of containerd that are supported.
pub(super) fn containerd(info: &RuntimeInfo) -> Finding {
    /// (major, minor).
    const OLDEST: (u32, u32) = (1, 6);
    let text = info.version.trim_start_matches('v');
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match (info.name.as_str(), version >= OLDEST) {
        ("containerd", true) => Fine(text.to_owned()),
        ("containerd", false) => {
            Failure(format!("{text} is too old: 1.6 or newer is needed: apt-get install containerd"))
        }
        (other, _) => Warning(format!("{other} {text}: only containerd is tried with skiff")),
    }
}

/// Whether agent and runtime make cgroups the same way.
pub(super) fn cgroup_driver(configured: &str, info: &RuntimeInfo) -> Finding {
    match info.cgroup_driver.as_deref() {
        Some(driver) if driver == configured => Fine(driver.to_owned()),
        Some(driver) => Warning(format!(
            "the runtime uses {driver}, the configuration says {configured}: the runtime's word counts; set cgroupDriver: \
             {driver}, or SystemdCgroup = {} for runc in /etc/containerd/config.toml",
            configured == "systemd"
        )),
        None => Warning(format!(
            "{configured}; containerd {} does not tell its own: SystemdCgroup for runc in /etc/containerd/config.toml must \
             be {}",
            info.version,
            configured == "systemd"
        )),
    }
}

/// Whether the clock is kept; what `timedatectl show --property=NTPSynchronized --value` printed, where it runs.
pub(super) fn clock(synchronized: Option<&str>, now_second: i64) -> Finding {
    /// 2026-01-01: certificates of today are not valid for a clock before it.
    const EARLIEST: i64 = 1_767_225_600;
    if now_second < EARLIEST {
        return Failure(
            "is years behind: no certificate is valid; timedatectl set-ntp true, or set it by date --set".into(),
        );
    }
    match synchronized.map(str::trim) {
        Some("yes") => Fine("synchronized".into()),
        Some(_) => Warning(
            "is not synchronized: timedatectl set-ntp true (apt-get install systemd-timesyncd or chrony)".into(),
        ),
        None => Fine("not known to be synchronized (no timedatectl)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn shown(finding: &Finding) -> String {
        match finding {
            Fine(text) => format!("ok {text}"),
            Warning(text) => format!("warn {text}"),
            Failure(text) => format!("FAIL {text}"),
        }
    }

    #[test]
    fn swap_is_held_against_the_configuration() {
        const HEAD: &str = "Filename\tType\tSize\tUsed\tPriority\n";
        let on = format!("{HEAD}/dev/sda2 partition 1 0 -2\n/swapfile file 1 0 -3\n");
        assert_eq!(shown(&swap(HEAD, true)), "ok off");
        assert!(shown(&swap(&on, true)).starts_with("FAIL on (/dev/sda2, /swapfile): swapoff --all"));
        assert!(shown(&swap(&on, false)).starts_with("ok on"));
    }

    #[test]
    fn cgroup_v1_is_refused_where_somebody_says_so() {
        let with = |said: Option<bool>| {
            let mut kubelet = KubeletConfiguration::defaulted();
            if let Some(said) = said {
                kubelet.fail_cgroup_v1 = Some(said);
                kubelet.written.insert("failCgroupV1".into());
            }
            kubelet
        };
        for (is_v1, said, expected) in [
            (false, Some(true), "ok v2"),
            (true, None, "warn v1: a kubelet would not start here"),
            (true, Some(false), "ok v1"),
            (true, Some(true), "FAIL failCgroupV1: kubelet is configured to not run on a host using cgroup v1."),
        ] {
            let found = shown(&cgroup_v1(is_v1, &with(said)));
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn kernel_settings_name_their_remedy() {
        let settings = |values: &[(&'static str, &str)]| {
            let values: BTreeMap<_, _> = values.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
            kernel(move |key| values.get(key).cloned()).iter().map(|(_, finding)| shown(finding)).collect::<Vec<_>>()
        };
        let good = settings(&[
            ("net.ipv4.ip_forward", "1"),
            ("net.bridge.bridge-nf-call-iptables", "1"),
            ("fs.inotify.max_user_instances", "8192"),
        ]);
        assert_eq!(good, ["ok 1", "ok 1", "ok 8192"]);
        let bad = settings(&[("net.ipv4.ip_forward", "0")]);
        assert!(bad[0].starts_with("warn 0: ") && bad[0].contains("sysctl -w net.ipv4.ip_forward=1"), "{bad:?}");
        assert!(bad[1].starts_with("warn absent: ") && bad[1].contains("modprobe br_netfilter"), "{bad:?}");
        assert!(bad[2].starts_with("warn 0: "), "{bad:?}");
    }

    #[test]
    fn the_runtime_is_judged_by_version_and_driver() {
        let info = |name: &str, version: &str, driver: Option<&str>| RuntimeInfo {
            name: name.into(),
            version: version.into(),
            runtime_ready: Ok(()),
            network_ready: Ok(()),
            cgroup_driver: driver.map(str::to_owned),
            handlers: BTreeMap::new(),
            supplemental_groups_policy: false,
        };
        for (name, version, expected) in [
            ("containerd", "2.1.9", "ok 2.1.9"),
            ("containerd", "v1.6.20~ds1", "ok 1.6.20~ds1"),
            ("containerd", "1.5.9", "FAIL 1.5.9 is too old"),
            ("cri-o", "1.30.0", "warn cri-o 1.30.0"),
        ] {
            let found = shown(&containerd(&info(name, version, None)));
            assert!(found.starts_with(expected), "{found}");
        }
        let driver = |configured, driver| shown(&cgroup_driver(configured, &info("containerd", "2.1", driver)));
        assert_eq!(driver("systemd", Some("systemd")), "ok systemd");
        assert!(driver("systemd", Some("cgroupfs")).contains("SystemdCgroup = true"));
        assert!(driver("cgroupfs", Some("systemd")).contains("set cgroupDriver: systemd"));
        assert!(driver("systemd", None).contains("must be true"));
    }

    #[test]
    fn clock_network_and_file_system_name_their_remedy() {
        const NOW: i64 = 1_800_000_000;
        assert_eq!(shown(&clock(Some("yes\n"), NOW)), "ok synchronized");
        assert!(shown(&clock(Some("no\n"), NOW)).starts_with("warn is not synchronized: timedatectl"));
        assert!(shown(&clock(None, 0)).starts_with("FAIL is years behind"));
        assert_eq!(shown(&overlay("nodev\tsysfs\nnodev\toverlay\n")), "ok overlay");
        assert!(shown(&overlay("nodev\tsysfs\n")).contains("modprobe overlay"));
        let dir = tempfile::tempdir().unwrap();
        assert!(shown(&cni_configuration(dir.path())).starts_with("warn "));
        std::fs::write(dir.path().join("10-net.conflist"), "{}").unwrap();
        assert!(shown(&cni_configuration(dir.path())).ends_with("10-net.conflist"));
    }
}
