//! containerd's own event stream (1.6 and 1.7), namespace `k8s.io`.
//!
//! It names containers, not pods, and tells an exit before CRI has recorded it.

use super::Change;
use crate::ids::PodUid;
use crate::runtime::cri::{CriRuntime, POD_UID_LABEL};
use crate::runtime::{RuntimeError, rpc};
use containerd_client::events::{ContainerDelete, TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{GetContainerRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use k8s_cri::v1 as pb;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;

/// CRI's containerd namespace.
pub(crate) const NAMESPACE: &str = "k8s.io";
const TOPICS: [&str; 4] = ["/tasks/start", "/tasks/exit", "/tasks/oom", "/containers/delete"];
/// Pauses between looks at CRI's record of an exit.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// After so many looks (about six seconds) the pod is marked whatever CRI says.
const MAX_LOOKS: u32 = 13;
/// A look that hangs must not outlive the audit that would find the change anyway.
const LOOK_DEADLINE: Duration = Duration::from_secs(30);
/// Owners remembered; ids leave when their containers are deleted. Several times the pods that a node may hold.
const MAX_OWNERS: usize = 8192;

/// What an id belongs to.
#[derive(Clone, Debug)]
struct Owner {
    pod: PodUid,
    is_sandbox: bool,
}

/// Answers "whose is this id", asking containerd once an id.
#[derive(Clone)]
struct Owners {
    known: Arc<Mutex<HashMap<String, Owner>>>,
    channel: Channel,
}

impl Owners {
    fn add(&self, id: String, owner: Owner) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_OWNERS {
            known.clear();
        }
        known.insert(id, owner);
    }

    fn get(&self, id: &str) -> Option<Owner> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn forget(&self, id: &str) -> Option<Owner> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    /// `None`: no pod's.
    async fn find(&self, id: &str) -> Option<Owner> {
        if let Some(owner) = self.get(id) {
            return Some(owner);
        }
        let request = in_namespace(GetContainerRequest { id: id.to_owned() });
        let mut client = ContainersClient::new(self.channel.clone());
        let answer = rpc::call("Containers.Get", LOOK_DEADLINE, client.get(request)).await;
        let labels = answer.ok()?.container?.labels;
        let owner = Owner {
            pod: PodUid::new(labels.get(POD_UID_LABEL)?),
            is_sandbox: labels.get("io.cri-containerd.kind").is_some_and(|kind| kind == "sandbox"),
        };
        self.add(id.to_owned(), owner.clone());
        Some(owner)
    }
}

/// A request in CRI's namespace.
pub(crate) fn in_namespace<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
    request
}

pub(super) async fn changes(
    cri: &CriRuntime,
) -> Result<BoxStream<'static, Result<Change, RuntimeError>>, RuntimeError> {
    let owners = Owners { known: Arc::default(), channel: cri.channel() };
    // What exists already: a deletion can only be told by who knew the id before.
    let (sandboxes, containers) =
        tokio::try_join!(cri.list_sandboxes(HashMap::new()), cri.list_containers(HashMap::new()))?;
    let sandboxes = sandboxes.into_iter().map(|s| (s.id, s.labels, true));
    for (id, labels, is_sandbox) in sandboxes.chain(containers.into_iter().map(|c| (c.id, c.labels, false))) {
        if let Some(uid) = labels.get(POD_UID_LABEL) {
            owners.add(id, Owner { pod: PodUid::new(uid), is_sandbox });
        }
    }
    let filters = TOPICS.iter().map(|topic| format!("namespace==\"{NAMESPACE}\",topic==\"{topic}\"")).collect();
    let mut client = EventsClient::new(cri.channel());
    let open = async move { client.subscribe(SubscribeRequest { filters }).await };
    let stream = open.map_ok(|response| response.into_inner()).try_flatten_stream();
    let runtime = cri.client();
    Ok(stream
        .map_err(|status| rpc::error(&status))
        .try_filter_map(move |envelope| {
            let change = event(&envelope).and_then(|event| change(event, &owners, &runtime));
            async move { Ok(change) }
        })
        .boxed())
}

/// The events that matter, by container id.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Started(String),
    Exited(String),
    OutOfMemory(String),
    Deleted(String),
}

fn event(envelope: &Envelope) -> Option<Event> {
    let payload = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/start" => Some(Event::Started(TaskStart::decode(payload).ok()?.container_id)),
        "/tasks/exit" => {
            let exit = TaskExit::decode(payload).ok()?;
            // Another id is that of an exec in the container.
            (exit.id == exit.container_id).then_some(Event::Exited(exit.container_id))
        }
        "/tasks/oom" => Some(Event::OutOfMemory(TaskOom::decode(payload).ok()?.container_id)),
        "/containers/delete" => Some(Event::Deleted(ContainerDelete::decode(payload).ok()?.id)),
        _ => None,
    }
}

fn change(event: Event, owners: &Owners, runtime: &RuntimeServiceClient<Channel>) -> Option<Change> {
    let owners = owners.clone();
    let look = match event {
        Event::Deleted(id) => return owners.forget(&id).map(|owner| Change::Pod(owner.pod)),
        Event::Started(id) => async move { owners.find(&id).await.map(|owner| owner.pod) }.boxed(),
        Event::Exited(id) => {
            let runtime = runtime.clone();
            async move {
                let owner = owners.find(&id).await?;
                settled(&runtime, &id, &owner).await;
                Some(owner.pod)
            }
            .boxed()
        }
        Event::OutOfMemory(id) => async move {
            let owner = owners.find(&id).await?;
            // CRI hears of it through the same stream as we do: give it the moment to note the reason.
            tokio::time::sleep(super::OOM_RECHECK).await;
            Some(owner.pod)
        }
        .boxed(),
    };
    Some(Change::Look(look))
}

/// Waits until CRI has recorded the exit.
async fn settled(runtime: &RuntimeServiceClient<Channel>, id: &str, owner: &Owner) {
    let mut pause = FIRST_LOOK;
    for _ in 0..MAX_LOOKS {
        match is_recorded(runtime.clone(), id, owner).await {
            Ok(true) | Err(RuntimeError::NotFound(_)) => return,
            // Not yet, or the runtime is in trouble: look again.
            Ok(false) | Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(LAST_LOOK);
    }
    tracing::warn!(id, "the runtime has not recorded an exit that it announced");
}

async fn is_recorded(
    mut runtime: RuntimeServiceClient<Channel>,
    id: &str,
    owner: &Owner,
) -> Result<bool, RuntimeError> {
    if owner.is_sandbox {
        let request = pb::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = rpc::call("PodSandboxStatus", LOOK_DEADLINE, runtime.pod_sandbox_status(request)).await?;
        Ok(answer.status.is_none_or(|status| status.state() == pb::PodSandboxState::SandboxNotready))
    } else {
        let request = pb::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = rpc::call("ContainerStatus", LOOK_DEADLINE, runtime.container_status(request)).await?;
        Ok(answer.status.is_none_or(|status| status.state() == pb::ContainerState::ContainerExited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, message: &impl Message) -> Envelope {
        let event = Some(prost_types::Any { type_url: String::new(), value: message.encode_to_vec() });
        Envelope { topic: topic.into(), event, ..Default::default() }
    }

    #[test]
    fn an_exec_that_ends_is_not_the_container_ending() {
        let exit = |id: &str| TaskExit { container_id: "c".into(), id: id.into(), ..Default::default() };
        assert_eq!(event(&envelope("/tasks/exit", &exit("c"))), Some(Event::Exited("c".into())));
        assert_eq!(event(&envelope("/tasks/exit", &exit("exec-1"))), None);
    }

    #[test]
    fn other_topics_are_ignored() {
        assert_eq!(event(&envelope("/images/create", &TaskStart::default())), None);
    }
}
