//! A watch over etcd: events with their previous values, and progress whenever somebody waits for a revision.

use super::Shared;
use super::fault::Fault;
use super::members::Repeat;
use crate::clock;
use crate::revision::Revision;
use crate::store::{Event, KeyValue, StoreError, WatchStream, Watched};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// An event that is on its way makes a progress request needless.
const ASK_AFTER: Duration = Duration::from_millis(10);
/// etcd answers only once the watch has caught up, so the request is repeated while somebody waits (kube-apiserver:
/// every 100 ms).
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// One watch on a stream of its own.
pub(super) struct EtcdWatch {
    shared: Arc<Shared>,
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    /// The newest revision that anybody waits for.
    wanted: watch::Receiver<Revision>,
    /// The watch begins behind this one.
    after: Revision,
    /// Everything up to here was delivered.
    told: Revision,
    /// When progress is asked for, while the watch is behind what is wanted.
    ask_at: Option<Instant>,
}

impl EtcdWatch {
    /// Opens the watch; the caller has made sure that the history reaches back to `after`.
    pub(super) async fn open(shared: Arc<Shared>, prefix: &str, after: Revision) -> Result<Self, StoreError> {
        let (start, end) = shared.keys.range(prefix, None);
        // etcd begins at a revision, not behind it, and refuses exactly what is older than its last compaction: so the
        // watch begins one early and leaves that one out.
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(super::signed(after))
            .with_prev_key()
            .with_progress_notify();
        let wanted = shared.wanted.subscribe();
        let opened = shared
            .members
            .call(Repeat::Safe, OPEN_PATIENCE, |member| {
                let (start, options) = (start.clone(), options.clone());
                async move {
                    let (requests, mut responses) = member.watch().watch(start, Some(options)).await?.split();
                    let created = responses.message().await?;
                    Ok((requests, responses, created))
                }
            })
            .await
            .map_err(Fault::into_store_error)?;
        let (requests, responses, created) = opened.value;
        if let Some(refusal) = created.as_ref().and_then(refusal) {
            return Err(refusal);
        }
        if !created.is_some_and(|response| response.created()) {
            return Err(StoreError::Unavailable("etcd ended a watch as it began".into()));
        }
        Ok(Self { shared, requests, responses, wanted, after, told: after, ask_at: None })
    }

    /// What a response says; `None`: nothing for the reader.
    fn read(&mut self, response: &WatchResponse) -> Option<Result<Watched, StoreError>> {
        if let Some(refusal) = refusal(response) {
            return Some(Err(refusal));
        }
        if response.events().is_empty() {
            let revision = response.header().map(|header| super::revision(header.revision()))?;
            if response.created() || revision <= self.told {
                return None;
            }
            self.told = revision;
            return Some(Ok(Watched::Progress(revision)));
        }
        let events: Vec<Event> = response
            .events()
            .iter()
            .filter_map(|event| self.event(event))
            .filter(|event| event.revision > self.after)
            .collect();
        let last = events.last()?.revision;
        self.told = self.told.max(last);
        Some(Ok(Watched::Events(events)))
    }

    fn event(&self, event: &etcd_client::Event) -> Option<Event> {
        let kv = event.kv()?;
        let key = self.shared.keys.inward(kv.key())?;
        let put = match event.event_type() {
            EventType::Put => Some(Bytes::copy_from_slice(kv.value())),
            EventType::Delete => None,
        };
        let previous = event.prev_kv().map(|previous| KeyValue {
            key: key.clone(),
            revision: super::revision(previous.mod_revision()),
            value: Bytes::copy_from_slice(previous.value()),
        });
        Some(Event { key, revision: super::revision(kv.mod_revision()), put, previous })
    }

    /// Asks for progress when it is time; says when to come back.
    fn ask(&mut self) -> Option<Instant> {
        if *self.wanted.borrow_and_update() <= self.told {
            self.ask_at = None;
            return None;
        }
        let now = clock::now().mono;
        let due = *self.ask_at.get_or_insert(now + ASK_AFTER);
        if now < due {
            return Some(due);
        }
        // A queue that is full holds such requests already: what does not fit is not missed.
        let _ = self.requests.request_progress().now_or_never();
        self.ask_at = Some(now + ASK_AGAIN);
        self.ask_at
    }
}

#[async_trait]
impl WatchStream for EtcdWatch {
    async fn next(&mut self) -> Option<Result<Watched, StoreError>> {
        loop {
            let ask_at = self.ask();
            let due = async {
                match ask_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: a stream, a watch channel, a token and a timer lose nothing.
            let message = tokio::select! {
                biased;
                () = self.shared.closed.cancelled() => return None,
                message = self.responses.message() => message,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return None,
                },
                () = due => continue,
            };
            match message {
                Ok(Some(response)) => {
                    if let Some(read) = self.read(&response) {
                        return Some(read);
                    }
                }
                Ok(None) => return Some(Err(StoreError::Unavailable("etcd ended the watch".into()))),
                Err(error) => return Some(Err(Fault::of(&error).into_store_error())),
            }
        }
    }
}

/// Why etcd will not go on with a watch.
fn refusal(response: &WatchResponse) -> Option<StoreError> {
    if response.compact_revision() > 0 {
        return Some(StoreError::Compacted { oldest: super::revision(response.compact_revision()) });
    }
    let why = response.cancel_reason();
    response.canceled().then(|| StoreError::Unavailable(format!("etcd cancelled the watch: {why}")))
}
