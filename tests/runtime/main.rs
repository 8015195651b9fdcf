//! `CriRuntime`, events and image import against real containerd, every line that this machine has.
#![allow(clippy::disallowed_methods)]

mod containerd;
mod images;
mod pods;

use anyhow::{Context, Result};
use containerd::{Containerd, Line};
use skiff::cgroups::Cgroups;
use skiff::ids::{ContainerId, PodUid};
use skiff::images::Images;
use skiff::model::observed::{ContainerState, ObservedPod};
use skiff::runtime::cri::CriRuntime;
use skiff::runtime::{ContainerInput, DnsConfig, Runtime, RuntimeError, RuntimeEvent, SandboxInput};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const PAUSE: &str = "localhost/skiff/pause:test";
const BUSYBOX: &str = "docker.io/library/busybox:1.36";

#[tokio::test]
async fn a_pod_lives_and_dies_on_the_installed_containerd() -> Result<()> {
    a_pod_lives_and_dies(Line::Installed).await
}

#[tokio::test]
async fn a_pod_lives_and_dies_on_containerd_1_6() -> Result<()> {
    a_pod_lives_and_dies(Line::V1_6).await
}

async fn a_pod_lives_and_dies(line: Line) -> Result<()> {
    let Some(mut containerd) = Containerd::start(line, PAUSE)? else { return Ok(()) };
    let runtime = Arc::new(containerd.ready().await?);
    let outcome = story(&runtime, &mut containerd, line).await;
    outcome.with_context(|| tail(&containerd.log()))
}

#[tokio::test]
async fn a_container_whose_task_the_runtime_has_forgotten_is_removed() -> Result<()> {
    let Some(mut containerd) = Containerd::start(Line::Installed, PAUSE)? else { return Ok(()) };
    let runtime = containerd.ready().await?;
    let folder = &containerd.folder().to_owned();
    import(&runtime, folder, Line::Installed).await?;
    let sandbox = sandbox_input(&PodUid::new(uuid::Uuid::new_v4().to_string()), folder);
    let sandbox = SandboxInput { cgroup_parent: format!("{}/forgotten", containerd.cgroup_root()), ..sandbox };
    let input = container_input(&sandbox, &runtime, "sleep 1000").await?;
    let id = runtime.run_sandbox(&sandbox).await?;
    for removed_with_its_sandbox in [false, true] {
        let container = runtime.create_container(&id, &input).await?;
        // As a StartContainer leaves it whose caller went away: CRI does not know of the task.
        let socket = runtime.socket().display().to_string();
        let start = ["-a", &socket, "-n", "k8s.io", "tasks", "start", "--detach", "--null-io", container.as_str()];
        let started = std::process::Command::new("ctr").args(start).output()?;
        assert!(started.status.success(), "{started:?}");
        if removed_with_its_sandbox {
            runtime.stop_sandbox(&id).await?;
            runtime.remove_sandbox(&id).await?;
        } else {
            runtime.remove_container(&container).await?;
        }
        assert!(runtime.pods().await?.iter().all(|pod| !pod.shape.contains_key(container.as_str())));
    }
    assert!(runtime.pods().await?.is_empty());
    Ok(())
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

async fn story(runtime: &Arc<CriRuntime>, containerd: &mut Containerd, line: Line) -> Result<()> {
    let folder = &containerd.folder().to_owned();
    let cgroups = Cgroups::detect(Path::new("/sys/fs/cgroup"), "cgroupfs")?.under(&containerd.cgroup_root());
    let info = runtime.info().await?;
    assert_eq!(info.name, "containerd");
    assert_eq!(info.cgroup_driver.is_some(), line.is_v2(), "RuntimeConfig came with 2.0: {info:?}");
    import(runtime, folder, line).await?;

    let (sender, mut events) = mpsc::channel(64);
    let follower = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.follow(sender).await }
    });
    assert_eq!(next(&mut events).await?, RuntimeEvent::Relist, "a subscription begins with a relist");

    let uid = PodUid::new(uuid::Uuid::new_v4().to_string());
    let mut sandbox = sandbox_input(&uid, folder);
    sandbox.cgroup_parent = cgroups.pod_parent(&sandbox.pod);
    cgroups.create_pod(&sandbox.pod).await?;
    assert_eq!(cgroups.pods().await?, std::slice::from_ref(&uid));
    let input =
        container_input(&sandbox, runtime, "echo out; echo err >&2; trap 'exit 3' TERM; sleep 1000 & wait").await?;

    let start = Instant::now();
    let sandbox_id = runtime.run_sandbox(&sandbox).await?;
    let sandbox_time = start.elapsed();
    let container = runtime.create_container(&sandbox_id, &input).await?;
    runtime.start_container(&container).await?;
    eprintln!("{line:?}: sandbox {sandbox_time:?}, sandbox and container {:?}", start.elapsed());

    let seen = runtime.observe(&uid).await?;
    assert_eq!(seen.sandboxes.len(), 1);
    assert!(seen.sandboxes[0].ready);
    assert!(seen.sandboxes[0].ips[0].to_string().starts_with("10.201."), "{seen:?}");
    let running = &seen.containers[0];
    assert!(matches!(running.state, ContainerState::Running { .. }), "{running:?}");
    assert_eq!((running.image.as_str(), running.attempt), (BUSYBOX, 0));
    assert_eq!(running.annotations["io.kubernetes.container.restartCount"], "0");
    assert_eq!(runtime.pods().await?[0].uid, uid);
    dirty(&mut events, &uid).await?;

    let command = ["sh", "-c", "id -u; hostname; exit 7"].map(str::to_owned);
    let output = runtime.exec_sync(&container, &command, Duration::from_secs(5)).await?;
    assert_eq!((String::from_utf8_lossy(&output.stdout).as_ref(), output.exit_code), ("0\nweb\n", 7));
    runtime.reopen_log(&container).await?;
    runtime.set_pod_cidr("10.201.0.0/16").await?;
    let socket = runtime.port_forward(&sandbox_id, &[80]).await?;
    assert!(socket.starts_with("http"), "{socket}");
    assert!(runtime.exec(&container, &stream()).await?.starts_with("http"));
    assert!(runtime.stats().await?.iter().any(|s| s.id == container.as_str() && s.memory_usage_bytes > 0));

    // A crash of the runtime: the next connection begins with a relist, and the container has lived on.
    while events.try_recv().is_ok() {}
    containerd.restart()?;
    while next(&mut events).await? != RuntimeEvent::Relist {}
    containerd.ready().await?;
    let seen = runtime.observe(&uid).await?;
    assert!(matches!(seen.containers[0].state, ContainerState::Running { .. }), "{seen:?}");

    while events.try_recv().is_ok() {}
    runtime.stop_container(&container, Duration::from_secs(10)).await?;
    // An event, then truth: the exit may not be looked up before the event says so.
    let exited =
        until(runtime, &mut events, &uid, |pod| matches!(pod.containers[0].state, ContainerState::Exited { .. }))
            .await?;
    assert!(matches!(exited.containers[0].state, ContainerState::Exited { exit_code: 3, .. }), "{exited:?}");
    let log = std::fs::read_to_string(&exited.containers[0].log_path)?;
    assert!(log.contains(" stdout F out") && log.contains(" stderr F err"), "{log}");

    // A container that ends by itself: only the event tells.
    let mut short = container_input(&sandbox, runtime, "exit 42").await?;
    (short.name, short.attempt, short.restart_count) = ("short".into(), 1, 1);
    let short_id = runtime.create_container(&sandbox_id, &short).await?;
    runtime.start_container(&short_id).await?;
    let ended = |pod: &ObservedPod| {
        pod.containers
            .iter()
            .any(|c| c.id == short_id && matches!(c.state, ContainerState::Exited { exit_code: 42, .. }))
    };
    until(runtime, &mut events, &uid, ended).await?;

    // One that takes more memory than it may: the reason comes with an event, or soon after one.
    let mut hog = container_input(&sandbox, runtime, "exec tail /dev/zero").await?;
    hog.name = "hog".into();
    let hog_id = runtime.create_container(&sandbox_id, &hog).await?;
    runtime.start_container(&hog_id).await?;
    let killed = |pod: &ObservedPod| {
        let reason =
            |state: &ContainerState| matches!(state, ContainerState::Exited { reason, .. } if reason == "OOMKilled");
        pod.containers.iter().any(|c| c.id == hog_id && reason(&c.state))
    };
    until(runtime, &mut events, &uid, killed).await.context("waiting for OOMKilled")?;

    // A sandbox that dies by itself.
    kill_pause(&uid)?;
    until(runtime, &mut events, &uid, |pod| !pod.sandboxes[0].ready).await.context("waiting for the sandbox")?;

    for id in [&container, &short_id, &hog_id] {
        runtime.remove_container(id).await?;
    }
    runtime.stop_sandbox(&sandbox_id).await?;
    assert!(!runtime.observe(&uid).await?.sandboxes[0].ready);
    runtime.remove_sandbox(&sandbox_id).await?;
    assert_eq!(runtime.observe(&uid).await?, ObservedPod::default());
    assert!(runtime.pods().await?.is_empty());

    cgroups.remove_pod(&uid).await?;
    assert!(cgroups.pods().await?.is_empty());

    let gone = runtime.start_container(&ContainerId::new("nonesuch")).await.unwrap_err();
    assert!(
        matches!(&gone, RuntimeError::NotFound(text) if text.starts_with("rpc error: code = NotFound desc = ")),
        "{gone}"
    );
    follower.abort();
    Ok(())
}

async fn import(runtime: &CriRuntime, folder: &Path, line: Line) -> Result<()> {
    let images = Images::new(runtime.socket());
    let pause = images.import_pause(node_config::shipped::PAUSE, PAUSE).await.context("importing pause")?;
    let archive = images::busybox_archive(folder)?;
    let imported = images.import_archive(&archive).await.context("importing busybox")?;
    assert_eq!(imported[0].name, BUSYBOX);
    assert_eq!(images.import_archive(&archive).await?, imported, "importing twice changes nothing");
    let layout = images::as_oci_layout(&archive, "localhost/busybox:oci")?;
    assert_eq!(images.import_archive(&layout).await.context("importing a layout")?[0].name, "localhost/busybox:oci");
    assert!(images.list().await?.contains(&pause));
    let seen = runtime.image(PAUSE).await?.context("CRI does not know the pause image")?;
    assert_eq!(seen.pinned, line.is_v2(), "CRI tells of pinned images from 1.7 on: {seen:?}");
    assert!(runtime.images().await?.iter().any(|image| image.tags.contains(&BUSYBOX.to_owned())));
    assert_eq!(runtime.image("docker.io/library/nonesuch:1").await?, None);
    Ok(())
}

fn sandbox_input(uid: &PodUid, folder: &Path) -> SandboxInput {
    let pod = serde_json::json!({
        "metadata": { "name": "web", "namespace": "default", "uid": uid.as_str(), "labels": { "app": "web" } },
        "spec": { "securityContext": {}, "terminationGracePeriodSeconds": 30, "containers": [
            { "name": "main", "image": BUSYBOX, "resources": { "requests": { "cpu": "100m" } } },
            { "name": "short", "image": BUSYBOX },
            { "name": "hog", "image": BUSYBOX, "resources": { "limits": { "memory": "16Mi" } } },
        ] },
    });
    SandboxInput {
        pod: Arc::new(serde_json::from_value(pod).expect("a pod")),
        attempt: 0,
        log_directory: folder.join(format!("logs/default_web_{uid}")),
        hostname: "web".into(),
        dns: DnsConfig { servers: vec!["10.96.0.10".into()], ..Default::default() },
        cgroup_parent: String::new(),
        runtime_handler: String::new(),
        user_namespace: None,
    }
}

async fn container_input(sandbox: &SandboxInput, runtime: &CriRuntime, script: &str) -> Result<ContainerInput> {
    Ok(ContainerInput {
        pod: sandbox.pod.clone(),
        name: "main".into(),
        attempt: 0,
        restart_count: 0,
        image_ref: runtime.image(BUSYBOX).await?.context("no busybox")?.id,
        env: vec![("GREETING".into(), "hello".into())],
        command: vec!["sh".into(), "-c".into()],
        args: vec![script.into()],
        mounts: Vec::new(),
        sandbox: sandbox.clone(),
        node_memory: 8 << 30,
        pins: Default::default(),
        target: None,
    })
}

fn stream() -> skiff::runtime::StreamOptions {
    skiff::runtime::StreamOptions { command: vec!["sh".into()], stdin: false, stdout: true, stderr: true, tty: false }
}

async fn next(events: &mut mpsc::Receiver<RuntimeEvent>) -> Result<RuntimeEvent> {
    tokio::time::timeout(Duration::from_secs(20), events.recv()).await.context("no event in time")?.context("closed")
}

async fn dirty(events: &mut mpsc::Receiver<RuntimeEvent>, uid: &PodUid) -> Result<()> {
    while next(events).await? != RuntimeEvent::Dirty(uid.clone()) {}
    Ok(())
}

/// Kills the pause process of a pod.
fn kill_pause(uid: &PodUid) -> Result<()> {
    for process in std::fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| std::fs::read_to_string(process.path().join(file)).unwrap_or_default();
        if read("comm") == "pause\n" && read("cgroup").contains(uid.as_str()) {
            let pid = process.file_name().to_string_lossy().parse()?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
            return Ok(());
        }
    }
    anyhow::bail!("no pause process of pod {uid}")
}

/// Observes after each event of the pod, never between, until `done`.
async fn until(
    runtime: &CriRuntime,
    events: &mut mpsc::Receiver<RuntimeEvent>,
    uid: &PodUid,
    done: impl Fn(&ObservedPod) -> bool,
) -> Result<ObservedPod> {
    loop {
        dirty(events, uid).await?;
        let seen = runtime.observe(uid).await?;
        if done(&seen) {
            return Ok(seen);
        }
    }
}
