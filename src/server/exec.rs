//! exec, attach and port-forward: find the container, ask the runtime for a streaming address, connect the two.

use super::route::{PodRef, Streams, Target};
use super::upgrade::{DialError, Offer};
use super::{Deps, Permit, Reply, stream, text, upgrade};
use crate::ids::{ContainerId, PodUid, SandboxId};
use crate::model::observed::{ContainerState, ObservedPod};
use crate::runtime::{RuntimeError, StreamOptions};
use http::{Request, StatusCode};
use hyper::body::Incoming;

/// The sub-protocols that we speak towards the runtime.
const PROCESS_V4: &str = "v4.channel.k8s.io";
const PORT_FORWARD_V1: &str = "portforward.k8s.io";

/// Why there is nothing to stream with.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("pod does not exist")]
    NoPod,
    #[error("container not found ({0:?})")]
    NoContainer(String),
    #[error("sandbox not found")]
    NoSandbox,
    #[error("you must request an upgrade: SPDY/3.1, or WebSocket with {}", upgrade::V5)]
    NoUpgrade,
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    #[error("{0}")]
    Dial(#[from] DialError),
}

impl StreamError {
    /// As `streaming.WriteError` answers: by the runtime's code, 500 for everything else.
    fn reply(&self) -> Reply {
        let status = match self {
            Self::NoPod | Self::Runtime(RuntimeError::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::NoUpgrade => StatusCode::BAD_REQUEST,
            Self::Dial(DialError::Refused(status, _)) => *status,
            Self::NoContainer(_) | Self::NoSandbox | Self::Runtime(_) | Self::Dial(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        text(status, self.to_string())
    }
}

/// What is streamed, which decides how an offer is met.
enum Kind {
    Process(Streams),
    Ports,
}

pub(super) async fn exec(
    request: Request<Incoming>,
    deps: &Deps,
    target: &Target,
    streams: Streams,
    command: Vec<String>,
) -> Reply {
    let url = async {
        let id = container(deps, target).await?;
        Ok(deps.runtime.exec(&id, &options(command, streams)).await?)
    };
    connect(request, deps, url.await, Kind::Process(streams)).await
}

pub(super) async fn attach(request: Request<Incoming>, deps: &Deps, target: &Target, streams: Streams) -> Reply {
    let url = async {
        let id = container(deps, target).await?;
        Ok(deps.runtime.attach(&id, &options(Vec::new(), streams)).await?)
    };
    connect(request, deps, url.await, Kind::Process(streams)).await
}

pub(super) async fn port_forward(request: Request<Incoming>, deps: &Deps, pod: &PodRef, ports: &[u16]) -> Reply {
    let url = async {
        let id = sandbox(deps, pod).await?;
        Ok(deps.runtime.port_forward(&id, ports).await?)
    };
    connect(request, deps, url.await, Kind::Ports).await
}

fn options(command: Vec<String>, streams: Streams) -> StreamOptions {
    let Streams { stdin, stdout, stderr, tty } = streams;
    StreamOptions { command, stdin, stdout, stderr, tty }
}

/// Connects the client to the runtime's streaming server in the way that the client offers.
async fn connect(mut request: Request<Incoming>, deps: &Deps, url: Result<String, StreamError>, kind: Kind) -> Reply {
    match url {
        Ok(url) => upgrade_to(&mut request, deps, &url, kind).await.unwrap_or_else(|error| error.reply()),
        Err(error) => error.reply(),
    }
}

async fn upgrade_to(request: &mut Request<Incoming>, deps: &Deps, url: &str, kind: Kind) -> Result<Reply, StreamError> {
    let offer = upgrade::offer(request.headers());
    let client = hyper::upgrade::on(&mut *request);
    let permit = request.extensions_mut().remove::<Permit>();
    let headers = request.headers();
    let (reply, copied) = match (offer, kind) {
        (Offer::None, _) => return Err(StreamError::NoUpgrade),
        (Offer::V5, Kind::Process(streams)) => {
            let dialed = upgrade::dial(&deps.tasks, url, &upgrade::spdy_headers(PROCESS_V4)).await?;
            let reply = upgrade::switch_to_websocket(headers, upgrade::V5);
            (reply, stream::Copy::Translate(dialed.io, streams))
        }
        (Offer::Tunnel, Kind::Ports) => {
            let dialed = upgrade::dial(&deps.tasks, url, &upgrade::spdy_headers(PORT_FORWARD_V1)).await?;
            let reply = upgrade::switch_to_websocket(headers, upgrade::TUNNEL);
            (reply, stream::Copy::Tunnel(dialed.io))
        }
        // A protocol that does not fit what is asked for is the runtime's to refuse.
        (Offer::PassThrough | Offer::V5 | Offer::Tunnel, _) => {
            let dialed = upgrade::dial(&deps.tasks, url, headers).await?;
            (upgrade::switch_as(&dialed.headers), stream::Copy::Raw(dialed.io))
        }
    };
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        deps.tasks.spawn("stream", async move {
            let _permit = permit;
            if let Err(error) = copied.run(client).await {
                tracing::debug!(%error, "stream ended");
            }
        });
    }
    Ok(reply)
}

/// The uid of the pod meant; with a uid in the path it must be that pod.
fn uid(deps: &Deps, pod: &PodRef) -> Result<PodUid, StreamError> {
    let found = deps.pods.get(&pod.key).ok_or(StreamError::NoPod)?;
    let found = PodUid::new(found.metadata.uid.as_deref().unwrap_or_default());
    match &pod.uid {
        Some(wanted) if *wanted != found => Err(StreamError::NoPod),
        Some(_) | None => Ok(found),
    }
}

async fn container(deps: &Deps, target: &Target) -> Result<ContainerId, StreamError> {
    let seen = deps.runtime.observe(&uid(deps, &target.pod)?).await?;
    running(&seen, &target.container).ok_or_else(|| StreamError::NoContainer(target.container.clone()))
}

/// The newest container of that name, when it runs.
fn running(seen: &ObservedPod, name: &str) -> Option<ContainerId> {
    let newest = seen.containers.iter().find(|container| container.name.as_str() == name)?;
    matches!(newest.state, ContainerState::Running { .. }).then(|| newest.id.clone())
}

async fn sandbox(deps: &Deps, pod: &PodRef) -> Result<SandboxId, StreamError> {
    let seen = deps.runtime.observe(&uid(deps, pod)?).await?;
    let ready = seen.sandboxes.iter().find(|sandbox| sandbox.ready);
    ready.map(|sandbox| sandbox.id.clone()).ok_or(StreamError::NoSandbox)
}
