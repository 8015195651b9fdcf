//! A real etcd over TLS under real servers: a cluster moves in and out, and its leader is killed.

use crate::etcd::{Etcd, Options};
use crate::server::{MAPS, Server, text, version};
use serde_json::{Value, json};
use std::path::Path;

/// The flags that lead into it.
fn access(etcd: &Etcd) -> Vec<String> {
    let flag = |name: &str, path: &Path| format!("--etcd-{name}={}", path.display());
    let files = &etcd.files;
    vec![flag("cafile", &files.ca), flag("certfile", &files.client.0), flag("keyfile", &files.client.1)]
}

/// A server on it.
fn serve(etcd: &Etcd, more: &[&str]) -> Server {
    let mut flags = access(etcd);
    flags.extend(["--store=etcd".to_owned(), format!("--etcd-servers={}", etcd.urls.join(","))]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Server::start(&flags)
}

/// Name and uid of each config map, which only the object itself brings along.
fn maps(server: &Server) -> Vec<(String, String)> {
    let list = server.curl("GET", MAPS, None).body;
    let field = |item: &Value, name: &str| item["metadata"][name].as_str().expect("text").to_owned();
    list["items"].as_array().expect("items").iter().map(|item| (field(item, "name"), field(item, "uid"))).collect()
}

#[test]
fn a_cluster_moves_into_etcd_and_back_with_all_it_has() {
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let mut embedded = Server::start(&[]);
    for n in 0..20 {
        assert_eq!(embedded.create(&format!("map-{n}"), "1").code, 201);
    }
    let before = maps(&embedded);
    embedded.stop();
    let file = format!("sqlite:{}", embedded.data().join("store/state.db").display());
    let cluster = format!("etcd:{}", etcd.urls.join(","));
    let access = access(&etcd);
    let copy = |from: &str, to: &str| -> Vec<String> {
        let places = ["copy".to_owned(), format!("--from={from}"), format!("--to={to}")];
        places.into_iter().chain(access.iter().cloned()).collect()
    };
    let run = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        embedded.store_ok(&arguments)
    };
    let told = run(&copy(&file, &cluster));
    assert!(told.contains(" keys, ") && told.contains("as they were at revision"), "{told}");

    let mut moved = serve(&etcd, &[]);
    assert_eq!(maps(&moved), before);
    assert_eq!(moved.create("later", "1").code, 201);
    let (there, newest) = (maps(&moved), version(&moved.curl("GET", MAPS, None).body));
    // Made while the server runs: a copy is of one revision.
    let back = embedded.path("back.db");
    run(&copy(&cluster, &format!("sqlite:{}", back.display())));
    moved.stop();

    assert!(embedded.store_ok(&["restore", text(&back)]).contains("revisions go on at"));
    embedded.boot();
    assert_eq!(maps(&embedded), there);
    assert!(version(&embedded.curl("GET", MAPS, None).body) > newest);
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "c", "image": "i"}], "tolerations": [{"operator": "Exists"}],
        },
    })
}

#[test]
fn when_the_server_that_schedules_is_killed_another_goes_on() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler";
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let flags = [
        "--controllers=*",
        "--leader-elect-lease-duration=10s",
        "--leader-elect-renew-deadline=8s",
        "--leader-elect-retry-period=1s",
    ];
    let mut first = serve(&etcd, &flags);
    let capacity = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {"capacity": capacity, "allocatable": capacity},
    });
    assert_eq!(first.curl("POST", "/api/v1/nodes", Some(&node)).code, 201);
    let accounts = "/api/v1/namespaces/default/serviceaccounts?fieldSelector=metadata.name%3Ddefault";
    first.watch(accounts, |event| event["type"] == "ADDED");
    let bound = |server: &Server, name: &str| {
        assert_eq!(server.curl("POST", PODS, Some(&pod(name))).code, 201);
        let path = format!("{PODS}?fieldSelector=metadata.name%3D{name}");
        server.watch(&path, |event| event["object"]["spec"]["nodeName"] == "n");
    };
    bound(&first, "before");
    let leads = |server: &Server| server.curl("GET", LEASE, None).body["spec"]["holderIdentity"].clone();
    let leader = leads(&first);

    let second = serve(&etcd, &flags);
    bound(&second, "through-another");
    assert_eq!(leads(&second), leader, "one leads, and it is the first");
    first.kill();
    bound(&second, "after");
    let heir = leads(&second);
    assert!(heir.is_string() && heir != leader, "{heir} after {leader}");
}
