//! garbage-collector-controller: what an object owns goes with it, before it or is set free, as its deletion asked for.
//!
//! Owners and dependents of every resource are kept as a graph, fed by one watch a resource. The graph only says what is
//! worth a look; every decision is made on the objects as the server has them then.

mod attempt;
mod graph;

use self::attempt::{Attempt, Outcome};
use self::graph::{Graph, Item, Owner, Uid, Work};
use super::call::CallError;
use super::discover::{Found, discover};
use super::informer::{Delta, Informer, ObjectKey};
use super::queue::Queue;
use crate::clock;
use futures::stream::{self, BoxStream, FuturesUnordered, SelectAll, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ApiResource, ListParams};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Attempts under way at once (upstream: `--concurrent-gc-syncs`).
const ATTEMPTS_AT_ONCE: usize = 20;
/// How often the resources are looked up anew (upstream's `garbageCollector.Sync` period).
const DISCOVERY_EVERY: Duration = Duration::from_secs(30);
/// Never owned, never owning, and many.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// Any object, of which only the metadata is read.
#[derive(Clone, Debug, Deserialize)]
struct AnyObject {
    metadata: ObjectMeta,
}

impl kube::Resource for AnyObject {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(api: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&api.kind)
    }
    fn group(api: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&api.group)
    }
    fn version(api: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&api.version)
    }
    fn api_version(api: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&api.api_version)
    }
    fn plural(api: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&api.plural)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A change of some resource's collection.
type Told = (Arc<Found>, Delta<Item>);

/// The resources that are followed.
#[derive(Default)]
struct Followed {
    /// By group and plural: how to stop following, and whether its first list is complete.
    resources: BTreeMap<(String, String), (Arc<Found>, CancellationToken, bool)>,
    /// Never more than one pending change a resource.
    streams: SelectAll<BoxStream<'static, Told>>,
}

impl Followed {
    /// Follows what is new and stops following what is gone; gives back what is gone.
    fn update(&mut self, client: &Client, found: Vec<Found>) -> Vec<Arc<Found>> {
        let key = |found: &Found| (found.api.group.clone(), found.api.plural.clone());
        let wanted: BTreeMap<_, _> = found
            .into_iter()
            .filter(|found| ["delete", "list", "watch"].iter().all(|verb| found.has(verb)))
            .filter(|found| !IGNORED.contains(&(found.api.group.as_str(), found.api.plural.as_str())))
            .map(|found| (key(&found), found))
            .collect();
        let mut gone = Vec::new();
        self.resources.retain(|key, (held, stop, _)| {
            let stays = wanted.get(key).is_some_and(|found| found.api == held.api);
            if !stays {
                stop.cancel();
                gone.push(held.clone());
            }
            stays
        });
        for (key, found) in wanted {
            if self.resources.contains_key(&key) {
                continue;
            }
            let (found, stop) = (Arc::new(found), CancellationToken::new());
            self.streams.push(follow(client, found.clone(), stop.clone()));
            self.resources.insert(key, (found, stop, false));
        }
        gone
    }

    fn synced(&mut self, found: &Found) {
        if let Some(entry) = self.resources.get_mut(&(found.api.group.clone(), found.api.plural.clone())) {
            entry.2 = true;
        }
    }

    /// Whether every first list is complete: before that, an owner may only not have been seen yet.
    fn is_synced(&self) -> bool {
        !self.resources.is_empty() && self.resources.values().all(|(_, _, synced)| *synced)
    }

    /// The resource of that group and kind.
    fn of_kind(&self, group: &str, kind: &str) -> Option<Arc<Found>> {
        let mut all = self.resources.values().map(|(found, _, _)| found);
        all.find(|found| found.api.group == group && found.api.kind == kind).cloned()
    }
}

fn follow(client: &Client, found: Arc<Found>, stop: CancellationToken) -> BoxStream<'static, Told> {
    let api = Api::<AnyObject>::all_with(client.clone(), &found.api);
    let informer = Informer::new(api, ListParams::default(), |object| Item::of(&object.metadata));
    let changes = stream::unfold(informer, |mut informer| async {
        let delta = informer.next().await;
        Some((delta, informer))
    });
    changes.map(move |delta| (found.clone(), delta)).take_until(stop.cancelled_owned()).boxed()
}

/// Collects, for ever.
pub(super) async fn run(client: Client) {
    let mut followed = Followed::default();
    let mut graph = Graph::default();
    // At most two entries an object.
    let mut queue: Queue<Work> = Queue::default();
    let mut under_way = FuturesUnordered::new();
    let mut look = tokio::time::interval(DISCOVERY_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let now = clock::now().mono;
        while under_way.len() < ATTEMPTS_AT_ONCE
            && followed.is_synced()
            && let Some(work) = queue.pop(now)
        {
            match prepare(&graph, &followed, &work) {
                Some(attempt) => {
                    let client = client.clone();
                    under_way.push(async move { (work, attempt.run(&client).await) });
                }
                None => queue.forget(&work),
            }
        }
        let ready = under_way.len() < ATTEMPTS_AT_ONCE && followed.is_synced();
        // All arms are cancel-safe: sets keep their futures, the interval its time.
        tokio::select! {
            _ = look.tick() => match discover(&client).await {
                Ok((found, None)) => {
                    for gone in followed.update(&client, found) {
                        enqueue(&mut queue, graph.forget(&gone.api));
                    }
                }
                // A part of discovery that cannot be seen now is not gone.
                Ok((_, Some(stale))) => tracing::debug!(stale, "resources not looked up"),
                Err(error) => tracing::warn!(%error, "resources not looked up, retrying"),
            },
            Some((found, delta)) = followed.streams.next() => match delta {
                Delta::Applied { key, new, .. } => enqueue(&mut queue, graph.applied(&found, key, new)),
                Delta::Deleted { old, .. } => enqueue(&mut queue, graph.deleted(&old)),
                Delta::Synced => followed.synced(&found),
            },
            Some((work, outcome)) = under_way.next() => settle(&mut queue, work, outcome),
            () = queue.wait(), if ready => {}
        }
    }
}

fn enqueue(queue: &mut Queue<Work>, works: Vec<Work>) {
    let now = clock::now().mono;
    works.into_iter().for_each(|work| queue.add(work, now));
}

/// What an attempt came to.
fn settle(queue: &mut Queue<Work>, work: Work, outcome: Result<Outcome, CallError>) {
    let now = clock::now().mono;
    match outcome {
        Ok(Outcome::Done) => queue.succeeded(&work),
        Ok(Outcome::Look(more)) => {
            queue.succeeded(&work);
            more.into_iter().for_each(|uid| queue.add(Work::Check(uid), now));
        }
        // Somebody else wrote the object in between: look again.
        Err(CallError::Conflict(_) | CallError::NotFound(_)) => queue.failed(work, now),
        Err(error) => {
            tracing::warn!(%error, "garbage not collected, retrying");
            queue.failed(work, now);
        }
    }
}

/// The attempt with all that it needs of the graph; `None` when there is nothing to look at.
fn prepare(graph: &Graph, followed: &Followed, work: &Work) -> Option<Attempt> {
    let node = graph.node(work.uid())?;
    match work {
        Work::Check(uid) if graph.is_settled(uid) => None,
        Work::Check(uid) => {
            let known = |owner: &Owner| {
                let found = followed.of_kind(&owner.group, &owner.kind)?;
                Some(((owner.group.clone(), owner.kind.clone()), found))
            };
            let kinds = node.item.owners.iter().filter_map(known).collect();
            Some(Attempt::check(node, kinds, graph.blocking(uid), graph.has_dependents(uid)))
        }
        Work::Orphan(uid) => Some(Attempt::orphan(node, graph.dependents(uid))),
    }
}

/// Where an object is.
#[derive(Clone, Debug)]
struct Place {
    found: Arc<Found>,
    key: ObjectKey,
    uid: Uid,
}

impl Place {
    fn api(&self, client: &Client) -> Api<AnyObject> {
        api(client, &self.found, &self.key.namespace)
    }
}

fn api(client: &Client, found: &Found, namespace: &str) -> Api<AnyObject> {
    if found.namespaced {
        Api::namespaced_with(client.clone(), namespace, &found.api)
    } else {
        Api::all_with(client.clone(), &found.api)
    }
}

#[cfg(test)]
mod tests;
