//! A containerd of a test's own: private folders, bridge and subnet; nothing of it outlives the test.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Two containerds to test on: all lines from 1.6 to 2.x are supported targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// `/usr/bin/containerd`, whichever version that is.
    Installed,
    /// containerd 1.6 unpacked (`dpkg-deb -x`) where `tests/deps.sh tests` puts it, or where `SKIFF_CONTAINERD_16` says.
    V1_6,
}

impl Line {
    /// The folder of its binaries, or `None` where it cannot be had.
    fn folder(self) -> Option<PathBuf> {
        let folder = match self {
            Self::Installed => PathBuf::from("/usr/bin"),
            Self::V1_6 => {
                let target = std::env::var_os("CARGO_TARGET_DIR")
                    .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
                let given = std::env::var_os("SKIFF_CONTAINERD_16").map(PathBuf::from);
                given.unwrap_or_else(|| target.join("deps-system/containerd-1.6")).join("usr/bin")
            }
        };
        folder.join("containerd").exists().then_some(folder)
    }

    /// Its major version, by its own word.
    fn major(self) -> Option<u32> {
        let output = Command::new(self.folder()?.join("containerd")).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // "containerd github.com/containerd/containerd/v2 2.1.9+unknown "
        text.split_whitespace().nth(2)?.trim_start_matches('v').split('.').next()?.parse().ok()
    }

    /// Whether it is of the 2.x line.
    pub(crate) fn is_v2(self) -> bool {
        self.major().is_some_and(|major| major >= 2)
    }

    /// One for each line: tests run at once.
    fn number(self) -> u8 {
        match self {
            Self::Installed => 1,
            Self::V1_6 => 2,
        }
    }
}

pub(crate) struct Containerd {
    process: Child,
    binaries: PathBuf,
    folder: tempfile::TempDir,
    bridge: String,
}

impl Containerd {
    /// Starts one, unless this machine cannot: that is said aloud.
    pub(crate) fn start(line: Line, pause: &str) -> Result<Option<Self>> {
        let Some(binaries) = line.folder() else {
            eprintln!("skipped: no containerd of line {line:?} on this machine");
            return Ok(None);
        };
        if !nix::unistd::geteuid().is_root() || !Path::new("/usr/lib/cni/bridge").exists() {
            eprintln!("skipped: needs root and the CNI plugins in /usr/lib/cni");
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("skiff-rt-").tempdir()?;
        // Interface names hold 15 characters; test processes may run beside one another.
        let unique = std::process::id() % 100_000;
        let bridge = format!("skrt{}{unique}", line.number());
        let octet = 2 * (unique % 120) + u32::from(line.number());
        let subnet = format!("10.201.{octet}.0/24");
        write_configuration(folder.path(), line, pause, &bridge, &subnet)?;
        let process = spawn(&binaries, folder.path())?;
        Ok(Some(Self { process, binaries, folder, bridge }))
    }

    /// Kills it, as a crash would, and starts it again; containers live on.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.process = spawn(&self.binaries, self.folder.path())?;
        Ok(())
    }

    /// The root of the cgroups of its pods (`/` + a name of its own).
    pub(crate) fn cgroup_root(&self) -> String {
        format!("/{}", self.bridge)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until the runtime says that it and its network are ready.
    pub(crate) async fn ready(&mut self) -> Result<skiff::runtime::cri::CriRuntime> {
        use skiff::runtime::Runtime;
        let runtime = skiff::runtime::cri::CriRuntime::lazy(&self.socket());
        let mut last = String::new();
        for pause in (0..9).map(|n| Duration::from_millis(20 << n)) {
            match runtime.info().await {
                Ok(info) if info.runtime_ready.is_ok() && info.network_ready.is_ok() => return Ok(runtime),
                Ok(info) => last = format!("{info:?}"),
                Err(error) => last = error.to_string(),
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("containerd ended with {status}:\n{}", self.log());
            }
            tokio::time::sleep(pause).await;
        }
        bail!("containerd does not get ready: {last}\n{}", self.log())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Shims name our socket or state folder on their command line; pods that a failed test left die with them.
        let ours = self.folder.path().to_string_lossy().into_owned();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            let pid = process.file_name().to_string_lossy().parse::<i32>();
            if let (Ok(pid), true) = (pid, command.contains("containerd-shim") && command.contains(&ours)) {
                // The shim is a subreaper: its children are the containers.
                for child in children(pid) {
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
                }
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in
            mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&ours))
        {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroup(&controller.path().join(&self.bridge));
        }
        remove_cgroup(&Path::new("/sys/fs/cgroup").join(&self.bridge));
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).stderr(Stdio::null()).status();
    }
}

fn spawn(binaries: &Path, folder: &Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    // containerd takes the first shim on PATH, before the one beside it.
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
    Command::new(binaries.join("containerd"))
        .arg("--config")
        .arg(folder.join("config.toml"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting containerd")
}

fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn remove_cgroup(folder: &Path) {
    for child in fs::read_dir(folder).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

fn write_configuration(folder: &Path, line: Line, pause: &str, bridge: &str, subnet: &str) -> Result<()> {
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (root, state, socket, cni, netns) = (at("root"), at("state"), at("containerd.sock"), at("cni"), at("netns"));
    fs::create_dir_all(&cni)?;
    let version = if line.is_v2() { 3 } else { 2 };
    let plugins = match version {
        3 => format!(
            r#"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni']
    conf_dir = '{cni}'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{pause}'
"#
        ),
        _ => format!(
            r#"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#
        ),
    };
    let config =
        format!("version = {version}\nroot = '{root}'\nstate = '{state}'\n[grpc]\n  address = '{socket}'\n{plugins}");
    fs::create_dir_all(&netns)?;
    fs::write(folder.join("config.toml"), config)?;
    let network = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": bridge,
        "plugins": [
            { "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": false,
              "ipam": { "type": "host-local", "dataDir": at("ipam"), "ranges": [[{ "subnet": subnet }]] } },
            { "type": "loopback" },
        ],
    });
    fs::write(folder.join("cni/10-test.conflist"), network.to_string())?;
    Ok(())
}
