//! `skiff agent` in a network namespace of its own, with a containerd of its own, beside a `skiff server`: what a worker
//! is to a control plane. Gone without a trace when the test ends, as `Node`, whose folder, slot and traces it shares.

use super::client::Watch;
use super::{Containerd, DEADLINE, Node, deps, run, wait_child};
use node_config::kubeconfig;
use node_config::shipped::{self, ContainerdConfig, ContainerdFormat};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The bootstrap token; its Secret is made with the server.
pub const TOKEN: &str = "abcdef.0123456789abcdef";

/// A server, and what an agent needs to join it.
pub struct Joined {
    server: Option<Child>,
    containerd: Option<Child>,
    agent: Option<Child>,
    /// Last, so that it looks for traces when the processes are gone.
    pub node: Node,
}

impl Joined {
    /// Starts server and containerd; `flags` are the server's.
    pub fn start(flags: &[&str]) -> Self {
        let node = Node::prepare(Containerd::Current, &[]);
        let mut joined = Self { server: None, containerd: None, agent: None, node };
        joined.make_network();
        joined.start_server(flags);
        joined.start_containerd();
        joined.write_files();
        joined
    }

    fn host(&self) -> String {
        self.node.slot.node_ip()
    }

    /// The agent's address, inside its namespace.
    pub fn address(&self) -> String {
        format!("10.211.{}.2", self.node.slot.number)
    }

    /// A namespace whose one interface is plugged into the slot's bridge.
    fn make_network(&mut self) {
        let (netns, bridge, address) = (self.node.slot.link(), self.node.slot.link(), self.address());
        let veth = format!("skv{}", self.node.slot.number);
        run("ip", &["netns", "add", &netns]);
        run("ip", &["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &netns]);
        run("ip", &["link", "set", &veth, "master", &bridge, "up"]);
        run("ip", &["route", "add", &format!("{address}/32"), "dev", &bridge]);
        for args in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &format!("{address}/24"), "dev", "eth0"],
            &["link", "set", "eth0", "up"],
            &["route", "add", "default", "via", &self.host()],
        ] {
            run("ip", &[&["-n", &netns][..], args].concat());
        }
        self.node.netns = Some(netns);
    }

    fn log(&self, name: &str) -> fs::File {
        OpenOptions::new().create(true).append(true).open(self.node.path(name)).expect("a log file")
    }

    fn spawn(&self, command: &mut Command, log: &str) -> Child {
        let out = self.log(log);
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a log file"))
            .stderr(out)
            .spawn()
            .expect("a program")
    }

    fn start_server(&mut self, flags: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        command.args(["server", "-v=2"]).args(flags);
        for (flag, value) in [
            ("--data-dir", self.node.path("data")),
            ("--bind-address", self.host()),
            ("--secure-port", self.node.slot.port(0).to_string()),
        ] {
            command.arg(format!("{flag}={value}"));
        }
        self.server = Some(self.spawn(&mut command, "server.log"));
        self.wait_for("server.log", "API server ");
        let data = json!({
            "token-id": &TOKEN[..6], "token-secret": &TOKEN[7..],
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        });
        self.kubectl_apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{}", &TOKEN[..6]), "namespace": "kube-system"},
            "stringData": data,
        }));
    }

    fn start_containerd(&mut self) {
        let path = |name: &str| self.node.path(name);
        let (root, state, socket) = (path("containerd/root"), path("containerd/state"), path("containerd.sock"));
        let (cni, notify) = (path("cni"), path("notify.sock"));
        fs::create_dir_all(path("containerd")).expect("a folder");
        fs::create_dir_all(&cni).expect("a folder");
        let version = Command::new("containerd").arg("--version").output().expect("containerd").stdout;
        let v1 =
            String::from_utf8_lossy(&version).contains(" 1.") || String::from_utf8_lossy(&version).contains(" v1.");
        let config = ContainerdConfig {
            format: if v1 { ContainerdFormat::V2 } else { ContainerdFormat::V3 },
            root: Path::new(&root),
            state: Path::new(&state),
            socket: Path::new(&socket),
            cni_bin_dir: Path::new("/usr/lib/cni"),
            cni_conf_dir: Path::new(&cni),
            restrict_oom_score_adj: true,
            systemd_cgroup: false,
        };
        fs::write(path("containerd/config.toml"), config.render()).expect("a file");
        let (slot, ipam) = (&self.node.slot, path("ipam"));
        let network = shipped::cni_conflist(&slot.bridge(), &slot.bridge(), &slot.pod_cidr(), Path::new(&ipam));
        fs::write(path("cni/10-test.conflist"), network).expect("a file");
        let ready = UnixDatagram::bind(&notify).expect("a socket");
        ready.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut command = self.node.program("containerd");
        command.arg("--config").arg(path("containerd/config.toml")).env("NOTIFY_SOCKET", &notify);
        self.containerd = Some(self.spawn(&mut command, "containerd.log"));
        let mut said = [0; 256];
        loop {
            let length = match ready.recv(&mut said) {
                // A receive with a deadline is not resumed after a signal, of another test's child.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                length => length.expect("containerd says that it is ready"),
            };
            if String::from_utf8_lossy(&said[..length]).contains("READY=1") {
                break;
            }
        }
        let images = async {
            let images = skiff::images::Images::new(Path::new(&socket));
            images.import_pause(shipped::PAUSE, shipped::PAUSE_IMAGE).await.expect("the pause image");
            images.import_archive(Path::new(&path("data/images/busybox.tar"))).await.expect("the test image");
        };
        tokio::runtime::Runtime::new().expect("a runtime").block_on(images);
    }

    /// What kubeadm would have left on the worker.
    fn write_files(&self) {
        fs::create_dir_all(self.node.path("etc")).expect("a folder");
        self.write_bootstrap_kubeconfig(TOKEN);
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"x509": {"clientCAFile": self.node.path("data/pki/ca.crt")}},
            "rotateCertificates": true, "serverTLSBootstrap": true, "failCgroupV1": false, "failSwapOn": false,
            "cgroupRoot": self.node.slot.cgroup(), "podLogsDir": self.node.path("logs"),
            "containerRuntimeEndpoint": format!("unix://{}", self.node.path("containerd.sock")),
            "port": self.node.slot.port(1), "healthzPort": self.node.slot.port(2),
            "evictionHard": {"memory.available": "100Mi"},
        });
        fs::write(self.node.path("etc/config.yaml"), config.to_string()).expect("a file");
    }

    pub fn write_bootstrap_kubeconfig(&self, token: &str) {
        let seen = kubeconfig::look(Path::new(&self.node.kubeconfig())).expect("the administrator's kubeconfig");
        let ca = seen.certificate_authority.expect("the CA");
        let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": seen.server, "certificate-authority-data": ca}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": token}}],
        });
        fs::write(self.node.path("etc/bootstrap-kubelet.conf"), config.to_string()).expect("a file");
    }

    /// `skiff agent` as kubeadm's drop-in starts the kubelet; `more` flags win.
    pub fn agent_command(&self, more: &[&str]) -> Command {
        let mut command = self.node.program(env!("CARGO_BIN_EXE_skiff"));
        command.args(["agent", "-v=2"]);
        for (flag, value) in [
            ("--bootstrap-kubeconfig", self.node.path("etc/bootstrap-kubelet.conf")),
            ("--kubeconfig", self.node.path("etc/kubelet.conf")),
            ("--config", self.node.path("etc/config.yaml")),
            ("--cert-dir", self.node.path("kubelet/pki")),
            ("--root-dir", self.node.path("kubelet")),
            ("--hostname-override", self.node.slot.node_name()),
            ("--node-ip", self.address()),
        ] {
            if !more.iter().any(|given| given.starts_with(&format!("{flag}="))) {
                command.arg(format!("{flag}={value}"));
            }
        }
        command.args(more);
        command
    }

    pub fn start_agent(&mut self) {
        let mut command = self.agent_command(&[]);
        self.agent = Some(self.spawn(&mut command, "agent.log"));
    }

    /// SIGTERM; its pods run on.
    pub fn stop_agent(&mut self) {
        let mut child = self.agent.take().expect("the agent runs");
        end(&mut child, "-TERM");
    }

    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.node.path("agent.log")).unwrap_or_default()
    }

    /// Waits for a line of the server or the agent.
    pub fn wait_for(&mut self, log: &str, text: &str) {
        self.wait_for_after(log, 0, text);
    }

    /// The same in what was said after the first `skip` bytes.
    pub fn wait_for_after(&mut self, log: &str, skip: usize, text: &str) {
        let path = self.node.path(log);
        let watch = super::FileWatch::new(Path::new(&path));
        let end = Instant::now() + DEADLINE;
        loop {
            let said = fs::read_to_string(&path).unwrap_or_default();
            if said.get(skip..).unwrap_or_default().contains(text) {
                return;
            }
            let child = if log.starts_with("agent") { self.agent.as_mut() } else { self.server.as_mut() };
            let ended = child.and_then(|child| child.try_wait().expect("its state"));
            assert!(ended.is_none(), "it ended ({ended:?}) before it said {text:?}\n{said}");
            assert!(Instant::now() < end, "{log} does not say {text:?}\n{said}");
            watch.wait();
        }
    }

    /// kubectl runs beside the server, not in the agent's namespace.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(deps().join("kubectl"));
        command.arg("--kubeconfig").arg(self.node.kubeconfig()).args(args).env("HOME", &self.node.dir);
        command
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        answer(self.kubectl_command(args).output())
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}\n{}", self.agent_log()))
    }

    pub fn kubectl_apply(&self, object: &serde_json::Value) {
        let mut command = self.kubectl_command(&["apply", "-f", "-"]);
        answer(Ok(super::run_with_input(&mut command, object.to_string().as_bytes()))).expect("kubectl apply");
    }

    /// Approves serving certificates as an administrator would, until the answer is dropped.
    pub fn approve_serving(&self) -> Approver {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watch = Watch::new(&mut self.kubectl_command(&["get", "csr", "--watch", "--no-headers"]));
        let kubeconfig = self.node.kubeconfig();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let Some(line) = watch.line_within(Duration::from_millis(200)) else { continue };
                let name = line.split_whitespace().next().unwrap_or_default().to_owned();
                if line.contains("kubernetes.io/kubelet-serving") && line.trim_end().ends_with("Pending") {
                    let args = ["--kubeconfig", &kubeconfig, "certificate", "approve", &name];
                    answer(Command::new(deps().join("kubectl")).args(args).output())
                        .expect("kubectl certificate approve");
                }
            }
        });
        Approver { stop, thread: Some(thread) }
    }
}

fn answer(output: std::io::Result<std::process::Output>) -> Result<String, String> {
    let output = output.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn end(child: &mut Child, signal: &str) {
    let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
    if wait_child(child, Duration::from_secs(30)).is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["server.log", "agent.log"] {
                let text = fs::read_to_string(self.node.path(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {log} ---\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
        for child in [&mut self.agent, &mut self.containerd, &mut self.server] {
            if let Some(mut child) = child.take() {
                end(&mut child, "-TERM");
            }
        }
    }
}

/// Approves while it lives.
pub struct Approver {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Approver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(Err(error)) = self.thread.take().map(std::thread::JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(error);
        }
    }
}
