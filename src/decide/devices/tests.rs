//! Tables of allocation: who gets which devices, what the node shows, in the kubelet's words.

use super::*;
use crate::decide::topology::{Hint, Hints, NumaMask};
use crate::model::devices::{Device, DeviceMount, DeviceNode};
use serde_json::{Value, json};

const GPU: &str = "ex.org/gpu";

fn now() -> Instant {
    Instant::now()
}

fn devices(list: &str) -> Devices {
    // `a b! c@1,2`: `!` is unhealthy, `@` tells the nodes.
    let device = |text: &str| {
        let (id, nodes) = text.split_once('@').unwrap_or((text, ""));
        let nodes = nodes.split(',').filter_map(|node| node.parse().ok()).collect();
        (id.trim_end_matches('!').to_owned(), Device { healthy: !id.ends_with('!'), nodes })
    };
    list.split_whitespace().map(device).collect()
}

fn book(list: &str) -> Book {
    let mut book = Book::default();
    book.connected(GPU);
    book.listed(GPU, devices(list));
    book
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn container(name: &str, count: usize) -> Value {
    json!({"name": name, "resources": {"limits": {GPU: count.to_string(), "cpu": "1"}}})
}

fn ids(text: &str) -> Ids {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Gives every container of the pod its devices, init containers first, as admission does.
fn admit(book: &mut Book, uid: &str, pod: &Pod, preferred: &str) -> Result<String, Lack> {
    let uid = PodUid::new(uid);
    let spec = pod.spec.as_ref().unwrap();
    let mut given = Vec::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for (resource, count) in book.wants(container) {
            let claim = Claim { pod, uid: &uid, container: &container.name, resource: &resource, count, nodes: None };
            let chosen = match book.offer(&claim)? {
                Offer::Held => continue,
                Offer::Settled(chosen) => chosen,
                Offer::Open(open) => open.settle(&ids(preferred)),
            };
            given.push(format!("{}:{}", container.name, chosen.iter().cloned().collect::<Vec<_>>().join("+")));
            book.grant(&claim, chosen, Edits::default());
        }
    }
    Ok(given.join(" "))
}

#[test]
fn a_container_gets_what_is_free_and_healthy_and_what_the_plugin_prefers_of_it() {
    for (list, taken, count, preferred, expected) in [
        ("a b c", 0, 2, "", "c:a+b"),
        ("a b c", 1, 2, "", "c:b+c"),
        ("a b c", 0, 1, "c", "c:c"),
        ("a b c", 0, 2, "c", "c:a+c"),
        // A preference for what is not to be had counts for nothing.
        ("a b c", 1, 1, "a z c", "c:c"),
        ("a b! c", 0, 2, "b", "c:a+c"),
        ("a b c", 0, 0, "", ""),
        ("a b c", 3, 1, "", "requested number of devices unavailable for ex.org/gpu. Requested: 1, Available: 0"),
        ("a b! c", 1, 2, "", "requested number of devices unavailable for ex.org/gpu. Requested: 2, Available: 1"),
        ("a! b!", 0, 1, "", "no healthy devices present; cannot allocate unhealthy devices ex.org/gpu"),
    ] {
        let mut book = book(list);
        for other in 0..taken {
            admit(&mut book, &format!("other-{other}"), &pod(json!({"containers": [container("c", 1)]})), "").unwrap();
        }
        let answer = admit(&mut book, "u", &pod(json!({"containers": [container("c", count)]})), preferred);
        let answer = answer.unwrap_or_else(|lack| lack.to_string());
        assert_eq!(answer, expected, "{count} of {list} ({taken} taken), preferably {preferred}");
    }
}

#[test]
fn plain_init_containers_hand_their_devices_on_and_sidecars_keep_theirs() {
    let sidecar = |name: &str, count| {
        let mut sidecar = container(name, count);
        sidecar["restartPolicy"] = json!("Always");
        sidecar
    };
    for (init, main, expected) in [
        (vec![container("i", 1)], vec![container("m", 1)], "i:a m:a"),
        (vec![container("i", 1)], vec![container("m", 2)], "i:a m:a+b"),
        (vec![container("i", 2), container("j", 1)], vec![container("m", 1)], "i:a+b j:a m:a"),
        (vec![container("i", 2)], vec![container("m", 1), container("n", 1)], "i:a+b m:a n:b"),
        (vec![sidecar("s", 1)], vec![container("m", 1)], "s:a m:b"),
        (vec![container("i", 1), sidecar("s", 1)], vec![container("m", 1)], "i:a s:a m:b"),
        (
            vec![sidecar("s", 1), container("i", 2)],
            vec![container("m", 3)],
            "requested number of devices unavailable for ex.org/gpu. Requested: 1, Available: 0",
        ),
    ] {
        let mut book = book("a b c");
        let pod = pod(json!({"initContainers": init, "containers": main}));
        let answer = admit(&mut book, "u", &pod, "").unwrap_or_else(|lack| lack.to_string());
        assert_eq!(answer, expected);
    }
}

#[test]
fn what_is_held_is_not_given_again_and_is_freed_with_its_pod() {
    let mut book = book("a");
    let one = pod(json!({"containers": [container("c", 1)]}));
    assert_eq!(admit(&mut book, "first", &one, "").unwrap(), "c:a");
    assert_eq!(admit(&mut book, "first", &one, "").unwrap(), "", "held already");
    let more = pod(json!({"containers": [container("c", 2)]}));
    assert_eq!(
        admit(&mut book, "first", &more, "").unwrap_err().to_string(),
        "pod \"first\" container \"c\" changed request for resource \"ex.org/gpu\" from 1 to 2"
    );
    admit(&mut book, "second", &one, "").unwrap_err();
    book.release(&BTreeSet::from([PodUid::new("second")]));
    assert_eq!(admit(&mut book, "second", &one, "").unwrap(), "c:a");
    assert_eq!(book.given_out(&PodUid::new("second")), BTreeMap::from([(GPU.to_owned(), 1)]));
    assert!(book.given_out(&PodUid::new("first")).is_empty());
    book.forget(&PodUid::new("second"));
    assert_eq!(admit(&mut book, "third", &one, "").unwrap(), "c:a");
}

#[test]
fn the_node_shows_what_is_there_then_nothing_to_be_had_then_zero() {
    let show = |book: &Book| {
        let advertised = book.advertised();
        (advertised.capacity.get(GPU).copied(), advertised.allocatable.get(GPU).copied())
    };
    let begun = now();
    let mut book = Book::default();
    book.connected(GPU);
    assert_eq!(show(&book), (None, None), "nothing is known before the first list");
    book.listed(GPU, devices("a b! c"));
    assert_eq!(show(&book), (Some(3), Some(2)));
    book.disconnected(GPU, begun);
    assert_eq!(show(&book), (Some(3), Some(0)), "its plugin is gone");
    assert!(!book.expire(begun + Duration::from_secs(299)));
    assert_eq!(show(&book), (Some(3), Some(0)));
    assert!(book.expire(begun + Duration::from_secs(300)));
    assert_eq!(show(&book), (Some(0), Some(0)), "gone for good");
    assert!(!book.expire(begun + Duration::from_secs(301)), "once");
    book.listed(GPU, devices("a"));
    assert_eq!(show(&book), (Some(1), Some(1)), "its plugin is back");
}

#[test]
fn after_a_restart_pods_keep_what_they_hold_and_others_wait_for_the_plugin() {
    let grant = Grant { by_node: BTreeMap::from([(0, vec!["a".to_owned()])]), ..Default::default() };
    let mut book =
        Book::restored([(PodUid::new("first"), "c".to_owned(), GPU.to_owned(), grant)], [GPU.to_owned()], now());
    let one = pod(json!({"containers": [container("c", 1)]}));
    assert_eq!(admit(&mut book, "first", &one, "").unwrap(), "");
    assert_eq!(
        admit(&mut book, "second", &one, "").unwrap_err().to_string(),
        "no healthy devices present; cannot allocate unhealthy devices ex.org/gpu"
    );
    book.connected(GPU);
    book.listed(GPU, devices("a b"));
    assert_eq!(admit(&mut book, "second", &one, "").unwrap(), "c:b");
}

#[test]
fn the_health_of_what_a_container_holds_is_what_its_plugin_said_last() {
    let mut book = book("a b");
    admit(&mut book, "u", &pod(json!({"containers": [container("c", 2)]})), "").unwrap();
    let shown = |book: &Book, name: &str| {
        let status = book.health(&PodUid::new("u"), name).into_iter();
        let health = status.map(|status| {
            let devices = status.resources.unwrap().into_iter();
            let devices: Vec<_> = devices.map(|d| format!("{} {}", d.resource_id, d.health.unwrap())).collect();
            format!("{}: {}", status.name, devices.join(", "))
        });
        health.collect::<Vec<_>>()
    };
    assert_eq!(shown(&book, "c"), ["ex.org/gpu: a Healthy, b Healthy"]);
    assert_eq!(shown(&book, "other"), [""; 0]);
    book.listed(GPU, devices("a b!"));
    assert_eq!(shown(&book, "c"), ["ex.org/gpu: a Healthy, b Unhealthy"]);
    book.disconnected(GPU, now());
    assert_eq!(shown(&book, "c"), ["ex.org/gpu: a Healthy, b Unhealthy"], "its plugin is gone");
    book.connected(GPU);
    assert_eq!(book.advertised().allocatable[GPU], 0, "until it has listed");
    book.listed(GPU, devices("b"));
    assert_eq!(shown(&book, "c"), ["ex.org/gpu: a Healthy, b Healthy"], "one that is not listed is taken for healthy");
}

#[test]
fn a_resource_that_only_a_running_pod_knows_is_a_plugins_still() {
    let grant = Grant { by_node: BTreeMap::from([(NO_NODE, vec!["a".to_owned()])]), ..Default::default() };
    let mut book = Book::restored([(PodUid::new("first"), "c".to_owned(), GPU.to_owned(), grant)], [], now());
    let answer = admit(&mut book, "second", &pod(json!({"containers": [container("c", 1)]})), "");
    assert_eq!(answer.unwrap_err().to_string(), "cannot allocate unregistered device ex.org/gpu");
}

#[test]
fn a_device_is_noted_with_each_node_that_it_is_close_to() {
    let mut book = book("a@0,1 b@1 c");
    let pod = pod(json!({"containers": [container("c", 3)]}));
    admit(&mut book, "u", &pod, "").unwrap();
    let by_node = &book.held(&PodUid::new("u"), "c").unwrap()[GPU].by_node;
    let expected = [(NO_NODE, vec!["c"]), (0, vec!["a"]), (1, vec!["a", "b"])];
    assert_eq!(*by_node, expected.map(|(node, ids)| (node, ids.into_iter().map(str::to_owned).collect())).into());
}

#[test]
fn where_two_plugins_give_the_same_the_first_is_heard() {
    let edits = |by: &str| Edits {
        envs: [("SHARED", by), (by, "1")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        mounts: vec![DeviceMount { container_path: "/lib".into(), host_path: by.into(), read_only: true }],
        nodes: vec![DeviceNode { container_path: "/dev/x".into(), host_path: by.into(), permissions: "rw".into() }],
        annotations: [("note".to_owned(), by.to_owned())].into(),
        cdi_devices: vec!["ex.org/x=0".to_owned()],
    };
    let (pod, uid) = (pod(json!({"containers": []})), PodUid::new("u"));
    let mut book = Book::default();
    for resource in ["ex.org/b", "ex.org/a"] {
        let claim = Claim { pod: &pod, uid: &uid, container: "c", resource, count: 1, nodes: None };
        book.grant(&claim, ids("x"), edits(resource));
    }
    let all = book.edits(&uid, "c");
    assert_eq!(
        all.envs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
        ["SHARED=ex.org/a", "ex.org/a=1", "ex.org/b=1"]
    );
    assert_eq!((all.mounts, all.nodes), (edits("ex.org/a").mounts, edits("ex.org/a").nodes));
    assert_eq!((all.annotations["note"].as_str(), all.cdi_devices.len()), ("ex.org/a", 1));
}

#[test]
fn only_names_of_extended_resources_can_be_registered() {
    for (name, valid) in [
        ("ex.org/gpu", true),
        ("nvidia.com/mig-1g.5gb", true),
        ("ex.org/a_b", true),
        ("gpu", false),
        ("kubernetes.io/gpu", false),
        ("node.kubernetes.io/gpu", false),
        ("requests.ex.org/gpu", false),
        ("ex.org/", false),
        ("/gpu", false),
        ("ex.org/a/b", false),
        ("Ex.org/gpu", false),
        ("ex..org/gpu", false),
        ("ex.org/-gpu", false),
    ] {
        assert_eq!(is_extended_resource(name), valid, "{name}");
    }
}

#[test]
fn devices_close_to_the_chosen_nodes_come_first() {
    for (list, nodes, count, preferred, expected) in [
        ("a@0 b@1 c@1 d", None, 2, "", "a+b"),
        ("a@0 b@1 c@1 d", Some(1), 1, "", "b"),
        // A preference counts among those that are close only.
        ("a@0 b@1 c@1 d", Some(1), 1, "a c", "c"),
        ("a@0 b@1 c@1 d", Some(1), 2, "a", "b+c"),
        ("a b@1 c@1 d@0", Some(1), 3, "", "b+c+d"),
        ("a b@1 c@1 d@0", Some(1), 3, "a", "a+b+c"),
        ("a b c@0,1 d@0", Some(1), 1, "", "c"),
        ("a b", Some(1), 1, "b", "b"),
    ] {
        let (book, pod) = (book(list), pod(json!({"containers": [container("c", count)]})));
        let nodes = nodes.map(|node| NumaMask::of([node]));
        let claim = Claim { pod: &pod, uid: &PodUid::new("u"), container: "c", resource: GPU, count, nodes };
        let chosen = match book.offer(&claim).unwrap() {
            Offer::Held => panic!("{list}: nobody holds any"),
            Offer::Settled(chosen) => chosen,
            Offer::Open(open) => open.settle(&ids(preferred)),
        };
        assert_eq!(
            chosen,
            ids(&expected.replace('+', " ")),
            "{count} of {list} near {nodes:?}, preferably {preferred}"
        );
    }
}

#[test]
fn hints_name_every_set_of_nodes_that_has_enough() {
    let shown = |hints: Vec<Hints>| {
        let nodes = |mask: NumaMask| mask.nodes().iter().map(u32::to_string).collect::<String>();
        let hint = |hint: &Hint| {
            format!("{}{}", if hint.preferred { "+" } else { "-" }, hint.affinity.map(nodes).unwrap_or_default())
        };
        let hints = hints.iter().map(|hints| match hints {
            None => "any".to_owned(),
            Some(hints) => hints.iter().map(hint).collect::<Vec<_>>().join(" "),
        });
        hints.collect::<Vec<_>>().join("; ")
    };
    let nodes = BTreeSet::from([0, 1]);
    for (list, other, count, expected) in [
        ("a b", 0, 1, "any"),
        ("a@0 b@1", 0, 1, "+0 +1 -01"),
        ("a@0 b@1", 1, 1, "+1 -01"),
        ("a@0 b@1", 0, 2, "+01"),
        ("a@0 b@0 c@1", 0, 2, "+0 -01"),
        // Another holds one of the two that would do.
        ("a@0 b@0 c@1", 1, 2, "-01"),
        ("a@0 b@1", 1, 2, ""),
        ("a@0 b@1", 0, 0, "+0 +1 -01"),
        ("a@0,1 b@1", 0, 1, "+0 +1 -01"),
    ] {
        let mut book = book(list);
        admit(&mut book, "other", &pod(json!({"containers": [container("c", other)]})), "").unwrap();
        let pod = pod(json!({"containers": [container("c", count)]}));
        let wanted = &pod.spec.as_ref().unwrap().containers[0];
        let uid = PodUid::new("u");
        assert_eq!(shown(book.hints(&pod, &uid, wanted, &nodes)), expected, "{count} of {list}");
        assert_eq!(shown(book.pod_hints(&pod, &uid, &nodes)), expected, "{count} of {list}");
    }
    // Who holds some is told where they are; init containers hand theirs on.
    let mut book = book("a@0 b@1 c@1");
    let pod = pod(json!({"initContainers": [container("i", 1)], "containers": [container("c", 2)]}));
    let uid = PodUid::new("u");
    assert_eq!(shown(book.pod_hints(&pod, &uid, &nodes)), "+1 -01");
    let init = &pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap()[0];
    let claim = Claim { pod: &pod, uid: &uid, container: "i", resource: GPU, count: 1, nodes: None };
    book.grant(&claim, ids("a"), Edits::default());
    assert_eq!(shown(book.hints(&pod, &uid, init, &nodes)), "+0 -01");
    assert_eq!(shown(book.hints(&pod, &uid, &pod.spec.as_ref().unwrap().containers[0], &nodes)), "-01");
}
