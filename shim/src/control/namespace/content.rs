//! The content of a namespace: which resources can be in it, their deletion, and what is left of them for how long.

use super::LONGEST_WAIT;
use super::conditions::Findings;
use crate::clock;
use crate::control::call::{CallError, call};
use crate::control::discover;
use futures::TryStreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Preconditions, WatchParams};
use kube::core::WatchEvent;
use std::collections::BTreeSet;
use std::time::Duration;

/// Page size of a LIST, as client-go's pager.
const LIST_PAGE_ITEMS: u32 = 500;
/// How long finalizers usually need, seconds (upstream's `finalizerEstimateSeconds`).
const FINALIZERS_SECONDS: u64 = 15;

/// A namespaced resource whose objects can be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    api: ApiResource,
    /// It has `deletecollection`.
    collectively: bool,
}

impl Resource {
    fn is_pods(&self) -> bool {
        self.api.group.is_empty() && self.api.plural == "pods"
    }

    /// As client-go prints a GroupVersionResource.
    fn gvr(&self) -> String {
        format!("{}/{}, Resource={}", self.api.group, self.api.version, self.api.plural)
    }
}

/// When another pass is worth it: after a while, or as soon as what was left of one resource is gone.
#[derive(Debug, Default)]
pub(super) struct Wait {
    at_most: Duration,
    left: Option<Left>,
}

/// Objects left of one resource, as listed at this version.
#[derive(Debug)]
struct Left {
    resource: Resource,
    version: String,
    names: BTreeSet<String>,
}

/// Deletes what is in the namespace, which began to go `since` ago. Pods go first: what they use stays while they run.
pub(super) async fn delete(client: &Client, namespace: &str, since: Duration) -> (Findings, Wait) {
    let mut findings = Findings::default();
    let mut wait = Wait::default();
    let resources = match discover(client).await {
        Ok((resources, stale)) => {
            findings.discovery = stale;
            resources
        }
        Err(error) => {
            findings.discovery = Some(error.to_string());
            return (findings, wait);
        }
    };
    let (pods, others): (Vec<Resource>, Vec<Resource>) = resources.into_iter().partition(Resource::is_pods);
    for resources in [pods, others] {
        for resource in resources {
            match delete_all(client, namespace, &resource, since).await {
                Ok(None) => {}
                Ok(Some((left, metas))) => weigh(&mut findings, &mut wait, namespace, left, &metas, since),
                Err(error) => findings.failures.push(error.to_string()),
            }
        }
        if !findings.remaining.is_empty() {
            break;
        }
    }
    (findings, wait)
}

/// Counts what is left of one resource and says how long it may take.
fn weigh(findings: &mut Findings, wait: &mut Wait, namespace: &str, left: Left, metas: &[ObjectMeta], since: Duration) {
    let api = &left.resource.api;
    findings.remaining.insert(format!("{}.{}", api.plural, api.group), metas.len());
    let mut finalized = false;
    for finalizer in metas.iter().flat_map(|meta| meta.finalizers.iter().flatten()) {
        finalized = true;
        *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    let grace = metas.iter().filter_map(|meta| meta.deletion_grace_period_seconds).max().unwrap_or(0);
    let grace = Some(u64::try_from(grace).unwrap_or(0)).filter(|grace| Duration::from_secs(*grace) > since);
    let seconds = match grace {
        Some(grace) if grace > 0 => grace,
        _ if finalized => FINALIZERS_SECONDS,
        _ => {
            let gvr = left.resource.gvr();
            findings.failures.push(format!("unexpected items still remain in namespace: {namespace} for gvr: {gvr}"));
            return;
        }
    };
    // Upstream looks again after half of the estimate and a second.
    wait.at_most = wait.at_most.max(Duration::from_secs(seconds / 2 + 1)).min(LONGEST_WAIT);
    wait.left = Some(left);
}

/// Deletes all objects of one resource that nobody has deleted yet; what is left then, and its metadata.
async fn delete_all(
    client: &Client,
    namespace: &str,
    resource: &Resource,
    since: Duration,
) -> Result<Option<(Left, Vec<ObjectMeta>)>, CallError> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource.api);
    let (mut version, mut metas) = match list(&api).await {
        // Listed by discovery but not there (any more), or only for other verbs.
        Err(CallError::NotFound(_) | CallError::NotAllowed(_)) => return Ok(None),
        answer => answer?,
    };
    let overdue = metas.iter().all(|meta| grace_is_over(meta, since));
    if metas.iter().any(|meta| meta.deletion_timestamp.is_none()) || (overdue && !metas.is_empty()) {
        if resource.collectively {
            call(api.delete_collection(&DeleteParams::background(), &ListParams::default())).await?;
        } else {
            delete_each(&api, &metas).await?;
        }
        (version, metas) = list(&api).await?;
    }
    if metas.is_empty() {
        return Ok(None);
    }
    let names = metas.iter().filter_map(|meta| meta.name.clone()).collect();
    Ok(Some((Left { resource: resource.clone(), version, names }, metas)))
}

/// Deleted, held by no finalizer, and still there although its time is over: worth another DELETE.
fn grace_is_over(meta: &ObjectMeta, since: Duration) -> bool {
    let grace = meta.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    meta.finalizers.as_ref().is_none_or(Vec::is_empty) && Duration::from_secs(grace) <= since
}

async fn delete_each(api: &Api<DynamicObject>, metas: &[ObjectMeta]) -> Result<(), CallError> {
    for meta in metas {
        let preconditions = Preconditions { uid: meta.uid.clone(), ..Preconditions::default() };
        let params = DeleteParams::background().preconditions(preconditions);
        match call(api.delete(meta.name.as_deref().unwrap_or(""), &params)).await {
            Ok(_) | Err(CallError::NotFound(_) | CallError::NotAllowed(_) | CallError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Version of the list and metadata of all objects.
async fn list(api: &Api<DynamicObject>) -> Result<(String, Vec<ObjectMeta>), CallError> {
    let mut metas = Vec::new();
    let mut params = ListParams::default().limit(LIST_PAGE_ITEMS);
    loop {
        let page = call(api.list_metadata(&params)).await?;
        metas.extend(page.items.into_iter().map(|object| ObjectMeta { managed_fields: None, ..object.metadata }));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => return Ok((page.metadata.resource_version.unwrap_or_default(), metas)),
        }
    }
}

/// Every namespaced resource with `delete`, and which parts of discovery are stale.
async fn discover(client: &Client) -> Result<(Vec<Resource>, Option<String>), CallError> {
    let (found, stale) = discover::discover(client).await?;
    let deletable = found.into_iter().filter(|found| found.namespaced && found.has("delete"));
    let resources = deletable.map(|found| Resource { collectively: found.has("deletecollection"), api: found.api });
    Ok((resources.collect(), stale))
}

impl Wait {
    /// Completes when what was left of one resource is gone, or after the estimate.
    pub(super) async fn until_worth_a_look(self, client: &Client, namespace: &str) {
        let until = clock::now().mono + self.at_most;
        let gone = async {
            if let Some(left) = self.left {
                match left.gone(client, namespace).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(namespace, %error, "watch of what is left ended early"),
                }
            }
            // Not known: the time decides.
            std::future::pending().await
        };
        // The time being over is as good a reason to look as any.
        let _ = tokio::time::timeout_at(until, gone).await;
    }
}

impl Left {
    /// Watches until nothing is left; `false`: the watch ended before.
    async fn gone(mut self, client: &Client, namespace: &str) -> Result<bool, CallError> {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &self.resource.api);
        let params = WatchParams::default().timeout(LONGEST_WAIT.as_secs() as u32);
        let mut events = Box::pin(call(api.watch_metadata(&params, &self.version)).await?);
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Deleted(object) = event {
                self.names.remove(object.metadata.name.as_deref().unwrap_or(""));
            }
            if self.names.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
