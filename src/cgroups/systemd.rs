//! Slices of the systemd cgroup driver: systemd owns their cgroups, so it is asked over D-Bus (through `busctl`).

use super::CgroupError;
use super::values::{CgroupResources, Version, cpu_weight};
use crate::runtime::translate::CPU_PERIOD_MICROSECONDS;
use std::time::Duration;
use tokio::process::Command;

/// systemd answers at once, or something is wrong with it.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of `StartTransientUnit` for a slice (as libcontainer's systemd manager sets it up).
pub(super) fn start_slice(slice: &str, parent: &str, resources: &CgroupResources, version: Version) -> Vec<String> {
    let mut properties: Vec<[String; 3]> = Vec::new();
    let mut set = |name: &str, kind: &str, value: String| properties.push([name.into(), kind.into(), value]);
    set("Description", "s", format!("libcontainer container {slice}"));
    for accounting in ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"] {
        set(accounting, "b", "true".into());
    }
    set("DefaultDependencies", "b", "false".into());
    properties.extend(limits(resources, version));
    let count = properties.len() + 1;
    let mut arguments = call("StartTransientUnit", "ssa(sv)a(sa(sv))");
    arguments.extend([slice.to_owned(), "replace".to_owned(), count.to_string()]);
    // Wants pulls the parent up: an array of one string.
    arguments.extend(["Wants", "as", "1", parent].map(str::to_owned));
    arguments.extend(properties.into_iter().flatten());
    arguments.push("0".to_owned());
    arguments
}

/// Arguments of `SetUnitProperties`: other limits for a slice that is there, until the next boot.
pub(super) fn set_properties(slice: &str, resources: &CgroupResources, version: Version) -> Vec<String> {
    let properties = limits(resources, version);
    let mut arguments = call("SetUnitProperties", "sba(sv)");
    arguments.extend([slice.to_owned(), "true".to_owned(), properties.len().to_string()]);
    arguments.extend(properties.into_iter().flatten());
    arguments
}

/// Limits as systemd names them: property, type, value.
fn limits(resources: &CgroupResources, version: Version) -> Vec<[String; 3]> {
    let mut properties: Vec<[String; 3]> = Vec::new();
    let mut set = |name: &str, kind: &str, value: String| properties.push([name.into(), kind.into(), value]);
    if let Some(shares) = resources.cpu_shares {
        match version {
            Version::V1 => set("CPUShares", "t", shares.to_string()),
            Version::V2 => set("CPUWeight", "t", cpu_weight(shares).to_string()),
        }
    }
    if let Some(quota) = resources.cpu_quota {
        // Microseconds of CPU a second, in steps of 10 ms as systemd wants them.
        let per_second = (quota * 1_000_000 / resources.period() + 9_999) / 10_000 * 10_000;
        set("CPUQuotaPerSecUSec", "t", per_second.to_string());
        if resources.period() != CPU_PERIOD_MICROSECONDS {
            set("CPUQuotaPeriodUSec", "t", resources.period().to_string());
        }
    }
    if let Some(bytes) = resources.memory_bytes {
        let name = match version {
            Version::V1 => "MemoryLimit",
            Version::V2 => "MemoryMax",
        };
        set(name, "t", bytes.to_string());
    }
    if let Some(pids) = resources.pids {
        set("TasksMax", "t", pids.to_string());
    }
    properties
}

pub(super) fn stop_unit(slice: &str) -> Vec<String> {
    let mut arguments = call("StopUnit", "ss");
    arguments.extend([slice.to_owned(), "replace".to_owned()]);
    arguments
}

fn call(method: &str, signature: &str) -> Vec<String> {
    const MANAGER: [&str; 4] =
        ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    MANAGER.into_iter().chain([method, signature]).map(str::to_owned).collect()
}

pub(super) async fn busctl(slice: &str, arguments: Vec<String>) -> Result<(), CgroupError> {
    let error = |message: String| CgroupError::Systemd { slice: slice.to_owned(), message };
    let output = Command::new("busctl").args(&arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(CALL_TIMEOUT, output)
        .await
        .map_err(|_| error(format!("no answer within {CALL_TIMEOUT:?}")))?
        .map_err(|e| error(format!("busctl: {e}")))?;
    let message = String::from_utf8_lossy(&output.stderr);
    // The slice is there already, or gone already: as wanted.
    if output.status.success() || message.contains("already exists") || message.contains("not loaded") {
        Ok(())
    } else {
        Err(error(message.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_started_with_their_limits() {
        let resources = CgroupResources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            memory_bytes: Some(1 << 20),
            pids: Some(100),
            ..Default::default()
        };
        let text = start_slice("a-b.slice", "a.slice", &resources, Version::V2).join(" ");
        assert!(
            text.contains("StartTransientUnit ssa(sv)a(sa(sv)) a-b.slice replace 11 Wants as 1 a.slice "),
            "{text}"
        );
        assert!(
            text.contains("CPUWeight t 39 CPUQuotaPerSecUSec t 500000 MemoryMax t 1048576 TasksMax t 100 0"),
            "{text}"
        );
        let text = set_properties("a-b.slice", &resources, Version::V1).join(" ");
        assert!(text.contains("SetUnitProperties sba(sv) a-b.slice true 4 CPUShares t 1024 "), "{text}");
        let resources = CgroupResources { cpu_quota: Some(5_000), cpu_period: Some(10_000), ..Default::default() };
        let text = set_properties("a-b.slice", &resources, Version::V2).join(" ");
        assert!(text.ends_with("true 2 CPUQuotaPerSecUSec t 500000 CPUQuotaPeriodUSec t 10000"), "{text}");
        assert!(stop_unit("a-b.slice").join(" ").ends_with("StopUnit ss a-b.slice replace"));
    }
}
