//! kubectl 1.37, unmodified, as people use it every day.

use crate::harness::client::Watch;
use crate::harness::{Containerd, DEADLINE, Node, deps, run_with_input, wait_child};
use crate::pods::{IMAGE, shell, sleeper};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

fn every_day(containerd: Containerd) {
    let node = Node::start(containerd);
    node.apply(&sleeper("web"));
    node.wait_ready(&["web"]);

    let table = node.kubectl(&["get", "nodes,pods", "-A", "-o", "wide"]);
    for text in
        ["STATUS", "INTERNAL-IP", "CONTAINER-RUNTIME", "Ready", "containerd://", "READINESS GATES", "1/1", "Running"]
    {
        assert!(table.contains(text), "{text} is not in\n{table}");
    }
    let described = node.kubectl(&["describe", "pod", "web"]);
    for text in ["Scheduled", "Pulled", "Created", "Started", "QoS Class", "BestEffort", "ContainersReady", IMAGE] {
        assert!(described.contains(text), "{text} is not in\n{described}");
    }
    let explained = node.kubectl(&["explain", "pod.spec"]);
    for text in
        ["KIND:       Pod", "containers", "terminationGracePeriodSeconds", "List of containers belonging to the pod"]
    {
        assert!(explained.contains(text), "{text} is not in\n{explained}");
    }

    logs(&node);
    exec(&node);
    attach(&node);
    copy(&node);
    port_forward(&node);

    let watch = Watch::new(&mut node.kubectl_command(&["get", "pods", "-w", "--no-headers"]));
    watch.until_line("web");
    node.kubectl(&["annotate", "pod", "web", "seen=yes"]);
    let mut changed = sleeper("web");
    changed["metadata"]["labels"] = json!({"tier": "front"});
    let applied = node.kubectl_with_input(&["apply", "-f", "-"], changed.to_string().as_bytes());
    assert_eq!(applied, "pod/web configured\n");
    assert_eq!(node.kubectl(&["get", "pods", "-l", "tier=front", "-o", "name"]), "pod/web\n");
    assert_eq!(node.kubectl(&["delete", "pod", "web"]), "pod \"web\" deleted from default namespace\n");
    watch.until_line("Terminating");
    let gone = node.try_kubectl(&["get", "pod", "web"], b"");
    assert_eq!(String::from_utf8_lossy(&gone.stderr), "Error from server (NotFound): pods \"web\" not found\n");
}

fn logs(node: &Node) {
    node.apply(&shell("talk", "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); sleep 0.2; done; exit 0"));
    let follow = Watch::new(&mut node.kubectl_command(&["logs", "-f", "--pod-running-timeout=60s", "talk"]));
    // `-f` from before the container runs needs it to exist.
    let lines = match follow.line(DEADLINE) {
        Some(first) => std::iter::once(first).chain(std::iter::from_fn(|| follow.line(DEADLINE))).collect::<Vec<_>>(),
        None => {
            node.kubectl(&["wait", "--for=jsonpath={.status.containerStatuses[0].started}=true", "pod/talk"]);
            let follow = Watch::new(&mut node.kubectl_command(&["logs", "-f", "talk"]));
            std::iter::from_fn(|| follow.line(DEADLINE)).collect()
        }
    };
    assert_eq!(lines, ["line 0", "line 1", "line 2", "line 3", "line 4"]);
    node.kubectl(&["delete", "pod", "talk", "--grace-period=0", "--force"]);
}

fn exec(node: &Node) {
    assert_eq!(node.kubectl(&["exec", "web", "--", "echo", "a b", "$HOME"]), "a b $HOME\n");
    let failed = node.try_kubectl(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], b"");
    assert_eq!(String::from_utf8_lossy(&failed.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&failed.stderr), "err\ncommand terminated with exit code 3\n");
    assert_eq!(failed.status.code(), Some(3));
    // -i: stdin is closed when the input ends, so that `wc` can.
    let input: Vec<u8> = (0..300_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let counted = node.kubectl_with_input(&["exec", "-i", "web", "--", "wc", "-c"], &input);
    assert_eq!(counted.trim(), input.len().to_string());
    let echoed = node.try_kubectl(&["exec", "-i", "web", "--", "cat"], &input);
    assert_eq!(echoed.stdout, input);
    // -t: script(1) gives kubectl a terminal.
    let kubectl = format!(
        "{:?}",
        node.kubectl_command(&[
            "exec",
            "-it",
            "web",
            "--",
            "sh",
            "-c",
            "tty; until stty size 2>/dev/null | grep .; do :; done; exit 7"
        ])
    );
    let mut command = Command::new("script");
    command.args([
        "--quiet",
        "--return",
        "--command",
        &format!("stty rows 33 cols 99; {}", shell_words(&kubectl)),
        "/dev/null",
    ]);
    let terminal = run_with_input(command.env("HOME", &node.dir), b"");
    let text = String::from_utf8_lossy(&terminal.stdout);
    assert!(text.contains("/dev/pts/0") && text.contains("33 99"), "{text}");
    assert_eq!(terminal.status.code(), Some(7), "{text}");
    let unknown = node.try_kubectl(&["exec", "web", "-c", "zz", "--", "true"], b"");
    assert_eq!(String::from_utf8_lossy(&unknown.stderr), "error: container zz is not valid for pod web out of: c\n");
}

/// `Command`'s Debug form quotes each word and puts environment changes first, which is what a shell reads.
fn shell_words(debug: &str) -> String {
    debug.replace("env -u ", "")
}

fn attach(node: &Node) {
    let mut pod = shell("reader", "echo ready; read line; echo got $line; sleep 3600");
    pod["spec"]["containers"][0]["stdin"] = json!(true);
    node.apply(&pod);
    node.wait_ready(&["reader"]);
    let mut child = node
        .kubectl_command(&["attach", "-i", "reader"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"hello\n").expect("stdin");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("got hello") {
        let mut buffer = [0; 256];
        let count = stdout.read(&mut buffer).expect("stdout");
        assert_ne!(count, 0, "attach ended: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    child.kill().expect("kill");
    child.wait().expect("its end");
    node.kubectl(&["delete", "pod", "reader", "--grace-period=1"]);
}

fn copy(node: &Node) {
    let (from, to) = (node.path("there"), node.path("back"));
    let data: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&from, &data).expect("a file");
    node.kubectl(&["cp", &from, "web:/tmp/there"]);
    node.kubectl(&["cp", "web:/tmp/there", &to]);
    assert_eq!(std::fs::read(&to).expect("the copy"), data);
}

fn port_forward(node: &Node) {
    let mut server = shell("echo", "while true; do echo hello from the pod | nc -l -p 7070; done");
    server["spec"]["containers"][0]["ports"] = json!([{"containerPort": 7070}]);
    node.apply(&server);
    node.wait_ready(&["echo"]);
    let port = node.slot.port(8);
    let forward = Watch::new(&mut node.kubectl_command(&["port-forward", "pod/echo", &format!("{port}:7070")]));
    forward.until_line("Forwarding from 127.0.0.1");
    for _ in 0..2 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the forwarded port");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("its greeting");
        assert_eq!(text, "hello from the pod\n");
        // nc is started anew for the second connection; it has to listen again before.
        node.kubectl(&[
            "exec",
            "echo",
            "--",
            "sh",
            "-c",
            "until grep -q :1B9E /proc/net/tcp /proc/net/tcp6; do :; done",
        ]);
    }
    node.kubectl(&["delete", "pod", "echo", "--grace-period=0", "--force"]);
}

#[test]
fn every_day_commands_on_the_current_containerd() {
    every_day(Containerd::Current);
}

#[test]
fn every_day_commands_on_containerd_1_6() {
    every_day(Containerd::V1_6);
}

#[test]
fn kubectl_is_the_one_that_is_meant() {
    let mut child = Command::new(deps().join("kubectl"))
        .args(["version", "--client"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl: run `make deps`");
    let text = crate::harness::client::read_all(child.stdout.take().expect("a pipe"));
    assert!(wait_child(&mut child, DEADLINE).is_some_and(|status| status.success()));
    assert!(text.contains("v1.37"), "{text}");
}
