//! API servers on a real etcd: what stock servers stored, several servers at once, etcd killed, and no quorum.

#[path = "etcd/server.rs"]
mod server;
#[allow(dead_code, reason = "these tests need no TLS client")]
#[path = "server/support.rs"]
mod support;

use bytes::Bytes;
use etcd_client::GetOptions;
use futures::StreamExt;
use futures::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, VersionMatch, WatchEvent, WatchParams};
use serde_json::{Value, json};
use server::{Etcd, Options};
use skiff_shim::config::{Election, ServerConfig, StoreConfig, Timing};
use skiff_shim::registry::{self, ResourceDef};
use skiff_shim::revision::Revision;
use skiff_shim::schema::Schema;
use skiff_shim::store::cache::{CacheSpec, Caches, ResourceCache, Scope};
use skiff_shim::store::etcd::{EtcdConfig, EtcdStore};
use skiff_shim::store::key::StoreKey;
use skiff_shim::store::{Class, Expect, Store, Write};
use skiff_shim::task::Tasks;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::Fixture;

fn config(etcd: &Etcd) -> EtcdConfig {
    let (certificate, key) = etcd.files.client.clone();
    EtcdConfig {
        ca_file: Some(etcd.files.ca.clone()),
        cert_file: Some(certificate),
        key_file: Some(key),
        ..EtcdConfig::new(etcd.urls.clone())
    }
}

async fn serve(etcd: &Etcd) -> Fixture {
    let store = StoreConfig::Etcd(config(etcd));
    Fixture::configured("", |server| server.store = store).await
}

fn admin(fixture: &Fixture) -> Client {
    fixture.server.client("admin", &["system:masters"])
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "v"}})).unwrap()
}

async fn send(client: &Client, request: http::request::Builder, body: &Value) -> (Response<()>, String) {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = request.header("content-type", "application/json").body(body.into()).unwrap();
    let (head, body) = client.send(request).await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(text.to_vec()).unwrap())
}

/// `shared/k8s-1.36/wire`, which lies beside the checkout.
fn wire() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|at| at.join("shared/k8s-1.36/wire"))
        .find(|folder| folder.is_dir());
    if found.is_none() {
        eprintln!("skipped: no shared/k8s-1.36/wire above {}", env!("CARGO_MANIFEST_DIR"));
    }
    found
}

/// (etcd's key, path of the API) of an object of that resource.
fn places(def: &ResourceDef, object: &Value) -> (String, String) {
    let meta = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    let (namespace, name) = (meta("namespace"), meta("name"));
    let root = if def.gv.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", def.gv.group) };
    let root = format!("{root}/{}", def.gv.version);
    match def.namespaced {
        true => (
            format!("/registry/{}/{namespace}/{name}", def.storage),
            format!("{root}/namespaces/{namespace}/{}/{name}", def.resource),
        ),
        false => (format!("/registry/{}/{name}", def.storage), format!("{root}/{}/{name}", def.resource)),
    }
}

#[tokio::test]
async fn objects_as_stock_servers_store_them_are_served_and_written_back_as_json() {
    let Some(folder) = wire() else { return };
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let fixture = serve(&etcd).await;
    let client = admin(&fixture);
    let mut kv = etcd.client(0).await.kv_client();
    let mut served = 0;
    for def in registry::all().iter().filter(|def| def.gv == def.storage_gv && def.verbs.contains(&"get")) {
        let group = if def.gv.group.is_empty() { "core" } else { def.gv.group };
        let stem = folder.join(format!("{group}.{}.{}", def.gv.version, def.kind)).display().to_string();
        let Ok(json) = std::fs::read(format!("{stem}.json")) else { continue };
        let mut expected: Value = serde_json::from_slice(&json).unwrap();
        let (key, path) = places(def, &expected);
        for value in [json, std::fs::read(format!("{stem}.pb")).unwrap()] {
            let put = kv.put(key.as_str(), value, None).await.unwrap();
            expected["metadata"]["resourceVersion"] = put.header().unwrap().revision().to_string().into();
            let (head, text) = send(&client, Request::get(&path), &Value::Null).await;
            assert_eq!(head.status(), 200, "{path}: {text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected, "{path}");
            assert!(!text.contains('\n'), "{path}: a raw newline would tear a watch's frames apart");
            served += 1;
        }
    }
    assert!(served >= 30, "only {served} values were compared");

    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let object = json!({"metadata": {"name": "stock", "namespace": "default", "uid": "u"}, "data": {"k": "v"}});
    let protobuf = Schema::named("v1", "ConfigMap").unwrap().encode_protobuf(&object);
    kv.put("/registry/configmaps/default/stock", protobuf, None).await.unwrap();
    let Some(Ok(WatchEvent::Added(added))) = watch.next().await else { panic!("the watch saw nothing") };
    assert_eq!(added.data.unwrap()["k"], "v");
    let patch = Patch::Merge(json!({"data": {"k": "2"}}));
    maps.patch("stock", &PatchParams::default(), &patch).await.unwrap();
    let stored = kv.get("/registry/configmaps/default/stock", None).await.unwrap();
    let stored = stored.kvs()[0].value_str().unwrap();
    assert!(stored.starts_with(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"#), "{stored}");
    assert!(stored.contains(r#""data":{"k":"2"}"#) && !stored.contains("resourceVersion"), "{stored}");
    fixture.server.stop().await;
}

#[tokio::test]
async fn two_servers_on_one_etcd_see_each_others_writes() {
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let (one, other) = (serve(&etcd).await, serve(&etcd).await);
    let maps = |fixture: &Fixture| Api::<ConfigMap>::default_namespaced(admin(fixture));
    let (a, b) = (maps(&one), maps(&other));
    let version = b.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = b.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    for n in 0..20 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let created = writer.create(&PostParams::default(), &config_map(&format!("m{n}"))).await.unwrap();
        // No wait in between: what one acknowledged, the other reads.
        let read = reader.get(&format!("m{n}")).await.unwrap();
        assert_eq!(read.metadata.resource_version, created.metadata.resource_version);
        let Some(Ok(WatchEvent::Added(seen))) = watch.next().await else { panic!("no event of m{n}") };
        assert_eq!(seen.metadata.name, created.metadata.name);
    }
    // A revision that holds nothing of ours, given out by one, is no riddle to the other.
    etcd.client(0).await.put("/elsewhere", "x", None).await.unwrap();
    let version = a.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let listed = b.list(&ListParams::default().at(&version).matching(VersionMatch::NotOlderThan)).await.unwrap();
    assert_eq!(listed.metadata.resource_version.as_ref(), Some(&version));
    let mut ours = a.get("m0").await.unwrap();
    let mut theirs = b.get("m0").await.unwrap();
    ours.data = Some(BTreeMap::from([("by".to_owned(), "a".to_owned())]));
    a.replace("m0", &PostParams::default(), &ours).await.unwrap();
    theirs.data = Some(BTreeMap::from([("by".to_owned(), "b".to_owned())]));
    let lost = b.replace("m0", &PostParams::default(), &theirs).await.unwrap_err();
    assert!(lost.to_string().contains("the object has been modified"), "{lost}");
    one.server.stop().await;
    assert_eq!(b.get("m0").await.unwrap().data.unwrap()["by"], "a");
    other.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_etcd_give_no_address_or_port_twice() {
    const EACH: usize = 12;
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    // 30 addresses, of which nearly all are given: both servers come upon the same ones again and again.
    let start = async || {
        let store = StoreConfig::Etcd(config(&etcd));
        let edit = |server: &mut ServerConfig| {
            server.store = store;
            server.service_cluster_ip_range = "10.43.0.0/27".into();
        };
        Fixture::configured("", edit).await
    };
    let (one, other) = tokio::join!(start(), start());
    let services = [&one, &other].map(|fixture| Api::<Service>::default_namespaced(admin(fixture)));
    let service = |name: String, spec: Value| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    let free = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let params = PostParams::default();
    let all = services.iter().enumerate().flat_map(|(at, api)| {
        let (service, free, params) = (&service, &free, &params);
        (0..EACH).map(move |n| async move {
            let created = api.create(params, &service(format!("s{at}-{n}"), free.clone())).await.unwrap().spec.unwrap();
            (created.cluster_ip.unwrap(), created.ports.unwrap()[0].node_port.unwrap())
        })
    });
    let (addresses, ports): (BTreeSet<String>, BTreeSet<i32>) = join_all(all).await.into_iter().unzip();
    assert_eq!((addresses.len(), ports.len()), (2 * EACH, 2 * EACH), "{addresses:?} {ports:?}");
    // Asked for by name at the same time: one gets it, and it is free again with its Service.
    let wanted = |field: &str| match field {
        "address" => json!({"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}),
        _ => json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 31234}]}),
    };
    services[0].delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    for field in ["address", "port", "address", "port"] {
        let tries = services.iter().enumerate().map(|(at, api)| {
            let (service, params) = (service(format!("named-{at}"), wanted(field)), &params);
            async move { api.create(params, &service).await }
        });
        let (won, lost): (Vec<_>, Vec<_>) = join_all(tries).await.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 1), "{field}: {won:?} {lost:?}");
        let said = lost.into_iter().next().unwrap().unwrap_err().to_string();
        assert!(said.contains("is already allocated"), "{said}");
        let name = won.into_iter().next().unwrap().unwrap().metadata.name.unwrap();
        services[1].delete(&name, &DeleteParams::default()).await.unwrap();
    }
    let claims = GetOptions::new().with_prefix().with_keys_only();
    let claims = etcd.client(0).await.get("/registry/skiff-claims/", Some(claims)).await.unwrap();
    assert!(claims.kvs().is_empty(), "{:?}", claims.kvs());
    one.server.stop().await;
    other.server.stop().await;
}

#[tokio::test]
async fn an_object_too_large_for_etcd_is_refused_as_stock_refuses_it() {
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let fixture = serve(&etcd).await;
    let client = admin(&fixture);
    let path = "/api/v1/namespaces/default/podtemplates";
    let template = |bytes: usize| {
        let container = json!({"name": "c", "image": "i", "args": ["x".repeat(bytes)]});
        json!({"metadata": {"name": "large"}, "template": {"spec": {"containers": [container]}}})
    };
    for bytes in [1_600_000, 2_500_000] {
        let (head, text) = send(&client, Request::post(path), &template(bytes)).await;
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((head.status().as_u16(), &status["reason"]), (500, &Value::Null), "{text}");
        assert_eq!(status["message"], "etcdserver: request is too large");
    }
    let (head, text) = send(&client, Request::post(path), &template(1_400_000)).await;
    assert_eq!(head.status(), 201, "{}", &text[..text.len().min(300)]);
    fixture.server.stop().await;
}

/// Waits until the controllers of some server have done their work in that namespace.
async fn looked_after(client: &Client, namespace: &str) {
    let name = json!({"metadata": {"name": namespace}});
    let created = Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &serde_json::from_value(name).unwrap())
        .await;
    created.unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let mut watch = accounts.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let seen = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    assert!(matches!(seen, Ok(Some(Ok(WatchEvent::Added(_))))), "no account in {namespace}: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_servers_that_share_an_etcd_one_runs_the_controllers_and_another_when_that_goes() {
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let timing = Timing {
        lease_duration: Duration::from_secs(3),
        renew_deadline: Duration::from_secs(2),
        retry_period: Duration::from_millis(500),
    };
    let candidate = |name: &'static str| {
        let store = StoreConfig::Etcd(config(&etcd));
        Fixture::configured("*", move |server| {
            server.store = store;
            server.election = Some(Election { identity: name.into(), timing });
        })
    };
    let observer = serve(&etcd).await;
    let client = admin(&observer);
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-system");
    let manager = ListParams::default().fields("metadata.name=kube-controller-manager");
    // A stock one led, and died: its lease is respected for its time, then taken.
    let before = json!({
        "metadata": {"name": "kube-controller-manager"},
        "spec": {"holderIdentity": "stock", "leaseDurationSeconds": 15, "leaseTransitions": 7},
    });
    leases.create(&PostParams::default(), &serde_json::from_value(before).unwrap()).await.unwrap();
    let version = leases.list(&manager).await.unwrap().metadata.resource_version.unwrap();
    let params = WatchParams::default().fields("metadata.name=kube-controller-manager");
    let mut watch = leases.watch(&params, &version).await.unwrap().boxed();
    let mut until = async |wanted: &dyn Fn(&LeaseSpec) -> bool| loop {
        let event = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("a change of the lease");
        let Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease))) = event else { panic!("{event:?}") };
        let spec = lease.spec.unwrap();
        if wanted(&spec) {
            return spec;
        }
    };
    let (one, other) = (candidate("one").await, candidate("other").await);
    let first = until(&|spec| spec.holder_identity.as_deref() != Some("stock")).await;
    assert_eq!(first.lease_transitions, Some(8));
    looked_after(&client, "first").await;
    // It goes cleanly: its lease is free at once.
    let (leader, heir, heirs_name) = match first.holder_identity.as_deref() {
        Some("one") => (one, other, "other"),
        Some("other") => (other, one, "one"),
        holder => panic!("{holder:?} leads"),
    };
    leader.server.stop().await;
    let second = until(&|spec| spec.holder_identity.as_deref() == Some(heirs_name)).await;
    assert_eq!(second.lease_transitions, Some(9));
    looked_after(&client, "second").await;
    // A renewal moves on, and is no new term.
    let renewed = until(&|spec| spec.renew_time > second.renew_time).await;
    assert_eq!((renewed.acquire_time, renewed.lease_transitions), (second.acquire_time, Some(9)));
    heir.server.stop().await;
    observer.server.stop().await;
}

fn pod(name: &str) -> Write {
    let value = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}}).to_string();
    Write {
        key: StoreKey::object("pods", Some("d"), name),
        expect: Expect::Absent,
        put: Some(Bytes::from(value)),
        ttl: None,
        class: Class::Ordinary,
    }
}

/// Rounds of the kill test; `make torture` asks for more.
fn rounds() -> usize {
    std::env::var("SKIFF_TORTURE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_killed_under_writers_and_watchers_loses_nothing_and_repeats_nothing() {
    const WRITERS: usize = 16;
    const WRITES_A_ROUND: usize = 200;
    let Some(mut etcd) = Etcd::start(Options { fsync: true, ..Options::default() }) else { return };
    skiff_shim::http::tls::install_provider();
    let store: Arc<dyn Store> = Arc::new(EtcdStore::open(&config(&etcd)).await.unwrap());
    let tasks = Tasks::new();
    let spec = CacheSpec { prefix: "pods".into(), index: Arc::new(|_| Default::default()), indexed: None };
    let (caches, feed) = Caches::start(store.clone(), vec![spec]);
    tasks.spawn("feed", feed);
    let cache = caches.of("pods").unwrap();
    let start = cache.latest().await.unwrap().revision;

    // What each watch saw, in order, until `last` has come by.
    let (last, ends) = tokio::sync::watch::channel(Revision(u64::MAX));
    let watch = |cache: &ResourceCache| {
        let (mut watch, ends) = (cache.watch(start, Scope::Prefix("/registry/pods/".into())).unwrap(), ends.clone());
        async move {
            let mut seen: Vec<(Revision, String)> = Vec::new();
            loop {
                let delivery = watch.next().await.expect("the watch goes on");
                let at = delivery.change.revision;
                seen.push((at, delivery.change.new.as_ref().unwrap().key.name().to_owned()));
                if at >= *ends.borrow() {
                    return seen;
                }
            }
        }
    };
    let (acknowledged, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let (count, counted) = tokio::sync::watch::channel(0usize);
    let count = Arc::new(count);
    let next = Arc::new(AtomicUsize::new(0));
    let writer = async || {
        while !stop.load(Ordering::Relaxed) {
            let name = format!("p{}", next.fetch_add(1, Ordering::Relaxed));
            if let Ok(revision) = store.commit(pod(&name)).await {
                acknowledged.lock().unwrap().push((revision, name));
                count.send_modify(|count| *count += 1);
            }
        }
    };
    let killer = async {
        let mut counted = counted.clone();
        for round in 1..=rounds() {
            // Under load each time, and only once the last kill is overcome.
            counted.wait_for(|count| *count >= round * WRITES_A_ROUND).await.unwrap();
            etcd.kill(0);
            etcd.launch(0);
        }
        let enough = (rounds() + 1) * WRITES_A_ROUND;
        counted.wait_for(|count| *count >= enough).await.unwrap();
        stop.store(true, Ordering::Relaxed);
    };
    let writing = async {
        tokio::join!(join_all((0..WRITERS).map(|_| writer())), killer);
        let end = store.current().await.unwrap();
        last.send_replace(end);
        // One more event, for a watch that has come so far already.
        store.commit(pod("end")).await.unwrap();
        end
    };
    let all = async { tokio::join!(writing, watch(&cache), watch(&cache)) };
    let limit = Duration::from_secs(60 + 20 * rounds() as u64);
    let (end, mut one, mut other) = tokio::time::timeout(limit, all).await.expect("the rounds end in time");

    let listed = store.list("/registry/pods/", Some(end), None, 0).await.unwrap();
    let stored: BTreeMap<_, _> = listed.items.iter().map(|kv| (kv.revision, kv.key.name().to_owned())).collect();
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    assert!(acknowledged.len() >= rounds() * WRITES_A_ROUND);
    for (revision, name) in &acknowledged {
        assert_eq!(stored.get(revision), Some(name), "{name} was acknowledged at {revision}");
    }
    // Each key was created once, so the store's content in order of revision is its whole history.
    let history: Vec<_> = stored.into_iter().collect();
    for seen in [&mut one, &mut other] {
        seen.retain(|(revision, _)| *revision <= end);
        assert_eq!(*seen, history, "a watch has gaps or repetitions");
    }
    tasks.stop().await;
}

#[tokio::test]
async fn without_a_quorum_old_reads_answer_and_others_say_when_to_come_back() {
    let Some(mut etcd) = Etcd::start(Options { members: 3, ..Options::default() }) else { return };
    let fixture = serve(&etcd).await;
    let client = admin(&fixture);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &config_map("before")).await.unwrap();
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let (head, _) = send(&client, Request::get("/readyz"), &Value::Null).await;
    assert_eq!(head.status(), 200);

    etcd.kill(1);
    etcd.kill(2);
    let path = "/api/v1/namespaces/default/configmaps";
    let body = serde_json::to_value(config_map("during")).unwrap();
    let get = |path: &str| Request::get(path.to_owned());
    let refused = [
        send(&client, Request::post(path), &body).await,
        send(&client, get(path), &Value::Null).await,
        send(&client, get(&format!("{path}/before")), &Value::Null).await,
    ];
    for (head, text) in refused {
        assert_eq!((head.status().as_u16(), head.headers().contains_key("retry-after")), (503, true), "{text}");
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status["reason"], "ServiceUnavailable");
    }
    for path in [format!("{path}?resourceVersion=0"), format!("{path}/before?resourceVersion=0")] {
        let (head, text) = send(&client, get(&path), &Value::Null).await;
        assert!(head.status() == 200 && text.contains("before"), "{path}: {text}");
    }
    let (head, text) = send(&client, get("/readyz?verbose"), &Value::Null).await;
    assert!(head.status() == 500 && text.contains("[-]etcd failed"), "{text}");

    etcd.launch(1);
    etcd.launch(2);
    EtcdStore::open(&config(&etcd)).await.unwrap();
    maps.create(&PostParams::default(), &config_map("after")).await.unwrap();
    // The watch was never closed, and has no gap. A write that was refused may still have been made.
    loop {
        match watch.next().await {
            Some(Ok(WatchEvent::Added(seen))) if seen.metadata.name.as_deref() == Some("after") => break,
            Some(Ok(WatchEvent::Added(seen))) => assert_eq!(seen.metadata.name.as_deref(), Some("during")),
            Some(Ok(WatchEvent::Bookmark(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    fixture.server.stop().await;
}
