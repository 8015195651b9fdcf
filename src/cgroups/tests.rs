//! On directories that stand for v2, and on the real v1 tree where this machine has one.

use super::*;

fn pod(uid: &str, resources: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": { "uid": uid }, "spec": { "containers": [{ "name": "c", "resources": resources }] },
    }))
    .unwrap()
}

fn v2_root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    root
}

#[test]
fn parents_are_named_as_the_kubelet_names_them() {
    let root = v2_root();
    let best_effort = pod("12-ab", serde_json::json!({}));
    let burstable = pod("12-ab", serde_json::json!({ "requests": { "cpu": "1" } }));
    let guaranteed = pod(
        "12-ab",
        serde_json::json!({ "limits": { "cpu": "1", "memory": "1" }, "requests": { "cpu": "1", "memory": "1" } }),
    );
    for (driver, cgroup_root, pod, expected) in [
        ("cgroupfs", "/", &best_effort, "/kubepods/besteffort/pod12-ab"),
        ("cgroupfs", "/", &burstable, "/kubepods/burstable/pod12-ab"),
        ("cgroupfs", "/a/b", &guaranteed, "/a/b/kubepods/pod12-ab"),
        ("systemd", "/", &guaranteed, "/kubepods.slice/kubepods-pod12_ab.slice"),
        ("systemd", "/", &burstable, "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_ab.slice"),
    ] {
        let cgroups = Cgroups::detect(root.path(), driver).unwrap().under(cgroup_root);
        assert_eq!(cgroups.pod_parent(pod), expected);
    }
    assert!(matches!(Cgroups::detect(root.path(), "none"), Err(CgroupError::Driver(_))));
    assert!(matches!(Cgroups::detect(Path::new("/nowhere"), "cgroupfs"), Err(CgroupError::NotMounted(_))));
}

#[tokio::test]
async fn v2_pods_get_their_files_and_are_listed() {
    let root = v2_root();
    let cgroups = Cgroups::detect(root.path(), "cgroupfs").unwrap().with_pod_pids(Some(100));
    assert_eq!(cgroups.version(), Version::V2);
    cgroups.create_tree(Millicores(2000), Bytes(1 << 30), None).await.unwrap();
    cgroups.create_pod(&pod("u1", serde_json::json!({ "requests": { "cpu": "1" } }))).await.unwrap();
    let file = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    assert_eq!(file("kubepods/cpu.weight"), "79");
    assert_eq!(file("kubepods/memory.max"), "1073741824");
    assert_eq!(file("kubepods/besteffort/cpu.weight"), "1");
    assert_eq!(file("kubepods/burstable/podu1/cpu.weight"), "39");
    assert_eq!(file("kubepods/burstable/podu1/pids.max"), "100");
    // The kernel's file takes one word at a time; a plain file keeps the last.
    assert_eq!(file("kubepods/cgroup.subtree_control"), "+pids");
    assert_eq!(cgroups.pods().await.unwrap(), [PodUid::new("u1")]);
}

#[test]
fn a_process_enters_a_cgroup_that_is_made_for_it() {
    let root = v2_root();
    let cgroups = Cgroups::detect(root.path(), "cgroupfs").unwrap();
    cgroups.enter("/system/agent/", 42).unwrap();
    cgroups.enter("/system/agent", 43).unwrap();
    assert_eq!(fs::read_to_string(root.path().join("system/agent/cgroup.procs")).unwrap(), "43");
}

#[tokio::test]
async fn what_is_reserved_is_enforced_on_cgroups_that_are_there() {
    let root = v2_root();
    let cgroups = Cgroups::detect(root.path(), "cgroupfs").unwrap();
    let reserved = CgroupResources { memory_bytes: Some(1 << 20), pids: Some(50), ..Default::default() };
    let missing = cgroups.limit_reserved("/system", reserved).await.unwrap_err();
    assert!(missing.to_string().starts_with("cgroup /system is not there"), "{missing}");
    fs::create_dir(root.path().join("system")).unwrap();
    cgroups.limit_reserved("/system", reserved).await.unwrap();
    let file = |name: &str| fs::read_to_string(root.path().join("system").join(name)).unwrap();
    assert_eq!((file("memory.max").as_str(), file("pids.max").as_str()), ("1048576", "50"));
}

#[tokio::test]
async fn v1_pods_are_made_in_every_hierarchy_and_removed_with_their_processes() {
    let real = Path::new("/sys/fs/cgroup");
    if real.join("cgroup.controllers").exists() || !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root and cgroup v1");
        return;
    }
    let parent = format!("/skiff-unit-{}", std::process::id());
    let cgroups = Cgroups::detect(real, "cgroupfs").unwrap().under(&parent);
    assert_eq!(cgroups.version(), Version::V1);
    let limits = serde_json::json!({ "cpu": "500m", "memory": "64Mi" });
    let pod = pod("u2", serde_json::json!({ "limits": limits, "requests": limits }));
    cgroups.create_pod(&pod).await.unwrap();
    cgroups.create_pod(&pod).await.unwrap();
    let path = cgroups.pod_parent(&pod);
    let file =
        |controller: &str, name: &str| fs::read_to_string(real.join(format!("{controller}{path}/{name}"))).unwrap();
    assert_eq!(file("cpu", "cpu.cfs_quota_us"), "50000\n");
    assert_eq!(file("memory", "memory.limit_in_bytes"), "67108864\n");
    assert_ne!(file("cpuset", "cpuset.cpus"), "\n");

    let in_container = |id: &str| {
        let sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let inner = real.join(format!("memory{path}/{id}"));
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        (sleeper, inner)
    };
    let ((mut forgotten, removed), (mut sleeper, inner)) = (in_container("forgotten"), in_container("container"));
    cgroups.remove_container(&path, "forgotten").await.unwrap();
    cgroups.remove_container(&path, "forgotten").await.unwrap();
    assert!(!forgotten.wait().unwrap().success());
    assert!(!removed.exists() && inner.exists() && sleeper.try_wait().unwrap().is_none());
    assert_eq!(cgroups.pods().await.unwrap(), [PodUid::new("u2")]);
    // A child of ours stays a zombie until reaped, but a zombie does not hold its cgroup.
    cgroups.remove_pod(&PodUid::new("u2")).await.unwrap();
    assert!(!sleeper.wait().unwrap().success());
    assert!(cgroups.pods().await.unwrap().is_empty());
    for hierarchy in &cgroups.hierarchies {
        for left in ["/kubepods", ""] {
            fs::remove_dir(hierarchy.root.join(format!("{}{left}", &parent[1..]))).unwrap();
        }
    }
}
