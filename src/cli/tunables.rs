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

/// Settings that the configuration does not let the agent change.
#[derive(Debug, thiserror::Error)]
#[error("{}; set them by sysctl -w, or leave it to the agent with protectKernelDefaults: false", .0.join(", "))]
pub(super) struct WrongSettings(Vec<String>);

/// Looks at all settings below `root`; what differs, or cannot be looked at, is with `protect` refused. Without it is set,
/// and where that cannot be (as in a container) told and left.
pub(super) fn set(root: &Path, protect: bool) -> Result<(), WrongSettings> {
    let mut wrong = Vec::new();
    for (flag, expected) in WANTED {
        let path = root.join(flag);
        let actual = match fs::read_to_string(&path).map(|text| text.trim().parse::<i64>()) {
            Ok(Ok(actual)) => actual,
            _ if protect => {
                wrong.push(format!("invalid kernel flag: {flag}, expected value: {expected}, and it cannot be read"));
                continue;
            }
            unreadable => {
                tracing::info!(flag, ?unreadable, "kernel setting not read");
                continue;
            }
        };
        if actual == expected {
            continue;
        }
        if protect {
            wrong.push(format!("invalid kernel flag: {flag}, expected value: {expected}, actual value: {actual}"));
            continue;
        }
        match fs::write(&path, expected.to_string()) {
            Ok(()) => tracing::info!(flag, expected, actual, "kernel setting changed"),
            Err(error) => tracing::info!(flag, expected, actual, %error, "kernel setting stays"),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(WrongSettings(wrong)) }
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
        for (flag, expected) in WANTED {
            fs::write(root.path().join(flag), format!("{expected}\n")).unwrap();
        }
        set(root.path(), true).unwrap();
        fs::write(root.path().join("kernel/panic"), "0\n").unwrap();
        fs::remove_file(root.path().join("vm/panic_on_oom")).unwrap();
        let refused = set(root.path(), true).unwrap_err().to_string();
        let expected = "invalid kernel flag: vm/panic_on_oom, expected value: 0, and it cannot be read, \
                        invalid kernel flag: kernel/panic, expected value: 10, actual value: 0; set them by sysctl -w";
        assert!(refused.starts_with(expected), "{refused}");
        set(root.path(), false).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("kernel/panic")).unwrap(), "10");
    }
}
