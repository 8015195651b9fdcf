//! `/containerLogs`: which container's log is meant (pure), then its CRI log file as a stream.

use super::route::Target;
use super::{Deps, Reply, streamed, text};
use crate::actors::pods::PodsHandle;
use crate::ids::{ContainerId, PodUid};
use crate::logs::{self, LogOptions};
use crate::model::observed::{ContainerState, ObservedPod};
use futures::TryStreamExt;
use http::StatusCode;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::path::PathBuf;

pub(super) async fn serve(deps: &Deps, target: &Target, previous: bool, options: LogOptions) -> Reply {
    let (key, name) = (&target.pod.key, target.container.as_str());
    let Some(pod) = deps.pods.get(key) else {
        return text(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", &*key.name));
    };
    if !has_container(&pod, name) {
        return text(StatusCode::NOT_FOUND, format!("container {name:?} not found in pod {:?}", &*key.name));
    }
    let id = match choose(&key.name, pod.status.as_ref(), name, previous) {
        Ok(id) => id,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
    let seen = match deps.runtime.observe(&uid).await {
        Ok(seen) => seen,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let Some(path) = log_path(&seen, &id) else {
        let message =
            format!("unable to retrieve container logs for containerd://{id}: the container has been removed");
        return text(StatusCode::OK, message);
    };
    let ended = ended(deps.pods.clone(), uid, id);
    streamed(logs::stream(path, options, ended).map_err(Into::into))
}

fn has_container(pod: &Pod, name: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| c.name == name)
            || spec.ephemeral_containers.iter().flatten().any(|c| c.name == name)
    })
}

/// The container whose log is meant, by the pod's status; the error is the kubelet's text
/// (`validateContainerLogStatus`).
fn choose(pod: &str, status: Option<&PodStatus>, name: &str, previous: bool) -> Result<ContainerId, String> {
    let statuses = status.into_iter().flat_map(|status| {
        let (main, init) =
            (status.container_statuses.iter().flatten(), status.init_container_statuses.iter().flatten());
        main.chain(init).chain(status.ephemeral_container_statuses.iter().flatten())
    });
    let status = statuses
        .into_iter()
        .find(|status| status.name == name)
        .ok_or_else(|| format!("container {name:?} in pod {pod:?} is not available"))?;
    let id = |text: Option<&str>| {
        let text = text.filter(|text| !text.is_empty())?;
        Some(ContainerId::new(text.split_once("://").map_or(text, |(_, id)| id)))
    };
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last = last.and_then(|terminated| id(terminated.container_id.as_deref()));
    if previous {
        return last.ok_or_else(|| format!("previous terminated container {name:?} in pod {pod:?} not found"));
    }
    let state = status.state.as_ref();
    let waiting = |why: &str| Err(format!("container {name:?} in pod {pod:?} is waiting to start{why}"));
    if state.is_some_and(|state| state.running.is_some()) {
        return id(status.container_id.as_deref()).map_or_else(|| waiting(" - no logs yet"), Ok);
    }
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        // A container that the runtime never created has no id; the run before it may have.
        let ended = id(terminated.container_id.as_deref()).or(last);
        return ended.ok_or_else(|| format!("container {name:?} in pod {pod:?} is terminated"));
    }
    if let Some(last) = last {
        return Ok(last);
    }
    match state.and_then(|state| state.waiting.as_ref()).map(|waiting| waiting.reason.as_deref().unwrap_or_default()) {
        Some("ErrImagePull") => waiting(": image can't be pulled"),
        Some("ImagePullBackOff") => waiting(": trying and failing to pull image"),
        Some(reason) => waiting(&format!(": {reason}")),
        None => waiting(" - no logs yet"),
    }
}

fn log_path(seen: &ObservedPod, id: &ContainerId) -> Option<PathBuf> {
    let container = seen.containers.iter().find(|container| container.id == *id)?;
    Some(PathBuf::from(&container.log_path))
}

/// Completes when that container no longer runs: a follower has then read all there will be.
async fn ended(pods: PodsHandle, uid: PodUid, id: ContainerId) {
    let mut changes = pods.changes();
    loop {
        changes.mark_unchanged();
        let running = pods.observed(&uid).is_some_and(|seen| {
            let container = seen.containers.iter().find(|container| container.id == id);
            container.is_some_and(|c| matches!(c.state, ContainerState::Running { .. } | ContainerState::Created))
        });
        // An error means that the agent stops.
        if !running || changes.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(container_status: Value, previous: bool, want: Result<&str, &str>) {
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [container_status]})).unwrap();
        let got = choose("p", Some(&status), "c", previous);
        assert_eq!(got, want.map(ContainerId::new).map_err(str::to_owned), "{container_status}");
    }

    fn status(state: Value, last: Value, id: &str) -> Value {
        json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            "lastState": last, "containerID": id})
    }

    #[test]
    fn the_log_of_the_container_that_runs_or_ran_last_is_chosen() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let terminated = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": id}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        check(status(running.clone(), json!({}), "containerd://now"), false, Ok("now"));
        check(status(running.clone(), terminated("containerd://old"), "containerd://now"), true, Ok("old"));
        check(status(terminated("containerd://now"), json!({}), "containerd://now"), false, Ok("now"));
        check(status(waiting("CrashLoopBackOff"), terminated("containerd://old"), ""), false, Ok("old"));
        check(
            status(running, json!({}), "containerd://now"),
            true,
            Err("previous terminated container \"c\" in pod \"p\" not found"),
        );
        for (reason, why) in [
            ("ErrImageNeverPull", "ErrImageNeverPull"),
            ("ErrImagePull", "image can't be pulled"),
            ("ImagePullBackOff", "trying and failing to pull image"),
        ] {
            let want = format!("container \"c\" in pod \"p\" is waiting to start: {why}");
            check(status(waiting(reason), json!({}), ""), false, Err(&want));
        }
    }

    #[test]
    fn a_container_without_a_status_is_not_available() {
        let want = Err("container \"c\" in pod \"p\" is not available".to_owned());
        assert_eq!(choose("p", None, "c", false), want);
    }
}
