//! Service addresses in a real server: each has its IPAddress object as long as its Service lives, whatever else happens.

use crate::support::Fixture;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than anything here takes, backoffs included.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the objects are exactly those: the address, and the Service it names.
async fn settled(api: &Api<IPAddress>, wanted: &[(&str, &str)]) {
    let wanted: BTreeMap<String, String> =
        wanted.iter().map(|(address, service)| ((*address).to_owned(), (*service).to_owned())).collect();
    let until = async {
        let list = api.list(&ListParams::default()).await.unwrap();
        let mut there: BTreeMap<String, String> = list.items.iter().map(seen).collect();
        let version = list.metadata.resource_version.unwrap_or_default();
        let mut events = api.watch(&WatchParams::default(), &version).await.unwrap().boxed();
        while there != wanted {
            match events.next().await.expect("the watch lasts").unwrap() {
                WatchEvent::Added(address) | WatchEvent::Modified(address) => there.extend([seen(&address)]),
                WatchEvent::Deleted(address) => drop(there.remove(&seen(&address).0)),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => panic!("{status:?}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, until).await.unwrap_or_else(|_| panic!("never settles at {wanted:?}"));
}

fn seen(address: &IPAddress) -> (String, String) {
    (address.metadata.name.clone().unwrap_or_default(), address.spec.parent_ref.name.clone())
}

#[tokio::test]
async fn an_address_has_an_object_as_long_as_its_service_lives() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let (services, addresses) =
        (Api::<Service>::default_namespaced(client.clone()), Api::<IPAddress>::all(client.clone()));
    let own = ("10.43.0.1", "kubernetes");
    settled(&addresses, &[own]).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.77", "ports": [{"port": 80}]}});
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    settled(&addresses, &[own, ("10.43.0.77", "web")]).await;
    // What somebody takes away comes back.
    addresses.delete("10.43.0.77", &DeleteParams::default()).await.unwrap();
    settled(&addresses, &[own, ("10.43.0.77", "web")]).await;
    services.delete("web", &DeleteParams::default()).await.unwrap();
    settled(&addresses, &[own]).await;
    let range = Api::<ServiceCIDR>::all(client).get("kubernetes").await.unwrap();
    assert_eq!(range.spec.and_then(|spec| spec.cidrs), Some(vec!["10.43.0.0/16".to_owned()]));
    let conditions = range.status.and_then(|status| status.conditions).unwrap_or_default();
    assert!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    fixture.server.stop().await;
}
