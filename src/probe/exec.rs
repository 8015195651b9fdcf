//! A command run in the container: exit code 0 passes.

use super::Verdict;
use crate::ids::ContainerId;
use crate::runtime::{Runtime, RuntimeError};
use std::time::Duration;

/// Output shown of a failed probe (`maxReadLength` of `pkg/probe/exec`: 10 KiB).
const MAX_OUTPUT_BYTES: usize = 10 * 1024;

pub async fn run(runtime: &dyn Runtime, id: &ContainerId, command: &[String], timeout: Duration) -> Verdict {
    match runtime.exec_sync(id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => Verdict::Passed,
        Ok(output) => {
            let mut bytes = output.stdout;
            bytes.extend(output.stderr);
            bytes.truncate(MAX_OUTPUT_BYTES);
            Verdict::Failed(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(RuntimeError::Deadline { .. } | RuntimeError::Rpc { code: "DeadlineExceeded", .. }) => {
            let shown = command.join(" ");
            Verdict::Failed(format!("command timed out: {shown:?} timed out after {}s", timeout.as_secs()))
        }
        Err(error) => Verdict::Unknown(error.to_string()),
    }
}
