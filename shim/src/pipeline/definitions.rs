//! CustomResourceDefinitions at work: their names are accepted, their resources served, and those that are being deleted
//! are emptied. In kube-apiserver these are controllers inside the server; here one task that follows the definitions.

mod empty;

use super::api::{Api, labels};
use super::create::rfc3339;
use super::stored::Stored;
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::apiextensions::customresourcedefinition::{self as definition, FINALIZER, names};
use crate::registry::{ResourceDef, Served, custom};
use crate::schema::PublishedKind;
use crate::store::Expect;
use crate::store::cache::{CacheSpec, CacheWatch, Entry, Scope, Snapshot};
use crate::store::key::StoreKey;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Pause after the store or a cache failed.
const RETRY: Duration = Duration::from_secs(1);

/// What is kept of a definition: enough to serve it and to judge the names of others.
struct Known {
    group: String,
    /// `{"status": {"acceptedNames": …}}`, the part of it that others must respect.
    accepted: Object,
    /// Some of its names are in use by others.
    conflicts: bool,
    resources: Vec<Arc<ResourceDef>>,
}

impl Known {
    fn storage(&self) -> Option<&'static str> {
        self.resources.first().map(|def| def.storage)
    }
}

/// Follows the definitions of one server.
pub struct Definitions {
    api: Arc<Api>,
    known: BTreeMap<String, Known>,
    /// Definitions whose objects are being deleted, one future each: as many as clients delete at a time.
    emptying: FuturesUnordered<BoxFuture<'static, String>>,
    under_way: BTreeSet<String>,
}

impl Definitions {
    /// Serves every definition there is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(api: Arc<Api>) -> Result<(Self, Following), ApiError> {
        let mut all =
            Self { api, known: BTreeMap::new(), emptying: FuturesUnordered::new(), under_way: BTreeSet::new() };
        let following = all.relist().await?;
        Ok((all, following))
    }

    /// Follows the definitions for ever.
    pub async fn run(mut self, mut following: Following) {
        loop {
            if let Err(error) = self.follow(&mut following).await {
                tracing::warn!(%error, "custom resource definitions could not be followed; trying again");
                tokio::time::sleep(RETRY).await;
            }
            match self.relist().await {
                Ok(next) => following = next,
                Err(error) => {
                    tracing::warn!(%error, "custom resource definitions could not be listed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn relist(&mut self) -> Result<Following, ApiError> {
        let cache = self.api.cache_of(&definition::DEF)?;
        let snapshot: Snapshot = cache.consistent().await?;
        let prefix = StoreKey::prefix(definition::DEF.storage, None);
        let watch = cache.watch(snapshot.revision, Scope::Prefix(prefix.clone()))?;
        let entries: Vec<Arc<Entry>> = snapshot.range(&prefix, None).cloned().collect();
        let names: BTreeSet<&str> = entries.iter().map(|entry| entry.key.name()).collect();
        let gone: Vec<String> = self.known.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in gone {
            self.removed(&name).await?;
        }
        for entry in &entries {
            self.applied(entry).await?;
        }
        Ok(Following(watch))
    }

    /// Handles changes until the watch ends.
    async fn follow(&mut self, following: &mut Following) -> Result<(), ApiError> {
        loop {
            // Both arms are cancel-safe: the queue by its contract, and the set keeps its futures.
            tokio::select! {
                change = following.0.next() => {
                    let Some(delivery) = change else { return Ok(()) };
                    match (&delivery.change.new, &delivery.change.old) {
                        (Some(entry), _) => self.applied(entry).await?,
                        (None, Some(old)) => self.removed(old.key.name()).await?,
                        (None, None) => {}
                    }
                }
                Some(name) = self.emptying.next() => {
                    self.under_way.remove(&name);
                }
            }
        }
    }

    /// A definition as it is now.
    async fn applied(&mut self, entry: &Entry) -> Result<(), ApiError> {
        let object = super::stored::value(&entry.bytes)?;
        let name = object.name().to_owned();
        let group = object["spec"]["group"].as_str().unwrap_or("").to_owned();
        let others = self.known.iter().filter(|(other, known)| **other != name && known.group == group);
        let settled = names::settle(&object, others.map(|(_, known)| &known.accepted), &rfc3339());
        let resources = if names::is_served(&object) { custom::resources(&object) } else { Vec::new() };
        let known = Known {
            group,
            accepted: json!({"status": {"acceptedNames": object["status"]["acceptedNames"]}}),
            conflicts: names::condition(&object, "NamesAccepted").is_some_and(|c| c["status"] == "False"),
            resources: resources.into_iter().map(Arc::new).collect(),
        };
        self.serve(&name, known).await?;
        if let Some(new) = settled {
            self.write(&object, new, entry).await?;
        } else if object.deletion_timestamp().is_some()
            && object.finalizers().contains(&FINALIZER)
            && self.under_way.insert(name.clone())
        {
            let resources = self.known.get(&name).map(|known| known.resources.clone()).unwrap_or_default();
            self.emptying.push(Box::pin(empty::empty(self.api.clone(), name, resources)));
        }
        Ok(())
    }

    /// Writes the status; whoever was faster has caused a change that comes here too.
    async fn write(&mut self, old: &Object, new: Object, entry: &Entry) -> Result<(), ApiError> {
        tracing::debug!(definition = old.name(), "names of a custom resource definition settled");
        self.api.write(&definition::DEF, new, Expect::At(entry.revision), false).await.map(drop)
    }

    /// Puts the definition's resources in place of those it had.
    async fn serve(&mut self, name: &str, known: Known) -> Result<(), ApiError> {
        let before = self.known.get(name);
        let selectable = |known: &Known| known.resources.iter().map(|def| def.selectable).collect::<Vec<_>>();
        let same_cache = before.is_some_and(|b| b.storage() == known.storage() && selectable(b) == selectable(&known));
        let (storage, old_storage) = (known.storage(), before.and_then(Known::storage));
        if let (Some(storage), false) = (storage, same_cache)
            && let Some(def) = known.resources.first().cloned()
        {
            let index = Arc::new(move |object: &Value| (labels(object), def.fields_of(object)));
            self.api.caches.add(CacheSpec { prefix: storage.into(), index, indexed: None }).await?;
        }
        self.known.insert(name.to_owned(), known);
        self.publish();
        if let Some(old) = old_storage.filter(|_| storage.is_none()) {
            self.api.caches.remove(old);
        }
        Ok(())
    }

    async fn removed(&mut self, name: &str) -> Result<(), ApiError> {
        let Some(known) = self.known.remove(name) else { return Ok(()) };
        self.publish();
        if let Some(storage) = known.storage() {
            self.api.caches.remove(storage);
        }
        // Its names are free: who wanted them has them now.
        let waiting: Vec<String> = self
            .known
            .iter()
            .filter(|(_, other)| other.group == known.group && other.conflicts)
            .map(|(name, _)| name.clone())
            .collect();
        let snapshot = self.api.cache_of(&definition::DEF)?.latest().await?;
        for name in waiting {
            let key = StoreKey::object(definition::DEF.storage, None, &name);
            if let Some(entry) = snapshot.get(&key).cloned() {
                self.applied(&entry).await?;
            }
        }
        Ok(())
    }

    fn publish(&self) {
        let resources = self.known.values().flat_map(|known| known.resources.iter().cloned());
        self.api.catalog.replace(Served::with(resources.collect()));
    }
}

/// The open watch of the definitions.
pub struct Following(CacheWatch);

/// Marks a definition that is to be deleted: it stays until its objects are gone (apiextensions' registry does it on DELETE).
pub(super) fn mark_deleted(object: &mut Object) {
    let mut finalizers: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
        object.meta_mut().insert("finalizers".into(), finalizers.into());
    }
    let pending = names::Condition {
        name: "Terminating",
        holds: true,
        reason: "InstanceDeletionPending",
        message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    };
    names::set_condition(object, pending, &rfc3339());
}

/// The custom kinds that an OpenAPI document shows (`apis/<group>/<version>`; empty: those of all).
///
/// # Errors
/// When the definitions cannot be read.
pub async fn published(api: &Api, document: &str) -> Result<Vec<PublishedKind>, ApiError> {
    let group = document.split('/').nth(1).unwrap_or("");
    let snapshot: Snapshot = api.cache_of(&definition::DEF)?.latest().await?;
    let prefix = StoreKey::prefix(definition::DEF.storage, None);
    let mut kinds = Vec::new();
    // A definition is named `<plural>.<group>`: others need not be parsed.
    let names_group = |entry: &&Arc<Entry>| {
        document.is_empty() || entry.key.name().split_once('.').is_some_and(|(_, own)| own == group)
    };
    for entry in snapshot.range(&prefix, None).filter(names_group) {
        let object = super::stored::value(&entry.bytes)?;
        if names::is_served(&object) {
            kinds.extend(custom::published(&object));
        }
    }
    kinds.retain(|kind| document.is_empty() || format!("apis/{}", kind.gv) == document);
    Ok(kinds)
}

/// The definition as stored now.
async fn read(api: &Api, name: &str) -> Result<Option<Stored>, ApiError> {
    api.read(&definition::DEF, "", name).await
}
