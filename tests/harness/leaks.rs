//! What a node may leave behind on the machine: found (the test fails for it) and removed (the next test is not hurt).

use super::Node;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// For how long a process may still be about to end.
const END_MS: u16 = 20_000;

/// A process of the machine.
pub struct Process {
    pub pid: u32,
    pub command: String,
}

impl Process {
    pub fn has_children(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let mut children = threads.map(|thread| fs::read_to_string(thread.path().join("children")));
        children.any(|children| children.is_ok_and(|children| !children.is_empty()))
    }

    /// Waits until it has ended, and fails when it does not.
    pub fn wait_end(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid.cast_signed()).expect("a process id");
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
        let mut polled = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        let ended = nix::poll::poll(&mut polled, END_MS).expect("poll");
        assert_eq!(ended, 1, "still there after {END_MS} ms: {}", self.command);
    }
}

/// Processes whose command line contains `text`, this one excepted.
pub fn processes(text: &str) -> Vec<Process> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let command = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
            (pid != own && command.contains(text)).then_some(Process { pid, command })
        })
        .collect()
}

/// Mount points below the node's directory, deepest first.
fn mounts(node: &Node) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dir = node.dir.display().to_string();
    let own = node.path("kubelet");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<String> = points.filter(|p| p.starts_with(&dir) && **p != own).map(str::to_owned).collect();
    points.sort();
    points.reverse();
    points
}

/// Cgroups below the node's root, deepest first.
fn cgroups(node: &Node) -> Vec<PathBuf> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                collect(&entry.path(), found);
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
    for root in roots {
        let dir = root.join(&node.slot.cgroup()[1..]);
        if dir.is_dir() {
            collect(&dir, &mut found);
            found.push(dir);
        }
    }
    found
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// iptables rules that name the node's pods.
fn rules(node: &Node) -> Vec<String> {
    let prefix = node.slot.pod_prefix();
    output("iptables-save", &[]).lines().filter(|line| line.contains(&prefix)).map(str::to_owned).collect()
}

/// Shims of the node's containerd.
pub fn shims(node: &Node) -> Vec<Process> {
    let all = processes(&node.path("data"));
    all.into_iter().filter(|process| process.command.contains("containerd-shim")).collect()
}

/// What belongs to pods, while the node runs: paths of mounts and cgroups that name one.
pub fn of_pods(node: &Node) -> Vec<String> {
    let mounts = mounts(node).into_iter().filter(|point| point.contains("/kubelet/pods/"));
    let cgroups = cgroups(node).into_iter().map(|path| path.display().to_string());
    mounts.chain(cgroups.filter(|path| path.contains("/pod"))).collect()
}

/// Interfaces plugged into the node's pod bridge.
pub fn ports(node: &Node) -> Vec<String> {
    let ports = fs::read_dir(format!("/sys/class/net/{}/brif", node.slot.bridge()));
    ports.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Everything that should not be there any more, a line each.
pub fn find(node: &Node) -> Vec<String> {
    let dir = node.dir.display().to_string();
    let mut found: Vec<String> =
        processes(&dir).iter().map(|p| format!("process {}: {}", p.pid, p.command.trim_end())).collect();
    found.extend(mounts(node).iter().map(|point| format!("mount {point}")));
    let pods = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"));
    found.extend(cgroups(node).iter().filter(pods).map(|path| format!("cgroup {}", path.display())));
    found.extend(ports(node).iter().map(|port| format!("interface {port}")));
    found.extend(rules(node).iter().map(|rule| format!("iptables {rule}")));
    found
}

/// Removes whatever is there; nothing here may fail the test.
pub fn remove(node: &Node) {
    let dir = node.dir.display().to_string();
    for process in processes(&dir) {
        let _ = Command::new("kill").args(["-9", &process.pid.to_string()]).status();
    }
    for cgroup in cgroups(node) {
        for pid in fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
    }
    for point in mounts(node).into_iter().chain([node.path("kubelet")]) {
        let _ = Command::new("umount").args(["-l", &point]).output();
    }
    for cgroup in cgroups(node) {
        let _ = fs::remove_dir(cgroup);
    }
    for rule in rules(node) {
        // As iptables-save quotes it, a shell reads it. The chain of a pod goes with its last rule.
        let rule = rule.trim_start_matches("-A ");
        let _ = Command::new("sh").args(["-c", &format!("iptables -t nat -D {rule}")]).output();
        if let Some(chain) = rule.split(' ').next().filter(|chain| chain.starts_with("CNI-")) {
            let _ = Command::new("sh")
                .args(["-c", &format!("iptables -t nat -F {chain}; iptables -t nat -X {chain}")])
                .output();
        }
    }
    for port in ports(node).into_iter().chain([node.slot.bridge(), node.slot.link()]) {
        let _ = Command::new("ip").args(["link", "delete", &port]).output();
    }
    let _ = Command::new("ip").args(["netns", "delete", &node.slot.link()]).output();
    let _ = fs::remove_dir_all(&node.dir);
}
