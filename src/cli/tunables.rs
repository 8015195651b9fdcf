//! Kernel settings that a node runs on (`pkg/util/sysctl`): set, or with `protectKernelDefaults` only looked at.

use std::fs;
use std::path::Path;

/// Below `/proc/sys`, with the value that the kubelet wants.
const WANTED: [(&str, i64); 6] = [
    // Memory is promised freely, and who is out of it is killed.
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    // After a panic the machine starts again, 10 s later; and it panics where the kernel is broken.
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    // Each container takes a keyring of root's.
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// A setting that the configuration does not let the agent change.
#[derive(Debug, thiserror::Error)]
#[error(
    "invalid kernel flag: {flag}, expected value: {expected}, actual value: {actual}; sysctl -w {}={expected}, or leave \
     it to the agent with protectKernelDefaults: false", flag.replace('/', ".")
)]
pub(super) struct WrongSetting {
    flag: &'static str,
    expected: i64,
    actual: i64,
}

/// Looks at all settings below `root`; what differs is set, or with `protect` refused. A setting that cannot be read or
/// written (as in a container) is told and left.
pub(super) fn set(root: &Path, protect: bool) -> Result<(), WrongSetting> {
    for (flag, expected) in WANTED {
        let path = root.join(flag);
        let actual = match fs::read_to_string(&path).map(|text| text.trim().parse::<i64>()) {
            Ok(Ok(actual)) => actual,
            unreadable => {
                tracing::info!(flag, ?unreadable, "kernel setting not read");
                continue;
            }
        };
        if actual == expected {
            continue;
        }
        if protect {
            return Err(WrongSetting { flag, expected, actual });
        }
        match fs::write(&path, expected.to_string()) {
            Ok(()) => tracing::info!(flag, expected, actual, "kernel setting changed"),
            Err(error) => tracing::info!(flag, expected, actual, %error, "kernel setting stays"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_made_or_where_they_are_protected_refused() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["vm", "kernel/keys"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for (flag, expected) in WANTED.into_iter().skip(1) {
            fs::write(root.path().join(flag), format!("{expected}\n")).unwrap();
        }
        set(root.path(), true).unwrap();
        fs::write(root.path().join("kernel/panic"), "0\n").unwrap();
        let refused = set(root.path(), true).unwrap_err().to_string();
        assert!(
            refused.starts_with("invalid kernel flag: kernel/panic, expected value: 10, actual value: 0;"),
            "{refused}"
        );
        assert!(refused.contains("sysctl -w kernel.panic=10"), "{refused}");
        set(root.path(), false).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("kernel/panic")).unwrap(), "10");
        set(root.path(), true).unwrap();
    }
}
