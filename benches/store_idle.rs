//! What an idle node costs its store: `skiff server` with one node heartbeating as an agent does (its Lease renewed every
//! 10 s), for a minute. Prints fsyncs a minute (counted by the engine, and by strace where it is installed), bytes written
//! to the disk and CPU time. Fails on nothing.
//!
//! `cargo bench --bench store_idle [-- SECONDS]`: how long it is watched (default 60).
#![allow(clippy::disallowed_methods)]

use node_config::pki::Pki;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often an agent renews its Lease.
const HEARTBEAT: Duration = Duration::from_secs(10);
const START_LIMIT: Duration = Duration::from_secs(30);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(60);
    let time = Duration::from_secs(seconds);
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path());
    server.curl("POST", LEASES, &lease(0));
    // What the start left behind is written by then.
    let mut beat = 1;
    server.heartbeats(Duration::from_secs(10), &mut beat);

    let before = server.figures();
    server.heartbeats(time, &mut beat);
    let after = server.figures();
    let minutes = time.as_secs_f64() / 60.0;
    let line = |what: &str, value: f64, unit: &str| println!("{what:<44}{value:>9.2} {unit}");
    line("synced commits, counted by the engine", (after.synced - before.synced) / minutes, "/min");
    line("write system calls", (after.writes - before.writes) / minutes, "/min");
    line("written to the disk", (after.written - before.written) / minutes / 1024.0, "KiB/min");
    line("CPU time", (after.cpu_ms - before.cpu_ms) / minutes, "ms/min");

    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-e", "trace=fsync,fdatasync", "-p", &server.child.id().to_string()]);
    match strace.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Err(_) => println!("strace is not installed: fsyncs are not counted from outside"),
        Ok(strace) => {
            server.heartbeats(time, &mut beat);
            interrupt(&strace);
            let output = strace.wait_with_output().expect("strace ends");
            let table = String::from_utf8_lossy(&output.stderr).into_owned();
            line("fsync and fdatasync, counted by strace", calls(&table) / minutes, "/min");
        }
    }
}

/// strace prints its table when it is interrupted.
fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill");
}

/// The sum of the table's column `calls`.
fn calls(table: &str) -> f64 {
    let rows = table.lines().filter(|line| line.ends_with("fsync") || line.ends_with("fdatasync"));
    rows.filter_map(|row| row.split_whitespace().nth(3)?.parse::<f64>().ok()).sum()
}

struct Server {
    child: Child,
    port: u16,
    pki: Pki,
}

/// Since the server's start.
struct Figures {
    synced: f64,
    writes: f64,
    written: f64,
    cpu_ms: f64,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        command.args(["server", "--bind-address=127.0.0.1"]).arg(format!("--secure-port={port}"));
        command.arg(format!("--data-dir={}", dir.display()));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("skiff");
        let server = Self { child, port, pki: Pki::new(dir.join("pki")) };
        let begun = Instant::now();
        while server.try_curl("GET", "/readyz", "").as_deref() != Some("ok") {
            assert!(begun.elapsed() < START_LIMIT, "the server is not ready within {START_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn try_curl(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let (admin, ca) = (self.pki.admin(), self.pki.ca().cert);
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail-with-body", "--max-time", "10", "--request", method, "--data-binary", body]);
        let content = if method == "PATCH" { "merge-patch+json" } else { "json" };
        command.args(["--header", &format!("Content-Type: application/{content}")]);
        command.arg("--cert").arg(admin.cert).arg("--key").arg(admin.key).arg("--cacert").arg(ca);
        let output = command.arg(format!("https://127.0.0.1:{}{path}", self.port)).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn curl(&self, method: &str, path: &str, body: &str) -> String {
        self.try_curl(method, path, body).unwrap_or_else(|| panic!("{method} {path}"))
    }

    /// Renews the Lease as often as an agent does.
    fn heartbeats(&self, time: Duration, beat: &mut u32) {
        let begun = Instant::now();
        for n in 0.. {
            let due = HEARTBEAT * n;
            if due >= time {
                break;
            }
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            // As an agent does, but for the resourceVersion that it would have at hand.
            self.curl("PATCH", &format!("{LEASES}/n1"), &lease(*beat));
            *beat += 1;
        }
        std::thread::sleep(time.saturating_sub(begun.elapsed()));
    }

    fn figures(&self) -> Figures {
        let metrics = self.curl("GET", "/metrics", "");
        let number = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
            line.split_whitespace().nth(1).and_then(|value| value.parse::<f64>().ok()).expect("a number")
        };
        let proc = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect(file);
        let io = proc("io");
        let stat = proc("stat");
        // Fields 14 and 15 of the line, user and system time in ticks of 10 ms, counted after the name in brackets.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
        Figures {
            synced: number(&metrics, "etcd_disk_wal_fsync_duration_seconds_count"),
            writes: number(&io, "syscw:"),
            written: number(&io, "write_bytes:"),
            cpu_ms: ticks * 10.0,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lease(beat: u32) -> String {
    format!(
        r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{{"name":"n1","namespace":"kube-node-lease"}},
        "spec":{{"holderIdentity":"n1","leaseDurationSeconds":40,"renewTime":"2026-01-01T00:{:02}:{:02}.000000Z"}}}}"#,
        beat / 60 % 60,
        beat % 60
    )
}
