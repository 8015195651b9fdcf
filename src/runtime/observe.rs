//! One pod as CRI shows it, with as few calls as its state allows.
//!
//! Two lists in parallel tell what exists and in which state. What a status adds to that (times, exit code, addresses)
//! cannot change while the state stays, so it is asked for once per container and state.

use super::RuntimeError;
use super::cri::{CriRuntime, POD_UID_LABEL};
use crate::ids::{ContainerId, ContainerName, PodUid, SandboxId};
use crate::model::observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_cri::v1 as pb;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// What was last seen of each pod. Entries leave with their pods (`keep_only`), containers with each observation.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pods: Mutex<HashMap<PodUid, Known>>,
}

/// Statuses of one pod that stay true while the list shows the same state.
#[derive(Debug, Default, Clone)]
struct Known {
    containers: HashMap<ContainerId, ObservedContainer>,
    ips: HashMap<SandboxId, Vec<IpAddr>>,
}

impl Observations {
    pub(super) fn keep_only(&self, mut exists: impl FnMut(&PodUid) -> bool) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| exists(uid));
    }

    pub(super) async fn observe(&self, cri: &CriRuntime, uid: &PodUid) -> Result<ObservedPod, RuntimeError> {
        let selector = HashMap::from([(POD_UID_LABEL.to_owned(), uid.to_string())]);
        let (sandboxes, containers) =
            tokio::try_join!(cri.list_sandboxes(selector.clone()), cri.list_containers(selector))?;
        let known = self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned().unwrap_or_default();

        let sandboxes = try_join_all(sandboxes.into_iter().map(|s| sandbox(cri, s, &known)));
        let containers = try_join_all(containers.into_iter().map(|c| container(cri, c, &known)));
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let mut pod = ObservedPod {
            sandboxes: sandboxes.into_iter().flatten().collect(),
            containers: containers.into_iter().flatten().collect(),
        };
        pod.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        pod.containers.sort_by(|a, b| {
            a.name.cmp(&b.name).then_with(|| (b.attempt, b.created_at).cmp(&(a.attempt, a.created_at)))
        });
        self.remember(uid, &pod);
        Ok(pod)
    }

    fn remember(&self, uid: &PodUid, pod: &ObservedPod) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if pod.sandboxes.is_empty() && pod.containers.is_empty() {
            pods.remove(uid);
            return;
        }
        let containers = pod.containers.iter().filter(|c| c.state.is_settled()).map(|c| (c.id.clone(), c.clone()));
        let ips = pod.sandboxes.iter().filter(|s| !s.ips.is_empty()).map(|s| (s.id.clone(), s.ips.clone()));
        pods.insert(uid.clone(), Known { containers: containers.collect(), ips: ips.collect() });
    }
}

/// `None`: removed since the list was made.
async fn sandbox(
    cri: &CriRuntime,
    listed: pb::PodSandbox,
    known: &Known,
) -> Result<Option<ObservedSandbox>, RuntimeError> {
    let id = SandboxId::new(&listed.id);
    let mut ready = listed.state == pb::PodSandboxState::SandboxReady as i32;
    let ips = match known.ips.get(&id) {
        // A sandbox that is not ready has no addresses, as the kubelet sees it.
        _ if !ready => Vec::new(),
        Some(ips) => ips.clone(),
        None => match cri.sandbox_status(&listed.id).await {
            Ok(status) => {
                ready = status.state == pb::PodSandboxState::SandboxReady as i32;
                if ready { addresses(status.network.unwrap_or_default()) } else { Vec::new() }
            }
            Err(RuntimeError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        },
    };
    Ok(Some(ObservedSandbox {
        id,
        attempt: listed.metadata.map_or(0, |m| m.attempt),
        ready,
        created_at: timestamp(listed.created_at),
        ips,
    }))
}

fn addresses(network: pb::PodSandboxNetworkStatus) -> Vec<IpAddr> {
    let additional = network.additional_ips.into_iter().map(|ip| ip.ip);
    std::iter::once(network.ip).chain(additional).filter_map(|ip| ip.parse().ok()).collect()
}

async fn container(
    cri: &CriRuntime,
    listed: pb::Container,
    known: &Known,
) -> Result<Option<ObservedContainer>, RuntimeError> {
    let same_state = |known: &&ObservedContainer| match &known.state {
        ContainerState::Running { .. } => listed.state == pb::ContainerState::ContainerRunning as i32,
        ContainerState::Exited { .. } => listed.state == pb::ContainerState::ContainerExited as i32,
        ContainerState::Created | ContainerState::Unknown => false,
    };
    if let Some(known) = known.containers.get(&ContainerId::new(&listed.id)).filter(same_state) {
        return Ok(Some(known.clone()));
    }
    match cri.container_status(&listed.id).await {
        Ok(status) => Ok(Some(observed(status, listed.pod_sandbox_id))),
        Err(RuntimeError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn observed(status: pb::ContainerStatus, sandbox: String) -> ObservedContainer {
    let started_at = timestamp(status.started_at);
    let state = match status.state() {
        pb::ContainerState::ContainerCreated => ContainerState::Created,
        pb::ContainerState::ContainerRunning => ContainerState::Running { started_at },
        pb::ContainerState::ContainerExited if was_cut_off(&status) => ContainerState::Created,
        pb::ContainerState::ContainerExited => ContainerState::Exited {
            started_at,
            finished_at: timestamp(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
        },
        pb::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let metadata = status.metadata.unwrap_or_default();
    let message_path = status.annotations.get("io.kubernetes.container.terminationMessagePath");
    let log = status.mounts.into_iter().find(|mount| message_path == Some(&mount.container_path));
    ObservedContainer {
        id: ContainerId::new(status.id),
        name: ContainerName::new(metadata.name),
        sandbox: SandboxId::new(sandbox),
        attempt: metadata.attempt,
        state,
        created_at: timestamp(status.created_at),
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_ref: status.image_ref,
        annotations: status.annotations.into_iter().collect(),
        log_path: status.log_path,
        termination_log: log.map(|mount| mount.host_path.into()),
        user: status.user.and_then(|user| user.linux).map(|user| (user.uid, user.gid, user.supplemental_groups)),
    }
}

/// It never ran: whoever asked for its start went away meanwhile, and the runtime gave the start up. Our own calls are
/// made to their end, so that was an agent that died: no attempt of the pod's that failed, and no restart to count.
fn was_cut_off(status: &pb::ContainerStatus) -> bool {
    status.started_at == 0 && status.reason == "StartError" && status.message.contains("context canceled")
}

/// CRI gives Unix nanoseconds; 0 where unset, which is shown as the epoch.
fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_the_end_of_an_agent_cut_off_is_no_attempt() {
        let ended = |started_at, message: &str| {
            let status = pb::ContainerStatus {
                state: pb::ContainerState::ContainerExited as i32,
                started_at,
                reason: "StartError".to_owned(),
                message: message.to_owned(),
                exit_code: 128,
                ..Default::default()
            };
            observed(status, "s".to_owned()).state
        };
        let cut = "failed to create containerd task: failed to create shim task: context canceled";
        assert_eq!(ended(0, cut), ContainerState::Created);
        assert!(matches!(ended(1, cut), ContainerState::Exited { .. }), "it ran");
        let refused = "failed to create containerd task: exec: \"nothing\": executable file not found in $PATH";
        assert!(matches!(ended(0, refused), ContainerState::Exited { exit_code: 128, .. }));
    }
}
