//! The service as systemd and dpkg see it: units with kubeadm's drop-in, the notify protocol, the Debian package.

// Real processes are waited for with real deadlines.
#![allow(clippy::disallowed_methods)]

use crate::source::root;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the slowest step may take on a busy two-core machine.
const DEADLINE: Duration = Duration::from_secs(60);
const SKIFF: &str = env!("CARGO_BIN_EXE_skiff");

/// kubeadm 1.36's, as its Debian package installs it.
const KUBEADM_DROP_IN: &str = r#"# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"#;

/// What `systemd-analyze verify` has to say of the kubelet's unit and a drop-in; `None` where it is not installed.
fn complaints(unit: &str, drop_in: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("kubelet.service.d");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("10-kubeadm.conf"), drop_in).unwrap();
    let path = dir.path().join("kubelet.service");
    std::fs::write(&path, unit).unwrap();
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().ok()?;
    Some(String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn systemd_accepts_the_units_and_kubeadms_drop_in_takes_effect() {
    let installed = |text: &str| text.replace("/usr/bin/kubelet", "/bin/true");
    let unit = std::fs::read_to_string(root().join("node-config/systemd/kubelet.service")).unwrap();
    let Some(text) = complaints(&installed(&unit), &installed(KUBEADM_DROP_IN)) else {
        return eprintln!("skipped: systemd-analyze is not installed");
    };
    assert!(!text.contains("kubelet"), "{text}");
    // Its command is the one that would run: where that does not exist, it is the one missed.
    let missing = KUBEADM_DROP_IN.replace("/usr/bin/kubelet", "/nonexistent/kubelet");
    let text = complaints(&installed(&unit), &missing).unwrap();
    assert!(text.contains("/nonexistent/kubelet"), "{text}");
}

#[test]
fn units_say_what_a_kubelet_needs_of_systemd() {
    let settings = ["Type=notify", "WatchdogSec=30s", "Delegate=yes", "KillMode=process", "containerd.service"];
    for unit in ["kubelet.service", "skiff.service"] {
        let text = std::fs::read_to_string(root().join("node-config/systemd").join(unit)).unwrap();
        for setting in settings {
            assert!(text.contains(setting), "{unit} lacks {setting}");
        }
    }
}

#[test]
fn systemd_is_told_of_readiness_life_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut skiff = Command::new(SKIFF)
        .args(["server", "--store=memory", "--bind-address=127.0.0.1", "--secure-port=0", "--controllers=-*"])
        .arg(format!("--data-dir={}", dir.path().join("data").display()))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let said = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    said("READY=1");
    said("WATCHDOG=1");
    said("WATCHDOG=1");
    let pid = nix::unistd::Pid::from_raw(skiff.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    said("STOPPING=1");
    assert!(skiff.wait().unwrap().success());
}

#[test]
fn a_bad_configuration_ends_with_the_code_that_systemd_calls_config() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPodz: 1\n";
    std::fs::write(&file, text).unwrap();
    let out = Command::new(SKIFF)
        .args(["standalone", &format!("--config={}", file.display())])
        .arg(format!("--data-dir={}", dir.path().join("data").display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{text}");
    assert!(text.contains("maxPodz") && text.contains("did you mean maxPods?"), "{text}");
}

#[test]
fn the_debian_package_holds_binary_units_defaults_and_manual_pages() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        return eprintln!("skipped: dpkg-deb is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(root().join("node-config/debian/build.sh"))
        .arg(SKIFF)
        .arg(dir.path())
        // The debug binary is large: packing is what is tested, not squeezing.
        .env("SKIFF_DEB_COMPRESSION", "none")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let package = String::from_utf8(out.stdout).unwrap();
    let package = Path::new(package.trim());
    let query = |option: &str| {
        let out = Command::new("dpkg-deb").arg(option).arg(package).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let listing = query("--contents");
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/skiff"),
        ("lrwxrwxrwx root/root", "./usr/bin/kubelet -> skiff"),
        ("-rw-r--r-- root/root", "./usr/lib/systemd/system/kubelet.service"),
        ("-rw-r--r-- root/root", "./usr/lib/systemd/system/skiff.service"),
        ("-rw-r--r-- root/root", "./etc/default/kubelet"),
        ("-rw-r--r-- root/root", "./etc/default/skiff"),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/skiff.1.gz"),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/skiff-agent.1.gz"),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/skiff-standalone.1.gz"),
        ("-rw-r--r-- root/root", "./usr/share/doc/skiff/copyright"),
        ("-rwxr-xr-x root/root", "./usr/share/doc/skiff/kind/swap-kubelet.sh"),
    ] {
        let found = listing.lines().any(|line| line.starts_with(mode) && line.ends_with(path));
        assert!(found, "{mode} {path} in\n{listing}");
    }
    let control = query("--info");
    for field in ["Provides: kubelet (= 1.36.", "Conflicts: kubelet", "Version: 0.", " conffiles", " postinst"] {
        assert!(control.contains(field), "{field} in\n{control}");
    }
}

#[test]
fn the_scripts_that_are_shipped_are_sound() {
    for script in ["debian/build.sh", "debian/postinst", "debian/prerm", "debian/postrm", "kind/swap-kubelet.sh"] {
        let out = Command::new("bash").arg("-n").arg(root().join("node-config").join(script)).output().unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// A stand-in for docker that writes down what a node would be told.
#[test]
fn the_kubelet_of_a_kind_node_is_swapped_and_swapped_back() {
    let dir = tempfile::tempdir().unwrap();
    let (docker, log) = (dir.path().join("docker"), dir.path().join("log"));
    std::fs::write(&docker, format!("#!/bin/sh\necho \"$*\" >>{}\n", log.display())).unwrap();
    assert!(Command::new("chmod").arg("755").arg(&docker).status().unwrap().success());
    let run = |arguments: &[&str]| {
        let script = root().join("node-config/kind/swap-kubelet.sh");
        let out = Command::new(script).args(arguments).env("DOCKER", &docker).output().unwrap();
        (out.status.success(), std::fs::read_to_string(&log).unwrap_or_default())
    };
    assert!(!run(&[]).0, "without a node it says how it is used");
    let (done, told) = run(&["kind-worker", "/build/skiff"]);
    assert!(done, "{told}");
    let place = |text: &str| told.find(text).unwrap_or_else(|| panic!("{text} in\n{told}"));
    assert!(place("cp /build/skiff kind-worker:/usr/local/bin/skiff") < place("mv /usr/bin/kubelet"));
    assert!(place("ln -sf /usr/local/bin/skiff /usr/bin/kubelet") < place("systemctl restart kubelet"));
    let (done, told) = run(&["--back", "kind-worker"]);
    assert!(done && told.contains("mv -f /usr/bin/kubelet.stock /usr/bin/kubelet"), "{told}");
}
