//! `skiff server` from outside: unmodified clients, and the recorded interactions of kube-apiserver
//! (`../shared/golden/api`), of which in no category fewer steps may match than `ratchet.json` says.
//!
//! `SKIFF_RATCHET=raise cargo test --test api` writes what matches now into that file, where it is more.

// A real server is waited for with a real deadline.
#![allow(clippy::disallowed_methods)]

mod clients;
mod kubectl;
mod ratchet;
mod server;
mod watcher;

use ratchet::Ratchet;
use serde_json::Value;
use server::Server;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `../shared` beside some directory above this one, when it is there.
fn shared() -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|dir| dir.join("shared")).find(|dir| dir.join("golden/apigold.py").is_file());
    if found.is_none() {
        eprintln!("skipped: no directory `shared` with the recorded answers above {}", here.display());
    }
    found
}

/// Replays everything and returns the replayer's report.
fn replay(shared: &Path, server: &Server) -> Value {
    let report = server.path("report.json");
    let mut command = Command::new("python3");
    command.arg(shared.join("golden/apigold.py")).args(["check", "-k", "--jobs", "4"]);
    command.args(["--server", &server.url, "--json"]).arg(&report);
    command.arg("--client-cert").arg(server.path("client.pem")).arg("--client-key").arg(server.path("client.key"));
    command.arg(shared.join("golden/api"));
    let output = command.output().expect("python3 runs the replayer");
    let text = std::fs::read_to_string(&report).unwrap_or_else(|error| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        panic!("the replayer left no report: {error}\n{out}{err}\n{}", server.log());
    });
    serde_json::from_str(&text).expect("the report is JSON")
}

#[test]
fn no_category_of_recorded_interactions_falls() {
    let Some(shared) = shared() else { return };
    let server = Server::start();
    let report = replay(&shared, &server);
    let found = Ratchet::of(&report);
    let kept = Ratchet::read();
    print!("{}", found.table(&kept));
    if std::env::var("SKIFF_RATCHET").is_ok_and(|wish| wish == "raise") {
        kept.raised_by(&found).write();
        return;
    }
    let fallen = found.fallen_below(&kept);
    assert!(fallen.is_empty(), "{}", ratchet::explain(&fallen, &report));
}
