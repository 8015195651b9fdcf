//! Lifecycle hints from the runtime: CRI's own stream on containerd ≥ 2, containerd's native one below.
//!
//! Each connection: subscribe, then `Relist`, then a `Dirty` for each change. The reader never waits: a stalled reader
//! would block containerd 2's StartContainer.

pub(super) mod native;

use super::cri::{CriRuntime, POD_UID_LABEL};
use super::{RuntimeError, RuntimeEvent, rpc};
use crate::ids::PodUid;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture};
use k8s_cri::v1 as pb;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pause before the next connection: doubles from the first to the last, and starts over after a connection that held.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A killed container's reason turns to OOMKilled a moment after its exit is told, without an event of its own.
const OOM_RECHECK: Duration = Duration::from_millis(100);
/// Looks under way at once: one a container that changes; beyond it, everything is looked at.
const MAX_PENDING: usize = 1024;

/// Subscribes again and again, for ever.
pub(super) async fn follow(cri: &CriRuntime, events: mpsc::Sender<RuntimeEvent>) {
    let mut pause = FIRST_PAUSE;
    while !events.is_closed() {
        let mut outbox = Outbox { events: &events, relist_owed: false };
        match connection(cri, &mut outbox).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(Ended { error, held }) => {
                tracing::warn!(%error, "the runtime's event stream ended; subscribing again");
                if held {
                    pause = FIRST_PAUSE;
                    // Full: those who listen are busy looking, and see for themselves.
                    let _ = events.try_send(RuntimeEvent::Lost);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Why a connection ended, and whether it had delivered anything.
struct Ended {
    error: RuntimeError,
    held: bool,
}

async fn connection(cri: &CriRuntime, outbox: &mut Outbox<'_>) -> Result<(), Ended> {
    let version = cri.version().await.map_err(|error| Ended { error, held: false })?;
    if has_reliable_cri_events(&version) {
        match read(cri, cri_changes(cri), outbox).await {
            Err(Ended { error: RuntimeError::Unimplemented(_), .. }) => {}
            other => return other,
        }
    }
    read(cri, native::changes(cri).await.map_err(|error| Ended { error, held: false })?, outbox).await
}

/// containerd before 2.0 has no CRI events (1.6) or loses them when its queue is full (1.7).
fn has_reliable_cri_events(version: &pb::VersionResponse) -> bool {
    let major = version.runtime_version.trim_start_matches('v').split('.').next().and_then(|m| m.parse::<u32>().ok());
    version.runtime_name != "containerd" || major.is_none_or(|major| major >= 2)
}

/// One change as a stream tells it.
enum Change {
    /// This sandbox or container of the pod was made or has been started.
    Made(PodUid, String),
    /// Look at this pod now.
    Pod(PodUid),
    /// Look at this pod now and once more after a moment.
    PodTwice(PodUid),
    /// Something of this container changed; whose it is must be found, or the runtime's record must settle first.
    Look(BoxFuture<'static, Option<PodUid>>),
}

/// Reads one stream to its end.
async fn read(
    cri: &CriRuntime,
    changes: impl Stream<Item = Result<Change, RuntimeError>>,
    outbox: &mut Outbox<'_>,
) -> Result<(), Ended> {
    let mut changes = pin!(changes);
    // grpc-go answers a subscription only with its first event. A later call on the same connection that has been
    // answered tells that the subscription has been taken too.
    let mut subscribed = pin!(cri.version());
    let mut held = false;
    let receiver = outbox.events;
    let observations = cri.observations();
    let mut pending: FuturesUnordered<BoxFuture<'static, Option<PodUid>>> = FuturesUnordered::new();
    loop {
        // Every arm is cancel-safe: streams keep what they have read, `reserve` loses only its place in the queue.
        tokio::select! {
            biased;
            change = changes.next() => match change {
                Some(Ok(Change::Made(uid, id))) => {
                    observations.told(&uid, id);
                    outbox.send(RuntimeEvent::Dirty(uid));
                }
                Some(Ok(Change::Pod(uid))) => {
                    observations.doubt(&uid);
                    outbox.send(RuntimeEvent::Dirty(uid));
                }
                Some(Ok(Change::PodTwice(uid))) => {
                    observations.doubt(&uid);
                    outbox.send(RuntimeEvent::Dirty(uid.clone()));
                    pending.push(tokio::time::sleep(OOM_RECHECK).map(|()| Some(uid)).boxed());
                }
                Some(Ok(Change::Look(look))) if pending.len() < MAX_PENDING => pending.push(look),
                Some(Ok(Change::Look(_))) => outbox.send(RuntimeEvent::Relist),
                Some(Err(error)) => return Err(Ended { error, held }),
                None => return Err(Ended { error: RuntimeError::Unavailable("event stream closed".into()), held }),
            },
            version = &mut subscribed, if !held => match version {
                Ok(_) => {
                    held = true;
                    observations.doubt_all();
                    outbox.send(RuntimeEvent::Relist);
                }
                Err(error) => return Err(Ended { error, held }),
            },
            found = pending.next(), if !pending.is_empty() => {
                if let Some(Some(uid)) = found {
                    observations.doubt(&uid);
                    outbox.send(RuntimeEvent::Dirty(uid));
                }
            }
            () = outbox.pay() => {}
            () = receiver.closed() => return Ok(()),
        }
    }
}

/// The way to the receiver: full is remembered as an owed `Relist`.
struct Outbox<'a> {
    events: &'a mpsc::Sender<RuntimeEvent>,
    relist_owed: bool,
}

impl Outbox<'_> {
    fn send(&mut self, event: RuntimeEvent) {
        if !self.relist_owed && self.events.try_send(event).is_err() {
            self.relist_owed = true;
        }
    }

    /// Sends the owed `Relist` as soon as there is room; waits for ever if none is owed.
    async fn pay(&mut self) {
        if !self.relist_owed {
            std::future::pending::<()>().await;
        }
        if let Ok(permit) = self.events.reserve().await {
            permit.send(RuntimeEvent::Relist);
            self.relist_owed = false;
        }
    }
}

/// `GetContainerEvents`.
fn cri_changes(cri: &CriRuntime) -> BoxStream<'static, Result<Change, RuntimeError>> {
    let mut client = cri.client();
    let open = async move { client.get_container_events(pb::GetEventsRequest {}).await };
    let stream = open.map_ok(|response| response.into_inner()).try_flatten_stream();
    stream.map_err(|status| rpc::error(&status)).try_filter_map(|event| async move { Ok(cri_change(&event)) }).boxed()
}

fn cri_change(event: &pb::ContainerEventResponse) -> Option<Change> {
    let sandbox = event.pod_sandbox_status.as_ref();
    let uid = sandbox.and_then(|s| s.metadata.as_ref()).map(|m| m.uid.as_str()).filter(|uid| !uid.is_empty());
    let labels = event.containers_statuses.iter().find_map(|c| c.labels.get(POD_UID_LABEL));
    let uid = PodUid::new(uid.or(labels.map(String::as_str))?);
    let kind = event.container_event_type();
    if matches!(kind, pb::ContainerEventType::ContainerCreatedEvent | pb::ContainerEventType::ContainerStartedEvent) {
        return Some(Change::Made(uid, event.container_id.clone()));
    }
    let killed = event
        .containers_statuses
        .iter()
        .any(|c| c.id == event.container_id && c.exit_code == 137 && c.reason != "OOMKilled");
    Some(if killed { Change::PodTwice(uid) } else { Change::Pod(uid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cri_events_are_used_from_containerd_2_on() {
        for (name, version, expected) in [
            ("containerd", "2.1.9", true),
            ("containerd", "v2.0.0-rc.1", true),
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "v1.7.27", false),
            ("cri-o", "1.33.0", true),
        ] {
            let version = pb::VersionResponse {
                runtime_name: name.into(),
                runtime_version: version.into(),
                ..Default::default()
            };
            assert_eq!(has_reliable_cri_events(&version), expected, "{version:?}");
        }
    }

    #[tokio::test]
    async fn a_full_channel_becomes_one_relist() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut outbox = Outbox { events: &sender, relist_owed: false };
        let dirty = |uid| RuntimeEvent::Dirty(PodUid::new(uid));
        for uid in ["a", "b", "c"] {
            outbox.send(dirty(uid));
        }
        assert_eq!(receiver.recv().await, Some(dirty("a")));
        outbox.pay().await;
        assert_eq!(receiver.recv().await, Some(RuntimeEvent::Relist));
        outbox.send(dirty("d"));
        assert_eq!(receiver.recv().await, Some(dirty("d")));
    }
}
