//! Controllers that keep one object of a fixed name in every active namespace.

use super::call::{CallError, FIELD_MANAGER, call};
use super::informer::{Delta, Informer, Kind, ObjectKey};
use super::queue::Queue;
use crate::clock;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// What one such controller decides.
pub(super) trait PerNamespace: Sync {
    /// The kind of the object.
    type Kind: Kind + kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize;
    /// What is kept of it.
    type Seen: Send + Sync + 'static;
    /// Its name in every namespace.
    const NAME: &'static str;
    /// What to keep of it.
    fn keep(object: Self::Kind) -> Self::Seen;
    /// What to do in an active namespace that has this object, or none.
    fn decide(&self, seen: Option<&Self::Seen>) -> Step<Self::Kind>;
}

/// What to do about one namespace.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step<K> {
    Nothing,
    Create(Box<K>),
    /// A merge patch; carries the uid as precondition.
    Patch(Value),
}

/// Whether controllers put objects into this namespace.
fn is_active(namespace: Namespace) -> bool {
    let phase = namespace.status.and_then(|status| status.phase);
    namespace.metadata.deletion_timestamp.is_none() && phase.as_deref() == Some("Active")
}

/// Keeps the object in every active namespace, for ever.
pub(super) async fn run<C: PerNamespace>(client: Client, controller: C) {
    let mut namespaces = Informer::new(Api::<Namespace>::all(client.clone()), ListParams::default(), is_active);
    let only = ListParams::default().fields(&format!("metadata.name={}", C::NAME));
    let mut objects = Informer::new(Api::<C::Kind>::all(client.clone()), only, C::keep);
    let mut queue: Queue<Arc<str>> = Queue::default();
    loop {
        // All arms are cancel-safe (see `Informer::next`, `Queue::wait`).
        tokio::select! {
            delta = namespaces.next() => match delta {
                Delta::Applied { key, .. } => queue.add(key.name, clock::now().mono),
                Delta::Deleted { key, .. } => queue.forget(&key.name),
                Delta::Synced => {}
            },
            delta = objects.next() => {
                if let Some(key) = delta.key() {
                    queue.add(key.namespace.clone(), clock::now().mono);
                }
            }
            () = queue.wait() => {}
        }
        if !namespaces.is_synced() || !objects.is_synced() {
            continue;
        }
        while let Some(name) = queue.pop(clock::now().mono) {
            if !namespaces.store().get(&ObjectKey::new("", &name)).is_some_and(|active| **active) {
                continue;
            }
            let seen = objects.store().get(&ObjectKey::new(&name, C::NAME));
            match write::<C>(&client, &name, controller.decide(seen.map(Arc::as_ref))).await {
                // A conflict means that the object is newer than what is known of it: its delta is on the way.
                Ok(()) | Err(CallError::Conflict(_) | CallError::NotFound(_) | CallError::NamespaceTerminating(_)) => {
                    queue.succeeded(&name);
                }
                Err(error) => {
                    tracing::warn!(namespace = %name, object = C::NAME, %error, "object of namespace not written, retrying");
                    queue.failed(name, clock::now().mono);
                }
            }
        }
    }
}

async fn write<C: PerNamespace>(client: &Client, namespace: &str, step: Step<C::Kind>) -> Result<(), CallError> {
    let api = Api::<C::Kind>::namespaced(client.clone(), namespace);
    match step {
        Step::Nothing => Ok(()),
        Step::Create(object) => {
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
            call(api.create(&params, &object)).await.map(drop)
        }
        Step::Patch(patch) => {
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            call(api.patch(C::NAME, &params, &Patch::Merge(patch))).await.map(drop)
        }
    }
}
