//! gRPC over unix sockets, both ends: the generated code for these few calls would be longer than they are.

use futures::{Stream, stream};
use hyper_util::rt::TokioIo;
use prost::Message;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// As long as the kubelet waits for a plugin's socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// As the kubelet begins anew to serve.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// Devices by the thousand with long ids exceed gRPC's 4 MiB: as much as the kubelet takes of lists.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// A call that failed; worded as grpc-go prints it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PluginError {
    #[error("failed to dial plugin: {0}")]
    Dial(String),
    #[error("{call} did not answer within {after:?}")]
    Deadline { call: &'static str, after: Duration },
    #[error("rpc error: code = {} desc = {message}", self.code_name())]
    Rpc { code: tonic::Code, message: String },
}

/// What a failed call says of what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may have been done, or be done yet (`isFinalError`).
    Open,
    /// Not as things are now (`inUseError`).
    Precondition,
    /// Never, as it was asked (`isInfeasibleError`).
    Infeasible,
    /// It was not done.
    Failed,
}

impl PluginError {
    pub fn verdict(&self) -> Verdict {
        use tonic::Code;
        let code = match self {
            Self::Dial(_) | Self::Deadline { .. } => return Verdict::Open,
            Self::Rpc { code, .. } => code,
        };
        match code {
            Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted => {
                Verdict::Open
            }
            Code::FailedPrecondition => Verdict::Precondition,
            Code::InvalidArgument | Code::OutOfRange | Code::NotFound => Verdict::Infeasible,
            Code::Ok
            | Code::Unknown
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Verdict::Failed,
        }
    }

    /// Its status as grpc-go spells it.
    pub fn code_name(&self) -> &'static str {
        use tonic::Code;
        let code = match self {
            Self::Dial(_) => Code::Unavailable,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Rpc { code, .. } => *code,
        };
        match code {
            Code::Ok => "OK",
            Code::Cancelled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }

    /// As a plugin answers it.
    #[cfg(test)]
    pub fn of_code(code: i32, message: &str) -> Self {
        Self::Rpc { code: code.into(), message: message.to_owned() }
    }
}

impl From<Status> for PluginError {
    fn from(status: Status) -> Self {
        Self::Rpc { code: status.code(), message: cause(&status).unwrap_or_else(|| status.message().to_owned()) }
    }
}

/// The innermost reason of a connection that could not be made, as grpc-go words it.
fn cause(status: &Status) -> Option<String> {
    let mut inner = std::error::Error::source(status).filter(|_| status.code() == tonic::Code::Unavailable)?;
    while let Some(next) = inner.source() {
        inner = next;
    }
    Some(format!("connection error: desc = \"transport: Error while dialing: {inner}\""))
}

/// Connects to a socket that somebody listens at; the channel connects again by itself.
pub(super) async fn connect(socket: &Path) -> Result<Channel, PluginError> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        PluginError::Dial(format!("{}: {}", socket.display(), source.unwrap_or_else(|| error.to_string())))
    })
}

/// Makes one call and waits for its answer at most `within`.
pub(super) async fn unary<Q, A>(
    channel: &Channel,
    path: &'static str,
    request: Q,
    within: Duration,
) -> Result<A, PluginError>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let call = async {
        let mut client = Grpc::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        client.unary(Request::new(request), PathAndQuery::from_static(path), codec).await
    };
    match tokio::time::timeout(within, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(PluginError::Deadline { call: path, after: within }),
    }
}

/// Makes one call that is answered again and again.
pub(super) async fn follow<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Result<Streaming<A>, PluginError>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let stream = client.server_streaming(Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(stream.into_inner())
}

/// Binds a socket in a folder that is made for it; one that was left behind is replaced.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

/// Serves until dropped; says why it could not go on.
pub(super) async fn serve<S, F>(listener: UnixListener, service: S) -> Result<(), tonic::transport::Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible, Future = F>
        + Clone
        + Send
        + 'static,
    F: Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + Send,
{
    let incoming = stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok::<_, io::Error>(stream), listener)),
                // Of descriptors there may be more soon.
                Err(error) => tracing::warn!(%error, "connection of a plugin not accepted"),
            }
            tokio::time::sleep(ACCEPT_RETRY).await;
        }
    });
    Server::builder().serve_with_incoming(service, incoming).await
}

/// Answers one request by `handle`.
pub(super) async fn answer<Q, A, H, F>(request: http::Request<Body>, handle: H) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    H: Fn(Q) -> F,
    F: Future<Output = Result<A, Status>>,
{
    let codec: ProstCodec<A, Q> = ProstCodec::default();
    let service = tower::service_fn(move |request: Request<Q>| {
        let answer = handle(request.into_inner());
        async move { answer.await.map(Response::new) }
    });
    tonic::server::Grpc::new(codec).unary(service, request).await
}

/// Answers one request by a stream.
pub(super) async fn answer_many<Q, A, S>(request: http::Request<Body>, stream: S) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let codec: ProstCodec<A, Q> = ProstCodec::default();
    let mut stream = Some(stream);
    let service = tower::service_fn(move |_: Request<Q>| {
        let answer = stream.take().map(Response::new).ok_or_else(|| Status::internal("asked twice"));
        std::future::ready(answer)
    });
    tonic::server::Grpc::new(codec).server_streaming(service, request).await
}

/// The answer to a call that there is not.
pub(super) fn unknown(path: &str) -> http::Response<Body> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    Status::unimplemented(format!("unknown method {method} for service {service}")).into_http()
}
