//! The files skiff ships, embedded; templates are filled here and nowhere else.

use serde_json::{Value, json};
use std::path::Path;

/// The static pause binary that `build.rs` compiles from `pause/main.rs`.
pub const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Reference under which the pause image is imported and used: never pulled.
pub const PAUSE_IMAGE: &str = concat!("skiff.local/pause:", env!("CARGO_PKG_VERSION"));

pub const HELLO_POD: &str = include_str!("../examples/hello.yaml");
pub const SKIFF_SERVICE: &str = include_str!("../systemd/skiff.service");
pub const KUBELET_SERVICE: &str = include_str!("../systemd/kubelet.service");
pub const KIND_CLUSTER: &str = include_str!("../kind/cluster.yaml");
const CNI_CONFLIST: &str = include_str!("../cni/10-skiff.conflist");
const CONTAINERD_V2: &str = include_str!("../containerd/config-v2.toml");
const CONTAINERD_V3: &str = include_str!("../containerd/config-v3.toml");

/// The configuration format that a containerd understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerdFormat {
    /// containerd 1.x.
    V2,
    /// containerd 2.x.
    V3,
}

/// What our own containerd is told.
#[derive(Clone, Debug)]
pub struct ContainerdConfig<'a> {
    pub format: ContainerdFormat,
    pub root: &'a Path,
    pub state: &'a Path,
    pub socket: &'a Path,
    pub cni_bin_dir: &'a Path,
    pub cni_conf_dir: &'a Path,
    /// Whether processes here may not lower `oom_score_adj`.
    pub restrict_oom_score_adj: bool,
    pub systemd_cgroup: bool,
}

impl ContainerdConfig<'_> {
    pub fn render(&self) -> String {
        let template = match self.format {
            ContainerdFormat::V2 => CONTAINERD_V2,
            ContainerdFormat::V3 => CONTAINERD_V3,
        };
        fill(
            template,
            &[
                ("root", json!(self.root)),
                ("state", json!(self.state)),
                ("socket", json!(self.socket)),
                ("sandbox_image", json!(PAUSE_IMAGE)),
                ("cni_bin_dir", json!(self.cni_bin_dir)),
                ("cni_conf_dir", json!(self.cni_conf_dir)),
                ("restrict_oom_score_adj", json!(self.restrict_oom_score_adj)),
                ("systemd_cgroup", json!(self.systemd_cgroup)),
            ],
        )
    }
}

/// The bridge network of a node that has no CNI configuration.
pub fn cni_conflist(name: &str, bridge: &str, pod_cidr: &str, ipam_dir: &Path) -> String {
    fill(
        CNI_CONFLIST,
        &[
            ("name", json!(name)),
            ("bridge", json!(bridge)),
            ("pod_cidr", json!(pod_cidr)),
            ("ipam_dir", json!(ipam_dir)),
        ],
    )
}

/// Replaces `{{key}}` by the value as JSON, which TOML reads alike for strings and booleans.
fn fill(template: &str, values: &[(&str, Value)]) -> String {
    let mut text = template.to_owned();
    for (key, value) in values {
        text = text.replace(&format!("{{{{{key}}}}}"), &value.to_string());
    }
    debug_assert!(!text.contains("{{"), "a placeholder was not filled");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn config(format: ContainerdFormat) -> String {
        ContainerdConfig {
            format,
            root: Path::new("/data/containerd"),
            state: Path::new("/data/run/\"odd\" state"),
            socket: Path::new("/data/run/containerd.sock"),
            cni_bin_dir: Path::new("/usr/lib/cni"),
            cni_conf_dir: Path::new("/data/run/cni"),
            restrict_oom_score_adj: true,
            systemd_cgroup: false,
        }
        .render()
    }

    #[test]
    fn containerd_reads_its_configuration() {
        let Ok(version) = Command::new("containerd").arg("--version").output() else {
            return eprintln!("skipped: containerd is not installed");
        };
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let two = version.contains(" v2.") || version.contains(" 2.");
        // containerd 2.x migrates version 2 files; 1.x cannot read version 3.
        for format in [ContainerdFormat::V2, ContainerdFormat::V3] {
            if format == ContainerdFormat::V3 && !two {
                eprintln!("skipped: {} cannot read version 3", version.trim());
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.toml");
            std::fs::write(&path, config(format)).unwrap();
            let out = Command::new("containerd").arg("--config").arg(&path).args(["config", "dump"]).output().unwrap();
            let dump = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            for expected in [PAUSE_IMAGE, "/usr/lib/cni", "/data/run/cni", "restrict_oom_score_adj = true"] {
                assert!(dump.contains(expected), "{format:?}: {expected} in\n{dump}");
            }
        }
    }

    #[test]
    fn the_cni_configuration_is_a_conflist() {
        let text = cni_conflist("skiff", "skiff0", "10.42.0.0/24", Path::new("/data/run/ipam"));
        let conf: Value = serde_json::from_str(&text).unwrap();
        let types: Vec<_> = conf["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["type"]).collect();
        assert_eq!(types, ["bridge", "portmap", "loopback"]);
        assert_eq!(conf["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.42.0.0/24");
    }

    #[test]
    fn the_yaml_files_parse() {
        for (text, kind) in [(HELLO_POD, "Pod"), (KIND_CLUSTER, "Cluster")] {
            let object: Value = serde_saphyr::from_str(text).unwrap();
            assert_eq!(object["kind"], kind);
        }
    }

    #[test]
    fn systemd_accepts_the_units() {
        for (name, text) in [("skiff.service", SKIFF_SERVICE), ("kubelet.service", KUBELET_SERVICE)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            // The programs need not be installed where the test runs.
            let text = text.replace("/usr/bin/skiff", "/bin/true").replace("/usr/bin/kubelet", "/bin/true");
            std::fs::write(&path, text).unwrap();
            let Ok(out) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() else {
                return eprintln!("skipped: systemd-analyze is not installed");
            };
            let complaints = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!complaints.contains(name), "{complaints}");
        }
    }

    #[test]
    fn pause_is_a_small_static_program() {
        assert_eq!(&PAUSE[..4], b"\x7fELF");
        assert!(PAUSE.len() < 32 * 1024, "{} bytes", PAUSE.len());
    }

    #[test]
    fn pause_ends_on_sigterm() {
        let dir = tempfile::tempdir().unwrap();
        let (data, path) = (dir.path().join("data"), dir.path().join("pause"));
        std::fs::write(&data, PAUSE).unwrap();
        // By another process: were the program open for writing here, a fork of another test could keep it so ("text
        // file busy").
        assert!(Command::new("install").args(["-m", "755"]).args([&data, &path]).status().unwrap().success());
        let mut child = Command::new(&path).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        // Default action before it blocks signals, its own way after: SIGINT and SIGTERM end it either way.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }
}
