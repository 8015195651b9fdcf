//! The recorded pod behaviours (`../shared/golden/pods`) replayed on real nodes. What passes must go on passing: a
//! ratchet file for each containerd holds, for each category, how many cases do. `SKIFF_RATCHET=write` writes down what
//! passes now. On containerd 1.6 a few categories are replayed, all of them with `SKIFF_CORPUS=whole` (`make corpus`).

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
use std::sync::{Mutex, PoisonError};

/// Categories by node: each node takes about as long, and they run side by side.
const NODES: [&[&str]; 2] = [
    &["basic", "env", "ephemeral", "hooks", "images", "init", "network", "resize", "sidecars", "static", "update"],
    &["endpoints", "node", "probes", "resources", "security", "streams", "termination", "volumes"],
];
/// Replayed on containerd 1.6 every time: what differs most between the two is how it tells of containers that end.
const SHORT: [&[&str]; 1] = [&["basic", "sidecars"]];
/// Cases at once on a node: most of their time they wait. With more, two cores are too slow for what the cases time (a
/// server that listens within a probe's period); the machine of the recording was quiet.
const JOBS: &str = "4";
/// The recording machine was quiet; this one runs other suites' nodes too.
const SLOWNESS: &str = "2";

/// Cases that pass, and all, of one category.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Score {
    pass: u64,
    cases: u64,
}

#[test]
fn recorded_pod_behaviours_are_replayed_and_none_is_lost() {
    replay_all(Containerd::Current, &NODES, "ratchet.json");
}

#[test]
fn recorded_pod_behaviours_are_replayed_on_containerd_1_6_and_none_is_lost() {
    let whole = std::env::var("SKIFF_CORPUS").is_ok_and(|size| size == "whole");
    replay_all(Containerd::V1_6, if whole { &NODES } else { &SHORT }, "ratchet-1.6.json");
}

/// Both containerds' nodes at once would be too much for two cores.
static ONE_CONTAINERD: Mutex<()> = Mutex::new(());

/// Replays the categories, those of each node side by side, and compares with what the ratchet file holds for them.
fn replay_all(containerd: Containerd, nodes: &[&[&str]], ratchet: &str) {
    let Some(golden) = golden() else {
        eprintln!("SKIPPED: no ../shared/golden beside the repository, nothing was replayed");
        return;
    };
    // A replay that failed holds nothing up.
    let _alone = ONE_CONTAINERD.lock().unwrap_or_else(PoisonError::into_inner);
    let reports: Vec<Value> = std::thread::scope(|scope| {
        let replay = |categories| replay(&golden, containerd, categories);
        let runs: Vec<_> = nodes.iter().map(|categories| scope.spawn(move || replay(categories))).collect();
        runs.into_iter().map(|run| run.join().expect("a replay")).collect()
    });
    let cases: Vec<Case> = reports.iter().flat_map(|report| cases(report, containerd)).collect();
    let mut seen: BTreeMap<String, Score> = BTreeMap::new();
    for case in &cases {
        let score = seen.entry(case.category().to_owned()).or_default();
        score.cases += 1;
        score.pass += u64::from(case.passes);
    }
    let failed: Vec<&str> = cases.iter().filter(|case| !case.passes).map(|case| case.name.as_str()).collect();
    eprintln!("{}", table(&seen));
    eprintln!("cases that fail: {failed:#?}");

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods").join(ratchet);
    if std::env::var("SKIFF_RATCHET").is_ok_and(|mode| mode == "write") {
        fs::write(&file, render(&seen)).expect("the ratchet file");
        return;
    }
    let held: BTreeMap<String, u64> =
        serde_json::from_str(&fs::read_to_string(&file).expect("the ratchet file")).expect("the ratchet file");
    let replayed = |category: &&String| nodes.iter().any(|node| node.contains(&category.as_str()));
    let lost: Vec<String> = held
        .iter()
        .filter(|(category, _)| replayed(category))
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
fn replay(golden: &Path, containerd: Containerd, categories: &[&str]) -> Value {
    // A bare name would choose cases of that name in other categories too.
    let only: Vec<String> = categories.iter().map(|category| format!("{category}/*")).collect();
    let mut node = Node::prepare(containerd, &["--cluster-dns=10.96.0.10"]);
    let manifests = node.path("manifests");
    fs::create_dir_all(&manifests).expect("the folder of static pods");
    node.flag(format!("--pod-manifest-path={manifests}"));
    node.boot();
    let cases = match containerd {
        Containerd::Current => golden.join("pods"),
        Containerd::V1_6 => without_users(&golden.join("pods"), Path::new(&node.path("cases"))),
    };
    let report = node.path("podgold.json");
    let mut command = Command::new("python3");
    command.arg(golden.join("podgold.py")).arg("check");
    command.arg("--kubeconfig").arg(node.kubeconfig()).arg("--kubectl").arg(deps().join("kubectl"));
    command.args(["--jobs", JOBS, "--slow", SLOWNESS, "--only", &only.join(","), "--json", &report]);
    command.args(["--static-dir", &manifests]).arg(&cases);
    let output = command.output().expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    // 1: some cases failed, which the ratchet judges; anything else is no result.
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{code:?}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{said}");
    serde_json::from_str(&fs::read_to_string(&report).expect("podgold's report")).expect("podgold's report")
}

/// A case as it went.
struct Case {
    /// `category/name`.
    name: String,
    passes: bool,
}

impl Case {
    fn category(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

fn cases(report: &Value, containerd: Containerd) -> Vec<Case> {
    let cases = report["cases"].as_array().expect("cases");
    let case = |case: &Value| {
        let mut differences = case["checks"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|check| check["diff"].as_array().into_iter().flatten());
        // A case that fails without a difference could not be run to its end.
        let excused = differences.clone().next().is_some() && differences.all(|found| is_beyond(containerd, found));
        let name = case["case"].as_str().expect("a name").to_owned();
        Case { name, passes: case["result"] == "pass" || excused }
    };
    cases.iter().map(case).collect()
}

/// A copy of the cases in which no container's status needs a `user`, of which CRI of containerd 1.6 does not tell. Else
/// each look at a status would be repeated until its time is over.
fn without_users(from: &Path, to: &Path) -> PathBuf {
    fn walk(value: &mut Value) {
        if let Value::Object(fields) = value {
            if let Some(user) = fields.get_mut("user").filter(|user| user.get("linux").is_some()) {
                *user = json!({"$opt": user.take()});
            }
            fields.values_mut().for_each(walk);
        }
    }
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the cases").flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            without_users(&path, &copy);
        } else if path.extension().is_some_and(|end| end == "json") {
            let mut case: Value = serde_json::from_slice(&fs::read(&path).expect("a case")).expect("a case");
            walk(&mut case["expect"]);
            fs::write(copy, case.to_string()).expect("a case");
        }
    }
    to.to_owned()
}

/// Is this difference beyond the runtime? Errors of containerd 1.6 end in the name of their code.
fn is_beyond(containerd: Containerd, difference: &Value) -> bool {
    let text = |field: &str| difference[field].as_str().unwrap_or_default();
    let has_code = text("got").contains(": unknown") && text("got").replace(": unknown", "") == text("expected");
    containerd == Containerd::V1_6 && has_code
}

fn table(seen: &BTreeMap<String, Score>) -> String {
    seen.iter().map(|(name, Score { pass, cases })| format!("{name:12} {pass:3}/{cases}\n")).collect()
}

fn render(seen: &BTreeMap<String, Score>) -> String {
    let passing: BTreeMap<&str, u64> = seen.iter().map(|(name, score)| (name.as_str(), score.pass)).collect();
    format!("{:#}\n", json!(passing))
}
