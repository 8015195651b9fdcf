//! A revision that memory no longer reaches, read from the store a page at a time.

use super::{CacheSpec, Entry, LOAD_PAGE, Snapshot};
use crate::revision::Revision;
use crate::store::key::StoreKey;
use crate::store::{Store, StoreError};
use std::sync::Arc;

/// A resource as it was at an exact revision.
pub enum At {
    Memory(Snapshot),
    Store(Past),
}

/// The same, still in the store.
pub struct Past {
    pub(super) store: Arc<dyn Store>,
    pub(super) spec: CacheSpec,
    pub(super) revision: Revision,
}

impl Past {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Hands over the objects under `prefix` after `after`, in key order, until `take` has had enough (answers false).
    ///
    /// # Errors
    /// `Compacted` once the store has forgotten the revision.
    pub async fn read(
        &self,
        prefix: &str,
        after: Option<&StoreKey>,
        mut take: impl FnMut(Arc<Entry>) -> bool,
    ) -> Result<(), StoreError> {
        let mut after = after.cloned();
        loop {
            let page = self.store.list(prefix, Some(self.revision), after.as_ref(), LOAD_PAGE).await?;
            for kv in &page.items {
                if let Some(entry) = Entry::read(kv, &self.spec.index)
                    && !take(Arc::new(entry))
                {
                    return Ok(());
                }
            }
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }
}
