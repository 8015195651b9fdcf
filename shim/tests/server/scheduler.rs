//! The scheduler in a real server: pods get nodes, or are told why not, and get one once there is room.

use crate::support::Fixture;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than anything here takes, backoffs included.
const LIMIT: Duration = Duration::from_secs(20);

struct Cluster {
    fixture: Fixture,
    client: Client,
    pods: Api<Pod>,
}

impl Cluster {
    async fn start() -> Self {
        let fixture = Fixture::with_controllers("scheduler").await;
        let client = fixture.server.client("admin", &["system:masters"]);
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        let account = json!({"metadata": {"name": "default"}});
        accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
        Self { fixture, pods: Api::default_namespaced(client.clone()), client }
    }

    async fn add_node(&self, name: &str, cpu: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let resources = json!({"cpu": cpu, "memory": "1Gi", "pods": "110", "ephemeral-storage": "1Gi"});
        let status = json!({"status": {"capacity": resources, "allocatable": resources}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        // The lifecycle of nodes belongs to another controller: without it, nothing takes this taint away.
        let ready = json!({"spec": {"taints": null}});
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    }

    async fn add_pod(&self, name: &str, spec: Value) {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        json_merge(&mut pod["spec"], spec);
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    /// The pod as soon as `wanted` holds.
    async fn pod_when(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        when(&self.pods, &format!("metadata.name={name}"), wanted).await
    }

    async fn node_of(&self, name: &str) -> String {
        let pod = self.pod_when(name, |pod| node(pod).is_some()).await;
        node(&pod).unwrap_or_default().to_owned()
    }

    async fn event(&self, reason: &str, pod: &str) -> Event {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let about = |event: &Event| {
            event.reason.as_deref() == Some(reason) && event.regarding.as_ref().unwrap().name.as_deref() == Some(pod)
        };
        when(&events, "", about).await
    }
}

fn json_merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]})
}

async fn when<K>(api: &Api<K>, fields: &str, wanted: impl Fn(&K) -> bool) -> K
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let look = async {
        let list = api.list(&ListParams::default().fields(fields)).await.unwrap();
        let version = list.metadata.resource_version.unwrap();
        if let Some(found) = list.items.into_iter().find(&wanted) {
            return found;
        }
        let mut watch = api.watch(&WatchParams::default().fields(fields), &version).await.unwrap().boxed();
        while let Some(event) = watch.next().await {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event.unwrap()
                && wanted(&object)
            {
                return object;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(LIMIT, look).await.expect("nothing of the kind happened")
}

#[tokio::test]
async fn pods_are_bound_to_the_emptier_node_with_an_event() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "2").await;
    cluster.add_node("b", "4").await;
    cluster.add_pod("p", asks("1")).await;
    assert_eq!(cluster.node_of("p").await, "b");
    let event = cluster.event("Scheduled", "p").await;
    assert_eq!(event.note.as_deref(), Some("Successfully assigned default/p to b"));
    assert_eq!(event.action.as_deref(), Some("Binding"));
    assert_eq!(event.reporting_controller.as_deref(), Some("default-scheduler"));
    assert!(event.reporting_instance.unwrap().starts_with("default-scheduler-"));
    cluster.fixture.server.stop().await;
}

#[tokio::test]
async fn a_burst_fills_the_node_exactly() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "1").await;
    for at in 0..12 {
        cluster.add_pod(&format!("p{at}"), asks("100m")).await;
    }
    let full = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
        preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    for at in 0..12 {
        cluster.pod_when(&format!("p{at}"), |pod| node(pod).is_some() || message(pod) == full).await;
    }
    let pods = cluster.pods.list(&ListParams::default()).await.unwrap();
    assert_eq!(pods.items.iter().filter(|pod| node(pod).is_some()).count(), 10);
    cluster.fixture.server.stop().await;
}

fn message(pod: &Pod) -> &str {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition =
        conditions.iter().find(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"));
    condition.and_then(|condition| condition.message.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_told_why_and_bound_once_there_is_room() {
    let cluster = Cluster::start().await;
    cluster.add_pod("waits", asks("600m")).await;
    let pod = cluster.pod_when("waits", |pod| !message(pod).is_empty()).await;
    assert_eq!(message(&pod), "no nodes available to schedule pods");
    let event = cluster.event("FailedScheduling", "waits").await;
    assert_eq!(event.note.as_deref(), Some("no nodes available to schedule pods"));
    assert_eq!((event.type_.as_deref(), event.action.as_deref()), (Some("Warning"), Some("Scheduling")));

    cluster.add_node("a", "1").await;
    assert_eq!(cluster.node_of("waits").await, "a");
    cluster.add_pod("next", asks("600m")).await;
    cluster.pod_when("next", |pod| message(pod).contains("1 Insufficient cpu")).await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods.delete("waits", &now).await.unwrap();
    assert_eq!(cluster.node_of("next").await, "a");
    cluster.fixture.server.stop().await;
}

#[tokio::test]
async fn gated_pods_and_those_of_other_schedulers_are_left_alone_until_they_are_ours() {
    let cluster = Cluster::start().await;
    cluster.add_node("a", "1").await;
    cluster.add_pod("other", json!({"schedulerName": "mine"})).await;
    cluster.add_pod("gated", json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    cluster.add_pod("after", json!({})).await;
    cluster.node_of("after").await;
    for name in ["other", "gated"] {
        assert_eq!(node(&cluster.pods.get(name).await.unwrap()), None, "{name}");
    }
    let open = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    cluster.pods.patch("gated", &PatchParams::default(), &open).await.unwrap();
    assert_eq!(cluster.node_of("gated").await, "a");
    cluster.fixture.server.stop().await;
}
