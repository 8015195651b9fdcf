//! Bad input: a precise message, an exit code or a `Status`, and nothing half-written.

use crate::harness::{Containerd, Node, wait_child};
use serde_json::json;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Runs the node's command with more flags; see `refusal`.
fn refused(node: &Node, more: &[&str]) -> String {
    refusal(node.command().args(more))
}

/// Runs a command to its end, which must be a failure, and returns its last line.
fn refusal(command: &mut Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("skiff");
    let stderr = child.stderr.take().expect("a pipe");
    let reader = std::thread::spawn(move || crate::harness::client::read_all(stderr));
    let status = wait_child(&mut child, Duration::from_secs(30));
    if status.is_none() {
        child.kill().expect("kill -9");
    }
    let text = reader.join().expect("the reader");
    let status = status.unwrap_or_else(|| panic!("it went on:\n{text}"));
    assert!(!status.success(), "{text}");
    text.trim_end().lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_taken_port_is_named_with_its_process() {
    let node = Node::prepare(Containerd::Current, &[]);
    let port = node.slot.port(0);
    let _listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    let line = refused(&node, &[]);
    assert!(line.contains(&port.to_string()) && line.contains("is taken"), "{line}");
    assert!(line.contains(&std::process::id().to_string()), "it names this process: {line}");
}

#[test]
fn an_unknown_flag_and_an_unknown_controller_name_the_nearest() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_skiff")).args(args).output().expect("skiff");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = run(&["standalone", "--data-dri=/tmp/x"]);
    assert!(text.contains("--data-dri") && text.contains("--data-dir"), "{text}");
    let text = run(&["standalone", "--controllers=-schedular"]);
    assert!(text.contains("schedular") && text.contains("\"scheduler\""), "{text}");
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused_untouched() {
    let node = Node::prepare(Containerd::Current, &[]);
    std::fs::write(node.path("data/version"), "999\n").expect("a file");
    let line = refused(&node, &[]);
    assert!(line.contains("999") && line.contains(&node.path("data")), "{line}");
    assert!(!std::path::Path::new(&node.path("data/pki")).exists(), "nothing is half-written");
}

#[test]
fn a_second_skiff_on_the_same_data_is_refused_with_the_first_ones_pid() {
    let node = Node::start(Containerd::Current);
    let line = refused(&node, &[]);
    assert!(line.contains(&node.pid().to_string()), "{line}");
}

#[test]
fn missing_cni_plugins_name_their_debian_package() {
    let node = Node::prepare(Containerd::Current, &[]);
    let line = refused(&node, &["--cni-bin-dir=/nonexistent"]);
    assert!(line.contains("containernetworking-plugins"), "{line}");
}

#[test]
fn requests_that_cannot_be_met_get_a_precise_status() {
    let node = Node::start(Containerd::Current);
    let pods = "/api/v1/namespaces/default/pods";
    let malformed = node.curl("POST", pods, Some(&json!("not an object")));
    assert_eq!((malformed.code, &malformed.body["reason"]), (400, &json!("BadRequest")), "{malformed:?}");
    let unknown = node.curl("GET", "/api/v1/namespaces/default/pots", None);
    assert_eq!(unknown.code, 404, "{unknown:?}");
    assert_eq!(unknown.body["message"], "the server could not find the requested resource");
    let mut pod = crate::pods::sleeper("Bad_Name");
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 0}]);
    pod["spec"]["restartPolicy"] = json!("Sometimes");
    let invalid = node.curl("POST", pods, Some(&pod));
    assert_eq!((invalid.code, &invalid.body["reason"]), (422, &json!("Invalid")), "{invalid:?}");
    let causes = invalid.body["details"]["causes"].as_array().expect("causes");
    let fields: Vec<&str> = causes.iter().filter_map(|cause| cause["field"].as_str()).collect();
    for field in ["metadata.name", "spec.containers[0].ports[0].containerPort", "spec.restartPolicy"] {
        assert!(fields.contains(&field), "{field} is not among {fields:?}");
    }
    let mut pod = crate::pods::sleeper("strict");
    pod["spec"]["contaners"] = json!([]);
    let strict = node.curl("POST", &format!("{pods}?fieldValidation=Strict"), Some(&pod));
    assert_eq!(strict.code, 400, "{strict:?}");
    let message = strict.body["message"].as_str().expect("a message");
    assert!(message.contains("strict decoding error: unknown field \"spec.contaners\""), "{message}");
    assert_eq!(node.curl("GET", &format!("{pods}/strict"), None).code, 404);
}

#[test]
fn without_root_it_says_so() {
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_skiff"), "standalone"])
        .output()
        .expect("setpriv");
    let text = String::from_utf8_lossy(&output.stderr);
    // Where the build folder is closed to others, the program cannot even be started.
    if text.contains("Permission denied") && text.starts_with("setpriv") {
        eprintln!("skipped: the binary is not reachable by an unprivileged user");
        return;
    }
    assert!(!output.status.success() && text.contains("root"), "{text}");
}
