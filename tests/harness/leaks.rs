//! What a node may leave behind on the machine: found (the test fails for it) and removed (the next test is not hurt).

use super::Node;
use super::slot::Slot;
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
        assert!(ends(self.pid), "still there after {END_MS} ms: {}", self.command);
    }
}

/// Whether a process has ended, or does within `END_MS`.
fn ends(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return true };
    let mut polled = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, END_MS).expect("poll") == 1
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

/// Mount points below a node's directory, deepest first; not the harness's own.
fn mounts(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (dir, own) = (dir.display().to_string(), shared_mount(dir));
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<String> = points.filter(|p| p.starts_with(&dir) && **p != own).map(str::to_owned).collect();
    points.sort();
    points.reverse();
    points
}

/// Where `Node::prepare` makes its shared mount.
fn shared_mount(dir: &Path) -> String {
    dir.join("kubelet").display().to_string()
}

/// Cgroups below the root of a slot's node, deepest first.
fn cgroups(slot: &Slot) -> Vec<PathBuf> {
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
        let dir = root.join(&slot.cgroup()[1..]);
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

/// iptables rules that name a slot's pods.
fn rules(slot: &Slot) -> Vec<String> {
    let prefix = slot.pod_prefix();
    output("iptables-save", &[]).lines().filter(|line| line.contains(&prefix)).map(str::to_owned).collect()
}

/// Shims of the node's containerd.
pub fn shims(node: &Node) -> Vec<Process> {
    let all = processes(&node.path("data"));
    all.into_iter().filter(|process| process.command.contains("containerd-shim")).collect()
}

/// What belongs to pods, while the node runs: paths of mounts and cgroups that name one.
pub fn of_pods(node: &Node) -> Vec<String> {
    let mounts = mounts(&node.dir).into_iter().filter(|point| point.contains("/kubelet/pods/"));
    let cgroups = cgroups(&node.slot).into_iter().map(|path| path.display().to_string());
    mounts.chain(cgroups.filter(|path| path.contains("/pod"))).collect()
}

/// Interfaces plugged into the pod bridge of a slot's node.
pub fn ports(slot: &Slot) -> Vec<String> {
    let ports = fs::read_dir(format!("/sys/class/net/{}/brif", slot.bridge()));
    ports.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Everything that should not be there any more, a line each.
pub fn find(node: &Node) -> Vec<String> {
    let dir = node.dir.display().to_string();
    let mut found: Vec<String> =
        processes(&dir).iter().map(|p| format!("process {}: {}", p.pid, p.command.trim_end())).collect();
    found.extend(mounts(&node.dir).iter().map(|point| format!("mount {point}")));
    let pods = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"));
    found.extend(cgroups(&node.slot).iter().filter(pods).map(|path| format!("cgroup {}", path.display())));
    found.extend(ports(&node.slot).iter().map(|port| format!("interface {port}")));
    found.extend(rules(&node.slot).iter().map(|rule| format!("iptables {rule}")));
    found
}

/// Removes what a killed test left of its node, whose slot is taken anew.
pub fn remove_of_killed(slot: &Slot) {
    let prefix = slot.dir_prefix();
    let entries = fs::read_dir("/tmp").into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    for dir in dirs.map(|entry| entry.path()) {
        eprintln!("removing what a killed test left: {}", dir.display());
        remove(slot, &dir);
    }
}

/// Removes whatever is there; nothing here may fail the test.
pub fn remove(slot: &Slot, dir: &Path) {
    let mut pids: Vec<u32> = processes(&dir.display().to_string()).into_iter().map(|process| process.pid).collect();
    for cgroup in cgroups(slot) {
        let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        pids.extend(members.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    for pid in &pids {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
    }
    // A cgroup can be removed when its last process has ended.
    if !pids.iter().all(|pid| ends(*pid)) {
        eprintln!("some of {pids:?} did not end within {END_MS} ms of their kill");
    }
    for point in mounts(dir).into_iter().chain([shared_mount(dir)]) {
        let _ = Command::new("umount").args(["-l", &point]).output();
    }
    for cgroup in cgroups(slot) {
        let _ = fs::remove_dir(cgroup);
    }
    for rule in rules(slot) {
        // As iptables-save quotes it, a shell reads it. The chain of a pod goes with its last rule.
        let rule = rule.trim_start_matches("-A ");
        let _ = Command::new("sh").args(["-c", &format!("iptables -t nat -D {rule}")]).output();
        if let Some(chain) = rule.split(' ').next().filter(|chain| chain.starts_with("CNI-")) {
            let _ = Command::new("sh")
                .args(["-c", &format!("iptables -t nat -F {chain}; iptables -t nat -X {chain}")])
                .output();
        }
    }
    for port in ports(slot).into_iter().chain([slot.bridge(), slot.link()]) {
        let _ = Command::new("ip").args(["link", "delete", &port]).output();
    }
    let _ = Command::new("ip").args(["netns", "delete", &slot.link()]).output();
    let _ = fs::remove_dir_all(dir);
}
