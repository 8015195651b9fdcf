//! GET and LIST: which snapshot answers, what is selected of it, and where the next page begins.

use super::{Answer, ObjectAnswer, Outcome, Stage, stored};
use crate::error::ApiError;
use crate::registry::Def;
use crate::request::Target;
use crate::request::options::{ListOptions, VersionMatch};
use crate::revision::Revision;
use crate::store::StoreError;
use crate::store::cache::{Entry, ResourceCache, Snapshot};
use crate::store::key::StoreKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
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
    let (snapshot, after) = match &options.continue_token {
        Some(token) => {
            if options.resource_version.as_deref().is_some_and(|v| v != "0") {
                return Err(ApiError::BadRequest(
                    "specifying resource version is not allowed when using continue".into(),
                ));
            }
            let page = Continue::decode(token)?;
            (old_snapshot(&cache, page.revision, true).await?, Some(StoreKey::from_stored(&page.after)))
        }
        None => (snapshot(&cache, options).await?, None),
    };
    let prefix = StoreKey::prefix(def.storage, stage.target.namespace.as_deref());
    let mut entries = Vec::new();
    let mut next = None;
    let mut remaining = None;
    let mut matching = snapshot.range(&prefix, after.as_ref()).filter(|e| selects(options, e));
    for entry in matching.by_ref() {
        if options.limit > 0 && entries.len() == options.limit {
            let last: &Arc<Entry> = &entries[entries.len() - 1];
            next = Some(Continue { revision: snapshot.revision, after: last.key.as_str().to_owned() }.encode());
            remaining = options.selects_everything().then(|| matching.count() + 1);
            break;
        }
        entries.push(entry.clone());
    }
    let revision = snapshot.revision;
    Ok(Answer::Collection(Collection { def: def.clone(), revision, entries, next, remaining }).into())
}

/// The entries of a snapshot that a request is about.
pub(super) fn select(target: &Target, options: &ListOptions, snapshot: &Snapshot) -> Vec<Arc<Entry>> {
    let prefix = StoreKey::prefix(target.def.storage, target.namespace.as_deref());
    snapshot.range(&prefix, None).filter(|entry| selects(options, entry)).cloned().collect()
}

pub(super) fn selects(options: &ListOptions, entry: &Entry) -> bool {
    options.labels.matches(&entry.labels) && options.fields.matches(&entry.fields)
}

/// The snapshot that `resourceVersion` and `resourceVersionMatch` ask for.
async fn snapshot(cache: &ResourceCache, options: &ListOptions) -> Result<Snapshot, ApiError> {
    let Some(text) = options.resource_version.as_deref() else { return Ok(cache.consistent().await?) };
    if text == "0" {
        return Ok(cache.latest().await?);
    }
    let revision = parse_version(text).map_err(|e| ApiError::BadRequest(format!("invalid resource version: {e}")))?;
    match options.version_match {
        Some(VersionMatch::NotOlderThan) => Ok(cache.at_least(revision).await?),
        Some(VersionMatch::Exact) => old_snapshot(cache, revision, false).await,
        // Without a match, a page is of that very version, and a whole list not older than it.
        None if options.limit > 0 => old_snapshot(cache, revision, false).await,
        None => Ok(cache.at_least(revision).await?),
    }
}

async fn old_snapshot(cache: &ResourceCache, revision: Revision, paging: bool) -> Result<Snapshot, ApiError> {
    let latest = cache.latest().await?;
    if latest.revision == revision {
        return Ok(latest);
    }
    cache.exact(revision).await.map_err(|error| match error {
        StoreError::Compacted { .. } if paging => ApiError::Expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
             the continue parameter."
                .into(),
        ),
        StoreError::Compacted { .. } => {
            ApiError::Expired(format!("The resourceVersion for the provided list is too old: {revision} ({}).", latest.revision))
        }
        other => other.into(),
    })
}

/// A resource version as a revision; the error is apimachinery's field error.
pub(super) fn parse_version(text: &str) -> Result<Revision, String> {
    text.parse().map(Revision).map_err(|_| {
        format!("resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax")
    })
}

/// Where a page ended; opaque to clients.
#[derive(Serialize, Deserialize)]
struct Continue {
    #[serde(rename = "rv", with = "number")]
    revision: Revision,
    #[serde(rename = "start")]
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        // A struct of a number and a string always serialises.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
    fn decode(token: &str) -> Result<Self, ApiError> {
        let refuse = |why: String| ApiError::BadRequest(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| refuse(e.to_string()))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::BadRequest(format!("invalid continue token: continue key is not valid: {e}")))
    }
}

mod number {
    //! A revision as a plain number.
    use crate::revision::Revision;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(revision: &Revision, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(revision.0)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Revision, D::Error> {
        u64::deserialize(from).map(Revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_is_opaque_and_round_trips() {
        let token = Continue { revision: Revision(9), after: "/registry/pods/a/b".into() }.encode();
        let page = Continue::decode(&token).unwrap();
        assert_eq!((page.revision, page.after.as_str()), (Revision(9), "/registry/pods/a/b"));
        assert!(Continue::decode("garbage").is_err());
    }
}
