//! The measured claims of one node: cold start, POST → Ready beside the raw CRI calls of the same machine in the same
//! run, bursts, memory and idle CPU. Prints figures and ratios; fails on nothing (machines differ).
//!
//! `cargo bench --bench figures [-- PODS]`: PODS (default 20) pods one after another, then as many at once.
#![allow(clippy::disallowed_methods)]

#[path = "../tests/harness/node.rs"]
mod harness;
mod measure;

use futures::{StreamExt, TryStreamExt};
use harness::{Containerd, Node};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use measure::{at_once, client, cpu_seconds, manifest, millis, ready_times, resident, version};
use skiff::ids::{PodUid, SandboxId};
use skiff::model::observed::ObservedPod;
use skiff::runtime::cri::CriRuntime;
use skiff::runtime::{ContainerInput, DnsConfig, Mount, Propagation, Runtime, SandboxInput};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Scrapes whose CPU time is measured together: its clock ticks every 10 ms.
const SCRAPES: u32 = 20;
/// Scrapes that come so late that each looks at the cgroups anew, and how late.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_secs(15);
/// Bursts of raw starts and of pods, in turn.
const ROUNDS: u32 = 2;
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
        let raw = RawCri::connect(&node).await;
        let client = client(&node).await;
        let (bare, ours) = in_turn(&raw, &client, pods).await;
        println!("{:<44}{:>8.0} ms p50", "raw CRI: sandbox + create + start", median(&bare));
        println!("{:<44}{:>8.0} ms p50", "POST → Ready, one at a time", median(&ours));
        println!("{:<44}{:>8.2}", "ratio to raw CRI", median(&ours) / median(&bare));
        let at = raw_alone(&mut node, async { raw.best_concurrency(pods).await }).await;
        let (mut bare, mut ours) = (Duration::ZERO, Duration::ZERO);
        for round in 0..ROUNDS {
            bare += raw_alone(&mut node, async { raw.burst(pods, at).await }).await;
            // The API server is another since.
            let client = measure::client(&node).await;
            ours += at_once(&client, 0..pods).await;
            if round + 1 < ROUNDS {
                clear(&raw, &client).await;
            }
        }
        let (bare, ours) = (bare / ROUNDS, ours / ROUNDS);
        println!("{:<44}{:>8.0} ms", format!("{pods} raw CRI starts, {at} at a time (the best)"), millis(bare));
        println!("{:<44}{:>8.0} ms", format!("{pods} pods POSTed at once → all Ready"), millis(ours));
        println!("{:<44}{:>8.2}", "ratio to raw CRI at its best", millis(ours) / millis(bare));
        println!("{:<44}{:>8.1} MiB", format!("skiff RSS, {pods} pods"), resident(node.pid()));
        let before = cpu_seconds(node.pid());
        tokio::time::sleep(IDLE).await;
        let idle = (cpu_seconds(node.pid()) - before) / IDLE.as_secs_f64() * 1000.0;
        println!("{:<44}{:>8.1} millicores", format!("skiff idle CPU, {pods} pods"), idle);
        let before = cpu_seconds(node.pid());
        let bytes = scrape(&node, "/metrics/cadvisor", SCRAPES);
        let each = (cpu_seconds(node.pid()) - before) * 1000.0 / f64::from(SCRAPES);
        println!("{:<44}{:>8.1} ms CPU", format!("/metrics/cadvisor, {pods} pods, {bytes} bytes"), each);
        let mut used = 0.0;
        for _ in 0..LOOKS {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let before = cpu_seconds(node.pid());
            scrape(&node, "/metrics/cadvisor", 1);
            used += cpu_seconds(node.pid()) - before;
        }
        let each = used * 1000.0 / f64::from(LOOKS);
        println!("{:<44}{:>8.1} ms CPU", format!("the same each {BETWEEN_LOOKS:?}"), each);
        println!("{:<44}{:>8.1} MiB", "skiff RSS after the scrapes", resident(node.pid()));
    });
}

/// Scrapes of the agent's own port, by one curl over one connection as Prometheus keeps one; the bytes of each.
fn scrape(node: &Node, path: &str, times: u32) -> usize {
    // Writes the client's certificate to files.
    node.curl("GET", "/version", None);
    let url = format!("https://127.0.0.1:{}{path}", node.slot.port(1));
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--fail",
        "--insecure",
        "--cert",
        &node.path("curl.crt"),
        "--key",
        &node.path("curl.key"),
    ]);
    command.args((0..times).map(|_| url.as_str()));
    let output = command.output().expect("curl");
    assert!(output.status.success(), "{url}: {output:?}");
    output.stdout.len() / times as usize
}

/// The floor: what containerd, runc and CNI need for the same pod.
struct RawCri {
    runtime: CriRuntime,
    image: String,
    logs: PathBuf,
    cgroup: String,
}

impl RawCri {
    async fn connect(node: &Node) -> Self {
        let runtime = CriRuntime::connect(Path::new(&node.containerd_socket())).await.expect("containerd");
        let image = runtime.image(harness::image::BUSYBOX).await.expect("an answer").expect("the image").id;
        Self { runtime, image, logs: node.path("raw-logs").into(), cgroup: node.slot.cgroup() }
    }

    /// Of a file that every pod of ours gets too, made here once.
    fn mount(&self, file: &str, container_path: &str) -> Mount {
        let host_path = self.logs.join(file);
        if !host_path.exists() {
            std::fs::write(&host_path, "").expect("a file");
        }
        Mount {
            host_path,
            container_path: container_path.into(),
            read_only: false,
            propagation: Propagation::Private,
            recursive_read_only: false,
            image: None,
            image_sub_path: String::new(),
            selinux_relabel: false,
        }
    }

    async fn start(&self, n: usize) -> SandboxId {
        let mut pod = manifest(&format!("raw-{n}"));
        pod.metadata.namespace = Some("raw".into());
        pod.metadata.uid = Some(format!("00000000-0000-0000-0000-{n:012}"));
        let pod = Arc::new(pod);
        let logs = self.logs.join(n.to_string());
        std::fs::create_dir_all(logs.join("c")).expect("a folder");
        let sandbox = SandboxInput {
            pod: pod.clone(),
            attempt: 0,
            log_directory: logs,
            hostname: format!("raw-{n}"),
            dns: DnsConfig::default(),
            cgroup_parent: self.parent(n),
            runtime_handler: String::new(),
            user_namespace: None,
        };
        let container = ContainerInput {
            pod,
            name: "c".into(),
            attempt: 0,
            restart_count: 0,
            image_ref: self.image.clone(),
            env: Vec::new(),
            command: vec!["sleep".into(), "3600".into()],
            args: Vec::new(),
            mounts: [("hosts", "/etc/hosts"), ("message", "/dev/termination-log")]
                .map(|(file, path)| self.mount(file, path))
                .into(),
            sandbox: sandbox.clone(),
            node_memory: 1 << 33,
            pins: Default::default(),
            target: None,
        };
        let id = self.runtime.run_sandbox(&sandbox).await.expect("RunPodSandbox");
        let created = self.runtime.create_container(&id, &container).await.expect("CreateContainer");
        self.runtime.start_container(&created).await.expect("StartContainer");
        id
    }

    /// Removes the `n`th and the cgroups that the runtime made above it: the next start makes them again, as a pod's.
    async fn remove(&self, n: usize, id: SandboxId) {
        self.runtime.stop_sandbox(&id).await.expect("StopPodSandbox");
        self.runtime.remove_sandbox(&id).await.expect("RemovePodSandbox");
        for controller in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
            let cgroup = controller.path().join(&self.parent(n)[1..]);
            if cgroup.exists() {
                std::fs::remove_dir(&cgroup).expect("an empty cgroup");
            }
        }
    }

    /// Of the cgroups of the `n`th.
    fn parent(&self, n: usize) -> String {
        format!("{}/raw/{n}", self.cgroup)
    }

    /// Waits until the runtime has nothing of a pod any more: the last removals come after the API's.
    async fn gone(&self, pod: &PodUid) {
        while self.runtime.observe(pod).await.expect("an answer") != ObservedPod::default() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// As many starts as the node is given, `at_a_time` together; removed when all run.
    async fn burst(&self, pods: usize, at_a_time: usize) -> Duration {
        let begun = Instant::now();
        let starts = (0..pods).map(|n| async move { (n, self.start(n).await) });
        let made: Vec<_> = futures::stream::iter(starts).buffer_unordered(at_a_time).collect().await;
        let took = begun.elapsed();
        futures::stream::iter(made).for_each_concurrent(4, |(n, id)| self.remove(n, id)).await;
        took
    }

    /// The concurrency that suits this machine best.
    async fn best_concurrency(&self, pods: usize) -> usize {
        let mut best = (Duration::MAX, 0);
        for at_a_time in [2, 4, 8, 16] {
            let took = self.burst(pods, at_a_time).await;
            println!("{:<44}{:>8.0} ms", format!("{pods} raw CRI starts, {at_a_time} at a time"), millis(took));
            best = best.min((took, at_a_time));
        }
        best.1
    }
}

/// Without the agent, which would stop what the API server does not know; its containerd stays.
async fn raw_alone<T>(node: &mut Node, calls: impl Future<Output = T>) -> T {
    node.kill();
    let result = calls.await;
    node.boot_and_settle();
    result
}

/// Deletes all pods and waits until the runtime has nothing of them.
async fn clear(raw: &RawCri, client: &kube::Client) {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let pods = api.list(&Default::default()).await.expect("a list").items;
    let names: Vec<String> = pods.into_iter().filter_map(|pod| pod.metadata.name).collect();
    for pod in futures::future::join_all(names.iter().map(|name| remove(&api, name))).await {
        raw.gone(&pod).await;
    }
}

/// Milliseconds of raw starts and of pods, one after the other: what disturbs the machine disturbs both. Each is over,
/// down to its network, before the next begins.
async fn in_turn(raw: &RawCri, client: &kube::Client, pods: usize) -> (Vec<f64>, Vec<f64>) {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for n in 0..pods {
        let begun = Instant::now();
        let id = raw.start(n).await;
        bare.push(millis(begun.elapsed()));
        raw.remove(n, id).await;

        let name = format!("serial-{n}");
        let version = version(&api).await;
        let watch = ready_times(client, &version, 1);
        let post = async {
            let begun = Instant::now();
            api.create(&PostParams::default(), &manifest(&name)).await.expect("201");
            begun
        };
        let (ready, begun) = tokio::join!(watch, post);
        ours.push(millis(ready[&name] - begun));
        let pod = remove(&api, &name).await;
        raw.gone(&pod).await;
    }
    (bare, ours)
}

/// Deletes a pod with its grace and waits until a watcher sees it gone.
async fn remove(api: &Api<Pod>, name: &str) -> PodUid {
    let version = version(api).await;
    let mut events = api.watch(&WatchParams::default().timeout(290), &version).await.expect("a watch").boxed();
    drop(api.delete(name, &DeleteParams::default()).await.expect("200"));
    loop {
        if let WatchEvent::Deleted(pod) = events.try_next().await.expect("an event").expect("more events")
            && pod.metadata.name.as_deref() == Some(name)
        {
            return PodUid::new(pod.metadata.uid.as_deref().expect("a uid"));
        }
    }
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
