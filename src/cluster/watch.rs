//! List and watch of one collection: streams the initial list where the server can, resumes, and relists after 410.

use super::ClusterError;
use super::write::{Api, from_kube};
use crate::clock;
use async_trait::async_trait;
use futures::TryStreamExt;
use http::Request;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::core::WatchEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Page size of a LIST, as client-go's pager.
const LIST_PAGE_ITEMS: u32 = 500;
/// A server that takes `sendInitialEvents` but never marks their end does not know it: then LIST.
const INITIAL_EVENTS_DEADLINE: Duration = Duration::from_secs(10);
/// A connection that lived this long was a good one: the next failure starts the backoff anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);
/// Shortest and longest wait between attempts (client-go's reflector: 800 ms, 30 s, doubling, jitter 1.0).
const BACKOFF_FIRST: Duration = Duration::from_millis(800);
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a collection's follower is told.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// The complete collection.
    Listed(Vec<Arc<T>>),
    Applied(Arc<T>),
    Deleted(Arc<T>),
}

/// Takes changes in order; `Break` when nobody wants them any more.
#[async_trait]
pub(super) trait Sink<T>: Send {
    async fn change(&mut self, change: Change<T>) -> ControlFlow<()>;
}

/// What can be watched.
pub(super) trait Watched: Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Send + Sync + 'static {}
impl<T: Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Send + Sync + 'static> Watched for T {}

/// A collection to follow.
pub(super) struct Collection {
    /// e.g. `/api/v1/pods`.
    pub path: String,
    /// Already percent-encoded, e.g. `spec.nodeName%3Dn1`.
    pub field_selector: Option<String>,
}

/// Runs until cancelled or until the sink breaks.
pub(super) async fn follow<T: Watched>(api: &Api, collection: &Collection, sink: &mut dyn Sink<T>) {
    let mut follower = Follower { api, collection, position: None, streams_lists: true };
    let mut backoff = Backoff::default();
    let mut outage = false;
    loop {
        let started = clock::now().mono;
        let end = follower.session(sink).await;
        if clock::now().mono - started >= GOOD_CONNECTION {
            backoff = Backoff::default();
            outage = false;
        }
        match end {
            End::Unwanted => return,
            End::Closed => {}
            End::Expired => follower.position = None,
            End::NoStreamedLists => {
                follower.streams_lists = false;
                follower.position = None;
                continue;
            }
            End::Failed(error) => {
                // Once an outage: the next lines would say the same.
                if !std::mem::replace(&mut outage, true) {
                    tracing::warn!(path = collection.path, %error, "watch interrupted, retrying");
                }
            }
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// Wait before each attempt after a failure: none, then exponential.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// `dice` in 0..1: 0 is no jitter, 1 doubles.
    fn next(&mut self, dice: f64) -> Duration {
        let failures = self.failures;
        self.failures += 1;
        if failures == 0 {
            return Duration::ZERO;
        }
        let base = BACKOFF_FIRST.saturating_mul(1 << (failures - 1).min(10));
        base.mul_f64(1.0 + dice).min(BACKOFF_LAST)
    }
}

/// Why a session ended.
enum End {
    /// The server closed the stream, as it does every few minutes.
    Closed,
    /// 410: what happened since our position is no longer known; list again.
    Expired,
    NoStreamedLists,
    Failed(ClusterError),
    Unwanted,
}

struct Follower<'a> {
    api: &'a Api,
    collection: &'a Collection,
    /// resourceVersion up to which the sink has seen everything; `None`: list first.
    position: Option<String>,
    streams_lists: bool,
}

#[derive(Deserialize)]
struct Page<T> {
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

impl Follower<'_> {
    async fn session<T: Watched>(&mut self, sink: &mut dyn Sink<T>) -> End {
        if self.position.is_none() && !self.streams_lists {
            match self.list().await {
                Ok((items, version)) => {
                    if sink.change(Change::Listed(items)).await.is_break() {
                        return End::Unwanted;
                    }
                    self.position = Some(version);
                }
                Err(error) => return End::Failed(error),
            }
        }
        self.watch(sink).await
    }

    async fn list<T: Watched>(&self) -> Result<(Vec<Arc<T>>, String), ClusterError> {
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let mut path = format!("{}?limit={LIST_PAGE_ITEMS}", self.collection.path);
            self.push_selector(&mut path);
            if !token.is_empty() {
                path.push_str("&continue=");
                path.push_str(&encode(&token));
            }
            let page: Page<T> = self.api.get(&path).await?;
            items.extend(page.items.unwrap_or_default().into_iter().map(slim));
            token = page.metadata.continue_.unwrap_or_default();
            if token.is_empty() {
                return Ok((items, page.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    async fn watch<T: Watched>(&mut self, sink: &mut dyn Sink<T>) -> End {
        // As client-go: 5 to 10 minutes, spread so that many watches do not reconnect at once.
        let server_seconds = 300 + (rand::random::<f64>() * 300.0) as u64;
        let mut path =
            format!("{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={server_seconds}", self.collection.path);
        self.push_selector(&mut path);
        let mut initial: Option<BTreeMap<ObjectName, Arc<T>>> = None;
        match &self.position {
            Some(version) => {
                path.push_str("&resourceVersion=");
                path.push_str(&encode(version));
            }
            None => {
                path.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
                initial = Some(BTreeMap::new());
            }
        }
        let Ok(request) = Request::get(&path).body(Vec::new()) else {
            return End::Failed(ClusterError::Rejected(format!("malformed request path {path}")));
        };
        let opened = clock::now().mono;
        // The server ends the stream by itself; a connection that is dead without a word is given up a little later.
        let dead = opened + Duration::from_secs(server_seconds + 30);
        let client = self.api.client();
        let mut events =
            match timeout_at(opened + super::write::CALL_DEADLINE, client.request_events::<T>(request)).await {
                Ok(Ok(events)) => Box::pin(events),
                Ok(Err(error)) => return self.opening_failed(from_kube(error), initial.is_some()),
                Err(_) => return End::Failed(ClusterError::Unavailable("watch did not open in time".into())),
            };
        loop {
            let deadline: Instant = if initial.is_some() { opened + INITIAL_EVENTS_DEADLINE } else { dead };
            let event = match timeout_at(deadline, events.try_next()).await {
                Ok(Ok(Some(event))) => event,
                Ok(Ok(None)) => return End::Closed,
                Ok(Err(error)) => return self.opening_failed(from_kube(error), false),
                Err(_) if initial.is_some() => return End::NoStreamedLists,
                Err(_) => return End::Failed(ClusterError::Unavailable("watch is silent beyond its time".into())),
            };
            let change = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let version = object.metadata().resource_version.clone();
                    let object = slim(object);
                    if let Some(initial) = &mut initial {
                        initial.insert(name_of(&*object), object);
                        continue;
                    }
                    self.position = version;
                    Change::Applied(object)
                }
                WatchEvent::Deleted(object) => {
                    // What changes while the list is streamed comes before its end.
                    if let Some(initial) = &mut initial {
                        initial.remove(&name_of(&object));
                        continue;
                    }
                    self.position = object.metadata().resource_version.clone();
                    Change::Deleted(slim(object))
                }
                WatchEvent::Bookmark(bookmark) => {
                    let ends = bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END);
                    if initial.is_none() {
                        self.position = Some(bookmark.metadata.resource_version);
                        continue;
                    }
                    if !ends {
                        continue;
                    }
                    self.position = Some(bookmark.metadata.resource_version);
                    Change::Listed(initial.take().unwrap_or_default().into_values().collect())
                }
                WatchEvent::Error(status) if status.code == 410 => return End::Expired,
                WatchEvent::Error(status) => {
                    return End::Failed(from_kube(kube::Error::Api(status)));
                }
            };
            if sink.change(change).await.is_break() {
                return End::Unwanted;
            }
        }
    }

    fn opening_failed(&self, error: ClusterError, streaming_list: bool) -> End {
        match error {
            // "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled", or an unknown parameter.
            ClusterError::Rejected(_) if streaming_list => End::NoStreamedLists,
            // Our position is what was refused, most likely: start over without it.
            ClusterError::Rejected(_) if self.position.is_some() => End::Expired,
            ClusterError::Expired(_) => End::Expired,
            error => End::Failed(error),
        }
    }

    fn push_selector(&self, path: &mut String) {
        if let Some(selector) = &self.collection.field_selector {
            path.push_str("&fieldSelector=");
            path.push_str(selector);
        }
    }
}

/// Nothing here reads managedFields, and they are often half of an object.
fn slim<T: Watched>(mut object: T) -> Arc<T> {
    object.metadata_mut().managed_fields = None;
    Arc::new(object)
}

/// Namespace and name.
type ObjectName = (Option<String>, Option<String>);

fn name_of<T: Watched>(object: &T) -> ObjectName {
    let meta = object.metadata();
    (meta.namespace.clone(), meta.name.clone())
}

/// Percent-encodes a query value.
pub(super) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_is_immediate_and_later_ones_grow_to_thirty_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(waits, [0, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        let mut backoff = Backoff { failures: 1 };
        assert_eq!(backoff.next(1.0).as_millis(), 1600);
    }

    #[test]
    fn query_values_are_percent_encoded() {
        assert_eq!(encode("spec.nodeName=n 1"), "spec.nodeName%3Dn%201");
    }
}
