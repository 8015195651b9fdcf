//! A collection kept current by list and watch: what changed, one delta at a time, and the store that results.

use super::call::{CallError, call};
use crate::clock;
use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, WatchParams};
use kube::core::WatchEvent;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Page size of a LIST, as client-go's pager.
const LIST_PAGE_ITEMS: u32 = 500;
/// A connection that lived this long was a good one: the next failure starts the backoff anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);
/// Shortest and longest wait between attempts (client-go's reflector: 800 ms, 30 s, doubling, jitter 1.0).
const BACKOFF_FIRST: Duration = Duration::from_millis(800);
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// How much longer than asked for a silent watch is waited for before its connection counts as dead.
const SILENCE_GRACE: Duration = Duration::from_secs(30);

/// Namespace (empty for cluster-scoped objects) and name; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A change of the store. After a relist only what differs is told.
#[derive(Debug)]
pub(super) enum Delta<T> {
    Applied {
        key: ObjectKey,
        old: Option<Arc<T>>,
        new: Arc<T>,
    },
    Deleted {
        key: ObjectKey,
        old: Arc<T>,
    },
    /// The store now holds everything there is (comes after each complete list).
    Synced,
}

impl<T> Delta<T> {
    /// The object that changed.
    pub(super) fn key(&self) -> Option<&ObjectKey> {
        match self {
            Self::Applied { key, .. } | Self::Deleted { key, .. } => Some(key),
            Self::Synced => None,
        }
    }
}

/// What can be followed.
pub(super) trait Kind: kube::Resource + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static {}
impl<K: kube::Resource + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static> Kind for K {}

/// Follows one collection. `T` is what is kept of each object: the object itself, or the little that a controller reads.
pub(super) struct Informer<T> {
    changes: BoxStream<'static, Change<T>>,
    store: Store<T>,
    /// Deltas of the last change that nobody has taken yet: at most as many as one list has objects.
    ready: VecDeque<Delta<T>>,
    synced: bool,
}

/// What an informer has seen: the objects by key.
pub(super) struct Store<T>(BTreeMap<ObjectKey, Held<T>>);

impl<T> Store<T> {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.0.get(key).map(|held| &held.object)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<T>)> {
        self.0.iter().map(|(key, held)| (key, &held.object))
    }
}

/// An object as it is stored.
struct Held<T> {
    version: Arc<str>,
    object: Arc<T>,
}

/// What the follower saw.
enum Change<T> {
    Listed(BTreeMap<ObjectKey, Held<T>>),
    Applied(ObjectKey, Held<T>),
    Deleted(ObjectKey),
}

impl<T: Send + Sync + 'static> Informer<T> {
    /// Follows all of `api` that `selector` selects (its field and label selectors count, nothing else).
    /// `keep` sees objects without managedFields, which nothing here reads and which are often half of an object.
    pub(super) fn new<K: Kind>(api: Api<K>, selector: ListParams, keep: fn(K) -> T) -> Self {
        let follower = Follower {
            api,
            selector,
            keep,
            position: None,
            watch: None,
            backoff: Backoff::default(),
            not_before: None,
            outage: false,
        };
        let changes = stream::unfold(follower, |mut follower| async {
            let change = follower.change().await;
            Some((change, follower))
        });
        Self { changes: changes.boxed(), store: Store(BTreeMap::new()), ready: VecDeque::new(), synced: false }
    }

    /// The next change; the store already shows it. Waits for ever if nothing happens. Cancel-safe: a list or a watch that
    /// is under way goes on with the next call.
    pub(super) async fn next(&mut self) -> Delta<T> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return delta;
            }
            match self.changes.next().await {
                Some(change) => self.take(change),
                // A follower never ends.
                None => std::future::pending().await,
            }
        }
    }

    /// Whether the store has been complete once; before that, "not in the store" is not "not there".
    pub(super) fn is_synced(&self) -> bool {
        self.synced && self.ready.is_empty()
    }

    pub(super) fn store(&self) -> &Store<T> {
        &self.store
    }

    fn take(&mut self, change: Change<T>) {
        match change {
            Change::Applied(key, held) => self.apply(key, held),
            Change::Deleted(key) => self.delete(key),
            Change::Listed(listed) => {
                let gone: Vec<ObjectKey> =
                    self.store.0.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
                gone.into_iter().for_each(|key| self.delete(key));
                listed.into_iter().for_each(|(key, held)| self.apply(key, held));
                self.synced = true;
                self.ready.push_back(Delta::Synced);
            }
        }
    }

    fn apply(&mut self, key: ObjectKey, held: Held<T>) {
        if self.store.0.get(&key).is_some_and(|old| old.version == held.version) {
            return;
        }
        let new = held.object.clone();
        let old = self.store.0.insert(key.clone(), held).map(|held| held.object);
        self.ready.push_back(Delta::Applied { key, old, new });
    }

    fn delete(&mut self, key: ObjectKey) {
        if let Some(held) = self.store.0.remove(&key) {
            self.ready.push_back(Delta::Deleted { key, old: held.object });
        }
    }
}

/// The side that talks to the server.
struct Follower<K, T> {
    api: Api<K>,
    selector: ListParams,
    keep: fn(K) -> T,
    /// resourceVersion up to which every change has been told; `None`: list first.
    position: Option<String>,
    watch: Option<OpenWatch<K>>,
    backoff: Backoff,
    not_before: Option<Instant>,
    outage: bool,
}

struct OpenWatch<K> {
    events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
    opened: Instant,
    /// The server ends a watch by itself; one that is still silent then is dead.
    dead: Instant,
}

/// Why a list or a watch ended.
enum End {
    /// The server closed the stream, as it does every few minutes.
    Closed,
    /// 410: what happened since our position is no longer known.
    Expired,
    Failed(CallError),
}

impl<K: Kind, T> Follower<K, T> {
    async fn change(&mut self) -> Change<T> {
        loop {
            if let Some(at) = self.not_before {
                tokio::time::sleep_until(at).await;
                self.not_before = None;
            }
            let end = match self.step().await {
                Ok(change) => {
                    self.outage = false;
                    return change;
                }
                Err(end) => end,
            };
            let opened = self.watch.take().map(|watch| watch.opened);
            let now = clock::now().mono;
            if opened.is_some_and(|opened| now - opened >= GOOD_CONNECTION) {
                self.backoff = Backoff::default();
            }
            match end {
                End::Closed => {}
                End::Expired => self.position = None,
                End::Failed(error) => {
                    // Once an outage: the next lines would say the same.
                    if !std::mem::replace(&mut self.outage, true) {
                        let resource = self.api.resource_url();
                        tracing::warn!(resource, %error, "watch interrupted, retrying");
                    }
                }
            }
            self.not_before = Some(now + self.backoff.next(rand::random()));
        }
    }

    async fn step(&mut self) -> Result<Change<T>, End> {
        let Some(position) = self.position.clone() else {
            let listed = self.list().await;
            return listed.map(Change::Listed).map_err(ended);
        };
        loop {
            let Some(watch) = &mut self.watch else {
                self.watch = Some(self.open(&position).await.map_err(ended)?);
                continue;
            };
            let event = match timeout_at(watch.dead, watch.events.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return Err(ended(error.into())),
                Ok(None) => return Err(End::Closed),
                Err(_) => return Err(End::Failed(CallError::Unavailable("watch is silent beyond its time".into()))),
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let (key, held) = self.hold(object);
                    self.position = Some(held.version.as_ref().into());
                    return Ok(Change::Applied(key, held));
                }
                WatchEvent::Deleted(object) => {
                    let (key, held) = self.hold(object);
                    self.position = Some(held.version.as_ref().into());
                    return Ok(Change::Deleted(key));
                }
                WatchEvent::Bookmark(bookmark) => self.position = Some(bookmark.metadata.resource_version),
                WatchEvent::Error(status) if status.code == 410 => return Err(End::Expired),
                WatchEvent::Error(status) => return Err(End::Failed(kube::Error::Api(status).into())),
            }
        }
    }

    async fn open(&mut self, position: &str) -> Result<OpenWatch<K>, CallError> {
        // As client-go: 5 to 10 minutes, spread so that many watches do not reconnect at once.
        let server_seconds = 300 + (rand::random::<f64>() * 300.0) as u32;
        let params = WatchParams {
            label_selector: self.selector.label_selector.clone(),
            field_selector: self.selector.field_selector.clone(),
            timeout: Some(server_seconds),
            ..WatchParams::default()
        };
        let opened = clock::now().mono;
        let events = call(self.api.watch(&params, position)).await?.boxed();
        Ok(OpenWatch { events, opened, dead: opened + Duration::from_secs(server_seconds.into()) + SILENCE_GRACE })
    }

    async fn list(&mut self) -> Result<BTreeMap<ObjectKey, Held<T>>, CallError> {
        let mut listed = BTreeMap::new();
        let mut params = ListParams { limit: Some(LIST_PAGE_ITEMS), ..self.selector.clone() };
        loop {
            let page = call(self.api.list(&params)).await?;
            listed.extend(page.items.into_iter().map(|object| self.hold(object)));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => {
                    self.position = page.metadata.resource_version;
                    return Ok(listed);
                }
            }
        }
    }

    fn hold(&self, mut object: K) -> (ObjectKey, Held<T>) {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        let key = ObjectKey::of(meta);
        let version = meta.resource_version.as_deref().unwrap_or("").into();
        (key, Held { version, object: Arc::new((self.keep)(object)) })
    }
}

fn ended(error: CallError) -> End {
    match error {
        CallError::Expired(_) => End::Expired,
        error => End::Failed(error),
    }
}

/// Wait before each attempt after the end of a watch: none, then exponential.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::script::Script;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    fn object(name: &str, version: u32) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "n", "name": name, "resourceVersion": version.to_string()}})
    }

    fn list(version: u32, token: &str, items: &[Value]) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "items": items,
            "metadata": {"resourceVersion": version.to_string(), "continue": token}})
    }

    fn event(kind: &str, object: Value) -> Value {
        json!({"type": kind, "object": object})
    }

    /// Follows until the script is used up; each delta as text.
    async fn follow(script: &Script) -> Vec<String> {
        let mut informer = Informer::new(Api::<ConfigMap>::all(script.client()), ListParams::default(), |map| {
            map.metadata.resource_version.unwrap_or_default()
        });
        let mut seen = Vec::new();
        // Longer than any backoff, shorter than the deadline of a call that nothing answers.
        while let Ok(delta) = tokio::time::timeout(Duration::from_secs(29), informer.next()).await {
            seen.push(match delta {
                Delta::Applied { key, old, new } => format!("{key} {}->{new}", old.as_deref().map_or("", |old| old)),
                Delta::Deleted { key, old } => format!("{key} {old} deleted"),
                Delta::Synced => "synced".into(),
            });
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_listed_then_changes_watched_and_resumed_from_the_last_bookmark() {
        let script = Script::default()
            .on("GET /api/v1/configmaps?&limit", 200, list(4, "next", &[object("a", 1)]))
            .on("GET /api/v1/configmaps?&limit", 200, list(4, "", &[object("b", 2)]))
            .on_watch(
                "GET /api/v1/configmaps?&watch",
                &[
                    event("MODIFIED", object("a", 5)),
                    event("ADDED", object("c", 6)),
                    event("DELETED", object("b", 7)),
                    event(
                        "BOOKMARK",
                        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}),
                    ),
                ],
            )
            .on_watch("GET /api/v1/configmaps?&watch", &[event("ADDED", object("d", 10))]);
        let seen = follow(&script).await;
        assert_eq!(seen, ["n/a ->1", "n/b ->2", "synced", "n/a 1->5", "n/c ->6", "n/b 2 deleted", "n/d ->10"]);
        let from: Vec<String> = script
            .asked()
            .iter()
            .filter(|line| line.contains("watch=true"))
            .filter_map(|line| line.split("resourceVersion=").nth(1).map(str::to_owned))
            .collect();
        assert_eq!(from[..3], ["4", "9", "10"]);
        assert!(script.asked()[1].contains("continue=next"));
    }

    #[tokio::test(start_paused = true)]
    async fn after_410_the_collection_is_listed_again_and_only_differences_are_told() {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
            "message": "too old resource version"});
        for (status, lines) in [(200, format!("{}\n", event("ERROR", gone.clone()))), (410, gone.to_string())] {
            let script = Script::default()
                .on(
                    "GET /api/v1/configmaps?&limit",
                    200,
                    list(4, "", &[object("a", 1), object("b", 2), object("c", 3)]),
                )
                .on("GET /api/v1/configmaps?&watch", status, lines)
                .on("GET /api/v1/configmaps?&limit", 200, list(9, "", &[object("a", 1), object("b", 8)]));
            let seen = follow(&script).await;
            let expected = ["n/a ->1", "n/b ->2", "n/c ->3", "synced", "n/c 3 deleted", "n/b 2->8", "synced"];
            assert_eq!(seen, expected, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_list_is_retried_and_never_taken_for_an_empty_one() {
        let script = Script::default().on("GET /api/v1/configmaps?&limit", 503, "{}").on(
            "GET /api/v1/configmaps?&limit",
            200,
            list(4, "", &[object("a", 1)]),
        );
        assert_eq!(follow(&script).await, ["n/a ->1", "synced"]);
    }

    #[test]
    fn the_first_retry_is_immediate_and_later_ones_grow_to_thirty_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..8).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(waits, [0, 800, 1600, 3200, 6400, 12800, 25600, 30000]);
    }
}
