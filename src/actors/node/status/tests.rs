//! Statuses and patches of a small machine.

use super::*;
use expect_test::expect;

/// A node that lacks nothing.
static NONE: BTreeSet<String> = BTreeSet::new();
static CALM: Distress = Distress { short: std::collections::BTreeSet::new(), shutting_down: false };

/// What the defaults of a KubeletConfiguration resolve to, as far as the node's status reads them.
pub(in crate::actors::node) fn config() -> AgentConfig {
    let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    AgentConfig {
        node_ip: Some("10.0.0.1".parse().unwrap()),
        root_dir: "/".into(),
        node_labels: text(&[("zone", "a")]),
        register_with_taints: vec![("k".into(), "v".into(), "NoSchedule".into())],
        kube_reserved: text(&[("cpu", "100m"), ("memory", "1Gi")]),
        eviction_hard: text(&[("memory.available", "100Mi"), ("nodefs.available", "10%")]),
        ..AgentConfig::new("n1", "")
    }
}

pub(in crate::actors::node) fn runtime(network: Result<(), String>) -> RuntimeInfo {
    RuntimeInfo {
        name: "containerd".into(),
        version: "2.1.9".into(),
        runtime_ready: Ok(()),
        network_ready: network,
        cgroup_driver: None,
        handlers: BTreeMap::from([(String::new(), (true, true)), ("runc".to_owned(), (true, true))]),
        supplemental_groups_policy: true,
    }
}

fn status(runtime: Result<&RuntimeInfo, &str>, last: Option<&NodeStatus>, second: i64) -> NodeStatus {
    with_devices(&Advertised::default(), runtime, last, second)
}

fn with_devices(
    devices: &Advertised,
    runtime: Result<&RuntimeInfo, &str>,
    last: Option<&NodeStatus>,
    second: i64,
) -> NodeStatus {
    let machine = Machine {
        cpus: 2,
        memory_bytes: 8_000_000 << 10,
        huge_pages: BTreeMap::from([(2 << 20, 0), (1 << 30, 1)]),
        architecture: "amd64",
        ..Default::default()
    };
    build(&Inputs {
        config: &config(),
        machine: &machine,
        disk: DiskUsage { capacity: 103_865_303 << 10, ..Default::default() },
        ips: &["10.0.0.1".parse().unwrap()],
        runtime,
        images: &[],
        distress: &CALM,
        volumes_in_use: &NONE,
        devices,
        outdated: &NONE,
        last,
        now: Timestamp::from_second(second).unwrap(),
    })
}

#[test]
fn resources_are_printed_and_reserved_as_the_kubelet_does() {
    let status = status(Ok(&runtime(Ok(()))), None, 0);
    let show = |map: &Option<BTreeMap<String, Quantity>>| {
        map.iter().flatten().map(|(name, quantity)| format!("{name}={}", quantity.0)).collect::<Vec<_>>().join(" ")
    };
    expect!["cpu=2 ephemeral-storage=103865303Ki hugepages-1Gi=1Gi hugepages-2Mi=0 memory=8000000Ki pods=110"]
        .assert_eq(&show(&status.capacity));
    expect!["cpu=1900m ephemeral-storage=95722263087 hugepages-1Gi=1Gi hugepages-2Mi=0 memory=5800448Ki pods=110"]
        .assert_eq(&show(&status.allocatable));
}

#[test]
fn pods_per_core_and_the_number_of_images_are_the_configurations() {
    let with = |per_core: i32, most: Option<i32>| {
        let mut kubelet = node_config::kubelet::KubeletConfiguration::defaulted();
        (kubelet.pods_per_core, kubelet.node_status_max_images) = (per_core, most);
        AgentConfig::resolve("n1", "", kubelet)
    };
    for (per_core, cpus, expected) in [(0, 2, 110), (10, 2, 20), (100, 2, 110)] {
        assert_eq!(pods(&with(per_core, None), cpus), expected);
    }
    let all = vec![ImageInfo::default(); 60];
    for (most, expected) in [(50, 50), (-1, 60), (0, 0)] {
        assert_eq!(images(&all, with(0, Some(most)).kubelet.node_status_max_images).len(), expected);
    }
}

#[test]
fn readiness_says_what_is_missing() {
    let network =
        runtime(Err("NetworkPluginNotReady: Network plugin returns error: cni plugin not initialized".into()));
    for (runtime, want) in [
        (Ok(&runtime(Ok(()))), "True KubeletReady kubelet is posting ready status"),
        (Err("refused"), "False KubeletNotReady container runtime is down"),
        (
            Ok(&network),
            "False KubeletNotReady container runtime network not ready: NetworkReady=false \
             reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized",
        ),
    ] {
        let status = status(runtime, None, 0);
        let ready = condition(Some(&status), "Ready").unwrap();
        let text =
            format!("{} {} {}", ready.status, ready.reason.as_deref().unwrap(), ready.message.as_deref().unwrap());
        assert_eq!(text, want);
    }
}

#[test]
fn a_patch_holds_what_changed_and_heartbeats_alone_do_not_matter() {
    let ready = runtime(Ok(()));
    let mut first = status(Ok(&ready), None, 0);
    let mut others = first.conditions.clone().unwrap();
    others.push(NodeCondition { type_: "NetworkUnavailable".into(), status: "False".into(), ..Default::default() });
    first.conditions = Some(others);
    first.capacity.as_mut().unwrap().insert("example.com/foo".into(), Quantity("5".into()));

    let second = status(Ok(&ready), Some(&first), 10);
    assert_eq!(second.allocatable.as_ref().unwrap()["example.com/foo"].0, "5");
    first.allocatable = second.allocatable.clone();
    let beat = change(&first, &second).unwrap();
    assert!(!beat.matters);
    assert_eq!(beat.patch["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
    let times = |status: &NodeStatus| {
        let ready = condition(Some(status), "Ready").unwrap();
        [&ready.last_heartbeat_time, &ready.last_transition_time].map(|time| time.as_ref().unwrap().0.as_second())
    };
    assert_eq!(times(&second), [10, 0]);

    let third = status(Err("gone"), Some(&second), 20);
    assert_eq!(times(&third), [20, 20]);
    let change = change(&second, &third).unwrap();
    assert!(change.matters);
    assert_eq!(change.patch["status"]["conditions"].as_array().unwrap().len(), 4);
}

#[test]
fn what_a_plugin_has_is_shown_as_it_is_and_what_others_advertised_stays() {
    let ready = runtime(Ok(()));
    let mut last = status(Ok(&ready), None, 0);
    for (name, count) in [("example.com/foo", "5"), ("example.com/gpu", "7")] {
        last.capacity.as_mut().unwrap().insert(name.into(), Quantity(count.into()));
    }
    let counts = |gpus: usize| [("example.com/gpu".to_owned(), gpus), ("example.com/gone".to_owned(), 0)].into();
    let devices = Advertised { capacity: counts(2), allocatable: counts(1) };
    let status = with_devices(&devices, Ok(&ready), Some(&last), 10);
    let show = |list: Option<BTreeMap<String, Quantity>>| {
        let extended = list.unwrap().into_iter().filter(|(name, _)| name.contains('/'));
        extended.map(|(name, count)| format!("{name}={}", count.0)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(show(status.capacity), "example.com/foo=5 example.com/gone=0 example.com/gpu=2");
    assert_eq!(show(status.allocatable), "example.com/foo=5 example.com/gone=0 example.com/gpu=1");
}

#[test]
fn the_largest_fifty_images_are_listed_with_at_most_five_names() {
    let all: Vec<ImageInfo> = (0..60)
        .map(|n| ImageInfo {
            id: format!("{n}"),
            tags: (0..7).map(|tag| format!("i{n}:{tag}")).collect(),
            digests: vec![format!("i{n}@sha256:0")],
            size: n,
            pinned: false,
            uid: None,
            username: String::new(),
        })
        .collect();
    let listed = images(&all, Some(50));
    assert_eq!((listed.len(), listed[0].size_bytes), (50, Some(59)));
    assert_eq!(listed[0].names.as_ref().unwrap(), &["i59@sha256:0", "i59:0", "i59:1", "i59:2", "i59:3"]);
}
