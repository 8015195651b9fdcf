//! One look at an object as the server has it, and what follows from it: `attemptToDeleteItem` and `orphanDependents`.

use super::graph::{FOREGROUND, Node, ORPHAN, Uid};
use super::{AnyObject, Place, api};
use crate::control::call::{CallError, FIELD_MANAGER, call};
use crate::control::discover::Found;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Resources by group and kind.
pub(super) type Kinds = BTreeMap<(Arc<str>, Arc<str>), Arc<Found>>;

/// What is to be looked at, with what the graph knows of it.
pub(super) struct Attempt {
    place: Place,
    goal: Goal,
}

enum Goal {
    /// `kinds`: of its owners, those that are known.
    Check {
        kinds: Kinds,
        blocking: Vec<Uid>,
        has_dependents: bool,
    },
    Orphan {
        dependents: Vec<Place>,
    },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// These are worth a look too.
    Look(Vec<Uid>),
}

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// The owner is there.
    Solid,
    /// It is there and waits for its dependents to go.
    Waiting,
    /// It is gone, or another object has its name.
    Gone,
}

/// What is done to a dependent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// These references lead to owners that are gone or going; others keep the object.
    Disown(Vec<usize>),
    /// `Background`, `Foreground` or `Orphan`.
    Delete(&'static str),
}

impl Attempt {
    pub(super) fn check(node: &Node, kinds: Kinds, blocking: Vec<Uid>, has_dependents: bool) -> Self {
        Self { place: node.place.clone(), goal: Goal::Check { kinds, blocking, has_dependents } }
    }

    pub(super) fn orphan(node: &Node, dependents: Vec<Place>) -> Self {
        Self { place: node.place.clone(), goal: Goal::Orphan { dependents } }
    }

    pub(super) async fn run(self, client: &Client) -> Result<Outcome, CallError> {
        let Some(meta) = read(client, &self.place).await? else { return Ok(Outcome::Done) };
        match self.goal {
            Goal::Check { blocking, .. } if meta.deletion_timestamp.is_some() => {
                if !has_finalizer(&meta, FOREGROUND) {
                    Ok(Outcome::Done)
                } else if blocking.is_empty() {
                    drop_finalizer(client, &self.place, &meta, FOREGROUND).await
                } else {
                    Ok(Outcome::Look(blocking))
                }
            }
            Goal::Check { kinds, has_dependents, .. } => {
                dependent(client, &self.place, &meta, &kinds, has_dependents).await
            }
            Goal::Orphan { .. } if !has_finalizer(&meta, ORPHAN) => Ok(Outcome::Done),
            Goal::Orphan { dependents } => {
                for dependent in &dependents {
                    set_free(client, dependent, &self.place.uid).await?;
                }
                drop_finalizer(client, &self.place, &meta, ORPHAN).await
            }
        }
    }
}

/// Looks at the owners of an object that is not being deleted.
async fn dependent(
    client: &Client,
    place: &Place,
    meta: &ObjectMeta,
    kinds: &Kinds,
    has_dependents: bool,
) -> Result<Outcome, CallError> {
    let references = meta.owner_references.as_deref().unwrap_or_default();
    let mut states = Vec::with_capacity(references.len());
    for reference in references {
        states.push(owner(client, place, reference, kinds).await?);
    }
    match verdict(&states, has_dependents, meta) {
        Verdict::Keep => {}
        Verdict::Disown(lost) => {
            let kept = references.iter().enumerate().filter(|(index, _)| !lost.contains(index));
            set_owners(client, place, meta, &kept.map(|(_, reference)| reference).collect::<Vec<_>>()).await?;
        }
        Verdict::Delete(policy) => delete(client, place, policy).await?,
    }
    Ok(Outcome::Done)
}

/// What the states of its owners mean for a dependent.
pub(super) fn verdict(states: &[OwnerState], has_dependents: bool, meta: &ObjectMeta) -> Verdict {
    let lost = |state: &OwnerState| *state != OwnerState::Solid;
    if !states.iter().any(lost) {
        return Verdict::Keep;
    }
    if !states.iter().all(lost) {
        return Verdict::Disown((0..states.len()).filter(|index| lost(&states[*index])).collect());
    }
    if states.contains(&OwnerState::Waiting) && has_dependents {
        return Verdict::Delete("Foreground");
    }
    Verdict::Delete(if has_finalizer(meta, ORPHAN) {
        "Orphan"
    } else if has_finalizer(meta, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    })
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|held| held == finalizer)
}

/// The object's metadata while it is the one that was meant.
async fn read(client: &Client, place: &Place) -> Result<Option<ObjectMeta>, CallError> {
    match call(place.api(client).get(&place.key.name)).await {
        Ok(object) => Ok(Some(object.metadata).filter(|meta| meta.uid.as_deref() == Some(&*place.uid))),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn owner(
    client: &Client,
    dependent: &Place,
    reference: &OwnerReference,
    kinds: &Kinds,
) -> Result<OwnerState, CallError> {
    let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(found) = kinds.get(&(group.into(), reference.kind.as_str().into())) else {
        let what = format!("{} {}", reference.api_version, reference.kind);
        return Err(CallError::Unavailable(format!("owner {:?} is of an unknown kind, {what}", reference.name)));
    };
    // An object of the cluster cannot be owned by one of a namespace: such a reference is left alone.
    if found.namespaced && dependent.key.namespace.is_empty() {
        return Ok(OwnerState::Solid);
    }
    match call(api(client, found, &dependent.key.namespace).get(&reference.name)).await {
        Ok(owner) => Ok(state_of(&owner, &reference.uid)),
        Err(CallError::NotFound(_)) => Ok(OwnerState::Gone),
        Err(error) => Err(error),
    }
}

fn state_of(owner: &AnyObject, uid: &str) -> OwnerState {
    let meta = &owner.metadata;
    if meta.uid.as_deref() != Some(uid) {
        OwnerState::Gone
    } else if meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND) {
        OwnerState::Waiting
    } else {
        OwnerState::Solid
    }
}

/// Merges metadata into the object if it is still as it was read.
async fn patch(client: &Client, place: &Place, meta: &ObjectMeta, mut change: Value) -> Result<(), CallError> {
    change["uid"] = meta.uid.clone().into();
    change["resourceVersion"] = meta.resource_version.clone().into();
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let body = Patch::Merge(json!({"metadata": change}));
    match call(place.api(client).patch(&place.key.name, &params, &body)).await {
        Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn set_owners(
    client: &Client,
    place: &Place,
    meta: &ObjectMeta,
    owners: &[&OwnerReference],
) -> Result<(), CallError> {
    let owners = serde_json::to_value(owners).map_err(|error| CallError::Rejected(error.to_string()))?;
    patch(client, place, meta, json!({"ownerReferences": owners})).await
}

async fn set_free(client: &Client, dependent: &Place, owner: &Uid) -> Result<(), CallError> {
    let Some(meta) = read(client, dependent).await? else { return Ok(()) };
    let references = meta.owner_references.as_deref().unwrap_or_default();
    let kept: Vec<&OwnerReference> = references.iter().filter(|reference| reference.uid != **owner).collect();
    if kept.len() == references.len() {
        return Ok(());
    }
    set_owners(client, dependent, &meta, &kept).await
}

async fn drop_finalizer(
    client: &Client,
    place: &Place,
    meta: &ObjectMeta,
    finalizer: &str,
) -> Result<Outcome, CallError> {
    let kept: Vec<&String> = meta.finalizers.iter().flatten().filter(|held| *held != finalizer).collect();
    patch(client, place, meta, json!({"finalizers": kept})).await?;
    Ok(Outcome::Done)
}

async fn delete(client: &Client, place: &Place, policy: &str) -> Result<(), CallError> {
    let preconditions = Preconditions { uid: Some(place.uid.to_string()), resource_version: None };
    let policy = match policy {
        "Orphan" => PropagationPolicy::Orphan,
        "Foreground" => PropagationPolicy::Foreground,
        _ => PropagationPolicy::Background,
    };
    let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    match call(place.api(client).delete(&place.key.name, &params.preconditions(preconditions))).await {
        Ok(_) | Err(CallError::NotFound(_) | CallError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
