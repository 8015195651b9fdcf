//! Tasks that containerd's CRI has forgotten. When the caller of StartContainer goes away between the making of the task
//! and the answer ("failed to get task pid: context canceled"), CRI takes the container for ended, leaves its task behind,
//! and cannot remove the container for ever after.

use super::RuntimeError;
use super::events::native::in_namespace;
use super::rpc::call;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{DeleteTaskRequest, KillRequest, WaitRequest};
use nix::sys::signal::Signal;
use std::time::Duration;
use tonic::transport::Channel;

/// For each of the calls; a process that SIGKILL does not end is retried with the removal.
const DEADLINE: Duration = Duration::from_secs(10);
/// What containerd's client says before the id of the container.
const REFUSAL: &str = "cannot delete running task ";

/// The container that cannot be removed because of its task.
pub(super) fn of(error: &RuntimeError) -> Option<String> {
    let RuntimeError::Rpc { message, .. } = error else { return None };
    let (_, rest) = message.split_once(REFUSAL)?;
    let id: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
    (!id.is_empty()).then_some(id)
}

/// Ends the task with all its processes and deletes it, by containerd's own API.
pub(super) async fn delete(channel: Channel, id: &str) -> Result<(), RuntimeError> {
    tracing::warn!(container = id, "deleting a task that the runtime has forgotten");
    let mut client = TasksClient::new(channel);
    let (container_id, exec_id) = (id.to_owned(), String::new());
    let kill = KillRequest { container_id, exec_id, signal: Signal::SIGKILL as u32, all: true };
    done(call("Tasks.Kill", DEADLINE, client.kill(in_namespace(kill))).await)?;
    let wait = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
    done(call("Tasks.Wait", DEADLINE, client.wait(in_namespace(wait))).await)?;
    done(
        call("Tasks.Delete", DEADLINE, client.delete(in_namespace(DeleteTaskRequest { container_id: id.to_owned() })))
            .await,
    )
}

/// What is gone is as wanted.
fn done<T>(answer: Result<T, RuntimeError>) -> Result<(), RuntimeError> {
    match answer {
        Ok(_) | Err(RuntimeError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_named_in_the_refusal() {
        let error = |message: &str| RuntimeError::Rpc { code: "FailedPrecondition", message: message.to_owned() };
        let refused = "failed to remove container \"3a15\": failed to delete containerd container \"3a15\": cannot delete \
                       running task 3a15: failed precondition";
        assert_eq!(of(&error(refused)).as_deref(), Some("3a15"));
        assert_eq!(of(&error("failed to remove container \"3a15\": it is busy")), None);
        assert_eq!(of(&RuntimeError::NotFound(refused.to_owned())), None);
    }
}
