//! The table of this node's pods: what the API wants, with the status this agent has decided last.

use crate::ids::{PodKey, PodUid};
use crate::model::observed::ObservedPod;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Reads the pods of this node without waiting for anyone; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PodsHandle {
    table: Arc<RwLock<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    by_uid: BTreeMap<PodUid, Entry>,
    by_key: BTreeMap<PodKey, PodUid>,
}

#[derive(Debug)]
struct Entry {
    /// As the API has it, but for the status, which is the newest that the worker decided.
    pod: Arc<Pod>,
    observed: Option<Arc<ObservedPod>>,
}

impl PodsHandle {
    /// All pods that the API wants on this node, each with its current local status.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.read(|table| table.by_uid.values().map(|entry| entry.pod.clone()).collect())
    }

    /// The newest pod of that name.
    pub fn get(&self, key: &PodKey) -> Option<Arc<Pod>> {
        self.read(|table| table.by_uid.get(table.by_key.get(key)?).map(|entry| entry.pod.clone()))
    }

    pub fn get_uid(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.read(|table| table.by_uid.get(uid).map(|entry| entry.pod.clone()))
    }

    /// What the runtime showed of that pod when its worker last looked.
    pub fn observed(&self, uid: &PodUid) -> Option<Arc<ObservedPod>> {
        self.read(|table| table.by_uid.get(uid)?.observed.clone())
    }

    fn read<T>(&self, f: impl FnOnce(&Table) -> T) -> T {
        // A poisoned lock still holds whole entries: writers only replace Arcs.
        f(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}
