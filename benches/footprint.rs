//! Memory and idle CPU of the API server (with store, scheduler and controllers) and of the agent, each a process of its
//! own on real containerd, at 0, 30 and 100 pods. Prints figures; fails on nothing (machines differ).
//!
//! `cargo bench --bench footprint [-- SECONDS]`: how long each idle state is watched (default 60).
#![allow(clippy::disallowed_methods)]

#[path = "../tests/harness/node.rs"]
mod harness;
mod measure;

use harness::{Containerd, Node};
use measure::{at_once, client, cpu_seconds, millis, resident};
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How many pods there are when the figures are taken.
const PODS: [usize; 3] = [0, 30, 100];

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(60);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The first to install it wins, and this process has only one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());

    // A whole node first: it makes the certificates, the CNI configuration and the containerd that stays when it is killed.
    let mut node = Node::prepare(Containerd::Current, &[]);
    node.boot();
    node.wait_for_line(0, "image imported");
    node.kill();
    let server = Part::start(&node, "server", &server_flags(&node));
    let agent = Part::start(&node, "agent", &agent_flags(&node));

    runtime.block_on(async {
        let client = client(&node).await;
        let mut running = 0;
        for pods in PODS {
            if pods > running {
                let took = at_once(&client, running..pods).await;
                println!("{:<44}{:>8.0} ms", format!("{} more pods → all Ready", pods - running), millis(took));
                running = pods;
            }
            let before = [&server, &agent].map(|part| cpu_seconds(part.child.id()));
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            for (part, before) in [&server, &agent].into_iter().zip(before) {
                let pid = part.child.id();
                let idle = (cpu_seconds(pid) - before) / seconds as f64 * 1000.0;
                let what = format!("{}, {pods} pods: RSS, idle CPU", part.name);
                println!("{what:<44}{:>8.1} MiB   {idle:.1} millicores", resident(pid));
            }
        }
    });
    drop((agent, server));
    // It takes its pods with it.
    node.boot();
}

/// A process of skiff; killed when the bench ends.
struct Part {
    name: &'static str,
    child: Child,
}

impl Part {
    fn start(node: &Node, name: &'static str, flags: &[(&str, String)]) -> Self {
        let log = File::create(node.path(&format!("{name}.log"))).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_skiff"))
            .arg(name)
            .args(flags.iter().map(|(flag, value)| format!("{flag}={value}")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("skiff starts");
        Self { name, child }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server_flags(node: &Node) -> Vec<(&'static str, String)> {
    vec![
        ("--data-dir", node.path("data")),
        ("--bind-address", "127.0.0.1".into()),
        ("--secure-port", node.slot.port(0).to_string()),
    ]
}

fn agent_flags(node: &Node) -> Vec<(&'static str, String)> {
    vec![
        ("--kubeconfig", node.kubeconfig()),
        ("--cert-dir", node.path("agent-pki")),
        ("--container-runtime-endpoint", format!("unix://{}", node.containerd_socket())),
        ("--node-name", node.slot.node_name()),
        ("--node-ip", node.slot.node_ip()),
        ("--port", node.slot.port(1).to_string()),
        ("--healthz-port", node.slot.port(2).to_string()),
        ("--root-dir", node.path("kubelet")),
        ("--pod-logs-dir", node.path("logs")),
        ("--cgroup-root", node.slot.cgroup()),
        ("--eviction-hard", "memory.available<100Mi".into()),
    ]
}
