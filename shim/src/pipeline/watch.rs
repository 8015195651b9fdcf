//! WATCH: initial objects, then changes as the watcher's selectors see them, bookmarks and the end. No encoding here.

use super::read::{parse_version, scope};
use super::{Answer, Outcome, Stage};
use crate::clock;
use crate::error::ApiError;
use crate::registry::Def;
use crate::request::options::ListOptions;
use crate::revision::Revision;
use crate::store::StoreError;
use crate::store::cache::{CacheWatch, Change, Delivery, Entry, Scope};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often a watcher who wants bookmarks gets one (upstream's `defaultBookmarkFrequency`).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch gets a last one, so that its client resumes from there (upstream's).
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// What happened to an object, as its watcher sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Added,
    Modified,
    /// Deleted, or no longer selected.
    Deleted,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// What a watcher reads next.
#[derive(Clone, Debug)]
pub enum Frame {
    /// An object that was there when the watch began.
    Initial(Arc<Entry>),
    /// A change of an object: as it is now or, when deleted, as it last was, to be sent with the change's revision.
    Change {
        kind: Kind,
        object: Arc<Entry>,
        delivery: Arc<Delivery>,
    },
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
    scope: Scope,
    options: ListOptions,
    initial: VecDeque<Arc<Entry>>,
    /// The bookmark that ends the initial objects, when asked for.
    initial_end: Option<Revision>,
    changes: Option<CacheWatch>,
    expired: Option<String>,
    /// The newest version delivered.
    seen: Revision,
    bookmark: Instant,
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
    let scope = scope(&cache, stage.target, &options);
    let after = match wanted {
        Some(revision) if !wants_initial && revision.0 != 0 => revision,
        _ => {
            let snapshot = match wanted {
                None => cache.consistent().await?,
                Some(Revision(0)) => cache.latest().await?,
                Some(revision) => cache.at_least(revision).await?,
            };
            if wants_initial {
                let selected = |e: &&Arc<Entry>| e.matches(&options.labels, &options.fields);
                initial.extend(snapshot.within(&scope, None).filter(selected).cloned());
            }
            snapshot.revision
        }
    };
    let (changes, expired) = match cache.watch(after, scope.clone()) {
        Ok(changes) => (Some(changes), None),
        Err(StoreError::Compacted { oldest }) => (None, Some(too_old(after, oldest))),
        Err(other) => return Err(other.into()),
    };
    let least = stage.api.settings.min_request_timeout;
    let timeout = options.timeout.unwrap_or_else(|| least.mul_f64(1.0 + jitter()));
    let now = clock::now().mono;
    let deadline = now + timeout;
    Ok(Answer::Watch(Watch {
        def: def.clone(),
        scope,
        initial_end: (options.send_initial_events == Some(true) && options.bookmarks).then_some(after),
        options,
        initial,
        changes,
        expired,
        seen: after,
        bookmark: next_bookmark(now, deadline),
        deadline,
        stopping: stage.api.stopping.clone(),
    })
    .into())
}

/// Spreads the ends of watches that began together.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().into_bytes()[0]) / 256.0
}

fn too_old(asked: Revision, oldest: Revision) -> String {
    format!("too old resource version: {asked} ({oldest})")
}

/// In a minute, or shortly before the end if that is earlier and still to come.
fn next_bookmark(now: Instant, deadline: Instant) -> Instant {
    let regular = now + BOOKMARK_EVERY;
    match deadline.checked_sub(BOOKMARK_BEFORE_END) {
        Some(last) if last > now => regular.min(last),
        Some(_) | None => regular,
    }
}

impl Watch {
    /// The next frame; `None` when the watch is over. Cancel-safe: nothing is taken before the last await.
    pub async fn next(&mut self) -> Option<Frame> {
        if let Some(text) = self.expired.take() {
            return Some(Frame::Expired(text));
        }
        if let Some(entry) = self.initial.pop_front() {
            return Some(Frame::Initial(entry));
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(Frame::Bookmark { revision, initial_end: true });
        }
        loop {
            let changes = self.changes.as_mut()?;
            // Every arm is cancel-safe: the queue by its contract, the others are timers and a token. The clock goes
            // first: a watch that always has something to read must end too.
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => self.changes = None,
                () = sleep_until(self.deadline) => self.changes = None,
                () = sleep_until(self.bookmark), if self.options.bookmarks => {
                    self.bookmark = next_bookmark(clock::now().mono, self.deadline);
                    // While changes wait to be read, each of them says as much.
                    if let Some(revision) = changes.progress() {
                        self.seen = self.seen.max(revision);
                        return Some(Frame::Bookmark { revision: self.seen, initial_end: false });
                    }
                }
                delivery = changes.next() => match delivery {
                    Some(delivery) => {
                        self.seen = delivery.change.revision;
                        if let Some((kind, object)) = self.selected(&delivery.change) {
                            return Some(Frame::Change { kind, object, delivery });
                        }
                    }
                    None => {
                        self.changes = None;
                        return Some(Frame::Expired(too_old(self.seen, self.seen)));
                    }
                },
            }
        }
    }

    /// A change as this watcher sees it: entering the selection is an addition, leaving it a deletion.
    fn selected(&self, change: &Change) -> Option<(Kind, Arc<Entry>)> {
        let in_scope = |entry: &Entry| match &self.scope {
            Scope::Key(key) => entry.key == *key,
            // The selectors say whether the field has its value.
            Scope::Field { prefix, .. } | Scope::Prefix(prefix) => entry.key.as_str().starts_with(prefix.as_str()),
        };
        let matches =
            |entry: &&Arc<Entry>| in_scope(entry) && entry.matches(&self.options.labels, &self.options.fields);
        match (change.old.as_ref().filter(matches), change.new.as_ref().filter(matches)) {
            (None, None) => None,
            (None, Some(new)) => Some((Kind::Added, new.clone())),
            (Some(_), Some(new)) => Some((Kind::Modified, new.clone())),
            (Some(old), None) => Some((Kind::Deleted, old.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bookmark_comes_shortly_before_the_end() {
        let now = clock::now().mono;
        for (deadline, wanted) in [(1, 60), (2, 60), (3, 1), (30, 28), (61, 59), (62, 60), (600, 60)] {
            let next = next_bookmark(now, now + Duration::from_secs(deadline));
            assert_eq!(next - now, Duration::from_secs(wanted), "{deadline}");
        }
    }
}
