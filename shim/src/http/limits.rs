//! How many requests are served at once and how long each may take (apiserver's max-in-flight and deadline filters).

use crate::authn::{MASTERS, User};
use crate::config::Limits;
use crate::error::ApiError;
use crate::pipeline::Credential;
use crate::request::info::RequestInfo;
use crate::request::query::Query;
use crate::schema::parse_duration;
use std::future::Future;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What a client that was turned away is told to wait (upstream's `retryAfter`).
const RETRY_AFTER_SECONDS: u32 = 1;

/// The places for requests that are neither watches nor streams.
pub(super) struct InFlight {
    reads: Option<Semaphore>,
    writes: Option<Semaphore>,
    timeout: Duration,
}

/// What a request takes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queue {
    ReadOnly,
    Mutating,
}

impl Queue {
    pub(super) fn of(method: &str) -> Self {
        if matches!(method, "GET" | "HEAD" | "OPTIONS") { Self::ReadOnly } else { Self::Mutating }
    }
}

impl InFlight {
    pub(super) fn new(limits: &Limits) -> Self {
        let places = |count| Some(count).filter(|count| *count > 0).map(Semaphore::new);
        Self {
            reads: places(limits.max_requests_inflight),
            writes: places(limits.max_mutating_requests_inflight),
            timeout: limits.request_timeout,
        }
    }

    /// A place, at once or not at all; `None` is a request that needs none. Administrators get in even when nobody else
    /// does (as upstream: someone must be able to repair things), and so does who asks whether the server lives.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub(super) fn enter(
        &self,
        info: &RequestInfo,
        credential: &Credential,
    ) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        let exempt = match credential {
            Credential::User(user) => is_master(user),
            Credential::None => false,
        };
        let places = match Queue::of(&info.method) {
            Queue::ReadOnly => &self.reads,
            Queue::Mutating => &self.writes,
        };
        let Some(places) = places.as_ref().filter(|_| !exempt && !is_probe(&info.path)) else { return Ok(None) };
        places.try_acquire().map(Some).map_err(|_| ApiError::TooManyRequests {
            message: "Too many requests, please try again later.".into(),
            retry_after_seconds: RETRY_AFTER_SECONDS,
        })
    }

    /// How long a request may take: what its `timeout` says, at most what the server allows.
    ///
    /// # Errors
    /// 400 for what is no duration.
    pub(super) fn time(&self, query: &Query) -> Result<Duration, ApiError> {
        let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(self.timeout) };
        let nanos = parse_duration(text)
            .map_err(|e| ApiError::BadRequest(format!("invalid timeout specified in the request URL - {e}")))?;
        match u64::try_from(nanos) {
            Ok(0) | Err(_) => Ok(self.timeout),
            Ok(nanos) => Ok(Duration::from_nanos(nanos).min(self.timeout)),
        }
    }
}

/// `work`, or 504 when it takes longer.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(time, work).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::Timeout("request did not complete within the allotted timeout".into())),
    }
}

fn is_master(user: &User) -> bool {
    user.is_in(MASTERS)
}

fn is_probe(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"].iter().any(|probe| path.starts_with(probe))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str) -> RequestInfo {
        RequestInfo::parse(method, path, &Query::default())
    }

    #[test]
    fn a_full_server_turns_away_all_but_administrators_and_probes() {
        let limits = Limits { max_requests_inflight: 1, max_mutating_requests_inflight: 1, ..Limits::default() };
        let places = InFlight::new(&limits);
        let pods = "/api/v1/namespaces/d/pods";
        let _reading = places.enter(&request("GET", pods), &Credential::None).unwrap();
        let master = Credential::User(User::authenticated("admin", [MASTERS.to_owned()]));
        let other = Credential::User(User::authenticated("someone", []));
        for (method, path, credential, enters) in [
            ("GET", pods, &Credential::None, false),
            ("GET", pods, &other, false),
            ("GET", pods, &master, true),
            ("GET", "/readyz", &Credential::None, true),
            ("POST", pods, &other, true),
        ] {
            let entered = places.enter(&request(method, path), credential);
            assert_eq!(entered.is_ok(), enters, "{method} {path}");
            if let Err(error) = entered {
                assert!(matches!(error, ApiError::TooManyRequests { retry_after_seconds: 1, .. }));
            }
        }
    }

    #[test]
    fn a_request_takes_at_most_what_it_asks_for_and_the_server_allows() {
        let places = InFlight::new(&Limits::default());
        for (query, wanted) in [
            ("", Ok(60)),
            ("timeout=10s", Ok(10)),
            ("timeout=1m30s", Ok(60)),
            ("timeout=0", Ok(60)),
            ("timeout=-5s", Ok(60)),
            ("timeout=10", Err("invalid timeout specified in the request URL - time: missing unit in duration \"10\"")),
            ("timeout=x", Err("invalid timeout specified in the request URL - time: invalid duration \"x\"")),
        ] {
            let time = places.time(&Query::parse(query)).map(|time| time.as_secs()).map_err(|e| e.to_string());
            assert_eq!(time, wanted.map_err(str::to_owned), "{query}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_answered_with_504() {
        let forever = std::future::pending::<Result<(), ApiError>>();
        let error = within(Duration::from_secs(60), forever).await.unwrap_err();
        assert_eq!(error.to_string(), "Timeout: request did not complete within the allotted timeout");
    }
}
