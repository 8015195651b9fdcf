//! Memory and idle CPU of the API server (with store, scheduler and controllers) and of the agent, each a process of its
//! own on real containerd, at 0, 30 and 100 pods. Prints figures; fails on nothing (machines differ).
//!
//! `cargo bench --bench footprint [-- SECONDS]`: how long each idle state is watched (default 60).
#![allow(clippy::disallowed_methods)]

#[path = "../tests/harness/node.rs"]
mod harness;
mod measure;

use harness::split::Split;
use harness::{Containerd, Node};
use measure::{at_once, client, cpu_seconds, millis, resident};
use std::time::Duration;

/// How many pods there are when the figures are taken.
const PODS: [usize; 3] = [0, 30, 100];

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(60);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The first to install it wins, and this process has only one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());

    let mut node = Node::prepare(Containerd::Current, &[]);
    node.boot();
    let parts = Split::of(&mut node);
    runtime.block_on(async {
        let client = client(&node).await;
        let (server, agent) = parts.pids();
        let parts = [("server", server), ("agent", agent)];
        let mut running = 0;
        for pods in PODS {
            if pods > running {
                let took = at_once(&client, running..pods).await;
                println!("{:<44}{:>8.0} ms", format!("{} more pods → all Ready", pods - running), millis(took));
                running = pods;
            }
            let before = parts.map(|(_, pid)| cpu_seconds(pid));
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            for ((name, pid), before) in parts.into_iter().zip(before) {
                let idle = (cpu_seconds(pid) - before) / seconds as f64 * 1000.0;
                let what = format!("{name}, {pods} pods: RSS, idle CPU");
                println!("{what:<44}{:>8.1} MiB   {idle:.1} millicores", resident(pid));
            }
        }
    });
    parts.join(&mut node);
}
