//! A machine that is switched off: stand-ins for systemd's programs, pods by hand, real time.

use super::*;
use crate::clock::crowd::Crowd;
use crate::cluster::fake::FakeCluster;
use crate::model::observed::ObservedPod;
use crate::model::pod::DesiredPod;
use k8s_openapi::api::core::v1::PodStatus;
use node_config::kubelet::KubeletConfiguration;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

/// More than the slowest machine takes for a step.
const STEP: Duration = Duration::from_secs(30);

/// `busctl` tells a delay of 5 s until logind has read its configuration again, and then what the pipe `signals` says;
/// `systemd-inhibit` holds the pipe `lock` open for as long as it lives.
fn programs(folder: &Path) {
    let at = folder.display();
    let busctl = format!(
        "#!/bin/sh\ncase \"$*\" in\n*InhibitDelayMaxUSec*)\n    if [ -e {at}/reloaded ]; then us=30000000; else us=5000000; fi\n    \
         echo \"{{\\\"type\\\":\\\"t\\\",\\\"data\\\":$us}}\" ;;\n*KillUnit*systemd-logind.service*) : >{at}/reloaded ;;\n\
         *monitor*PrepareForShutdown*) exec cat {at}/signals ;;\n*) echo \"unexpected: $*\" >&2; exit 1 ;;\nesac\n"
    );
    let inhibit = format!("#!/bin/sh\nexec 3>{at}/lock\necho \"$*\" >&3\nexec sleep infinity\n");
    for (name, text) in [("busctl", busctl), ("systemd-inhibit", inhibit)] {
        // Made executable by another process: were it open for writing here, a fork of another test could keep it so
        // ("text file busy").
        let data = folder.join(format!("{name}.sh"));
        std::fs::write(&data, &text).unwrap();
        let made = std::process::Command::new("install").args(["-m", "755"]).args([data, folder.join(name)]).status();
        assert!(made.unwrap().success());
    }
    for pipe in ["signals", "lock"] {
        nix::unistd::mkfifo(&folder.join(pipe), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    }
}

fn pod(name: &str, priority: i32) -> DesiredPod {
    let pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"priority": priority, "terminationGracePeriodSeconds": 600, "containers": [{"name": "c"}]},
    });
    DesiredPod::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

fn show(pods: &PodsHandle, pod: &DesiredPod, phase: &str) {
    let status = PodStatus { phase: Some(phase.to_owned()), ..Default::default() };
    pods.update(pod, &Arc::new(status), &Arc::<ObservedPod>::default());
}

async fn within<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(STEP, step).await.unwrap_or_else(|_| panic!("{what} took longer than {STEP:?}"))
}

#[tokio::test]
async fn a_shutdown_waits_until_the_pods_have_ended_by_priority() {
    let dir = tempfile::tempdir().unwrap();
    programs(dir.path());
    let config: KubeletConfiguration =
        serde_json::from_value(json!({"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"}))
            .unwrap();
    let (ordinary, critical) = (pod("ordinary", 0), pod("critical", 2_000_000_000));
    let pods = PodsHandle::default();
    for pod in [&critical, &ordinary] {
        show(&pods, pod, "Running");
    }
    let (removals, mut told) = mpsc::channel(4);
    let (distress, mut seen) = watch::channel(Distress::default());
    let (recorder, _writer) = Recorder::new(Arc::new(FakeCluster::default()), "n", 0, 10, Crowd::none());
    let task = ShutdownTask {
        logind: Logind::fake(dir.path(), &dir.path().join("etc")),
        groups: shutdown::groups(&config),
        pods: pods.clone(),
        recorder,
        removals,
        distress,
    };
    let (held, mut lock) = mpsc::channel(2);
    let pipe = dir.path().join("lock");
    let holder = tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::new(std::fs::File::open(pipe).unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        held.blocking_send(line).unwrap();
        reader.read_to_string(&mut String::new()).unwrap();
        held.blocking_send("released".to_owned()).unwrap();
    });
    let story = async {
        let line = within("the lock", lock.recv()).await.unwrap();
        assert!(line.starts_with("--what=shutdown --mode=delay --who=kubelet"), "{line}");
        let conf = std::fs::read_to_string(dir.path().join("etc/logind.conf.d/99-kubelet.conf")).unwrap();
        assert!(conf.ends_with("[Login]\nInhibitDelayMaxSec=30\n"), "{conf}");

        let signals = dir.path().join("signals");
        let word = r#"{"type":"signal","member":"PrepareForShutdown","payload":{"type":"b","data":[true]}}"#;
        // Kept open: the end of the pipe would be the end of the bus.
        let open = tokio::task::spawn_blocking(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(signals).unwrap();
            writeln!(pipe, "{word}").unwrap();
            pipe
        });
        let _pipe = within("the monitor", open).await.unwrap();
        let first = within("the first group", told.recv()).await.unwrap();
        assert_eq!((first.uid.as_str(), first.removal.grace.as_secs()), ("ordinary", 20));
        assert_eq!(first.removal.reason, "Terminated");
        assert!(seen.borrow_and_update().shutting_down);
        assert!(told.try_recv().is_err(), "the critical ones wait for the others");
        show(&pods, &ordinary, "Failed");
        let second = within("the second group", told.recv()).await.unwrap();
        assert_eq!((second.uid.as_str(), second.removal.grace.as_secs()), ("critical", 10));
        assert!(lock.try_recv().is_err(), "the machine waits");
        show(&pods, &critical, "Failed");
        assert_eq!(within("the end of the lock", lock.recv()).await.as_deref(), Some("released"));
    };
    // Both arms are cancel-safe: the test ends with the story.
    tokio::select! {
        () = task.run() => unreachable!("the task never ends"),
        () = story => {}
    }
    holder.await.unwrap();
}
