//! GET and LIST: which snapshot answers, what is selected of it, and where the next page begins.

mod page;

use super::{Answer, ObjectAnswer, Outcome, Stage, stored};
use crate::error::ApiError;
use crate::registry::Def;
use crate::request::Target;
use crate::request::options::{ListOptions, VersionMatch};
use crate::revision::Revision;
use crate::store::StoreError;
use crate::store::cache::{At, Entry, ResourceCache, Scope, Snapshot};
use crate::store::key::StoreKey;
use page::{Continue, Page};
use std::sync::Arc;

/// One page of a collection at a revision.
pub struct Collection {
    pub def: Def,
    pub revision: Revision,
    pub entries: Vec<Arc<Entry>>,
    /// The continue token, when there is more.
    pub next: Option<String>,
    /// How many objects follow; known only without selectors.
    pub remaining: Option<usize>,
}

pub(super) async fn get(stage: &Stage<'_>, version: Option<&str>) -> Result<Outcome, ApiError> {
    let target = stage.target;
    let cache = stage.api.cache_of(&target.def)?;
    let snapshot = match version {
        None => cache.consistent().await?,
        Some("0") => cache.latest().await?,
        Some(text) => cache.at_least(parse_version(text).map_err(ApiError::Plain)?).await?,
    };
    let key = stored::key(&target.def, stage.namespace(), &target.name);
    let entry = snapshot.get(&key).ok_or_else(|| ApiError::not_found(&target.def, &target.name))?;
    Ok(Answer::Object(ObjectAnswer { def: target.def.clone(), bytes: entry.bytes.clone(), code: 200 }).into())
}

pub(super) async fn list(stage: &Stage<'_>, options: &ListOptions) -> Result<Outcome, ApiError> {
    let def = &stage.target.def;
    let cache = stage.api.cache_of(def)?;
    let (at, after) = begin(&cache, def, options).await?;
    let scope = scope(&cache, stage.target, options);
    let mut page = Page::new(options);
    let revision = match &at {
        At::Memory(snapshot) => {
            for entry in snapshot.within(&scope, after.as_ref()) {
                if !page.take(entry) {
                    break;
                }
            }
            snapshot.revision
        }
        At::Store(past) => {
            let prefix = StoreKey::prefix(def.storage, stage.target.namespace.as_deref());
            let read = past.read(&prefix, after.as_ref(), |entry| page.take(&entry)).await;
            read.map_err(|error| expired(error, def, options.continue_token.is_some(), after.as_ref()))?;
            past.revision()
        }
    };
    let (entries, more, remaining) = page.into_parts();
    let last = entries.last().filter(|_| more);
    let next = last.map(|entry| Continue::new(Some(revision), def.storage, &entry.key).encode());
    Ok(Answer::Collection(Collection { def: def.clone(), revision, entries, next, remaining }).into())
}

/// The entries of a snapshot that a request is about.
pub(super) fn select(target: &Target, options: &ListOptions, snapshot: &Snapshot) -> Vec<Arc<Entry>> {
    let prefix = StoreKey::prefix(target.def.storage, target.namespace.as_deref());
    snapshot.range(&prefix, None).filter(|e| e.matches(&options.labels, &options.fields)).cloned().collect()
}

/// What of the resource a list or watch must look at.
pub(super) fn scope(cache: &ResourceCache, target: &Target, options: &ListOptions) -> Scope {
    if target.name.is_empty() {
        cache.scope(target.def.namespaced, target.namespace.as_deref(), &options.fields)
    } else {
        // `/api/v1/watch/…/<name>`
        Scope::Key(stored::key(&target.def, target.namespace.as_deref().unwrap_or(""), &target.name))
    }
}

/// Where a list reads: the revision that continue token, `resourceVersion` and `resourceVersionMatch` ask for, and after
/// which key.
async fn begin(cache: &ResourceCache, def: &Def, options: &ListOptions) -> Result<(At, Option<StoreKey>), ApiError> {
    if let Some(token) = &options.continue_token {
        if options.resource_version.as_deref().is_some_and(|v| v != "0") {
            return Err(ApiError::BadRequest("specifying resource version is not allowed when using continue".into()));
        }
        let token = Continue::decode(token)?;
        let after = token.after(def.storage);
        let at = match token.revision() {
            Some(revision) => exact(cache, def, revision, Some(&after)).await?,
            None => At::Memory(cache.consistent().await?),
        };
        return Ok((at, Some(after)));
    }
    let Some(text) = options.resource_version.as_deref() else {
        return Ok((At::Memory(cache.consistent().await?), None));
    };
    if text == "0" {
        return Ok((At::Memory(cache.latest().await?), None));
    }
    let revision = parse_version(text).map_err(|e| ApiError::BadRequest(format!("invalid resource version: {e}")))?;
    let at = match options.version_match {
        Some(VersionMatch::NotOlderThan) => At::Memory(cache.at_least(revision).await?),
        Some(VersionMatch::Exact) => exact(cache, def, revision, None).await?,
        // Without a match, a page is of that very version, and a whole list not older than it.
        None if options.limit > 0 => exact(cache, def, revision, None).await?,
        None => At::Memory(cache.at_least(revision).await?),
    };
    Ok((at, None))
}

async fn exact(cache: &ResourceCache, def: &Def, revision: Revision, after: Option<&StoreKey>) -> Result<At, ApiError> {
    let latest = cache.latest().await?;
    if latest.revision == revision {
        return Ok(At::Memory(latest));
    }
    cache.exact(revision).await.map_err(|error| expired(error, def, after.is_some(), after))
}

/// What a list says of a revision that is no longer kept.
fn expired(error: StoreError, def: &Def, paging: bool, after: Option<&StoreKey>) -> ApiError {
    match (error, after) {
        (StoreError::Compacted { .. }, Some(after)) if paging => {
            ApiError::ExpiredPage { next: Continue::new(None, def.storage, after).encode() }
        }
        (StoreError::Compacted { .. }, _) => {
            ApiError::Expired("The resourceVersion for the provided list is too old.".into())
        }
        (other, _) => other.into(),
    }
}

/// A resource version as a revision; the error is apimachinery's field error.
pub(super) fn parse_version(text: &str) -> Result<Revision, String> {
    text.parse().map(Revision).map_err(|_| {
        format!("resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax")
    })
}
