//! The engine on a real etcd over TLS: the conformance suite, and what is etcd's own.

#[path = "../../../tests/etcd/server.rs"]
mod server;

use super::*;
use crate::store::conformance::{delete, events, key, put, write};
use crate::store::memory::MemoryStore;
use crate::store::{Watched, copy};
use server::{Etcd, Files, Options};

fn install_provider() {
    // Another test of this process may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn config(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig {
        ca_file: Some(etcd.files.ca.clone()),
        cert_file: Some(etcd.files.client.0.clone()),
        key_file: Some(etcd.files.client.1.clone()),
        ..EtcdConfig::new(etcd.urls.clone())
    }
}

/// An etcd and a store in it; ends the test, aloud, where there is no etcd.
macro_rules! start {
    ($options:expr) => {{
        install_provider();
        let Some(etcd) = Etcd::start($options) else { return };
        let store = EtcdStore::open(&config(&etcd)).await.unwrap();
        (etcd, Arc::new(store))
    }};
}

mod suite {
    use super::*;

    crate::store::conformance::conformance!({
        let (etcd, store) = start!(Options::default());
        (etcd, store as Arc<dyn Store>)
    });
}

async fn raw(etcd: &Etcd) -> etcd_client::KvClient {
    etcd.client(0).await.kv_client()
}

#[tokio::test]
async fn keys_are_those_of_a_stock_server_and_others_are_left_alone() {
    let (etcd, store) = start!(Options::default());
    let mut kv = raw(&etcd).await;
    kv.put("/registry/masterleases/10.0.0.1", "x", None).await.unwrap();
    kv.put("/elsewhere/pods/d/a", "x", None).await.unwrap();
    let start = store.current().await.unwrap();
    let mut watch = store.watch("/registry/pods/", start).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    assert_eq!(kv.get("/registry/pods/d/a", None).await.unwrap().kvs()[0].value(), b"1");
    kv.put("/elsewhere/pods/d/b", "x", None).await.unwrap();
    // A transaction of somebody else changes two keys at one revision: both come, at once.
    let both = [TxnOp::put("/registry/pods/d/b", "1", None), TxnOp::put("/registry/pods/d/c", "1", None)];
    kv.txn(Txn::new().and_then(both)).await.unwrap();
    let seen = events(&mut watch, 3).await;
    let names: Vec<_> = seen.iter().map(|e| e.key.name()).collect();
    assert_eq!((names, seen[1].revision), (vec!["a", "b", "c"], seen[2].revision));
    assert_eq!(store.list("/registry/pods/", None, None, 0).await.unwrap().items.len(), 3);
    let elsewhere = EtcdConfig { prefix: "elsewhere/".into(), ..config(&etcd) };
    let elsewhere = EtcdStore::open(&elsewhere).await.unwrap();
    let names = elsewhere.list("/registry/", None, None, 0).await.unwrap().items;
    assert_eq!(
        names.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(),
        ["/registry/pods/d/a", "/registry/pods/d/b"]
    );
    assert_eq!(kv.get("/registry/masterleases/10.0.0.1", None).await.unwrap().kvs().len(), 1);
}

#[tokio::test]
async fn pages_of_one_revision_add_up_to_a_long_list() {
    let (_etcd, store) = start!(Options::default());
    let names: Vec<String> = (0..PAGE_KEYS * 2 + 1).map(|i| format!("p{i:05}")).collect();
    for chunk in names.chunks(64) {
        join_all(chunk.iter().map(|name| store.commit(put(name, "1")))).await;
    }
    let all = store.list("/registry/pods/", None, None, 0).await.unwrap();
    assert_eq!((all.items.len(), all.more), (names.len(), false));
    assert!(all.items.iter().map(|kv| kv.key.name()).eq(names.iter().map(String::as_str)));
    let some = store.list("/registry/pods/", None, Some(&key("p00002")), PAGE_KEYS + 1).await.unwrap();
    assert_eq!((some.items.len(), some.more, some.items[0].key.name()), (PAGE_KEYS + 1, true, "p00003"));
}

#[tokio::test]
async fn keys_of_one_while_share_a_lease() {
    let (etcd, store) = start!(Options::default());
    let ttl = Some(Duration::from_secs(3600));
    for name in ["a", "b"] {
        store.commit(Write { ttl, ..put(name, "1") }).await.unwrap();
    }
    store.commit(put("c", "1")).await.unwrap();
    let found = raw(&etcd).await.get("/registry/", Some(GetOptions::new().with_prefix())).await.unwrap();
    let leases: Vec<i64> = found.kvs().iter().map(etcd_client::KeyValue::lease).collect();
    assert!(leases[0] != 0 && leases[0] == leases[1] && leases[2] == 0, "{leases:?}");
    // Revoked behind our back: the next key gets another.
    store.shared.members.all()[0].lease().revoke(leases[0]).await.unwrap();
    store.commit(Write { ttl, ..put("d", "1") }).await.unwrap();
    assert!(store.get(&key("d")).await.unwrap().1.is_some() && store.get(&key("a")).await.unwrap().1.is_none());
}

#[tokio::test]
async fn servers_compact_in_turn_by_the_version_of_one_key() {
    let (etcd, ours) = start!(Options::default());
    let theirs = EtcdStore::open(&config(&etcd)).await.unwrap();
    let step = async |store: &EtcdStore, clock| compactor::round(&store.shared, clock).await.unwrap();
    let old = ours.commit(put("a", "1")).await.unwrap();
    let first = step(&ours, compactor::Clock::default()).await;
    let late = step(&theirs, compactor::Clock::default()).await;
    assert!(first.revision > old);
    ours.commit(put("a", "2")).await.unwrap();
    assert!(ours.list("/registry/", Some(old), None, 0).await.is_ok());
    // Ours is on time; theirs finds the clock moved on and leaves the work.
    step(&ours, first).await;
    let skipped = step(&theirs, late).await;
    let listed = ours.list("/registry/", Some(old), None, 0).await;
    assert!(matches!(listed, Err(StoreError::Compacted { oldest }) if oldest == first.revision), "{listed:?}");
    let stored = raw(&etcd).await.get(compactor::KEY, None).await.unwrap();
    assert_eq!(stored.kvs()[0].value_str().unwrap(), first.revision.to_string());
    let next = ours.commit(put("a", "3")).await.unwrap();
    step(&theirs, skipped).await;
    assert!(theirs.list("/registry/", Some(next), None, 0).await.is_ok());
    let watched = theirs.watch("/registry/", first.revision).await.err();
    assert!(matches!(watched, Some(StoreError::Compacted { oldest }) if oldest == skipped.revision), "{watched:?}");
}

#[tokio::test]
async fn a_watch_is_told_of_revisions_that_hold_nothing_for_it() {
    let (etcd, store) = start!(Options::default());
    let mut watch = store.watch("/registry/", store.current().await.unwrap()).await.unwrap();
    raw(&etcd).await.put("/elsewhere", "x", None).await.unwrap();
    let current = store.current().await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(matches!(told, Some(Ok(Watched::Progress(at))) if at >= current), "{told:?}");
}

#[tokio::test]
async fn what_is_too_large_for_etcd_is_refused_in_its_words_and_harms_nobody() {
    let (_etcd, store) = start!(Options::default());
    // Its limit is 1.5 MiB; beyond 2 MiB it does not read on.
    for size in [1_700_000, 3_000_000] {
        let refused = store.commit(put("a", &"x".repeat(size))).await;
        let said = "etcdserver: request is too large";
        assert!(matches!(&refused, Err(StoreError::TooLarge(text)) if text == said), "{size}: {refused:?}");
    }
    store.commit(put("a", &"x".repeat(1_500_000))).await.unwrap();
}

#[tokio::test]
async fn a_member_that_fails_is_left_for_the_next_and_a_write_is_made_once() {
    let (mut etcd, store) = start!(Options { members: 3, ..Options::default() });
    let mut have = store.commit(write("n", Expect::Absent, Some("0"))).await.unwrap();
    for round in 1..=3 {
        let in_use = round % 3;
        etcd.kill(in_use);
        for n in 0..8 {
            let value = format!("{round}-{n}");
            have = store.commit(write("n", Expect::At(have), Some(&value))).await.unwrap();
        }
        etcd.launch(in_use);
        // Back in the cluster before the next one goes: a write through it alone.
        let alone = EtcdConfig { servers: vec![etcd.urls[in_use].clone()], ..config(&etcd) };
        EtcdStore::open(&alone).await.unwrap();
    }
    let (_, kv) = store.get(&key("n")).await.unwrap();
    assert_eq!(kv.map(|kv| (kv.revision, kv.value)), Some((have, Bytes::from("3-7"))));
    store.commit(delete("n")).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_the_way_to_etcd_is_said_with_its_remedy() {
    install_provider();
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let good = config(&etcd);
    EtcdStore::open(&good).await.unwrap();
    let other = Files::make(&etcd.path().join("other"), &["127.0.0.1"], false);
    let cases = [
        (EtcdConfig { ca_file: Some(other.ca.clone()), ..good.clone() }, "name the CA of etcd in --etcd-cafile"),
        (
            EtcdConfig { cert_file: Some(other.client.0), key_file: Some(other.client.1), ..good.clone() },
            "refuses our client certificate",
        ),
        (EtcdConfig { cert_file: None, key_file: None, ..good.clone() }, "refuses our client certificate"),
        (EtcdConfig { key_file: None, ..good.clone() }, "go together"),
        (
            EtcdConfig { ca_file: Some("/nowhere/ca.crt".into()), ..good.clone() },
            "--etcd-cafile: cannot read /nowhere/ca.crt",
        ),
        (EtcdConfig { ca_file: good.key_file.clone(), ..good.clone() }, "--etcd-cafile: there is no certificate in"),
        (EtcdConfig { servers: vec!["127.0.0.1:2379".into()], ..good.clone() }, "not an address of the form"),
    ];
    for (config, says) in cases {
        let error = EtcdStore::open(&config).await.err().unwrap().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
    let wrong_scheme = good.servers.iter().map(|url| url.replace("https://", "http://")).collect::<Vec<_>>();
    let error = EtcdStore::open(&EtcdConfig::new(wrong_scheme.clone())).await.err().unwrap().to_string();
    assert!(error.contains(&format!("{}: it speaks TLS only: write https://", wrong_scheme[0])), "{error}");
    let Some(plain) = Etcd::start(Options { plain: true, ..Options::default() }) else { return };
    EtcdStore::open(&EtcdConfig::new(plain.urls.clone())).await.unwrap();
    let wrong_scheme = plain.urls.iter().map(|url| url.replace("http://", "https://")).collect::<Vec<_>>();
    let error = EtcdStore::open(&EtcdConfig { servers: wrong_scheme.clone(), ..good.clone() }).await.err().unwrap();
    let error = error.to_string();
    assert!(error.contains(&format!("{}: it does not speak TLS: write http://", wrong_scheme[0])), "{error}");
    for (options, says) in [
        (Options { expired: true, ..Options::default() }, "its certificate has expired"),
        (Options { names: &["etcd.example.org"], ..Options::default() }, "its certificate is for other names"),
    ] {
        let Some(etcd) = Etcd::start(options) else { return };
        // Until it listens, the port refuses: only what lasts ends the wait.
        let error = EtcdStore::open(&config(&etcd)).await.err().unwrap().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_given_up_in_the_end() {
    install_provider();
    let config = EtcdConfig::new(vec![format!("http://127.0.0.1:{}", server::free_port())]);
    let members = Members::new(&config).await.unwrap();
    let error = wait_for_any(&members, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("nothing listens there: start it, or correct --etcd-servers"), "{error}");
}

/// One of many stores in one etcd: each has a prefix of its own. Ending it uncleanly kills etcd.
struct Subject {
    etcd: Arc<tokio::sync::Mutex<Etcd>>,
    config: EtcdConfig,
    store: Arc<EtcdStore>,
}

#[async_trait]
impl crate::store::properties::Subject for Subject {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn reopen(&mut self, cleanly: bool) -> bool {
        if cleanly {
            self.store.close().await.unwrap();
        } else {
            let mut etcd = self.etcd.lock().await;
            etcd.kill(0);
            etcd.launch(0);
        }
        self.store = Arc::new(EtcdStore::open(&self.config).await.unwrap());
        true
    }
}

#[test]
fn random_operations_agree_with_a_plain_model() {
    install_provider();
    let Some(etcd) = Etcd::start(Options::default()) else { return };
    let config = config(&etcd);
    let etcd = Arc::new(tokio::sync::Mutex::new(etcd));
    let prefixes = std::sync::atomic::AtomicU32::new(0);
    // An etcd that starts, and a watch that catches up with its history, take a tenth of a second and more.
    crate::store::properties::hold_one_in(4, async || {
        let prefix = format!("/{}/registry", prefixes.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let config = EtcdConfig { prefix, ..config.clone() };
        let store = Arc::new(EtcdStore::open(&config).await.unwrap());
        Subject { etcd: etcd.clone(), config, store }
    });
}

#[tokio::test]
async fn a_cluster_moves_into_etcd_and_out_of_it_again() {
    let (_etcd, store) = start!(Options::default());
    let (before, after) = (MemoryStore::new(), MemoryStore::new());
    for n in 0..700 {
        before.commit(put(&format!("k{n}"), &n.to_string())).await.unwrap();
    }
    let pairs = async |store: &dyn Store| {
        let items = store.list(copy::PREFIX, None, None, 0).await.unwrap().items;
        items.into_iter().map(|kv| (kv.key, kv.value)).collect::<Vec<_>>()
    };
    copy::copy(&before, store.as_ref(), before.current().await.unwrap(), |_| {}).await.unwrap();
    copy::copy(store.as_ref(), &after, store.current().await.unwrap(), |_| {}).await.unwrap();
    assert_eq!(pairs(&after).await, pairs(&before).await);
}
