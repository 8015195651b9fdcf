//! The measured claims of one node: cold start, POST → Ready beside the raw CRI calls of the same machine in the same
//! run, memory and idle CPU. Prints figures and ratios; fails on nothing (machines differ).
//!
//! `cargo bench --bench figures [-- PODS]`: PODS (default 20) pods one after another, then as many at once.
#![allow(clippy::disallowed_methods)]

#[path = "../tests/harness/node.rs"]
mod harness;

use futures::{StreamExt, TryStreamExt};
use harness::{Containerd, Node};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use skiff::ids::PodUid;
use skiff::runtime::cri::CriRuntime;
use skiff::runtime::{ContainerInput, DnsConfig, Runtime, SandboxInput};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the idle node is watched: a tick of 10 ms is then 0.17 millicores.
const IDLE: Duration = Duration::from_secs(60);

fn main() {
    let pods = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(20);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The first to install it wins, and this process has only one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());

    let mut node = Node::prepare(Containerd::Current, &[]);
    let begun = Instant::now();
    node.boot();
    let cold = begun.elapsed();
    node.terminate();
    let begun = Instant::now();
    node.boot();
    println!("{:<44}{:>8.0} ms", "skiff standalone → node Ready, cold", millis(cold));
    println!("{:<44}{:>8.0} ms", "skiff standalone → node Ready, second start", millis(begun.elapsed()));
    node.wait_for_line(0, "image imported");
    println!("{:<44}{:>8.1} MiB", "skiff RSS, no pods", resident(node.pid()));

    runtime.block_on(async {
        let raw = raw_cri(&node, pods).await;
        let client = client(&node).await;
        let serial = one_by_one(&client, pods).await;
        println!("{:<44}{:>8.0} ms p50", "raw CRI: sandbox + create + start", median(&raw));
        println!("{:<44}{:>8.0} ms p50", "POST → Ready, one at a time", median(&serial));
        println!("{:<44}{:>8.2}", "ratio to raw CRI", median(&serial) / median(&raw));
        let all = at_once(&client, pods).await;
        println!("{:<44}{:>8.0} ms", format!("{pods} pods POSTed at once → all Ready"), millis(all));
        println!("{:<44}{:>8.2}", "ratio to as many raw CRI starts in a row", millis(all) / raw.iter().sum::<f64>());
        println!("{:<44}{:>8.1} MiB", format!("skiff RSS, {pods} pods"), resident(node.pid()));
        let before = cpu_seconds(node.pid());
        tokio::time::sleep(IDLE).await;
        let idle = (cpu_seconds(node.pid()) - before) / IDLE.as_secs_f64() * 1000.0;
        println!("{:<44}{:>8.1} millicores", format!("skiff idle CPU, {pods} pods"), idle);
    });
}

async fn client(node: &Node) -> kube::Client {
    let config = kube::config::Kubeconfig::read_from(node.kubeconfig()).expect("the kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.expect("the kubeconfig");
    kube::Client::try_from(config).expect("a client")
}

fn manifest(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": harness::image::BUSYBOX, "command": ["sleep", "3600"]}],
        },
    }))
    .expect("a pod")
}

/// The floor: what containerd, runc and CNI need for the same pod.
async fn raw_cri(node: &Node, pods: usize) -> Vec<f64> {
    let runtime = CriRuntime::connect(Path::new(&node.containerd_socket())).await.expect("containerd");
    let image = runtime.image(harness::image::BUSYBOX).await.expect("an answer").expect("the image");
    let mut times = Vec::new();
    for n in 0..pods {
        let mut pod = manifest(&format!("raw-{n}"));
        pod.metadata.namespace = Some("raw".into());
        pod.metadata.uid = Some(format!("00000000-0000-0000-0000-{n:012}"));
        let pod = Arc::new(pod);
        let uid = PodUid::new(pod.metadata.uid.as_deref().expect("set above"));
        let logs = PathBuf::from(node.path(&format!("raw-logs/{uid}")));
        std::fs::create_dir_all(logs.join("c")).expect("a folder");
        let sandbox = SandboxInput {
            pod: pod.clone(),
            attempt: 0,
            log_directory: logs,
            hostname: format!("raw-{n}"),
            dns: DnsConfig::default(),
            cgroup_parent: String::new(),
            runtime_handler: String::new(),
        };
        let container = ContainerInput {
            pod,
            name: "c".into(),
            attempt: 0,
            restart_count: 0,
            image_ref: image.id.clone(),
            env: Vec::new(),
            command: vec!["sleep".into(), "3600".into()],
            args: Vec::new(),
            mounts: Vec::new(),
            sandbox: sandbox.clone(),
            node_memory: 1 << 33,
        };
        let begun = Instant::now();
        let id = runtime.run_sandbox(&sandbox).await.expect("RunPodSandbox");
        let created = runtime.create_container(&id, &container).await.expect("CreateContainer");
        runtime.start_container(&created).await.expect("StartContainer");
        times.push(millis(begun.elapsed()));
        runtime.stop_sandbox(&id).await.expect("StopPodSandbox");
        runtime.remove_sandbox(&id).await.expect("RemovePodSandbox");
    }
    times
}

/// Names of pods with the moment at which a watcher saw them Ready, until all are.
async fn ready_times(client: &kube::Client, version: &str, count: usize) -> BTreeMap<String, Instant> {
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

async fn one_by_one(client: &kube::Client, pods: usize) -> Vec<f64> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let mut times = Vec::new();
    for n in 0..pods {
        let name = format!("serial-{n}");
        let version = version(&api).await;
        let watch = ready_times(client, &version, 1);
        let post = async {
            let begun = Instant::now();
            api.create(&PostParams::default(), &manifest(&name)).await.expect("201");
            begun
        };
        let (ready, begun) = tokio::join!(watch, post);
        times.push(millis(ready[&name] - begun));
        remove(&api, &[name]).await;
    }
    times
}

/// Leaves its pods running, for the figures that follow.
async fn at_once(client: &kube::Client, pods: usize) -> Duration {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let version = version(&api).await;
    let begun = Instant::now();
    let post = futures::future::join_all((0..pods).map(|n| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), &manifest(&format!("burst-{n}"))).await.expect("201") }
    }));
    let (ready, _) = tokio::join!(ready_times(client, &version, pods), post);
    ready.values().max().copied().expect("pods") - begun
}

async fn version(api: &Api<Pod>) -> String {
    api.list(&Default::default()).await.expect("a list").metadata.resource_version.expect("a resourceVersion")
}

/// Deletes pods and waits until a watcher sees them gone.
async fn remove(api: &Api<Pod>, names: &[String]) {
    let version = version(api).await;
    let mut events = api.watch(&WatchParams::default().timeout(290), &version).await.expect("a watch").boxed();
    for name in names {
        drop(api.delete(name, &DeleteParams::default().grace_period(0)).await.expect("200"));
    }
    let mut left = names.len();
    while left > 0 {
        if let WatchEvent::Deleted(_) = events.try_next().await.expect("an event").expect("more events") {
            left -= 1;
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Resident memory in MiB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib / 1024.0
}

/// Time on a processor so far, user and system, of threads that have ended too; in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}
