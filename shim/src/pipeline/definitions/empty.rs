//! A definition that is being deleted: its objects go first, then its finalizer, and with that the definition.

use super::read;
use crate::authn::User;
use crate::error::ApiError;
use crate::meta::Meta;
use crate::pipeline::api::Api;
use crate::pipeline::create::rfc3339;
use crate::pipeline::stored::{ATTEMPTS, Written};
use crate::pipeline::{self, Call, Credential};
use crate::registry::ResourceDef;
use crate::registry::apiextensions::customresourcedefinition::{self as definition, FINALIZER, names};
use crate::request::info::RequestInfo;
use crate::request::query::Query;
use crate::store::Expect;
use crate::store::cache::{Scope, Snapshot};
use crate::store::key::StoreKey;
use bytes::Bytes;
use http::HeaderMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Objects whose finalizers hold them are waited for; a look this often repairs what a watch may miss.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

/// Empties one definition and lets it go; gives back its name.
pub(super) async fn empty(api: Arc<Api>, name: String, resources: Vec<Arc<ResourceDef>>) -> String {
    loop {
        match pass(&api, &name, &resources).await {
            Ok(()) => return name,
            Err(error) => {
                tracing::warn!(definition = name, %error, "objects of a definition could not be deleted; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn pass(api: &Arc<Api>, name: &str, resources: &[Arc<ResourceDef>]) -> Result<(), ApiError> {
    let in_progress = names::Condition {
        name: "Terminating",
        holds: true,
        reason: "InstanceDeletionInProgress",
        message: "CustomResource deletion is in progress",
    };
    say(api, name, in_progress, false).await?;
    if let Some(def) = resources.first() {
        delete_all(api, def).await?;
    }
    let completed = names::Condition {
        name: "Terminating",
        holds: false,
        reason: "InstanceDeletionCompleted",
        message: "removed all instances",
    };
    say(api, name, completed, true).await
}

/// Writes the condition; `done` takes the finalizer off, and with the last one the definition is removed.
async fn say(api: &Api, name: &str, condition: names::Condition<'_>, done: bool) -> Result<(), ApiError> {
    for _ in 0..ATTEMPTS {
        let Some(old) = read(api, name).await? else { return Ok(()) };
        let mut new = old.value.clone();
        let mut changed = names::set_condition(&mut new, condition, &rfc3339());
        if done {
            let rest: Vec<&str> = old.value.finalizers().into_iter().filter(|f| *f != FINALIZER).collect();
            if rest.is_empty() {
                match api.remove(&definition::DEF, &old, false).await? {
                    Ok(_) | Err(None) => return Ok(()),
                    Err(Some(_)) => continue,
                }
            }
            changed = true;
            new.meta_mut().insert("finalizers".into(), rest.into());
        }
        if !changed {
            return Ok(());
        }
        match api.write(&definition::DEF, new, Expect::At(old.revision), false).await? {
            Written::Done(_) => return Ok(()),
            Written::Lost(_) => {}
        }
    }
    Err(ApiError::modified(&definition::DEF, name))
}

/// Deletes every object and returns when none is left.
async fn delete_all(api: &Arc<Api>, def: &Arc<ResourceDef>) -> Result<(), ApiError> {
    let prefix = StoreKey::prefix(def.storage, None);
    loop {
        let Ok(cache) = api.cache_of(def) else { return Ok(()) };
        let snapshot: Snapshot = cache.consistent().await?;
        let mut collections = BTreeSet::new();
        let mut left = 0_usize;
        for entry in snapshot.range(&prefix, None) {
            left += 1;
            let object = pipeline::stored::value(&entry.bytes)?;
            if object.deletion_timestamp().is_none() {
                collections.insert(object.namespace().to_owned());
            }
        }
        if left == 0 {
            return Ok(());
        }
        let mut watch = cache.watch(snapshot.revision, Scope::Prefix(prefix.clone()))?;
        for namespace in collections {
            delete_collection(api, def, &namespace).await?;
        }
        // Whatever changes, or nothing for a while: look again.
        let _ = tokio::time::timeout(LOOK_AGAIN, watch.next()).await;
    }
}

async fn delete_collection(api: &Arc<Api>, def: &ResourceDef, namespace: &str) -> Result<(), ApiError> {
    let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let path = format!("/apis/{}{scope}/{}", def.gv, def.resource);
    let query = Query::default();
    let call = Call {
        info: RequestInfo::parse("DELETE", &path, &query),
        query,
        headers: HeaderMap::new(),
        credential: Credential::User(User::apiserver()),
        body: Box::pin(async { Ok(Bytes::new()) }),
        audit: None,
    };
    pipeline::run(api, call).await.map(drop)
}
