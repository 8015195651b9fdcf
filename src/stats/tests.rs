//! A pod measured on a directory that looks like a cgroup tree.

use super::*;
use crate::cluster::fake::FakeCluster;
use crate::ids::{ContainerName, SandboxId};
use crate::model::node::NodeFacts;
use crate::model::observed::{ObservedContainer, ObservedSandbox};
use crate::runtime::fake::FakeRuntime;
use crate::volumes::CsiState;
use serde_json::json;
use std::fs;

struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids io").unwrap();
        Self { dir }
    }

    fn put(&self, path: &str, cpu_us: u64, memory: u64) {
        let folder = self.dir.path().join(path);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cpu.stat"), format!("usage_usec {cpu_us}\n")).unwrap();
        fs::write(folder.join("memory.current"), format!("{memory}\n")).unwrap();
        fs::write(folder.join("memory.stat"), "inactive_file 1000\n").unwrap();
        fs::write(folder.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
    }

    fn stats(&self) -> Stats {
        let (_, facts) = tokio::sync::watch::channel(NodeFacts::default());
        let volumes = Volumes::new(
            self.dir.path(),
            "cluster.local",
            Arc::new(FakeCluster::default()),
            facts,
            CsiState::default(),
        );
        let cgroups = Cgroups::detect(self.dir.path(), "cgroupfs").unwrap();
        let runtime = Arc::new(FakeRuntime::default());
        Stats::new(cgroups, runtime, volumes, self.dir.path(), &self.dir.path().join("logs"))
    }
}

fn subject() -> Subject {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1"},
        "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "scratch", "emptyDir": {}}]}
    });
    let at = Timestamp::from_second(1000).unwrap();
    let container = ObservedContainer {
        id: ContainerId::new("c1"),
        name: ContainerName::new("c"),
        sandbox: SandboxId::new("s1"),
        attempt: 0,
        state: ContainerState::Running { started_at: at },
        created_at: at,
        image: "busybox".into(),
        image_ref: String::new(),
        annotations: BTreeMap::new(),
        log_path: String::new(),
        termination_log: None,
        user: None,
    };
    let sandbox =
        ObservedSandbox { id: SandboxId::new("s1"), attempt: 0, ready: true, created_at: at, ips: Vec::new() };
    Subject {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        seen: Arc::new(ObservedPod { sandboxes: vec![sandbox], containers: vec![container] }),
    }
}

#[tokio::test]
async fn a_pod_is_its_cgroup_its_containers_and_the_network_of_its_sandbox() {
    let tree = Tree::new();
    tree.put("kubepods/besteffort/podu1", 3_000_000, 5000);
    tree.put("kubepods/besteffort/podu1/c1", 2_000_000, 4000);
    tree.put("kubepods/besteffort/podu1/s1", 1_000_000, 1500);
    let stats = tree.stats();
    let pods = stats.pods(vec![subject()], Depth::Full).await.unwrap();
    let [pod] = pods.as_slice() else { panic!("{pods:?}") };
    assert_eq!(pod.cgroup.as_ref().unwrap().memory.working_set, 4000);
    let [container] = pod.containers.as_slice() else { panic!("{pod:?}") };
    let figures = container.cgroup.as_ref().unwrap();
    assert_eq!((figures.memory.working_set, figures.cpu.total), (3000, 2_000_000_000));
    // The test's own process stands for the sandbox's.
    let own = proc::interfaces_of(i32::try_from(std::process::id()).unwrap(), &mut Buffer::default());
    let names = |list: &[InterfaceUse]| list.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&pod.network), names(&own));

    let groups = stats.groups(vec![subject()]).await.unwrap();
    let ids: Vec<&str> = groups.iter().map(|group| group.id.as_str()).collect();
    let pod = "/kubepods/besteffort/podu1";
    assert_eq!(ids, ["/", &format!("{pod}/s1"), &format!("{pod}/c1"), pod]);
    let container = groups.iter().find(|group| group.id == format!("{pod}/c1")).unwrap();
    assert!(container.figures.pids.processes == 1 && container.figures.pids.files > 0);
}

#[tokio::test]
async fn scrapes_within_seconds_share_a_look_unless_a_container_came() {
    let tree = Tree::new();
    let path = "kubepods/besteffort/podu1";
    let usage = |groups: &[Arc<Group>]| groups.last().map(|group| group.figures.memory.usage);
    tree.put(path, 1, 5000);
    let stats = tree.stats();
    assert_eq!(usage(&stats.groups(vec![subject()]).await.unwrap()), Some(5000));
    tree.put(path, 1, 6000);
    assert_eq!(usage(&stats.groups(vec![subject()]).await.unwrap()), Some(5000));
    let mut restarted = subject();
    Arc::make_mut(&mut restarted.seen).containers[0].id = ContainerId::new("c2");
    assert_eq!(usage(&stats.groups(vec![restarted]).await.unwrap()), Some(6000));
}

#[tokio::test]
async fn a_pod_without_a_cgroup_has_no_figures_and_is_no_error() {
    let tree = Tree::new();
    let stats = tree.stats();
    let pods = stats.pods(vec![subject()], Depth::Usage).await.unwrap();
    assert!(pods[0].cgroup.is_none() && pods[0].containers[0].cgroup.is_none());
    assert!(stats.groups(vec![subject()]).await.unwrap().len() == 1, "only the machine");
}

#[tokio::test]
async fn logs_and_local_volumes_are_a_pods_ephemeral_storage_and_walked_once_a_while() {
    let tree = Tree::new();
    let root = tree.dir.path();
    let logs = root.join("logs/ns_p_u1/c");
    let volume = root.join("pods/u1/volumes/kubernetes.io~empty-dir/scratch");
    for folder in [&logs, &volume] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("file"), vec![1; 1 << 20]).unwrap();
    }
    let stats = tree.stats();
    let age = Duration::from_secs(3600);
    let used = |disks: &BTreeMap<PodUid, PodDisk>| disks[&PodUid::new("u1")].ephemeral().bytes;
    let first = used(&stats.disks(&[subject()], age).await.unwrap());
    assert!((2 << 20..3 << 20).contains(&first), "{first}");
    fs::write(volume.join("more"), vec![1; 1 << 20]).unwrap();
    assert_eq!(used(&stats.disks(&[subject()], age).await.unwrap()), first, "as it was");
    assert!(used(&stats.disks(&[subject()], Duration::ZERO).await.unwrap()) > first, "walked again");
}

#[tokio::test]
async fn the_machine_has_memory_tasks_and_a_disk() {
    let tree = Tree::new();
    let node = tree.stats().node().await.unwrap();
    assert!(node.memory_available() > 0 && node.memory_available() < node.memory_capacity);
    assert!(node.max_pids > node.current_pids && node.current_pids > 0);
    assert!(node.nodefs.capacity > 0 && node.imagefs.is_none());
}
