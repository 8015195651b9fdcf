//! A real node in a temporary directory: its own containerd, ports, bridge, subnet and cgroup; gone without a trace
//! when the test ends, also when it fails.
//!
//! `Node::start` runs the `skiff standalone` binary as a user would. `Drop` stops it, looks for what it left behind,
//! removes that, and fails the test for it.

// Each binary that includes this uses a part of it.
#![allow(dead_code)]

pub mod client;
pub mod image;
pub mod joined;
pub mod leaks;
pub mod slot;
pub mod split;

use slot::Slot;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the slowest step of a start may take on a busy two-core machine.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Which containerd the node runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containerd {
    /// The one on PATH: 2.1 where `make deps` could install it.
    Current,
    /// 1.6, as Debian 12 has it, unpacked by `make deps`.
    V1_6,
}

/// A running node.
pub struct Node {
    pub slot: Slot,
    pub dir: PathBuf,
    containerd: Containerd,
    skiff: Option<Child>,
    flags: Vec<String>,
    /// `--eviction-hard`. A test machine's disk may be nearly full, which is not what other tests test.
    pub eviction_hard: String,
    /// Name of a network namespace of its own, with nothing but loopback.
    netns: Option<String>,
    /// Whether SIGTERM stops the pods too (`--stop-pods`).
    pub stop_pods: bool,
    /// Kept so that a failed test can show it.
    log: PathBuf,
}

impl Node {
    /// Starts a node and waits until it says that the node is Ready.
    pub fn start(containerd: Containerd) -> Self {
        Self::start_with(containerd, &[])
    }

    /// The same with more flags for `skiff standalone`.
    pub fn start_with(containerd: Containerd, flags: &[&str]) -> Self {
        let mut node = Self::prepare(containerd, flags);
        node.boot();
        node
    }

    /// Makes the directories, the node's address and the image archive, and starts nothing.
    pub fn prepare(containerd: Containerd, flags: &[&str]) -> Self {
        let slot = Slot::take();
        leaks::remove_of_killed(&slot);
        let dir = Path::new("/tmp").join(format!("{}{}", slot.dir_prefix(), std::process::id()));
        fs::create_dir_all(dir.join("data/images")).expect("the node's directory");
        fs::create_dir_all(dir.join("kubelet")).expect("the node's directory");
        let node = Self {
            log: dir.join("skiff.log"),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            eviction_hard: "memory.available<100Mi".to_owned(),
            stop_pods: true,
            netns: None,
            skiff: None,
            containerd,
            slot,
            dir,
        };
        // `/` is a private mount here; HostToContainer and Bidirectional volumes need a shared one.
        run("mount", &["--bind", &node.path("kubelet"), &node.path("kubelet")]);
        run("mount", &["--make-rshared", &node.path("kubelet")]);
        run("ip", &["link", "add", &node.slot.link(), "type", "bridge"]);
        run("ip", &["address", "add", &format!("{}/32", node.slot.node_ip()), "dev", &node.slot.link()]);
        run("ip", &["link", "set", &node.slot.link(), "up"]);
        image::write(&node.dir.join("data/images/busybox.tar"), image::BUSYBOX);
        node
    }

    /// One more flag for `skiff standalone`.
    pub fn flag(&mut self, flag: String) {
        self.flags.push(flag);
    }

    /// Moves the node into a network namespace that has no route, no DNS and no address but loopback.
    pub fn without_network(mut self) -> Self {
        let name = self.slot.link();
        run("ip", &["netns", "add", &name]);
        self.netns = Some(name);
        let inside = self.program("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
        assert!(inside.success(), "loopback inside the namespace");
        self
    }

    /// A program that runs where the node does. Not by `ip netns exec`: that hides the cgroups behind a new /sys.
    pub fn program(&self, name: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.netns {
            None => Command::new(name),
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(name);
                command
            }
        }
    }

    /// Starts skiff on what is there and waits until it is ready.
    pub fn boot(&mut self) {
        let begun = self.log_lines().len();
        self.spawn();
        self.wait_for_line(begun, "node Ready");
    }

    /// Boots again, and waits until all that a start does is done.
    pub fn boot_and_settle(&mut self) {
        let begun = self.log_lines().len();
        self.boot();
        self.wait_for_line(begun, "image imported");
    }

    /// Starts the binary without waiting.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("the log file");
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .spawn()
            .expect("skiff starts");
        self.skiff = Some(child);
    }

    /// `skiff standalone` with all that keeps this node apart from others.
    pub fn command(&self) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_skiff"));
        command.arg("standalone").arg("-v=2").env("PATH", self.path_variable());
        for (flag, value) in [
            ("--data-dir", self.path("data")),
            ("--bind-address", "127.0.0.1".to_owned()),
            ("--secure-port", self.slot.port(0).to_string()),
            ("--pod-cidr", self.slot.pod_cidr()),
            ("--cni-conf-dir", self.path("cni")),
            ("--cni-bridge", self.slot.bridge()),
        ] {
            command.arg(format!("{flag}={value}"));
        }
        command.args(self.agent_flags());
        command.args(self.stop_pods.then_some("--stop-pods")).args(&self.flags);
        command
    }

    /// Flags that `skiff standalone` and `skiff agent` share.
    fn agent_flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--port={}", self.slot.port(1)),
            format!("--healthz-port={}", self.slot.port(2)),
            format!("--node-name={}", self.slot.node_name()),
            format!("--root-dir={}", self.path("kubelet")),
            format!("--pod-logs-dir={}", self.path("logs")),
            format!("--cgroup-root={}", self.slot.cgroup()),
            format!("--eviction-hard={}", self.eviction_hard),
        ];
        if self.netns.is_none() {
            flags.push(format!("--node-ip={}", self.slot.node_ip()));
        }
        flags
    }

    fn path_variable(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        match self.containerd {
            Containerd::Current => path,
            // First in PATH: containerd looks for its shim there before its own folder.
            Containerd::V1_6 => format!("{}:{path}", deps().join("containerd-1.6/usr/bin").display()),
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub fn pid(&self) -> u32 {
        self.skiff.as_ref().expect("skiff runs").id()
    }

    /// `kill -9` of skiff alone.
    pub fn kill(&mut self) {
        let mut child = self.skiff.take().expect("skiff runs");
        child.kill().expect("kill -9");
        child.wait().expect("its end");
    }

    /// SIGTERM, then its end within the 10 s that are promised (and the time that stopping pods takes).
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.skiff.take().expect("skiff runs");
        run("kill", &["-TERM", &child.id().to_string()]);
        wait_child(&mut child, Duration::from_secs(60)).unwrap_or_else(|| {
            child.kill().expect("kill -9");
            panic!("skiff did not end within 60 s of SIGTERM\n{}", self.log_tail());
        })
    }

    /// Pid of this node's own containerd, by the socket in its command line.
    pub fn containerd_pid(&self) -> u32 {
        let config = self.path("data/containerd");
        let found = leaks::processes(&config).into_iter().find(|p| p.command.contains("containerd --config"));
        found.unwrap_or_else(|| panic!("no containerd of {config}\n{}", self.log_tail())).pid
    }

    /// The socket of this node's own containerd.
    pub fn containerd_socket(&self) -> String {
        self.path("data/run/containerd.sock")
    }

    fn log_lines(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub fn log_tail(&self) -> String {
        let lines = self.log_lines();
        let tail = &lines[lines.len().saturating_sub(60)..];
        format!("--- {} ---\n{}", self.log.display(), tail.join("\n"))
    }

    /// Waits for a line of skiff's own output, and fails when skiff ends before it.
    pub fn wait_for_line(&mut self, from: usize, text: &str) {
        let watch = FileWatch::new(&self.log);
        let end = Instant::now() + DEADLINE;
        loop {
            if self.log_lines().iter().skip(from).any(|line| line.contains(text)) {
                return;
            }
            let ended = self.skiff.as_mut().and_then(|child| child.try_wait().expect("its state"));
            if let Some(status) = ended {
                panic!("skiff ended ({status}) before it said {text:?}\n{}", self.log_tail());
            }
            assert!(Instant::now() < end, "skiff did not say {text:?} in {DEADLINE:?}\n{}", self.log_tail());
            watch.wait();
        }
    }
}

impl Node {
    /// Copies the logs of a test that failed to the folder that `SKIFF_KEEP` names, if it names one.
    fn keep_logs(&self) {
        let Some(kept) = std::env::var_os("SKIFF_KEEP").map(PathBuf::from) else { return };
        let kept = kept.join(self.dir.file_name().unwrap_or_default());
        let made = std::fs::create_dir_all(&kept);
        for log in
            ["skiff.log", "server.log", "agent.log", "data/containerd/containerd.log"].map(|log| self.dir.join(log))
        {
            // A node has not all of them.
            let copied = std::fs::copy(&log, kept.join(log.file_name().unwrap_or_default()));
            eprintln!("{} kept in {}: {made:?} {copied:?}", log.display(), kept.display());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.skiff.take() {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            if wait_child(&mut child, Duration::from_secs(60)).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let found = leaks::find(self);
        if std::thread::panicking() || !found.is_empty() {
            eprintln!("{}", self.log_tail());
            self.keep_logs();
        }
        leaks::remove(&self.slot, &self.dir);
        if !found.is_empty() && !std::thread::panicking() {
            panic!("left behind by {}:\n{}", self.dir.display(), found.join("\n"));
        }
    }
}

/// Wakes when a file grows (inotify), or after a second: the process may have ended without a word.
struct FileWatch {
    events: std::sync::mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl FileWatch {
    fn new(path: &Path) -> Self {
        use notify::Watcher;
        let (sender, events) = std::sync::mpsc::channel();
        // Not of `Open`: who wakes reads the file, and would wake itself for ever.
        let written = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| event.kind.is_modify()) {
                sender.send(()).unwrap_or_default();
            }
        };
        let mut watcher = notify::recommended_watcher(written).expect("inotify");
        watcher.watch(path, notify::RecursiveMode::NonRecursive).expect("inotify");
        Self { events, _watcher: watcher }
    }

    fn wait(&self) {
        let _ = self.events.recv_timeout(Duration::from_secs(1));
        while self.events.try_recv().is_ok() {}
    }
}

/// Where `make deps` puts what is not a Debian package of this release.
pub fn deps() -> PathBuf {
    // <target>/<profile>/skiff
    let target = Path::new(env!("CARGO_BIN_EXE_skiff")).ancestors().nth(2).expect("a target folder");
    target.join("deps-system")
}

/// Waits for a child with a deadline.
pub fn wait_child(child: &mut Child, deadline: Duration) -> Option<std::process::ExitStatus> {
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    // pidfd would do without a thread; `tail --pid` would poll. The child is reaped here, by `try_wait` below.
    std::thread::spawn(move || {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        let _ = nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags);
        let _ = sender.send(());
    });
    receiver.recv_timeout(deadline).ok()?;
    child.wait().ok()
}

/// Runs a command that must succeed.
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{error}", output.status);
}

/// Runs a command with input, and returns its output whatever its status.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> std::process::Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A child that does not read its input must not block the reading of its output.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("the writer");
    output
}
