//! The measured claims of the store and the watch cache, each beside a baseline of the same run: durable creates at 1, 16
//! and 256 writers against bare fsyncs, LIST against copying and writing as many bytes, watch fan-out against a bare
//! channel, and the memory that an object takes. Prints figures and ratios; fails on nothing (machines differ).
//!
//! `cargo bench --bench store [-- SECONDS [WATCHERS]]`: how long each rate is measured (default 3), and how many watch
//! (default 1000).
#![allow(clippy::disallowed_methods)]

#[path = "../shim/tests/etcd/server.rs"]
mod etcd;
#[allow(dead_code, reason = "a bench restarts no server")]
#[path = "../shim/tests/server/support.rs"]
mod support;

use bytes::Bytes;
use etcd::Etcd;
use futures::future::join_all;
use http_body_util::BodyExt;
use kube::client::Body;
use skiff_shim::registry::meta_fields;
use skiff_shim::store::cache::{CacheSpec, Caches};
use skiff_shim::store::etcd::{EtcdConfig, EtcdStore};
use skiff_shim::store::key::StoreKey;
use skiff_shim::store::sqlite::{SqliteOptions, SqliteStore};
use skiff_shim::store::{Class, Expect, Store, Write};
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::Fixture;

/// Bytes of data that make an object of about 0.7 KiB, as the stock figures were taken.
const PAYLOAD: usize = 430;
const WRITERS: [usize; 3] = [1, 16, 256];
const LISTS: [usize; 2] = [1000, 10_000];
/// Objects whose memory is weighed, and changes that are fanned out.
const WEIGHED: usize = 20_000;
const CHANGES: usize = 100;
/// What a list leaves in.
const CHUNK: usize = 64 * 1024;
/// This binary under this argument weighs the objects of a database.
const WEIGH: &str = "--weigh";

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // As skiff has it.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if let Some(at) = arguments.iter().position(|argument| argument == WEIGH) {
        return runtime.block_on(weigh(Path::new(&arguments[at + 1])));
    }
    let mut numbers = arguments.iter().skip(1).filter_map(|argument| argument.parse::<f64>().ok());
    let time = Duration::from_secs_f64(numbers.next().unwrap_or(3.0));
    let watchers = numbers.next().unwrap_or(1000.0) as usize;
    runtime.block_on(async {
        creates(time).await;
        lists(time).await;
        fan_out(watchers).await;
        memory().await;
    });
}

fn line(what: &str, value: f64, unit: &str, baseline: Option<(f64, &str)>) {
    let ratio = baseline.map(|(base, name)| format!("   {:.2} of {name} ({base:.0} {unit})", value / base));
    println!("{what:<44}{value:>11.1} {unit:<7}{}", ratio.unwrap_or_default());
}

/// A ConfigMap as the server stores it.
fn stored(name: &str) -> Bytes {
    let text = "x".repeat(PAYLOAD);
    let time = "2026-01-01T00:00:00Z";
    format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","uid":"00000000-0000-0000-0000-000000000000","creationTimestamp":"{time}"}},"data":{{"text":"{text}"}}}}"#
    )
    .into()
}

fn write(name: &str) -> Write {
    Write {
        key: StoreKey::object("configmaps", Some("default"), name),
        expect: Expect::Absent,
        put: Some(stored(name)),
        ttl: None,
        class: Class::Ordinary,
    }
}

async fn creates(time: Duration) {
    let dir = tempfile::tempdir().expect("a directory");
    let syncs = fsync_rate(dir.path(), time);
    let store = SqliteStore::open(&dir.path().join("state.db"), SqliteOptions::default()).expect("a store");
    let store: Arc<dyn Store> = Arc::new(store);
    for writers in WRITERS {
        let rate = create_rate(&store, writers, time).await;
        let what = format!("durable creates, sqlite, {writers} writers");
        line(&what, rate, "/s", Some((syncs, "bare fsyncs one by one")));
    }
    store.close().await.expect("a clean end");
    match Etcd::start(etcd::Options { plain: true, fsync: true, ..etcd::Options::default() }) {
        Some(etcd) => {
            let config = EtcdConfig::new(etcd.urls.clone());
            let store: Arc<dyn Store> = Arc::new(EtcdStore::open(&config).await.expect("etcd"));
            for writers in WRITERS {
                let rate = create_rate(&store, writers, time).await;
                let what = format!("durable creates, etcd, {writers} writers");
                line(&what, rate, "/s", Some((syncs, "bare fsyncs one by one")));
            }
            store.close().await.expect("a clean end");
        }
        None => println!("etcd is not installed: no figures of it"),
    }
}

/// Creates acknowledged per second by that many writers, each waiting for its own.
async fn create_rate(store: &Arc<dyn Store>, writers: usize, time: Duration) -> f64 {
    let begun = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while begun.elapsed() < time {
                store.commit(write(&format!("map-{writers}-{writer}-{done}"))).await.expect("a commit");
                done += 1;
            }
            done
        })
    });
    let done: usize = join_all(tasks).await.into_iter().map(|task| task.expect("a writer")).sum();
    done as f64 / begun.elapsed().as_secs_f64()
}

/// Objects appended to a file, each followed by an fsync.
fn fsync_rate(dir: &Path, time: Duration) -> f64 {
    let mut file = File::create(dir.join("fsync")).expect("a file");
    let object = stored("map");
    let begun = Instant::now();
    let mut done = 0u64;
    while begun.elapsed() < time {
        file.write_all(&object).expect("a write");
        file.sync_data().expect("an fsync");
        done += 1;
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

async fn lists(time: Duration) {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let made = AtomicUsize::new(0);
    let mut sink = Sink::open();
    for objects in LISTS {
        fill(&client, &made, objects).await;
        let path = format!("{MAPS}?resourceVersion=0");
        let mut all = Vec::new();
        answer(&client, &path, |bytes| all.extend_from_slice(bytes)).await;
        let begun = Instant::now();
        let mut bytes = 0;
        while begun.elapsed() < time {
            answer(&client, &path, |chunk| {
                sink.0.write_all(chunk).expect("a write");
                bytes += chunk.len();
            })
            .await;
        }
        let rate = bytes as f64 / begun.elapsed().as_secs_f64();
        let bare = copy_rate(&all, &mut sink, time);
        let what = format!("LIST {objects} objects ({:.1} MiB)", mib(all.len() as f64));
        line(&what, mib(rate), "MiB/s", Some((mib(bare), "copying and writing")));
    }
    fixture.server.stop().await;
}

/// A socket whose other end is read by a thread and forgotten.
struct Sink(UnixStream);

impl Sink {
    fn open() -> Self {
        let (writer, mut reader) = UnixStream::pair().expect("a pair of sockets");
        std::thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            while reader.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        Self(writer)
    }
}

/// Bytes per second of copying `all` a chunk at a time and writing it.
fn copy_rate(all: &[u8], sink: &mut Sink, time: Duration) -> f64 {
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < time {
        for chunk in all.chunks(CHUNK) {
            let copy = std::hint::black_box(chunk.to_vec());
            sink.0.write_all(&copy).expect("a write");
            bytes += copy.len();
        }
    }
    bytes as f64 / begun.elapsed().as_secs_f64()
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

/// One request of the in-process client; the pieces of its answer are handed over as they come.
async fn answer(client: &kube::Client, path: &str, mut take: impl FnMut(&[u8])) {
    let request = http::Request::get(path).body(Body::empty()).expect("a request");
    let answer = client.send(request).await.expect("an answer");
    assert!(answer.status().is_success(), "GET {path}: {}", answer.status());
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.expect("a frame").data_ref() {
            take(data);
        }
    }
}

async fn post(client: &kube::Client, name: &str) {
    let request = http::Request::post(MAPS).header("content-type", "application/json");
    let body = stored(name).to_vec();
    let answer = client.send(request.body(Body::from(body)).expect("a request")).await.expect("an answer");
    assert!(answer.status().is_success(), "POST {name}: {}", answer.status());
}

/// Makes objects until there are `count`.
async fn fill(client: &kube::Client, made: &AtomicUsize, count: usize) {
    while made.load(Ordering::Relaxed) < count {
        let batch = made.load(Ordering::Relaxed)..count.min(made.load(Ordering::Relaxed) + 64);
        let names: Vec<String> = batch.map(|n| format!("map-{n}")).collect();
        join_all(names.iter().map(|name| post(client, name))).await;
        made.fetch_add(names.len(), Ordering::Relaxed);
    }
}

/// Changes handed to all watchers, until the last has the last.
async fn fan_out(watchers: usize) {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let mut streams = Vec::new();
    for _ in 0..watchers {
        let request = http::Request::get(format!("{MAPS}?watch=true")).body(Body::empty()).expect("a request");
        streams.push(client.send(request).await.expect("an answer").into_body());
    }
    let begun = Instant::now();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut body| {
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < CHANGES {
                    let frame = body.frame().await.expect("more events").expect("an event");
                    seen += frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                }
            })
        })
        .collect();
    for n in 0..CHANGES {
        post(&client, &format!("change-{n}")).await;
    }
    join_all(readers).await.into_iter().for_each(|reader| reader.expect("a reader"));
    let rate = (watchers * CHANGES) as f64 / begun.elapsed().as_secs_f64();
    fixture.server.stop().await;
    let bare = broadcast_rate(watchers).await;
    let what = format!("watch events to {watchers} watchers");
    line(&what, rate, "/s", Some((bare, "a bare broadcast channel")));
}

/// The same number of messages of the same size through a channel.
async fn broadcast_rate(watchers: usize) -> f64 {
    let (sender, _) = tokio::sync::broadcast::channel::<Bytes>(CHANGES);
    let readers: Vec<_> = (0..watchers)
        .map(|_| {
            let mut receiver = sender.subscribe();
            tokio::spawn(async move {
                for _ in 0..CHANGES {
                    let message = receiver.recv().await.expect("a message");
                    std::hint::black_box(message.iter().filter(|byte| **byte == b'\n').count());
                }
            })
        })
        .collect();
    let begun = Instant::now();
    for n in 0..CHANGES {
        sender.send(stored(&format!("change-{n}"))).expect("receivers");
        tokio::task::yield_now().await;
    }
    join_all(readers).await.into_iter().for_each(|reader| reader.expect("a reader"));
    (watchers * CHANGES) as f64 / begun.elapsed().as_secs_f64()
}

/// What an object takes in the watch cache, in a process that does nothing else.
async fn memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    let store = SqliteStore::open(&path, SqliteOptions::default()).expect("a store");
    let names: Vec<String> = (0..WEIGHED).map(|n| format!("map-{n}")).collect();
    for batch in names.chunks(256) {
        join_all(batch.iter().map(|name| store.commit(write(name)))).await.into_iter().for_each(|done| {
            done.expect("a commit");
        });
    }
    store.close().await.expect("a clean end");
    drop(store);
    let output = Command::new(std::env::current_exe().expect("this binary")).arg(WEIGH).arg(&path).output();
    let output = output.expect("this binary runs again");
    let text = String::from_utf8_lossy(&output.stdout);
    let each: f64 = text.trim().parse().expect("a number of bytes");
    let json = stored("map-10000").len() as f64;
    let what = format!("memory per object of {json} bytes of JSON");
    line(&what, each, "bytes", Some((1.5 * json + 300.0, "what it may take")));
}

/// Loads the database into a watch cache and prints by how much the process grew, per object.
async fn weigh(path: &Path) {
    let store = SqliteStore::open(path, SqliteOptions::default()).expect("the store");
    let store: Arc<dyn Store> = Arc::new(store);
    // Once without keeping anything: what reading itself takes is no object's.
    let mut after = None;
    loop {
        let page = store.list("/registry/", None, after.as_ref(), 500).await.expect("a page");
        after = page.items.last().map(|item| item.key.clone());
        if !page.more {
            break;
        }
    }
    let before = resident();
    let index = Arc::new(|object: &serde_json::Value| (Default::default(), meta_fields(object)));
    let spec = CacheSpec { prefix: "configmaps".into(), index, indexed: None };
    let (caches, feed) = Caches::start(store.clone(), vec![spec]);
    let cache = caches.of("configmaps").expect("the cache");
    let loaded = async { cache.latest().await.expect("a snapshot").map.len() };
    let objects = tokio::select! {
        () = feed => unreachable!("the feed runs until it is dropped"),
        objects = loaded => objects,
    };
    assert_eq!(objects, WEIGHED);
    println!("{:.0}", (resident() - before) / objects as f64);
}

/// Resident memory in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib * 1024.0
}
