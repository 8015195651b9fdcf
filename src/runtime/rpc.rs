//! The connection to containerd's socket and the wording of its errors.

use super::RuntimeError;
use crate::metrics::catalog;
use hyper_util::rt::TokioIo;
use std::error::Error as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// kubelet `maxMsgSize`: lists of many containers exceed gRPC's 4 MiB.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// How long a connection attempt on the local socket may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A channel that connects when first used and again after the runtime restarts.
pub(super) fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The URI only names the authority; the connector ignores it. Windows of 256 KiB hold the usual answer whole
    // without the megabytes that an adaptive window would grow to.
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
}

/// Waits for one answer at most `deadline`.
pub(super) async fn call<T>(
    name: &'static str,
    deadline: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RuntimeError> {
    let begun = crate::clock::now().mono;
    let answer = tokio::time::timeout(deadline, answer).await;
    let took = begun.elapsed();
    tracing::trace!(call = name, ?took, "runtime called");
    if let Some(operation) = catalog::runtime_operation(name) {
        catalog::RUNTIME_OPERATIONS.inc([operation]);
        catalog::RUNTIME_OPERATIONS_DURATION.observe([operation], took);
        if !matches!(answer, Ok(Ok(_))) {
            catalog::RUNTIME_OPERATIONS_ERRORS.inc([operation]);
        }
    }
    match answer {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(error(&status)),
        Err(_) => Err(RuntimeError::Deadline { call: name, after: deadline }),
    }
}

/// A status as the error that callers branch on, worded as grpc-go prints it.
pub(super) fn error(status: &Status) -> RuntimeError {
    let code = code_name(status.code());
    match status.code() {
        Code::Unavailable => RuntimeError::Unavailable(format!("rpc error: code = {code} desc = {}", cause(status))),
        // A connection that broke under a call reaches us as Unknown or Cancelled with the transport's error inside.
        Code::Unknown | Code::Cancelled if status.source().is_some() => {
            RuntimeError::Unavailable(format!("rpc error: code = Unavailable desc = {}", cause(status)))
        }
        Code::NotFound => RuntimeError::NotFound(format!("rpc error: code = {code} desc = {}", status.message())),
        Code::Unimplemented => {
            RuntimeError::Unimplemented(format!("rpc error: code = {code} desc = {}", status.message()))
        }
        _ => RuntimeError::Rpc { code, message: status.message().to_owned() },
    }
}

/// The innermost reason of a transport error ("No such file or directory"), else the status's own message.
fn cause(status: &Status) -> String {
    let mut inner = status.source();
    while let Some(next) = inner.and_then(|e| e.source()) {
        inner = Some(next);
    }
    match inner {
        Some(inner) => format!("connection error: desc = \"transport: {inner}\""),
        None => status.message().to_owned(),
    }
}

/// Names as google.golang.org/grpc/codes prints them.
fn code_name(code: Code) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_worded_as_grpc_go_words_them() {
        let not_found = error(&Status::not_found("an error occurred when try to find container \"x\": not found"));
        assert!(matches!(not_found, RuntimeError::NotFound(_)));
        assert_eq!(
            not_found.to_string(),
            "rpc error: code = NotFound desc = an error occurred when try to find container \"x\": not found"
        );
        let other = error(&Status::unknown("failed to pull"));
        assert_eq!(other.to_string(), "rpc error: code = Unknown desc = failed to pull");
        assert!(matches!(error(&Status::unimplemented("no")), RuntimeError::Unimplemented(_)));
        assert!(matches!(error(&Status::unavailable("gone")), RuntimeError::Unavailable(_)));
    }

    #[tokio::test]
    async fn a_missing_socket_is_unavailable_and_says_why() {
        let mut client =
            k8s_cri::v1::runtime_service_client::RuntimeServiceClient::new(channel(Path::new("/nowhere/c.sock")));
        let error = call("Version", Duration::from_secs(5), client.version(k8s_cri::v1::VersionRequest::default()))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Unavailable(text) if text.contains("No such file or directory")),
            "{error}"
        );
    }
}
