//! `/run` (a command's output in one answer) and `/checkpoint` (a container's state as an archive).

use super::route::Target;
use super::{Deps, Reply, json, text};
use crate::clock;
use crate::ids::{ContainerId, PodUid};
use crate::model::observed::ContainerState;
use crate::runtime::RuntimeError;
use http::StatusCode;
use serde_json::json;
use std::time::Duration;

/// The kubelet gives `/run` no deadline; the runtime's own calls have this one.
const RUN_DEADLINE: Duration = Duration::from_secs(120);

/// Which container, or the answer that there is none.
async fn find(deps: &Deps, target: &Target) -> Result<ContainerId, Reply> {
    let (key, name) = (&target.pod.key, &target.container);
    let uid = deps.pods.get(key).and_then(|pod| pod.metadata.uid.as_deref().map(PodUid::new));
    let uid = uid.filter(|uid| target.pod.uid.as_ref().is_none_or(|wanted| wanted == uid));
    let Some(uid) = uid else { return Err(text(StatusCode::NOT_FOUND, "pod does not exist")) };
    let seen = deps.runtime.observe(&uid).await;
    let seen = seen.map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let runs = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
    let found = seen.containers.iter().find(|known| known.name.as_str() == name && runs(&known.state));
    let missing = || text(StatusCode::NOT_FOUND, format!("container {name} does not exist"));
    found.map(|container| container.id.clone()).ok_or_else(missing)
}

pub(super) async fn run(deps: &Deps, target: &Target, command: &[String]) -> Reply {
    let id = match find(deps, target).await {
        Ok(id) => id,
        Err(reply) => return reply,
    };
    match deps.runtime.exec_sync(&id, command, RUN_DEADLINE).await {
        Ok(output) if output.exit_code == 0 => text(StatusCode::OK, [output.stdout, output.stderr].concat()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let message = format!("command '{}' exited with {}: {said}", command.join(" "), output.exit_code);
            text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(super) async fn checkpoint(deps: &Deps, target: &Target, timeout: i64) -> Reply {
    let id = match find(deps, target).await {
        Ok(id) => id,
        Err(reply) => return reply,
    };
    let (key, name) = (&target.pod.key, &target.container);
    let folder = deps.config.root_dir.join("checkpoints");
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("checkpointing of {}/{}/{name} failed ({error})", key.namespace, key.name);
        text(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    if let Err(error) = make_private(&folder) {
        return failed(&error);
    }
    let at = clock::now().wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let file = folder.join(format!("checkpoint-{}_{}-{name}-{at}.tar", key.name, key.namespace));
    match deps.runtime.checkpoint_container(&id, &file, timeout).await {
        Ok(()) => json(&json!({"items": [file]})),
        Err(RuntimeError::NotFound(_)) => text(StatusCode::NOT_FOUND, format!("container {name} does not exist")),
        Err(error) => failed(&error),
    }
}

/// A checkpoint holds all of a process's memory, secrets included.
fn make_private(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
