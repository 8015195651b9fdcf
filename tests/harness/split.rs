//! A node whose API server and agent are processes of their own (`skiff server`, `skiff agent`), so that each can die
//! alone; containerd, images and network are those that `skiff standalone` has made.

use super::{DEADLINE, FileWatch, Node};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The two processes; `join` makes one of them again.
pub struct Split {
    server: Option<Child>,
    agent: Option<Child>,
}

impl Split {
    /// Ends `skiff standalone`, whose containerd and pods go on, and starts its parts.
    pub fn of(node: &mut Node) -> Self {
        node.wait_for_line(0, "image imported");
        node.kill();
        let mut parts = Self { server: None, agent: None };
        parts.start_server(node);
        parts.start_agent(node);
        parts
    }

    /// `skiff standalone` takes over again.
    pub fn join(mut self, node: &mut Node) {
        self.kill_agent();
        self.kill_server();
        node.boot();
    }

    /// Returns once it serves.
    pub fn start_server(&mut self, node: &Node) {
        let mut command = part(node, "server");
        command.args([
            format!("--data-dir={}", node.path("data")),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", node.slot.port(0)),
        ]);
        let log = log_of(node, "server");
        let begun = fs::read_to_string(&log).unwrap_or_default().len();
        let watch = FileWatch::new(log.as_ref());
        let server = self.server.insert(start(command, &log));
        let end = Instant::now() + DEADLINE;
        while !fs::read_to_string(&log).is_ok_and(|text| text[begun..].contains("API server")) {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(server.try_wait().expect("its state").is_none(), "the server ended\n{}", said());
            assert!(Instant::now() < end, "the server does not serve\n{}", said());
            watch.wait();
        }
    }

    /// Returns at once.
    pub fn start_agent(&mut self, node: &Node) {
        let pki = node.path("data/pki");
        let config = node.path("agent.json");
        let kubelet = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": false,
            "clusterDomain": "cluster.local",
            "tlsCertFile": format!("{pki}/kubelet.crt"),
            "tlsPrivateKeyFile": format!("{pki}/kubelet.key"),
            "authentication": {"x509": {"clientCAFile": format!("{pki}/ca.crt")}},
        });
        fs::write(&config, kubelet.to_string()).expect("the agent's configuration");
        let mut command = part(node, "agent");
        command.args([
            format!("--kubeconfig={pki}/kubelet.conf"),
            format!("--config={config}"),
            format!("--container-runtime-endpoint=unix://{}", node.containerd_socket()),
            format!("--pod-cidr={}", node.slot.pod_cidr()),
        ]);
        command.args(node.agent_flags());
        self.agent = Some(start(command, &log_of(node, "agent")));
    }

    /// Process ids of server and agent; both run.
    pub fn pids(&self) -> (u32, u32) {
        let pid = |part: &Option<Child>| part.as_ref().expect("it runs").id();
        (pid(&self.server), pid(&self.agent))
    }

    /// `kill -9` of the agent alone.
    pub fn kill_agent(&mut self) {
        end(self.agent.take());
    }

    /// `kill -9` of the API server alone.
    pub fn kill_server(&mut self) {
        end(self.server.take());
    }
}

impl Drop for Split {
    fn drop(&mut self) {
        self.kill_agent();
        self.kill_server();
    }
}

fn part(node: &Node, name: &str) -> Command {
    let mut command = node.program(env!("CARGO_BIN_EXE_skiff"));
    command.arg(name).arg("-v=2");
    command
}

fn log_of(node: &Node, name: &str) -> String {
    let path = node.path(&format!("{name}.log"));
    fs::OpenOptions::new().create(true).append(true).open(&path).expect("the log file");
    path
}

fn start(mut command: Command, log: &str) -> Child {
    let log = fs::OpenOptions::new().append(true).open(log).expect("the log file");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log file")).stderr(log);
    command.spawn().expect("skiff starts")
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        child.kill().expect("kill -9");
        child.wait().expect("its end");
    }
}
