//! Volumes placed in a temporary root directory, with real tmpfs and bind mounts where the tests run as root.

use super::*;
use crate::cluster::fake::FakeCluster;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

struct Node {
    root: tempfile::TempDir,
    cluster: Arc<FakeCluster>,
    volumes: Volumes,
    _facts: watch::Sender<NodeFacts>,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cluster = Arc::new(FakeCluster::default());
        let (facts, reader) = watch::channel(NodeFacts::default());
        let volumes = Volumes::new(root.path(), "cluster.local", cluster.clone(), reader, CsiState::default());
        Self { root, cluster, volumes, _facts: facts }
    }

    fn mode(&self, path: &Path) -> String {
        let meta = fs::metadata(path).unwrap();
        format!("{:o} {}:{}", meta.permissions().mode() & 0o7777, meta.uid(), meta.gid())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        mounts::unmount_below(self.root.path()).unwrap();
    }
}

fn pod(spec: Value) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u-1", "labels": {"a": "1"}}, "spec": spec});
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// Mounting needs root, which CI and developers' machines have.
fn can_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root to mount");
    }
    root
}

#[tokio::test]
async fn every_local_kind_is_placed_where_the_kubelet_has_it_and_removed_without_a_trace() {
    if !can_mount() {
        return;
    }
    let node = Node::new();
    node.cluster.put_config_map(
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "cm"}, "data": {"k": "v1"}})).unwrap(),
    );
    node.cluster.put_secret(
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "data": {"k": "cw=="}})).unwrap(),
    );
    let pod = pod(json!({
        "securityContext": {"fsGroup": 2222},
        "containers": [{"name": "c", "volumeMounts": [{"name": "cm", "mountPath": "cfg", "subPath": "k"}]}],
        "volumes": [
            {"name": "e", "emptyDir": {}},
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "h", "hostPath": {"path": "/tmp", "type": "Directory"}},
            {"name": "cm", "configMap": {"name": "cm"}},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 256}},
            {"name": "d", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "none", "optional": true}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
    }));
    let placed = node.volumes.place(&pod).await.unwrap();
    let base = node.root.path().join("pods/u-1/volumes");
    let modes: Vec<String> = placed
        .paths
        .iter()
        .map(|(name, path)| match path.strip_prefix(&base) {
            Ok(inside) => format!("{name} {} {}", inside.display(), node.mode(path)),
            Err(_) => format!("{name} {}", path.display()),
        })
        .collect();
    assert_eq!(
        modes,
        [
            "cm kubernetes.io~configmap/cm 2777 0:2222",
            "d kubernetes.io~downward-api/d 3777 0:2222",
            "e kubernetes.io~empty-dir/e 2777 0:2222",
            "h /tmp",
            "m kubernetes.io~empty-dir/m 3777 0:2222",
            "s kubernetes.io~secret/s 3777 0:2222",
            "t kubernetes.io~projected/t 3777 0:2222",
        ]
    );
    assert_eq!(node.mode(&placed.paths["s"].join("k")), "440 0:2222");
    assert_eq!(node.mode(&placed.paths["t"].join("token")), "640 0:2222");
    assert_eq!(fs::read_to_string(placed.paths["t"].join("namespace")).unwrap(), "ns");
    assert_eq!(fs::read_to_string(placed.paths["d"].join("labels")).unwrap(), "a=\"1\"");
    fs::write(placed.paths["e"].join("kept"), "x").unwrap();

    // Again, as after a restart: nothing is lost or mounted twice.
    let count = || mounts::mount_points().unwrap().iter().filter(|point| point.starts_with(node.root.path())).count();
    let before = count();
    node.volumes.place(&pod).await.unwrap();
    assert_eq!((count(), placed.paths["e"].join("kept").exists()), (before, true));

    // A changed configMap reaches the volume; a subPath shows the old file until its container starts again.
    let ips = ["10.0.0.7".parse().unwrap()];
    let mounts = node.volumes.mounts(&pod, "c", 0, &placed, &ips, &[]).await.unwrap();
    let shown: Vec<String> = mounts.iter().map(|m| format!("{} ro={}", m.container_path, m.read_only)).collect();
    assert_eq!(shown, ["/cfg ro=true", "/etc/hosts ro=false", "/dev/termination-log ro=false"]);
    assert_eq!(mounts[0].host_path, node.root.path().join("pods/u-1/volume-subpaths/cm/c/0"));
    node.cluster.put_config_map(
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "cm"}, "data": {"k": "v2"}})).unwrap(),
    );
    node.volumes.refresh(&pod).await.unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!((read(&placed.paths["cm"].join("k")), read(&mounts[0].host_path)), ("v2".into(), "v1".into()));
    let again = node.volumes.mounts(&pod, "c", 1, &placed, &ips, &[]).await.unwrap();
    assert_eq!(read(&again[0].host_path), "v2");
    assert_ne!(again[2].host_path, mounts[2].host_path, "each attempt has its own termination log");

    // A link that leads out is removed, not followed.
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), "x").unwrap();
    symlink(outside.path(), placed.paths["e"].join("out")).unwrap();
    node.volumes.remove(&PodUid::new("u-1")).await.unwrap();
    node.volumes.remove(&PodUid::new("u-1")).await.unwrap();
    assert!(!node.root.path().join("pods/u-1").exists() && outside.path().join("precious").exists());
    assert_eq!(count(), 0);
}

#[tokio::test]
async fn what_is_missing_is_said_in_the_kubelets_words() {
    let node = Node::new();
    for (volume, want) in [
        (json!({"name": "cfg", "configMap": {"name": "x"}}), r#""cfg" : configmap "x" not found"#),
        (json!({"name": "s", "secret": {"secretName": "x"}}), r#""s" : secret "x" not found"#),
        (
            json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "y"}}]}}),
            r#""v" : [configmap "x" not found, secret "y" not found]"#,
        ),
        (
            json!({"name": "v", "hostPath": {"path": "/tmp", "type": "File"}}),
            r#""v" : hostPath type check failed: /tmp is not a file"#,
        ),
        (json!({"name": "../v", "emptyDir": {}}), r#""../v" : a volume's name must be a single file name"#),
    ] {
        let error = node.volumes.place(&pod(json!({"containers": [], "volumes": [volume]}))).await.unwrap_err();
        assert_eq!(error.to_string(), format!("MountVolume.SetUp failed for volume {want}"));
    }
    let both = json!([{"name": "a", "configMap": {"name": "x"}}, {"name": "b", "secret": {"secretName": "y"}}]);
    let failed = node.volumes.place(&pod(json!({"containers": [], "volumes": both}))).await.unwrap_err();
    let each: Vec<_> = failed.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        each,
        [
            "MountVolume.SetUp failed for volume \"a\" : configmap \"x\" not found",
            "MountVolume.SetUp failed for volume \"b\" : secret \"y\" not found",
        ]
    );
}

#[tokio::test]
async fn sub_paths_never_lead_out_of_the_volume() {
    let node = Node::new();
    let mount = |key: &str, path: &str| json!({"name": "e", "mountPath": "/d", key: path});
    for (mount, want) in [
        (mount("subPath", "/etc"), "error SubPath `/etc` must not be an absolute path"),
        (mount("subPath", "a/../../x"), "unable to provision SubPath `a/../../x`: must not contain '..'"),
        (mount("subPathExpr", "$(UP)/x"), "unable to provision SubPath `../x`: must not contain '..'"),
        (mount("subPathExpr", "$(NO)"), "missing value for NO"),
        (mount("subPath", "link/x"), "failed to create subPath directory for volumeMount \"e\" of container \"c\""),
        (mount("subPath", "link"), "failed to prepare subPath for volumeMount \"e\" of container \"c\""),
        (json!({"name": "zz", "mountPath": "/d"}), "cannot find volume \"zz\" to mount into container \"c\""),
    ] {
        let pod = pod(json!({
            "containers": [{"name": "c", "volumeMounts": [mount]}], "volumes": [{"name": "e", "emptyDir": {}}]}));
        let placed = node.volumes.place(&pod).await.unwrap();
        let _ = symlink("/etc", placed.paths["e"].join("link"));
        let env = [("UP".to_owned(), "..".to_owned())];
        let error = node.volumes.mounts(&pod, "c", 0, &placed, &[], &env).await.unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

#[tokio::test]
async fn without_the_api_server_content_on_the_disk_serves_on_and_a_token_may_be_missing() {
    if !can_mount() {
        return;
    }
    let node = Node::new();
    node.cluster.put_config_map(
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "cm"}, "data": {"k": "v1"}})).unwrap(),
    );
    let access = json!({"name": "access", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}});
    let both = pod(json!({"containers": [], "volumes": [{"name": "cm", "configMap": {"name": "cm"}}, access]}));
    let known = pod(json!({"containers": [], "volumes": [{"name": "cm", "configMap": {"name": "cm"}}]}));
    node.volumes.place(&known).await.unwrap();
    let away = || crate::cluster::ClusterError::Unavailable("connection refused".into());
    for call in ["config_map", "config_map", "service_account_token"] {
        node.cluster.fail(call, away());
    }
    let placed = node.volumes.place_offline(&both).await.unwrap();
    assert_eq!(fs::read_to_string(placed.paths["cm"].join("k")).unwrap(), "v1");
    assert_eq!(fs::read_to_string(placed.paths["access"].join("namespace")).unwrap(), "ns");
    assert!(!placed.paths["access"].join("token").exists() && !placed.paths["access"].join("ca.crt").exists());
    node.cluster.fail("config_map", away());
    assert!(node.volumes.place(&known).await.is_err(), "with an API server its word counts");
    let other = pod(json!({"containers": [], "volumes": [{"name": "other", "configMap": {"name": "cm"}}]}));
    node.cluster.fail("config_map", away());
    assert!(node.volumes.place_offline(&other).await.is_err(), "what was never here cannot be shown");
}
