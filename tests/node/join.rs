//! A worker joins: `skiff agent` in its own network namespace against `skiff server`, by a bootstrap token, as by
//! `kubeadm join`; its certificates are renewed under load; what can be wrong is said in one line.

use crate::harness::joined::Joined;
use crate::harness::wait_child;
use crate::pods::sleeper;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long certificates live here: renewed after 56 to 72 s, which leaves a busy machine 8 s at least to do it in.
const LIFE: &str = "--cluster-signing-duration=80s";

/// Pairs that were kept in the certificate directory, by their beginning.
fn pairs(joined: &Joined, name: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(joined.node.path("kubelet/pki")).into_iter().flatten().flatten();
    let files = files.map(|file| file.file_name().to_string_lossy().into_owned());
    files.filter(|file| file.starts_with(&format!("{name}-20"))).collect()
}

#[test]
fn a_worker_joins_by_token_and_renews_both_certificates_under_load_without_a_failed_request() {
    let mut joined = Joined::start(&[LIFE]);
    let approver = joined.approve_serving();
    joined.start_agent();
    joined.wait_for("agent.log", "node Ready");
    joined.wait_for("agent.log", "serving certificate obtained");
    let name = joined.node.slot.node_name();
    let requestors = joined.kubectl(&[
        "get",
        "csr",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.spec.username} {.spec.signerName}{\"\\n\"}{end}",
    ]);
    assert!(
        requestors.lines().any(|line| line.starts_with("node-csr-")
            && line.ends_with("system:bootstrap:abcdef kubernetes.io/kube-apiserver-client-kubelet")),
        "{requestors}"
    );
    let serving = format!("system:node:{name} kubernetes.io/kubelet-serving");
    assert!(requestors.contains(&serving), "{requestors}");
    let kubeconfig = std::fs::read_to_string(joined.node.path("etc/kubelet.conf")).expect("a kubeconfig was written");
    assert!(kubeconfig.contains("kubelet-client-current.pem"), "{kubeconfig}");

    joined.kubectl(&["wait", "--for=create", "serviceaccount/default", "--timeout=30s"]);
    joined.kubectl_apply(&sleeper("before"));
    joined.kubectl(&["wait", "--for=condition=Ready", "pod/before", "--timeout=60s"]);

    let (stop, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let node_path = format!("/api/v1/nodes/{name}/proxy/pods");
    let calls: [&[&str]; 3] =
        [&["exec", "before", "--", "echo", "hello"], &["logs", "before"], &["get", "--raw", &node_path]];
    std::thread::scope(|scope| {
        let (joined, stop, requests) = (&joined, &stop, &requests);
        let load = calls.map(|call| {
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    joined.try_kubectl(call).map_err(|error| format!("{call:?}: {error}"))?;
                    requests.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, String>(())
            })
        });
        // Begins on the first certificates, and goes on over their end.
        let stream = joined.kubectl_command(&[
            "exec",
            "before",
            "--",
            "sh",
            "-c",
            "i=0; while [ $i -lt 82 ]; do echo $i; sleep 1; i=$((i+1)); done",
        ]);
        let stream = scope.spawn(move || {
            let mut stream = stream;
            stream.output().expect("kubectl exec")
        });
        let deadline = Instant::now() + Duration::from_secs(180);
        let output = stream.join().expect("the stream");
        while ["kubelet-client", "kubelet-server"].iter().any(|name| pairs(joined, name).len() < 2) {
            assert!(Instant::now() < deadline, "certificates were not renewed in 180 s\n{}", joined.agent_log());
            joined.kubectl(&["get", "nodes"]);
        }
        // A pod that comes now is seen, started and reported with the new certificate.
        joined.kubectl_apply(&sleeper("after"));
        joined.kubectl(&["wait", "--for=condition=Ready", "pod/after", "--timeout=60s"]);
        stop.store(true, Ordering::Release);
        for load in load {
            load.join().expect("a thread").expect("no request fails");
        }
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.ends_with("81\n"), "{out}{err}");
    });
    let served = requests.load(Ordering::Relaxed);
    let renewed = ["kubelet-client", "kubelet-server"].map(|name| pairs(&joined, name));
    eprintln!("{served} requests while certificates were renewed: {renewed:?}");
    assert!(served > 20, "{served}");
    let log = joined.agent_log();
    for bad in ["not renewed", "not obtained", "not registered", "cannot be used", "status not written"] {
        assert!(!log.contains(bad), "{bad}\n{log}");
    }
    drop(approver);

    joined.kubectl(&["delete", "pod", "before", "after", "--timeout=60s"]);
    comes_back_after_its_certificate_has_ended(&mut joined);
    refuses_what_cannot_work(&joined);
}

/// A machine that was off for too long.
fn comes_back_after_its_certificate_has_ended(joined: &mut Joined) {
    joined.stop_agent();
    let current = joined.node.path("kubelet/pki/kubelet-client-current.pem");
    let old = pairs(joined, "kubelet-client");
    std::fs::remove_file(&current).expect("the link");
    std::fs::write(&current, expired(&joined.node.slot.node_name())).expect("a file");

    joined.write_bootstrap_kubeconfig("abcdef.0000000000000000");
    let line = refusal(&mut joined.agent_command(&[]));
    assert!(line.contains("does not take the credentials of") && line.contains("kubeadm token create"), "{line}");
    let line = refusal(&mut joined.agent_command(&["--bootstrap-kubeconfig=/nonexistent"]));
    assert!(line.contains("expired at 2020-") && line.contains("kubeadm token create"), "{line}");

    joined.write_bootstrap_kubeconfig(crate::harness::joined::TOKEN);
    let said = joined.agent_log().len();
    joined.start_agent();
    joined.wait_for_after("agent.log", said, "node Ready");
    assert!(pairs(joined, "kubelet-client").len() > old.len());
    joined.stop_agent();
}

fn expired(node: &str) -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params.self_signed(&key).expect("a certificate").pem() + &key.serialize_pem()
}

/// One clear line each, on the server that is up.
fn refuses_what_cannot_work(joined: &Joined) {
    let admin = format!("--kubeconfig={}", joined.node.kubeconfig());
    // Another machine's Node, alive.
    let now = jiff::Timestamp::now();
    joined.kubectl_apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "elsewhere"}}));
    let info = json!({
        "machineID": "other", "systemUUID": "other", "bootID": "other", "kernelVersion": "6", "osImage": "o",
        "containerRuntimeVersion": "c://1", "kubeletVersion": "v1.36.2", "kubeProxyVersion": "", "operatingSystem": "linux",
        "architecture": "amd64",
    });
    let status = json!({"status": {"nodeInfo": info, "addresses": [{"type": "InternalIP", "address": "10.9.9.9"}]}});
    joined.kubectl(&["patch", "node", "elsewhere", "--subresource=status", "--type=merge", "-p", &status.to_string()]);
    joined.kubectl_apply(&json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "elsewhere", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "elsewhere", "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
    }));
    let line = refusal(&mut joined.agent_command(&[&admin, "--hostname-override=elsewhere"]));
    assert!(line.contains("node name \"elsewhere\" is held by the machine at 10.9.9.9"), "{line}");
    assert!(line.contains("--hostname-override") && line.contains("kubectl delete node elsewhere"), "{line}");

    // The right server, another cluster's CA.
    let other = rcgen::KeyPair::generate().expect("a key");
    let other = rcgen::CertificateParams::default().self_signed(&other).expect("a certificate").pem();
    let text = std::fs::read_to_string(joined.node.kubeconfig()).expect("a kubeconfig");
    let ca = text.lines().find(|line| line.contains("certificate-authority-data")).expect("the CA").trim().to_owned();
    let other = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, other);
    let wrong = joined.node.path("etc/wrong-ca.conf");
    std::fs::write(&wrong, text.replace(&ca, &format!("certificate-authority-data: {other}"))).expect("a file");
    let line = refusal(&mut joined.agent_command(&[&format!("--kubeconfig={wrong}")]));
    assert!(line.contains("is not the one that") && line.contains("certificate-authority-data"), "{line}");

    // A kubelet on the port, in the agent's own namespace.
    let port = joined.node.slot.port(1);
    let mut holder = joined.node.program("busybox");
    let mut holder = holder.args(["nc", "-l", "-p", &port.to_string()]).stdin(Stdio::piped()).spawn().expect("nc");
    let taken = format!(":{port} ");
    let listening = || {
        let output = joined.node.program("ss").args(["-ltn"]).output().expect("ss");
        String::from_utf8_lossy(&output.stdout).contains(&taken)
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !listening() {
        assert!(Instant::now() < deadline, "nc does not listen");
    }
    let line = refusal(&mut joined.agent_command(&[&admin]));
    holder.kill().expect("kill -9");
    holder.wait().expect("its end");
    assert!(line.contains(&format!("port {port} is taken")) && line.contains("--port"), "{line}");
}

/// Runs a command to its end, which must be a failure, and returns its last line.
fn refusal(command: &mut Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("skiff");
    let mut stderr = child.stderr.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("text");
        text
    });
    let status = wait_child(&mut child, Duration::from_secs(30));
    if status.is_none() {
        child.kill().expect("kill -9");
    }
    let text = reader.join().expect("the reader");
    let status = status.unwrap_or_else(|| panic!("it went on:\n{text}"));
    // 78: systemd's CONFIG.
    assert!(matches!(status.code(), Some(1 | 78)), "{status}: {text}");
    text.trim_end().lines().last().unwrap_or_default().to_owned()
}

#[test]
fn an_agent_that_cannot_join_says_why_in_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let agent = |kubeconfig: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        command.args(["agent", "--port=0", "--healthz-port=0", "--fail-cgroupv1=false"]).args(more);
        command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        command.arg(format!("--cert-dir={}", path("pki").display()));
        refusal(&mut command)
    };
    let missing = path("absent.conf");
    let line = agent(&missing, &["--bootstrap-kubeconfig=/nonexistent"]);
    for text in ["there is no kubeconfig", "absent.conf", "/nonexistent does not exist", "kubeadm token create"] {
        assert!(line.contains(text), "{line}");
    }
    std::fs::write(path("malformed.conf"), "clusters: {").expect("a file");
    let line = agent(&path("malformed.conf"), &[]);
    assert!(line.contains("malformed.conf is not a kubeconfig"), "{line}");

    // An API server from long ago.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = format!("http://{}", listener.local_addr().expect("its address"));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    std::fs::write(path("old.conf"), config.to_string()).expect("a file");
    let old = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the agent");
        let mut request = [0; 4096];
        let length = socket.read(&mut request).expect("a request");
        assert!(request[..length].starts_with(b"GET /version"));
        let body = json!({"major": "1", "minor": "20+", "gitVersion": "v1.20.2"}).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all((head + &body).as_bytes()).expect("an answer");
    });
    let line = agent(&path("old.conf"), &[]);
    old.join().expect("the server");
    assert!(line.contains("is v1.20.2") && line.contains("1.34 to 1.37"), "{line}");
}
