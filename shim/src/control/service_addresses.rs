//! Every address of a Service has its IPAddress object, and no such object outlives its Service. Level-based: what is
//! lost or left over after a crash is repaired. kube-apiserver does this itself, so it is no controller to switch off.

use super::call::{CallError, FIELD_MANAGER, call};
use super::informer::{Delta, Informer, ObjectKey};
use super::queue::Queue;
use crate::clock;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IPAddress;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;

const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// What is read of an IPAddress.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    uid: String,
    /// Ours, and not something that an administrator made.
    managed: bool,
    /// The Service it names.
    parent: ObjectKey,
}

fn keep_address(object: IPAddress) -> Address {
    let labels = object.metadata.labels.unwrap_or_default();
    let parent = object.spec.parent_ref;
    Address {
        uid: object.metadata.uid.unwrap_or_default(),
        managed: labels.get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1),
        parent: ObjectKey::new(parent.namespace.as_deref().unwrap_or(""), &parent.name),
    }
}

/// Addresses of a Service; a headless one has none.
fn keep_service(object: Service) -> Vec<IpAddr> {
    let addresses = object.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
    addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

/// What is to be done about one address.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create(ObjectKey),
    Delete { uid: String },
}

/// `user`: the Service that has the address; `address`: its object.
fn decide(user: Option<&ObjectKey>, address: Option<&Address>) -> Step {
    match (user, address) {
        (Some(user), None) => Step::Create(user.clone()),
        (Some(user), Some(address)) if address.parent == *user => Step::Nothing,
        // Its removal is seen, and then the right one made.
        (_, Some(address)) if address.managed => Step::Delete { uid: address.uid.clone() },
        (_, Some(_)) | (None, None) => Step::Nothing,
    }
}

/// Keeps them in step, for ever.
pub(super) async fn run(client: Client) {
    let mut services = Informer::new(Api::<Service>::all(client.clone()), ListParams::default(), keep_service);
    let mut addresses = Informer::new(Api::<IPAddress>::all(client.clone()), ListParams::default(), keep_address);
    let api = Api::<IPAddress>::all(client);
    // Each address once; there are no more than Services have and objects there are.
    let mut queue: Queue<IpAddr> = Queue::default();
    let mut users: BTreeMap<IpAddr, ObjectKey> = BTreeMap::new();
    loop {
        let now = clock::now().mono;
        if services.is_synced() && addresses.is_synced() {
            while let Some(address) = queue.pop(now) {
                let held = addresses.store().get(&ObjectKey::new("", &address.to_string()));
                let step = decide(users.get(&address), held.map(|held| &**held));
                match perform(&api, address, step).await {
                    Ok(()) => queue.succeeded(&address),
                    Err(error) => {
                        tracing::warn!(%address, %error, "the object of a Service's address is not in step, retrying");
                        queue.failed(address, now);
                    }
                }
            }
        }
        // All arms are cancel-safe.
        tokio::select! {
            delta = services.next() => match delta {
                Delta::Applied { key, old, new } => {
                    for address in old.iter().flat_map(|old| old.iter()).filter(|address| !new.contains(address)) {
                        users.remove(address);
                        queue.add(*address, now);
                    }
                    for address in new.iter() {
                        users.insert(*address, key.clone());
                        queue.add(*address, now);
                    }
                }
                Delta::Deleted { key, old } => {
                    for address in old.iter() {
                        if users.get(address) == Some(&key) {
                            users.remove(address);
                        }
                        queue.add(*address, now);
                    }
                }
                Delta::Synced => {}
            },
            delta = addresses.next() => {
                if let Some(address) = delta.key().and_then(|key| key.name.parse().ok()) {
                    queue.add(address, now);
                }
            }
            () = queue.wait() => {}
        }
    }
}

async fn perform(api: &Api<IPAddress>, address: IpAddr, step: Step) -> Result<(), CallError> {
    let done = match step {
        Step::Nothing => return Ok(()),
        Step::Create(user) => {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let object = json!({
                "metadata": {"name": address.to_string(), "labels": {FAMILY: family, MANAGED_BY.0: MANAGED_BY.1}},
                "spec": {"parentRef": {"group": "", "resource": "services", "namespace": &*user.namespace, "name": &*user.name}},
            });
            let object = serde_json::from_value(object).map_err(|error| CallError::Rejected(error.to_string()))?;
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
            call(api.create(&params, &object)).await.map(drop)
        }
        Step::Delete { uid } => {
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams::default().preconditions(preconditions);
            call(api.delete(&address.to_string(), &params)).await.map(drop)
        }
    };
    match done {
        // It is there already, or another one is: its change will be told.
        Err(CallError::Conflict(_) | CallError::NotFound(_)) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_an_object_as_long_as_a_service_has_it() {
        let user = ObjectKey::new("n", "web");
        let address = |managed: bool, parent: &ObjectKey| Address { uid: "u".into(), managed, parent: parent.clone() };
        let other = ObjectKey::new("n", "old");
        let delete = || Step::Delete { uid: "u".into() };
        for (user, held, wanted) in [
            (Some(&user), None, Step::Create(user.clone())),
            (Some(&user), Some(address(true, &user)), Step::Nothing),
            (Some(&user), Some(address(true, &other)), delete()),
            (None, Some(address(true, &user)), delete()),
            (None, Some(address(false, &user)), Step::Nothing),
            (Some(&user), Some(address(false, &other)), Step::Nothing),
            (None, None, Step::Nothing),
        ] {
            assert_eq!(decide(user, held.as_ref()), wanted, "{user:?} {held:?}");
        }
    }
}
