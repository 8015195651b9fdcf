//! One pod as CRI shows it, with as few calls as its state allows.
//!
//! Two lists in parallel tell what exists and in which state. What a status adds to that (times, exit code, addresses)
//! cannot change while the state stays, so it is asked for once per container and state. containerd goes through all
//! that it holds for each list: where nothing has happened since the last look but what our own calls made, only that is
//! asked for.

use super::RuntimeError;
use super::cri::{CriRuntime, POD_UID_LABEL};
use crate::ids::{ContainerId, ContainerName, PodUid, SandboxId};
use crate::model::observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_cri::v1 as pb;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was last seen of each pod. Entries leave with their pods (`keep_only`).
#[derive(Debug, Default)]
pub(super) struct Observations {
    pods: Mutex<HashMap<PodUid, Known>>,
}

/// One pod: how it was, and what is known to have happened since.
#[derive(Debug, Default)]
struct Known {
    seen: Arc<ObservedPod>,
    /// Sandboxes and containers that our calls have made.
    made: Vec<Made>,
    /// Ids that the runtime told were made or started: mostly by our calls, of which it tells before it answers.
    told: Vec<String>,
    /// Something else happened, or may have: only a whole look tells.
    doubt: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    Sandbox(SandboxId),
    Container(ContainerId, SandboxId),
}

/// How far a look has to go.
#[derive(Debug, PartialEq)]
enum Scope {
    /// Nothing has happened that was not seen.
    Nothing,
    /// This is new; the rest is as it was.
    Only(Vec<Made>),
    Whole,
}

impl Known {
    /// What the next look has to ask for; it begins now.
    fn begin(&mut self) -> Scope {
        let (made, told) = (std::mem::take(&mut self.made), std::mem::take(&mut self.told));
        let is_made = |id: &String| {
            made.iter().any(|made| match made {
                Made::Sandbox(made) => made.as_str() == id,
                Made::Container(made, _) => made.as_str() == id,
            })
        };
        let ours = told.iter().all(|id| is_made(id) || self.seen.runs(id));
        match (std::mem::take(&mut self.doubt) || !ours, made.is_empty(), told.is_empty()) {
            (true, _, _) | (false, true, true) => Scope::Whole,
            (false, false, _) => Scope::Only(made),
            (false, true, false) => Scope::Nothing,
        }
    }
}

impl Observations {
    pub(super) fn keep_only(&self, mut exists: impl FnMut(&PodUid) -> bool) {
        self.pods().retain(|uid, _| exists(uid));
    }

    /// RunPodSandbox has ended. A pod's first sandbox is the first that there is of it.
    pub(super) fn sandbox_made(&self, uid: &PodUid, attempt: u32, made: Option<&SandboxId>) {
        let mut pods = self.pods();
        let known = if attempt == 0 { Some(pods.entry(uid.clone()).or_default()) } else { pods.get_mut(uid) };
        match (known, made) {
            (Some(known), Some(id)) => known.made.push(Made::Sandbox(id.clone())),
            (Some(known), None) => known.doubt = true,
            (None, _) => {}
        }
    }

    /// CreateContainer has ended.
    pub(super) fn container_made(&self, uid: &PodUid, sandbox: &SandboxId, made: Option<&ContainerId>) {
        let mut pods = self.pods();
        match (pods.get_mut(uid), made) {
            (Some(known), Some(id)) => known.made.push(Made::Container(id.clone(), sandbox.clone())),
            (Some(known), None) => known.doubt = true,
            (None, _) => {}
        }
    }

    /// The runtime told that something of the pod was made or started.
    pub(super) fn told(&self, uid: &PodUid, id: String) {
        if let Some(known) = self.pods().get_mut(uid).filter(|known| !known.told.contains(&id)) {
            known.told.push(id);
        }
    }

    /// Something of the pod is, or may be, no longer as it was.
    pub(super) fn doubt(&self, uid: &PodUid) {
        if let Some(known) = self.pods().get_mut(uid) {
            known.doubt = true;
        }
    }

    /// The same of the pod that has this sandbox or container.
    pub(super) fn doubt_holder(&self, id: &str) {
        let mut pods = self.pods();
        let holders = pods.values_mut().filter(|known| known.seen.holds(id));
        holders.for_each(|known| known.doubt = true);
    }

    /// Of any pod: changes may have been missed.
    pub(super) fn doubt_all(&self) {
        self.pods().values_mut().for_each(|known| known.doubt = true);
    }

    pub(super) async fn observe(&self, cri: &CriRuntime, uid: &PodUid) -> Result<ObservedPod, RuntimeError> {
        let (scope, seen) = match self.pods().get_mut(uid) {
            Some(known) => (known.begin(), known.seen.clone()),
            None => (Scope::Whole, Arc::default()),
        };
        let pod = match scope {
            Scope::Nothing => return Ok(ObservedPod::clone(&seen)),
            Scope::Only(made) => with(cri, &seen, made).await,
            Scope::Whole => whole(cri, uid, &seen).await,
        };
        let mut pod = pod.inspect_err(|_| self.doubt(uid))?;
        pod.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        pod.containers.sort_by(|a, b| {
            a.name.cmp(&b.name).then_with(|| (b.attempt, b.created_at).cmp(&(a.attempt, a.created_at)))
        });
        self.remember(uid, &pod);
        Ok(pod)
    }

    fn remember(&self, uid: &PodUid, pod: &ObservedPod) {
        let mut pods = self.pods();
        let is_empty = pod.sandboxes.is_empty() && pod.containers.is_empty();
        if is_empty && pods.get(uid).is_none_or(|known| known.made.is_empty()) {
            pods.remove(uid);
            return;
        }
        pods.entry(uid.clone()).or_default().seen = Arc::new(pod.clone());
    }

    // A poisoned lock holds whole entries: nothing between their changes can fail.
    fn pods(&self) -> MutexGuard<'_, HashMap<PodUid, Known>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that there is of the pod.
async fn whole(cri: &CriRuntime, uid: &PodUid, seen: &ObservedPod) -> Result<ObservedPod, RuntimeError> {
    let selector = HashMap::from([(POD_UID_LABEL.to_owned(), uid.to_string())]);
    let (sandboxes, containers) =
        tokio::try_join!(cri.list_sandboxes(selector.clone()), cri.list_containers(selector))?;
    let sandboxes = try_join_all(sandboxes.into_iter().map(|s| listed_sandbox(cri, s, seen)));
    let containers = try_join_all(containers.into_iter().map(|c| listed_container(cri, c, seen)));
    let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
    Ok(ObservedPod {
        sandboxes: sandboxes.into_iter().flatten().collect(),
        containers: containers.into_iter().flatten().collect(),
    })
}

/// The pod as it was, with what is new; what was on its way to another state is looked at too.
async fn with(cri: &CriRuntime, seen: &ObservedPod, made: Vec<Made>) -> Result<ObservedPod, RuntimeError> {
    let (settled, others): (Vec<_>, Vec<_>) = seen.containers.iter().partition(|c| c.state.is_settled());
    let (mut new_sandboxes, mut new_containers) = (Vec::new(), Vec::new());
    for made in made {
        match made {
            Made::Sandbox(id) => new_sandboxes.push(id),
            Made::Container(id, sandbox) => new_containers.push((id, sandbox)),
        }
    }
    let others = others.into_iter().map(|c| (c.id.clone(), c.sandbox.clone()));
    let others = others.filter(|(id, _)| !new_containers.iter().any(|(new, _)| new == id)).collect::<Vec<_>>();
    let containers = new_containers.iter().chain(&others).map(|(id, sandbox)| container(cri, id, sandbox.clone()));
    let sandboxes = new_sandboxes.iter().map(|id| sandbox(cri, id));
    let (sandboxes, containers) = tokio::try_join!(try_join_all(sandboxes), try_join_all(containers))?;
    let kept = seen.sandboxes.iter().filter(|kept| !new_sandboxes.contains(&kept.id)).cloned();
    Ok(ObservedPod {
        sandboxes: kept.chain(sandboxes.into_iter().flatten()).collect(),
        containers: settled.into_iter().cloned().chain(containers.into_iter().flatten()).collect(),
    })
}

/// `None`: there is no such sandbox.
async fn sandbox(cri: &CriRuntime, id: &SandboxId) -> Result<Option<ObservedSandbox>, RuntimeError> {
    let status = match cri.sandbox_status(id.as_str()).await {
        Ok(status) => status,
        Err(RuntimeError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let ready = status.state == pb::PodSandboxState::SandboxReady as i32;
    Ok(Some(ObservedSandbox {
        id: id.clone(),
        attempt: status.metadata.map_or(0, |m| m.attempt),
        ready,
        created_at: timestamp(status.created_at),
        // A sandbox that is not ready has no addresses, as the kubelet sees it.
        ips: if ready { addresses(status.network.unwrap_or_default()) } else { Vec::new() },
    }))
}

/// `None`: removed since the list was made.
async fn listed_sandbox(
    cri: &CriRuntime,
    listed: pb::PodSandbox,
    seen: &ObservedPod,
) -> Result<Option<ObservedSandbox>, RuntimeError> {
    let ready = listed.state == pb::PodSandboxState::SandboxReady as i32;
    let known = seen.sandboxes.iter().find(|known| known.id.as_str() == listed.id && !known.ips.is_empty());
    if let (true, None) = (ready, known) {
        return sandbox(cri, &SandboxId::new(&listed.id)).await;
    }
    Ok(Some(ObservedSandbox {
        id: SandboxId::new(&listed.id),
        attempt: listed.metadata.map_or(0, |m| m.attempt),
        ready,
        created_at: timestamp(listed.created_at),
        ips: known.filter(|_| ready).map(|known| known.ips.clone()).unwrap_or_default(),
    }))
}

fn addresses(network: pb::PodSandboxNetworkStatus) -> Vec<IpAddr> {
    let additional = network.additional_ips.into_iter().map(|ip| ip.ip);
    std::iter::once(network.ip).chain(additional).filter_map(|ip| ip.parse().ok()).collect()
}

/// `None`: there is no such container.
async fn container(
    cri: &CriRuntime,
    id: &ContainerId,
    sandbox: SandboxId,
) -> Result<Option<ObservedContainer>, RuntimeError> {
    match cri.container_status(id.as_str()).await {
        Ok(status) => Ok(Some(observed(status, sandbox))),
        Err(RuntimeError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None`: removed since the list was made.
async fn listed_container(
    cri: &CriRuntime,
    listed: pb::Container,
    seen: &ObservedPod,
) -> Result<Option<ObservedContainer>, RuntimeError> {
    let same_state = |known: &&ObservedContainer| match &known.state {
        ContainerState::Running { .. } => listed.state == pb::ContainerState::ContainerRunning as i32,
        ContainerState::Exited { .. } => {
            known.state.is_settled() && listed.state == pb::ContainerState::ContainerExited as i32
        }
        ContainerState::Created | ContainerState::Unknown => false,
    };
    let known = seen.containers.iter().find(|known| known.id.as_str() == listed.id);
    match known.filter(same_state) {
        Some(known) => Ok(Some(known.clone())),
        None => container(cri, &ContainerId::new(&listed.id), SandboxId::new(&listed.pod_sandbox_id)).await,
    }
}

fn observed(status: pb::ContainerStatus, sandbox: SandboxId) -> ObservedContainer {
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
        sandbox,
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
    fn a_look_goes_as_far_as_something_may_have_happened() {
        let seen = Arc::new(ObservedPod {
            sandboxes: vec![ObservedSandbox {
                id: SandboxId::new("s1"),
                attempt: 0,
                ready: true,
                created_at: Timestamp::UNIX_EPOCH,
                ips: Vec::new(),
            }],
            containers: Vec::new(),
        });
        let container = Made::Container(ContainerId::new("c1"), SandboxId::new("s1"));
        let look = |made: &[&Made], told: &[&str], doubt| {
            let made = made.iter().map(|made| (*made).clone()).collect();
            let told = told.iter().map(|id| (*id).to_owned()).collect();
            let mut known = Known { seen: seen.clone(), made, told, doubt };
            let scope = known.begin();
            assert!(known.made.is_empty() && known.told.is_empty() && !known.doubt, "it begins anew");
            scope
        };
        let only = Scope::Only(vec![container.clone()]);
        assert_eq!(look(&[], &[], false), Scope::Whole, "nobody told why");
        assert_eq!(look(&[&container], &[], false), only);
        assert_eq!(look(&[&container], &["c1", "s1"], false), only, "told of what we made and of what runs");
        assert_eq!(look(&[&container], &["c2"], false), Scope::Whole, "somebody else's");
        assert_eq!(look(&[&container], &[], true), Scope::Whole);
        assert_eq!(look(&[], &["s1"], false), Scope::Nothing, "told late of what was seen to run");
        assert_eq!(look(&[], &["s1"], true), Scope::Whole);
    }

    #[test]
    fn what_our_calls_made_is_known_from_the_first_sandbox_on() {
        let observations = Observations::default();
        let (uid, sandbox) = (PodUid::new("u"), SandboxId::new("s"));
        let made = |observations: &Observations| observations.pods().get(&uid).map(|known| known.made.len());
        observations.container_made(&uid, &sandbox, Some(&ContainerId::new("c")));
        observations.sandbox_made(&uid, 1, Some(&sandbox));
        assert_eq!(made(&observations), None, "what there was before is not known");
        observations.sandbox_made(&uid, 0, Some(&sandbox));
        observations.container_made(&uid, &sandbox, Some(&ContainerId::new("c")));
        assert_eq!(made(&observations), Some(2));
        observations.container_made(&uid, &sandbox, None);
        let scope = observations.pods().get_mut(&uid).map(Known::begin);
        assert_eq!(scope, Some(Scope::Whole), "a call that failed may have made something");
    }

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
            observed(status, SandboxId::new("s")).state
        };
        let cut = "failed to create containerd task: failed to create shim task: context canceled";
        assert_eq!(ended(0, cut), ContainerState::Created);
        assert!(matches!(ended(1, cut), ContainerState::Exited { .. }), "it ran");
        let refused = "failed to create containerd task: exec: \"nothing\": executable file not found in $PATH";
        assert!(matches!(ended(0, refused), ContainerState::Exited { exit_code: 128, .. }));
    }
}
