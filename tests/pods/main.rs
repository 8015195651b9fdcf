//! The recorded pod behaviours (`../shared/golden/pods`) replayed on real nodes. What passes must go on passing: the
//! ratchet file holds, for each category, how many cases do. `SKIFF_RATCHET=write` writes down what passes now.

// Real processes are waited for with real deadlines.
#![allow(clippy::disallowed_methods)]

#[path = "../harness/node.rs"]
mod harness;

use harness::{Containerd, Node, deps};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Categories by node: each node takes about as long, and they run side by side.
const NODES: [&[&str]; 2] = [
    &["basic", "env", "ephemeral", "hooks", "images", "init", "network", "resize", "sidecars", "static", "update"],
    &["endpoints", "node", "probes", "resources", "security", "streams", "termination", "volumes"],
];
/// Cases at once on a node: most of their time they wait.
const JOBS: &str = "6";
/// The recording machine was quiet; this one runs other suites' nodes too.
const SLOWNESS: &str = "2";

/// Cases that pass, and all, of one category.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Score {
    pass: u64,
    cases: u64,
}

#[test]
fn recorded_pod_behaviours_are_replayed_and_none_is_lost() {
    let Some(golden) = golden() else {
        eprintln!("SKIPPED: no ../shared/golden beside the repository, nothing was replayed");
        return;
    };
    let reports: Vec<Value> = std::thread::scope(|scope| {
        let runs: Vec<_> = NODES.iter().map(|categories| scope.spawn(|| replay(&golden, categories))).collect();
        runs.into_iter().map(|run| run.join().expect("a replay")).collect()
    });
    let seen: BTreeMap<String, Score> = reports.iter().flat_map(scores).collect();
    let failed: Vec<&str> = reports.iter().flat_map(failures).collect();
    eprintln!("{}", table(&seen));
    eprintln!("cases that fail: {failed:#?}");

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods/ratchet.json");
    if std::env::var("SKIFF_RATCHET").is_ok_and(|mode| mode == "write") {
        fs::write(&file, render(&seen)).expect("the ratchet file");
        return;
    }
    let held: BTreeMap<String, u64> =
        serde_json::from_str(&fs::read_to_string(&file).expect("the ratchet file")).expect("the ratchet file");
    let lost: Vec<String> = held
        .iter()
        .filter_map(|(category, least)| {
            let pass = seen.get(category).map_or(0, |score| score.pass);
            (pass < *least).then(|| format!("{category}: {pass} cases pass, {least} did"))
        })
        .collect();
    assert!(lost.is_empty(), "{}\nfailed: {failed:#?}", lost.join("\n"));
}

/// `shared/golden` beside the repository: a worktree may lie deeper than a clone.
fn golden() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().skip(1).map(|dir| dir.join("shared/golden")).find(|dir| dir.join("podgold.py").is_file())
}

/// Runs the cases of these categories on a node of their own.
fn replay(golden: &Path, categories: &[&str]) -> Value {
    // A bare name would choose cases of that name in other categories too.
    let only: Vec<String> = categories.iter().map(|category| format!("{category}/*")).collect();
    let mut node = Node::prepare(Containerd::Current, &["--cluster-dns=10.96.0.10"]);
    let manifests = node.path("manifests");
    fs::create_dir_all(&manifests).expect("the folder of static pods");
    node.flag(format!("--pod-manifest-path={manifests}"));
    node.boot();
    let report = node.path("podgold.json");
    let mut command = Command::new("python3");
    command.arg(golden.join("podgold.py")).arg("check");
    command.arg("--kubeconfig").arg(node.kubeconfig()).arg("--kubectl").arg(deps().join("kubectl"));
    command.args(["--jobs", JOBS, "--slow", SLOWNESS, "--only", &only.join(","), "--json", &report]);
    command.args(["--static-dir", &manifests]).arg(golden.join("pods"));
    let output = command.output().expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    // 1: some cases failed, which the ratchet judges; anything else is no result.
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{code:?}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{said}");
    serde_json::from_str(&fs::read_to_string(&report).expect("podgold's report")).expect("podgold's report")
}

fn scores(report: &Value) -> BTreeMap<String, Score> {
    let number = |value: &Value| value.as_u64().expect("a number");
    let categories = report["categories"].as_object().expect("categories");
    let score = |value: &Value| Score { pass: number(&value["pass"]), cases: number(&value["cases"]) };
    categories.iter().map(|(name, value)| (name.clone(), score(value))).collect()
}

fn failures(report: &Value) -> Vec<&str> {
    let cases = report["cases"].as_array().expect("cases");
    cases.iter().filter(|case| case["result"] != "pass").filter_map(|case| case["case"].as_str()).collect()
}

fn table(seen: &BTreeMap<String, Score>) -> String {
    seen.iter().map(|(name, Score { pass, cases })| format!("{name:12} {pass:3}/{cases}\n")).collect()
}

fn render(seen: &BTreeMap<String, Score>) -> String {
    let passing: BTreeMap<&str, u64> = seen.iter().map(|(name, score)| (name.as_str(), score.pass)).collect();
    format!("{:#}\n", json!(passing))
}
