//! What the benches of a node share: its client, the pods they start, when those are Ready, and a process's figures.
// Each bench that includes this uses a part of it.
#![allow(dead_code, clippy::disallowed_methods)]

use super::harness::{self, Node};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub async fn client(node: &Node) -> kube::Client {
    let config = kube::config::Kubeconfig::read_from(node.kubeconfig()).expect("the kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.expect("the kubeconfig");
    kube::Client::try_from(config).expect("a client")
}

pub fn manifest(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": harness::image::BUSYBOX, "command": ["sleep", "3600"]}],
        },
    }))
    .expect("a pod")
}

/// Names of pods with the moment at which a watcher saw them Ready, until all are.
pub async fn ready_times(client: &kube::Client, version: &str, count: usize) -> BTreeMap<String, Instant> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let mut events = api.watch(&WatchParams::default().timeout(290), version).await.expect("a watch").boxed();
    let mut ready = BTreeMap::new();
    while ready.len() < count {
        match events.try_next().await.expect("an event").expect("more events") {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
                if conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True") {
                    ready.entry(pod.metadata.name.expect("a name")).or_insert_with(Instant::now);
                }
            }
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(error) => panic!("{error:?}"),
        }
    }
    ready
}

/// Leaves its pods running, for the figures that follow.
pub async fn at_once(client: &kube::Client, pods: std::ops::Range<usize>) -> Duration {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let version = version(&api).await;
    let begun = Instant::now();
    let post = futures::future::join_all(pods.clone().map(|n| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), &manifest(&format!("burst-{n}"))).await.expect("201") }
    }));
    let (ready, _) = tokio::join!(ready_times(client, &version, pods.len()), post);
    ready.values().max().copied().expect("pods") - begun
}

pub async fn version(api: &Api<Pod>) -> String {
    api.list(&Default::default()).await.expect("a list").metadata.resource_version.expect("a resourceVersion")
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Resident memory in MiB.
pub fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib / 1024.0
}

/// Time on a processor so far, user and system, of threads that have ended too; in ticks of 10 ms.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}
