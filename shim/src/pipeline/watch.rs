//! WATCH: initial objects, then changes as the watcher's selectors see them, bookmarks and the end. No encoding here.

use super::read::{parse_version, selects};
use super::{Answer, Outcome, Stage};
use crate::error::ApiError;
use crate::registry::Def;
use crate::request::options::ListOptions;
use crate::revision::Revision;
use crate::store::StoreError;
use crate::store::cache::{CacheEvent, CacheWatch, Change, Entry};
use crate::store::key::StoreKey;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often a watcher who wants bookmarks gets one when nothing else moves its version (upstream's is about a minute).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends between this and twice this (`--min-request-timeout`).
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);

/// What a watcher reads next.
#[derive(Clone, Debug)]
pub enum Frame {
    Added(Arc<Entry>),
    Modified(Arc<Entry>),
    /// The object as it last matched, to be sent with this revision.
    Deleted(Arc<Entry>, Revision),
    Bookmark {
        revision: Revision,
        initial_end: bool,
    },
    /// The watch cannot go on; 410.
    Expired(String),
}

/// One open watch.
pub struct Watch {
    pub def: Def,
    prefix: String,
    options: ListOptions,
    initial: VecDeque<Arc<Entry>>,
    /// The bookmark that ends the initial objects, when asked for.
    initial_end: Option<Revision>,
    changes: Option<CacheWatch>,
    expired: Option<String>,
    /// The newest version delivered or passed.
    seen: Revision,
    bookmarked: Revision,
    ticks: Interval,
    deadline: Instant,
    stopping: CancellationToken,
}

pub(super) async fn open(stage: &Stage<'_>, options: ListOptions) -> Result<Outcome, ApiError> {
    let def = &stage.target.def;
    let cache = stage.api.cache_of(def)?;
    let version = options.resource_version.as_deref();
    let wanted = version.map(parse_version).transpose().map_err(ApiError::Plain)?;
    let wants_initial = options.send_initial_events.unwrap_or(wanted.is_none_or(|r| r.0 == 0));
    let mut initial = VecDeque::new();
    let prefix = StoreKey::prefix(def.storage, stage.target.namespace.as_deref());
    let after = match wanted {
        Some(revision) if !wants_initial && revision.0 != 0 => revision,
        _ => {
            let snapshot = match wanted {
                None => cache.consistent().await?,
                Some(Revision(0)) => cache.latest().await?,
                Some(revision) => cache.at_least(revision).await?,
            };
            if wants_initial {
                initial.extend(snapshot.range(&prefix, None).filter(|e| selects(&options, e)).cloned());
            }
            snapshot.revision
        }
    };
    let (changes, expired) = match cache.watch(after) {
        Ok(changes) => (Some(changes), None),
        Err(StoreError::Compacted { oldest }) => (None, Some(format!("too old resource version: {after} ({oldest})"))),
        Err(other) => return Err(other.into()),
    };
    let timeout = options.timeout.unwrap_or_else(|| MIN_TIMEOUT.mul_f64(1.0 + jitter()));
    let mut ticks = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Answer::Watch(Watch {
        def: def.clone(),
        prefix,
        initial_end: (options.send_initial_events == Some(true) && options.bookmarks).then_some(after),
        options,
        initial,
        changes,
        expired,
        seen: after,
        bookmarked: after,
        ticks,
        deadline: Instant::now() + timeout,
        stopping: stage.api.stopping.clone(),
    })
    .into())
}

/// Spreads the ends of watches that began together.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().into_bytes()[0]) / 256.0
}

impl Watch {
    /// The next frame; `None` when the watch is over. Cancel-safe: nothing is taken before the last await.
    pub async fn next(&mut self) -> Option<Frame> {
        if let Some(text) = self.expired.take() {
            return Some(Frame::Expired(text));
        }
        if let Some(entry) = self.initial.pop_front() {
            return Some(Frame::Added(entry));
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(Frame::Bookmark { revision, initial_end: true });
        }
        loop {
            let changes = self.changes.as_mut()?;
            // Every arm is cancel-safe: the queue by its contract, the others are timers and a token.
            tokio::select! {
                biased;
                event = changes.next() => match event {
                    Some(CacheEvent::Change(change)) => {
                        self.seen = change.revision;
                        if let Some(frame) = self.frame(&change) {
                            return Some(frame);
                        }
                    }
                    Some(CacheEvent::Progress(revision)) => self.seen = self.seen.max(revision),
                    None => {
                        self.changes = None;
                        return Some(Frame::Expired(format!("too old resource version: {} ({})", self.seen, self.seen)));
                    }
                },
                () = self.stopping.cancelled() => self.changes = None,
                () = sleep_until(self.deadline) => self.changes = None,
                _ = self.ticks.tick() => {
                    if self.options.bookmarks && self.seen > self.bookmarked {
                        self.bookmarked = self.seen;
                        return Some(Frame::Bookmark { revision: self.seen, initial_end: false });
                    }
                }
            }
        }
    }

    /// A change as this watcher sees it: entering the selection is an addition, leaving it a deletion.
    fn frame(&self, change: &Change) -> Option<Frame> {
        let matches =
            |entry: &&Arc<Entry>| entry.key.as_str().starts_with(&self.prefix) && selects(&self.options, entry);
        match (change.old.as_ref().filter(matches), change.new.as_ref().filter(matches)) {
            (None, None) => None,
            (None, Some(new)) => Some(Frame::Added(new.clone())),
            (Some(_), Some(new)) => Some(Frame::Modified(new.clone())),
            (Some(old), None) => Some(Frame::Deleted(old.clone(), change.revision)),
        }
    }
}
