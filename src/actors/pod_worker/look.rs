//! One look at a pod: the runtime's snapshot, with the termination messages that lie on the host.

use super::WorkerContext;
use crate::ids::ContainerId;
use crate::model::observed::{ContainerState, ObservedContainer, ObservedPod};
use crate::model::pod::DesiredPod;
use crate::runtime::RuntimeError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// At most this much of a termination message, its end, is shown (`MaxContainerTerminationMessageLength`).
const MAX_MESSAGE_BYTES: u64 = 4096;
/// Of a log that stands in for it: the last lines, at most this many bytes (`MaxContainerTerminationMessageLogLines`).
const MAX_LOG_LINES: usize = 80;
const MAX_LOG_BYTES: usize = 2048;
/// Bytes read from a log's end: 80 lines of CRI format that carry 2 KiB of text fit.
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// Messages of ended containers, read once each. Bounded by the dead containers that the runtime keeps.
pub(super) type Messages = BTreeMap<ContainerId, String>;

pub(super) async fn look(
    context: &WorkerContext,
    pod: &DesiredPod,
    messages: &mut Messages,
) -> Result<ObservedPod, RuntimeError> {
    let mut seen = context.runtime.observe(&pod.uid).await?;
    messages.retain(|id, _| seen.containers.iter().any(|container| container.id == *id));
    for container in &mut seen.containers {
        if !matches!(container.state, ContainerState::Exited { .. }) {
            continue;
        }
        if !messages.contains_key(&container.id) {
            messages.insert(container.id.clone(), read(context, pod, container).await);
        }
        let (Some(more), ContainerState::Exited { message, .. }) = (messages.get(&container.id), &mut container.state)
        else {
            continue;
        };
        if !more.is_empty() {
            *message = if message.is_empty() { more.clone() } else { format!("{message}: {more}") };
        }
    }
    Ok(seen)
}

async fn read(context: &WorkerContext, pod: &DesiredPod, container: &ObservedContainer) -> String {
    let ContainerState::Exited { exit_code, .. } = container.state else { return String::new() };
    let named = || context.volumes.termination_log(&pod.uid, container.name.as_str(), container.attempt);
    let file = container.termination_log.clone().or_else(named);
    let policy = container.annotations.get("io.kubernetes.container.terminationMessagePolicy");
    let fall_back = exit_code != 0 && policy.is_some_and(|policy| policy == "FallbackToLogsOnError");
    let log = fall_back.then(|| PathBuf::from(&container.log_path));
    // Reading a small local file takes microseconds, but a disk may hang: not on a worker thread of the executor.
    tokio::task::spawn_blocking(move || read_files(file.as_deref(), log.as_deref())).await.unwrap_or_default()
}

fn read_files(file: Option<&Path>, log: Option<&Path>) -> String {
    let message = file.and_then(|path| read_end(path, MAX_MESSAGE_BYTES)).unwrap_or_default();
    let message = String::from_utf8_lossy(&message).into_owned();
    match log {
        Some(log) if message.is_empty() => read_end(log, LOG_TAIL_BYTES).map(|bytes| tail(&bytes)).unwrap_or_default(),
        Some(_) | None => message,
    }
}

/// The last bytes of a file (`tail.ReadAtMost`).
fn read_end(path: &Path, limit: u64) -> Option<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit))).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The text of the last lines of a CRI log (`<time> <stream> <P|F> <text>`).
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(MAX_LOG_LINES);
    let mut result = String::new();
    for line in &lines[from..] {
        let mut parts = line.splitn(4, ' ');
        let (tag, content) = (parts.nth(2), parts.next());
        if let (Some(tag), Some(content)) = (tag, content) {
            result.push_str(content);
            if tag.starts_with('F') {
                result.push('\n');
            }
        }
    }
    let mut cut = result.len().saturating_sub(MAX_LOG_BYTES);
    while !result.is_char_boundary(cut) {
        cut += 1;
    }
    result.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_message_the_end_is_shown_and_a_log_stands_in_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let (message, log) = (dir.path().join("message"), dir.path().join("log"));
        std::fs::write(&message, format!("{}{}", "a".repeat(4000), "b".repeat(1000))).unwrap();
        std::fs::write(&log, "t stdout F from the log\n").unwrap();
        let text = read_files(Some(&message), Some(&log));
        assert_eq!((text.len(), text.matches('a').count(), text.matches('b').count()), (4096, 3096, 1000));
        std::fs::write(&message, "").unwrap();
        assert_eq!(read_files(Some(&message), Some(&log)), "from the log\n");
        assert_eq!(read_files(Some(&message), None), "");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_eighty_lines_without_the_cri_prefix() {
        let log: String = (0..100).map(|i| format!("2026-01-01T00:00:00Z stdout F line-{i}\n")).collect();
        let text = tail(log.as_bytes());
        assert!(text.starts_with("line-20\n") && text.ends_with("line-99\n"));
        assert_eq!(tail(b"t stdout P half-\nt stderr F done\n"), "half-done\n");
    }
}
