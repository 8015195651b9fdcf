//! The garbage collector in a real server: what is owned goes after its owner, before it, or is set free.

use crate::support::Fixture;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than anything here takes, backoffs included.
const LIMIT: Duration = Duration::from_secs(20);

struct Cluster {
    fixture: Fixture,
    maps: Api<ConfigMap>,
}

impl Cluster {
    async fn start() -> Self {
        let fixture = Fixture::with_controllers("garbage-collector-controller").await;
        let client: Client = fixture.server.client("admin", &["system:masters"]);
        Self { fixture, maps: Api::default_namespaced(client) }
    }

    /// Creates a map that those own, and gives back its uid.
    async fn add(&self, name: &str, owners: &[(&str, &str)]) -> String {
        let owner = |(name, uid): &(&str, &str)| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true});
        let references: Vec<Value> = owners.iter().map(owner).collect();
        let map = json!({"metadata": {"name": name, "ownerReferences": references}});
        let made = self.maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        made.metadata.uid.unwrap()
    }

    /// Waits until these maps, and no others, are there; gives back how many owners each has.
    async fn settled(&self, wanted: &[(&str, usize)]) {
        let wanted: BTreeMap<String, usize> =
            wanted.iter().map(|(name, owners)| ((*name).to_owned(), *owners)).collect();
        let until = async {
            let list = self.maps.list(&ListParams::default()).await.unwrap();
            let mut there: BTreeMap<String, usize> = list.items.iter().map(seen).collect();
            let version = list.metadata.resource_version.unwrap_or_default();
            let mut events = self.maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
            while there != wanted {
                match events.next().await.expect("the watch lasts").unwrap() {
                    WatchEvent::Added(map) | WatchEvent::Modified(map) => there.extend([seen(&map)]),
                    WatchEvent::Deleted(map) => drop(there.remove(&seen(&map).0)),
                    WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(status) => panic!("{status:?}"),
                }
            }
        };
        tokio::time::timeout(LIMIT, until).await.unwrap_or_else(|_| panic!("never settles at {wanted:?}"));
    }

    async fn delete(&self, name: &str, params: DeleteParams) {
        self.maps.delete(name, &params).await.unwrap();
    }
}

fn seen(map: &ConfigMap) -> (String, usize) {
    let meta = &map.metadata;
    (meta.name.clone().unwrap_or_default(), meta.owner_references.as_ref().map_or(0, Vec::len))
}

#[tokio::test]
async fn what_is_owned_goes_with_its_last_owner() {
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.add("a", &[]).await, cluster.add("b", &[]).await);
    let child = cluster.add("child", &[("a", &a), ("b", &b)]).await;
    cluster.add("grandchild", &[("child", &child)]).await;
    cluster.delete("a", DeleteParams::background()).await;
    cluster.settled(&[("b", 0), ("child", 1), ("grandchild", 1)]).await;
    cluster.delete("b", DeleteParams::background()).await;
    cluster.settled(&[]).await;
    // An owner that never was is as good as gone.
    cluster.add("stray", &[("a", &a)]).await;
    cluster.settled(&[]).await;
    cluster.fixture.server.stop().await;
}

#[tokio::test]
async fn a_foreground_deletion_takes_what_is_owned_first_and_an_orphaning_one_sets_it_free() {
    let cluster = Cluster::start().await;
    let top = cluster.add("top", &[]).await;
    let middle = cluster.add("middle", &[("top", &top)]).await;
    cluster.add("bottom", &[("middle", &middle)]).await;
    cluster.delete("top", DeleteParams::foreground()).await;
    cluster.settled(&[]).await;

    let owner = cluster.add("owner", &[]).await;
    cluster.add("left", &[("owner", &owner)]).await;
    cluster.settled(&[("left", 1), ("owner", 0)]).await;
    cluster.delete("owner", DeleteParams::orphan()).await;
    cluster.settled(&[("left", 0)]).await;
    cluster.fixture.server.stop().await;
}
