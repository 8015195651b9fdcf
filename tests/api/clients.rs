//! Clients that people use, unmodified: helm, the Python client and kube-rs, on custom resources and built-in ones.

use crate::server::Server;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `tests/deps.sh clients` and `kubectl` put what they fetch.
fn tool(name: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let path = target.join("deps-system").join(name);
    if !path.exists() {
        eprintln!("skipped: no {name}; run tests/deps.sh kubectl clients");
        return None;
    }
    Some(path)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a client that must succeed; what it says.
fn run(server: &Server, program: &Path, args: &[&str]) -> String {
    let (code, out, err) = outcome(server, program, args);
    assert_eq!(code, Some(0), "{} {args:?}\n{out}{err}\n{}", program.display(), server.log());
    out
}

fn outcome(server: &Server, program: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program)
        .args(args)
        .env("KUBECONFIG", server.path("data/admin.kubeconfig"))
        // Caches and histories of its own.
        .env("HOME", server.path("home"))
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls_a_chart_with_its_definition() {
    let (Some(helm), Some(kubectl)) = (tool("helm"), tool("kubectl")) else { return };
    let server = Server::start();
    let size = || run(&server, &kubectl, &["get", "gizmos", "demo", "-o", "jsonpath={.spec.size} {.spec.mode}"]);
    let colour = || run(&server, &kubectl, &["get", "configmap", "demo", "-o", "jsonpath={.data.colour}"]);

    run(&server, &helm, &["install", "demo", "tests/api/chart", "--wait", "--timeout", "60s"]);
    assert_eq!((size(), colour()), ("1 slow".into(), "red".into()));
    run(&server, &helm, &["upgrade", "demo", "tests/api/chart", "--set", "size=7,colour=blue"]);
    assert_eq!((size(), colour()), ("7 slow".into(), "blue".into()));
    let (code, out, err) = outcome(&server, &helm, &["upgrade", "demo", "tests/api/chart", "--set", "size=200"]);
    assert!(code != Some(0) && err.contains("that is too large"), "{out}{err}");
    run(&server, &helm, &["rollback", "demo", "1"]);
    assert_eq!((size(), colour()), ("1 slow".into(), "red".into()));
    let history = run(&server, &helm, &["history", "demo"]);
    assert!(history.contains("Rollback to 1"), "{history}");
    run(&server, &helm, &["uninstall", "demo"]);
    assert_eq!(run(&server, &kubectl, &["get", "gz", "-o", "name"]), "");
}

#[test]
fn kubectl_explains_lists_patches_and_deletes_custom_resources() {
    let Some(kubectl) = tool("kubectl") else { return };
    let server = Server::start();
    let kubectl = |args: &[&str]| run(&server, &kubectl, args);
    kubectl(&["apply", "-f", "tests/api/chart/crds/gizmos.yaml"]);
    kubectl(&["wait", "crd/gizmos.chart.example.com", "--for", "condition=Established", "--timeout", "30s"]);
    let text = kubectl(&["explain", "gizmos.spec.size"]);
    assert!(text.contains("How large it is.") && text.contains("<integer>"), "{text}");
    let object = server.path("gizmo.yaml");
    let gizmo = "apiVersion: chart.example.com/v1\nkind: Gizmo\nmetadata: {name: a}\nspec: {size: 3}\n";
    std::fs::write(&object, gizmo).expect("a file of our own");
    let file = object.to_str().expect("a path in UTF-8");
    kubectl(&["apply", "-f", file]);
    kubectl(&["apply", "-f", file, "--server-side", "--force-conflicts"]);
    let table = kubectl(&["get", "gz"]);
    assert!(table.starts_with("NAME   SIZE\na      3"), "{table}");
    kubectl(&["patch", "gz", "a", "--type", "merge", "-p", "{\"spec\":{\"size\":4}}"]);
    kubectl(&["label", "gz", "a", "x=y"]);
    assert_eq!(kubectl(&["get", "gz", "-l", "x=y", "-o", "jsonpath={.items[*].spec.size}"]), "4");
    kubectl(&["patch", "gz", "a", "--subresource", "status", "--type", "merge", "-p", "{\"status\":{\"ready\":true}}"]);
    kubectl(&["wait", "gz/a", "--for", "jsonpath={.status.ready}=true", "--timeout", "30s"]);
    kubectl(&["delete", "crd", "gizmos.chart.example.com", "--timeout", "30s"]);
    assert!(!kubectl(&["api-resources"]).contains("chart.example.com"));
}

#[test]
fn the_python_client_works_on_built_in_and_custom_objects() {
    let Some(modules) = tool("python") else { return };
    let server = Server::start();
    let output = Command::new("python3")
        .arg("tests/api/client.py")
        .env("KUBECONFIG", server.path("data/admin.kubeconfig"))
        .env("PYTHONPATH", modules)
        .current_dir(root())
        .output()
        .expect("python3 runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}\n{}", text(&output.stdout), text(&output.stderr), server.log());
}
