//! Reading and writing one stored object.

use super::{Api, form};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::ResourceDef;
use crate::revision::Revision;
use crate::store::key::StoreKey;
use crate::store::{Class, Expect, KeyValue, StoreError, Write};
use bytes::Bytes;
use std::time::Duration;

/// How long events are kept (`--event-ttl`'s default).
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// How often a write is tried against a moving object (apiserver's `MaxRetryWhenPatchConflicts`).
pub(super) const ATTEMPTS: usize = 5;

/// An object as the store has it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub revision: Revision,
    /// With `resourceVersion`.
    pub bytes: Bytes,
    pub value: Object,
}

/// What became of a conditional write.
pub(super) enum Written {
    Done(Stored),
    /// Another writer was first: the object as it is now, if it is.
    Lost(Option<Stored>),
}

pub(super) fn value(bytes: &[u8]) -> Result<Object, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| ApiError::Internal(format!("a stored object is not JSON: {e}")))
}

/// Inserts `resourceVersion` as the first field of `metadata` of canonical bytes.
pub fn splice_version(encoded: &[u8], revision: Revision) -> Bytes {
    const METADATA: &[u8] = b"\"metadata\":{";
    let Some(at) = encoded.windows(METADATA.len()).position(|w| w == METADATA).map(|p| p + METADATA.len()) else {
        return Bytes::copy_from_slice(encoded);
    };
    let comma = if encoded.get(at) == Some(&b'}') { "" } else { "," };
    let field = format!("\"resourceVersion\":\"{revision}\"{comma}");
    let mut out = Vec::with_capacity(encoded.len() + field.len());
    out.extend_from_slice(&encoded[..at]);
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(&encoded[at..]);
    out.into()
}

pub(super) fn key(def: &ResourceDef, namespace: &str, name: &str) -> StoreKey {
    StoreKey::object(def.storage, def.namespaced.then_some(namespace), name)
}

impl Api {
    /// The object as of now (every write acknowledged before is seen).
    pub(super) async fn read(
        &self,
        def: &ResourceDef,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Stored>, ApiError> {
        let snapshot = self.cache_of(def)?.consistent().await?;
        let Some(entry) = snapshot.get(&key(def, namespace, name)) else { return Ok(None) };
        Ok(Some(Stored { revision: entry.revision, bytes: entry.bytes.clone(), value: value(&entry.bytes)? }))
    }

    /// Another resource's object, by its core/v1 resource name.
    pub(super) async fn read_core(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Stored>, ApiError> {
        match crate::registry::find("", "v1", resource) {
            Some(def) => self.read(def, namespace, name).await,
            None => Ok(None),
        }
    }

    /// Writes the storage form `object` if `expect` holds. A dry run writes nothing and answers as if it had.
    pub(super) async fn write(
        &self,
        def: &ResourceDef,
        mut object: Object,
        expect: Expect,
        dry_run: bool,
    ) -> Result<Written, ApiError> {
        object.meta_mut().remove("resourceVersion");
        object.meta_mut().remove("selfLink");
        let encoded = form::storage_schema(def)?.encode(&object);
        if dry_run {
            let bytes = match expect {
                Expect::At(revision) => splice_version(&encoded, revision),
                Expect::Absent | Expect::Any => encoded.into(),
            };
            return Ok(Written::Done(Stored { revision: Revision::default(), value: value(&bytes)?, bytes }));
        }
        let key = key(def, object.namespace(), object.name());
        let (class, ttl) = durability(def, object.namespace());
        let bytes = Bytes::from(encoded);
        let write = Write { key, expect, put: Some(bytes.clone()), ttl, class };
        match self.store.commit(write).await {
            Ok(revision) => {
                object.meta_mut().insert("resourceVersion".into(), revision.to_string().into());
                Ok(Written::Done(Stored { revision, bytes: splice_version(&bytes, revision), value: object }))
            }
            Err(StoreError::Lost(current)) => Ok(Written::Lost(current.map(from_store).transpose()?)),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the object if it is still at `revision`; `None` when it was, else what is there now.
    pub(super) async fn remove(
        &self,
        def: &ResourceDef,
        object: &Stored,
        dry_run: bool,
    ) -> Result<Result<Revision, Option<Stored>>, ApiError> {
        if dry_run {
            return Ok(Ok(object.revision));
        }
        let (namespace, name) = (object.value.namespace(), object.value.name());
        let (class, _) = durability(def, namespace);
        let write =
            Write { key: key(def, namespace, name), expect: Expect::At(object.revision), put: None, ttl: None, class };
        match self.store.commit(write).await {
            Ok(revision) => Ok(Ok(revision)),
            Err(StoreError::Lost(current)) => Ok(Err(current.map(from_store).transpose()?)),
            Err(error) => Err(error.into()),
        }
    }
}

fn from_store(entry: KeyValue) -> Result<Stored, ApiError> {
    let bytes = splice_version(&entry.value, entry.revision);
    Ok(Stored { revision: entry.revision, value: value(&bytes)?, bytes })
}

/// Events, and the leases that agents renew every few seconds, may be fsynced a little later (DESIGN decision 5).
fn durability(def: &ResourceDef, namespace: &str) -> (Class, Option<Duration>) {
    match def.storage {
        "events" => (Class::Lazy, Some(EVENT_TTL)),
        "leases" if namespace == "kube-node-lease" => (Class::Lazy, None),
        _ => (Class::Ordinary, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_spliced_in_once_as_the_first_field_of_metadata() {
        for (encoded, wanted) in [
            (
                r#"{"kind":"A","metadata":{"name":"a"}}"#,
                r#"{"kind":"A","metadata":{"resourceVersion":"7","name":"a"}}"#,
            ),
            (r#"{"kind":"A","metadata":{}}"#, r#"{"kind":"A","metadata":{"resourceVersion":"7"}}"#),
        ] {
            assert_eq!(splice_version(encoded.as_bytes(), Revision(7)), wanted.as_bytes());
        }
    }
}
