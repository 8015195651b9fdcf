//! Who owns whom, as the watches have told it, and what a change makes worth a look. Pure.

use super::Place;
use crate::control::discover::Found;
use crate::control::informer::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::ApiResource;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) type Uid = Arc<str>;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub uid: Uid,
    pub owners: Box<[Owner]>,
    /// It is being deleted, and waits for what it owns to go first.
    pub foreground: bool,
    /// It is being deleted, and waits for what it owns to be set free.
    pub orphans: bool,
}

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: Uid,
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// The owner's foreground deletion waits for this object.
    pub blocks: bool,
}

impl Item {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let deleting = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|held| held == finalizer);
        let owner = |reference: &OwnerReference| Owner {
            uid: reference.uid.as_str().into(),
            group: reference.api_version.split_once('/').map_or("", |(group, _)| group).into(),
            kind: reference.kind.as_str().into(),
            blocks: reference.block_owner_deletion.unwrap_or(false),
        };
        Self {
            uid: meta.uid.as_deref().unwrap_or("").into(),
            owners: meta.owner_references.iter().flatten().map(owner).collect(),
            foreground: deleting && has(FOREGROUND),
            orphans: deleting && has(ORPHAN),
        }
    }
}

/// Something to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Is the object still wanted, or, being deleted, still waiting?
    Check(Uid),
    /// Its dependents are to be set free.
    Orphan(Uid),
}

impl Work {
    pub(super) fn uid(&self) -> &Uid {
        let (Self::Check(uid) | Self::Orphan(uid)) = self;
        uid
    }
}

/// An object in the graph.
#[derive(Debug)]
pub(super) struct Node {
    pub place: Place,
    pub item: Arc<Item>,
}

/// All objects by uid, and the dependents of each.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: BTreeMap<Uid, Node>,
    /// Also of owners that nobody has seen (yet, or any more).
    dependents: BTreeMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    pub(super) fn node(&self, uid: &Uid) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Takes in an object as it is now.
    pub(super) fn applied(&mut self, found: &Arc<Found>, key: ObjectKey, item: Arc<Item>) -> Vec<Work> {
        let uid = item.uid.clone();
        let place = Place { found: found.clone(), key, uid: uid.clone() };
        let before = self.nodes.insert(uid.clone(), Node { place, item: item.clone() }).map(|node| node.item);
        if before.as_deref() == Some(&*item) {
            return Vec::new();
        }
        let mut works = Vec::new();
        if let Some(before) = &before {
            self.unlink(before);
            // An owner may have waited for a reference that is gone or blocks no more.
            works.extend(self.waiting_owners(before));
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        if item.orphans {
            works.push(Work::Orphan(uid.clone()));
        }
        if item.foreground {
            works.extend(self.dependents_of(&uid).cloned().map(Work::Check));
        }
        if !self.is_settled(&uid) {
            works.push(Work::Check(uid));
        }
        works
    }

    /// The object is gone.
    pub(super) fn deleted(&mut self, item: &Item) -> Vec<Work> {
        let Some(node) = self.nodes.remove(&item.uid) else { return Vec::new() };
        self.unlink(&node.item);
        let mut works: Vec<Work> = self.dependents_of(&item.uid).cloned().map(Work::Check).collect();
        works.extend(self.waiting_owners(&node.item));
        works
    }

    /// The resource is served no more, nor are its objects there.
    pub(super) fn forget(&mut self, api: &ApiResource) -> Vec<Work> {
        let of_it = |node: &&Node| node.place.found.api == *api;
        let items: Vec<Arc<Item>> = self.nodes.values().filter(of_it).map(|node| node.item.clone()).collect();
        items.iter().flat_map(|item| self.deleted(item)).collect()
    }

    fn unlink(&mut self, item: &Item) {
        for owner in &item.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(&item.uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    fn waiting_owners(&self, item: &Item) -> Vec<Work> {
        let waits = |uid: &&Uid| self.nodes.get(*uid).is_some_and(|node| node.item.foreground);
        item.owners.iter().map(|owner| &owner.uid).filter(waits).cloned().map(Work::Check).collect()
    }

    fn dependents_of(&self, uid: &Uid) -> impl Iterator<Item = &Uid> {
        self.dependents.get(uid).into_iter().flatten()
    }

    pub(super) fn has_dependents(&self, uid: &Uid) -> bool {
        self.dependents.contains_key(uid)
    }

    /// Where its dependents are.
    pub(super) fn dependents(&self, uid: &Uid) -> Vec<Place> {
        self.dependents_of(uid).filter_map(|uid| Some(self.nodes.get(uid)?.place.clone())).collect()
    }

    /// The dependents that its foreground deletion waits for.
    pub(super) fn blocking(&self, uid: &Uid) -> Vec<Uid> {
        let blocks = |dependent: &&Uid| {
            let owners = self.nodes.get(*dependent).map(|node| &node.item.owners);
            owners.is_some_and(|owners| owners.iter().any(|owner| owner.uid == *uid && owner.blocks))
        };
        self.dependents_of(uid).filter(blocks).cloned().collect()
    }

    /// Nothing to be done: its owners are there and stay, and it does not wait itself.
    pub(super) fn is_settled(&self, uid: &Uid) -> bool {
        let Some(node) = self.nodes.get(uid) else { return true };
        let stays = |owner: &Owner| self.nodes.get(&owner.uid).is_some_and(|node| !node.item.foreground);
        !node.item.foreground && node.item.owners.iter().all(stays)
    }
}
