//! One call to the API with its deadline, and its failures as controllers branch on them.

use std::future::Future;
use std::time::Duration;

/// How long any single call of a controller may take.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Stock's controllers all write under this name, so that managedFields keep their owner when a stock one takes over.
pub(super) const FIELD_MANAGER: &str = "kube-controller-manager";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("{0}")]
    NotFound(String),
    /// 409: it exists already, another writer was faster, or a precondition failed. What is known will soon be newer.
    #[error("{0}")]
    Conflict(String),
    /// Nothing can be created in this namespace any more.
    #[error("{0}")]
    NamespaceTerminating(String),
    /// 405: the resource does not have this verb.
    #[error("{0}")]
    NotAllowed(String),
    /// 410: the position of a list or watch is too old.
    #[error("{0}")]
    Expired(String),
    /// Any other 4xx but 429: an unchanged request will fail again.
    #[error("{0}")]
    Rejected(String),
    /// No answer, 429 or 5xx.
    #[error("{0}")]
    Unavailable(String),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Unavailable(error.to_string()) };
        let terminating = status
            .details
            .as_ref()
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
        match status.code {
            404 => Self::NotFound(status.message),
            409 => Self::Conflict(status.message),
            _ if terminating => Self::NamespaceTerminating(status.message),
            405 => Self::NotAllowed(status.message),
            410 => Self::Expired(status.message),
            400..=428 | 430..=499 => Self::Rejected(status.message),
            _ => Self::Unavailable(status.message),
        }
    }
}

/// Awaits one call within its deadline.
pub(super) async fn call<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map_err(CallError::from),
        Err(_) => Err(CallError::Unavailable(format!("the API server did not answer within {CALL_DEADLINE:?}"))),
    }
}
