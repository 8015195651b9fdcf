//! The measured claims of the API server alone: start → /readyz; GET, LIST, WATCH fan-out, CREATE, PATCH and APPLY per second
//! over TLS on 16 connections, each beside a baseline of the same run: a bare hyper server that answers as many bytes, a bare
//! loop of writes and fsyncs; memory with 10,000 pods and with 100 definitions. Prints figures and ratios; fails on nothing
//! (machines differ).
//!
//! `cargo bench --bench api [-- SECONDS]`: how long each rate is measured (default 3).
#![allow(clippy::disallowed_methods)]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use node_config::pki::Pki;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// As the stock figures were taken.
const CONNECTIONS: usize = 16;
/// Objects of the LIST, and the bytes of data that make them 0.7 MiB together.
const OBJECTS: usize = 1000;
const PAYLOAD: usize = 430;
/// How long the server may take to answer at all.
const START_LIMIT: Duration = Duration::from_secs(30);
/// This binary under this argument is the bare server.
const BARE: &str = "--bare-server";

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// As many as a large cluster has, and definitions as a few operators bring along.
const MANY_PODS: usize = 10_000;
const MANY_DEFINITIONS: usize = 100;
/// Properties of each definition: with types, descriptions and defaults about 20 KiB.
const PROPERTIES: usize = 120;
/// Until an event has come to every watcher.
const EVENT_LIMIT: Duration = Duration::from_secs(10);

fn main() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let arguments: Vec<String> = std::env::args().collect();
    // As skiff has it.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match arguments.iter().position(|argument| argument == BARE) {
        Some(at) => runtime.block_on(bare_server(&arguments[at + 1], Path::new(&arguments[at + 2]))),
        None => {
            let seconds = arguments.iter().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(3);
            runtime.block_on(measure(Duration::from_secs(seconds)));
        }
    }
}

async fn measure(time: Duration) {
    let dir = tempfile::tempdir().expect("a directory");
    let begun = Instant::now();
    let (server, tls) = Server::first_start(dir.path()).await;
    line("skiff server → /readyz, first start", millis(begun.elapsed()), "ms", None);
    drop(server);
    let begun = Instant::now();
    let server = Server::skiff(dir.path());
    server.wait_until_ready(&tls, begun).await;
    line("skiff server → /readyz, second start", millis(begun.elapsed()), "ms", None);
    line("skiff server RSS, idle", server.resident(), "MiB", None);

    let created = AtomicUsize::new(0);
    let create = |_| {
        let name = format!("map-{}", created.fetch_add(1, Ordering::Relaxed));
        post(MAPS, config_map(&name))
    };
    let creates = rate(&server, &tls, time, create).await;
    let syncs = fsync_rate(dir.path(), time);

    let name = format!("{MAPS}/map-0");
    let object = fetch(&server, &tls, &name).await;
    let gets = rate(&server, &tls, time, |_| get(&name)).await;
    let collection = format!("{MAPS}?limit={OBJECTS}&resourceVersion=0");
    fill(&server, &tls, created.into_inner()).await;
    let objects = fetch(&server, &tls, &collection).await;
    let lists = rate(&server, &tls, time, |_| get(&collection)).await;
    line("skiff server RSS, after the load", server.resident(), "MiB", None);
    // One object after the other: writers of the same one would be told of conflicts.
    let written = AtomicUsize::new(0);
    let patch = |_| {
        let n = written.fetch_add(1, Ordering::Relaxed);
        let path = format!("{MAPS}/map-{}", n % OBJECTS);
        write(Method::PATCH, &path, "application/merge-patch+json", mood(n))
    };
    let patches = rate(&server, &tls, time, patch).await;
    let apply = |_| {
        let n = written.fetch_add(1, Ordering::Relaxed);
        let name = format!("applied-{}", n % OBJECTS);
        let path = format!("{MAPS}/{name}?fieldManager=bench&force=true");
        write(Method::PATCH, &path, "application/apply-patch+yaml", applied_map(&name, n))
    };
    let applies = rate(&server, &tls, time, apply).await;
    let answer = fetch(&server, &tls, &format!("{MAPS}/applied-0")).await;
    let events = fan_out(&server, &tls, time).await;
    drop(server);

    let bare_gets = bare_rate(dir.path(), &tls, &object, time).await;
    let bare_lists = bare_rate(dir.path(), &tls, &objects, time).await;
    line("GET one object", gets, "/s", Some((bare_gets, "a bare hyper server")));
    let name = format!("LIST {OBJECTS} objects ({:.1} MiB)", objects.len() as f64 / f64::from(1 << 20));
    line(&name, lists, "/s", Some((bare_lists, "a bare hyper server")));
    line("CREATE, durable", creates, "/s", Some((syncs, "bare fsyncs one by one")));
    line("CREATE, durable", creates, "/s", Some((bare_gets, "a bare hyper server")));
    line("PATCH (merge), durable", patches, "/s", Some((bare_gets, "a bare hyper server")));
    let bare_applies = bare_rate(dir.path(), &tls, &answer, time).await;
    line("APPLY, durable", applies, "/s", Some((bare_applies, "a bare hyper server")));
    let name = format!("WATCH, events to {CONNECTIONS} watchers");
    line(&name, events, "/s", Some((bare_gets, "a bare hyper server")));
    footprints().await;
}

/// What pods and definitions take, each on a server of its own that has only these.
async fn footprints() {
    for (what, path, count, make) in [
        ("pod", PODS, MANY_PODS, pod as fn(usize) -> Bytes),
        ("definition", DEFINITIONS, MANY_DEFINITIONS, definition as fn(usize) -> Bytes),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let (server, tls) = Server::first_start(dir.path()).await;
        let before = server.resident();
        let mut connection = connect(server.port, &tls).await.expect("a connection");
        for n in 0..count {
            let (status, _) = exchange(&mut connection, post(path, make(n))).await.expect("an answer");
            assert!(status.is_success(), "{what} {n}: {status}");
        }
        // Definitions are served a moment after they are stored.
        drop(fetch(&server, &tls, "/openapi/v3").await);
        let after = server.resident();
        line(&format!("skiff server RSS, {count} {what}s"), after, "MiB", None);
        line(&format!("… each {what}"), (after - before) * 1024.0 / count as f64, "KiB", None);
    }
}

/// Events per second that arrive, all watchers together, while one writer changes one object after the other.
async fn fan_out(server: &Server, tls: &TlsConnector, time: Duration) -> f64 {
    let path = format!("{MAPS}?watch=true&fieldSelector=metadata.name=map-0");
    let mut watchers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = connect(server.port, tls).await.expect("a connection");
        connection.ready().await.expect("a connection");
        let answer = connection.send_request(get(&path)).await.expect("an answer");
        // The connection lives as long as its sender.
        watchers.push((connection, answer.into_body()));
    }
    // What there is comes first.
    for (_, body) in &mut watchers {
        event(body).await;
    }
    let mut writer = connect(server.port, tls).await.expect("a connection");
    let begun = Instant::now();
    let mut done = 0;
    while begun.elapsed() < time {
        let change =
            write(Method::PATCH, &format!("{MAPS}/map-0"), "application/merge-patch+json", mood(usize::MAX - done));
        exchange(&mut writer, change).await.expect("an answer");
        for (_, body) in &mut watchers {
            event(body).await;
        }
        done += 1;
    }
    (done * CONNECTIONS) as f64 / begun.elapsed().as_secs_f64()
}

/// Reads up to the end of one event.
async fn event(body: &mut hyper::body::Incoming) {
    let whole = async {
        while let Some(frame) = body.frame().await {
            if frame.expect("a frame").data_ref().is_some_and(|data| data.ends_with(b"\n")) {
                return;
            }
        }
        panic!("the watch ends");
    };
    tokio::time::timeout(EVENT_LIMIT, whole).await.expect("an event comes");
}

fn line(what: &str, value: f64, unit: &str, baseline: Option<(f64, &str)>) {
    let ratio = baseline.map(|(base, name)| format!("   {:.2} of {name} ({base:.0} /s)", value / base));
    println!("{what:<44}{value:>9.1} {unit:<4}{}", ratio.unwrap_or_default());
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A server in a process of its own; killed on drop.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn skiff(dir: &Path) -> Self {
        Self::start(|port| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
            command.arg("server").arg("--bind-address=127.0.0.1").arg(format!("--secure-port={port}"));
            command.arg(format!("--data-dir={}", dir.display()));
            command
        })
    }

    /// On an empty directory, until it is ready; with the administrator's TLS.
    async fn first_start(dir: &Path) -> (Self, TlsConnector) {
        let begun = Instant::now();
        let server = Self::skiff(dir);
        let tls = loop {
            match client_tls(dir) {
                Some(tls) => break tls,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        server.wait_until_ready(&tls, begun).await;
        (server, tls)
    }

    fn bare(dir: &Path, body: &Path) -> Self {
        Self::start(|port| {
            let mut command = Command::new(std::env::current_exe().expect("this binary"));
            command.args([BARE, &port.to_string()]).arg(body).env("SERVER_PKI", dir.join("pki"));
            command
        })
    }

    fn start(command: impl FnOnce(u16) -> Command) -> Self {
        // Free now, and hardly taken by another within a millisecond.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let child = command(port).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self { child: child.expect("the server starts"), port }
    }

    async fn wait_until_ready(&self, tls: &TlsConnector, begun: Instant) {
        loop {
            if let Some(mut connection) = connect(self.port, tls).await
                && let Ok((StatusCode::OK, _)) = exchange(&mut connection, get("/readyz")).await
            {
                return;
            }
            assert!(begun.elapsed() < START_LIMIT, "the server is not ready within {START_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Resident memory in MiB.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
        kib / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The administrator's TLS, once the server has made its certificates.
fn client_tls(dir: &Path) -> Option<TlsConnector> {
    let pki = Pki::new(dir.join("pki"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca().cert).ok()?).ok()?;
    let certificate = CertificateDer::from_pem_file(pki.admin().cert).ok()?;
    let key = PrivateKeyDer::from_pem_file(pki.admin().key).ok()?;
    let config = ClientConfig::builder().with_root_certificates(roots);
    Some(TlsConnector::from(Arc::new(config.with_client_auth_cert(vec![certificate], key).ok()?)))
}

async fn connect(port: u16, tls: &TlsConnector) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let stream = tls.connect(ServerName::try_from("127.0.0.1").expect("an address"), stream).await.ok()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "localhost").body(Full::default()).expect("a request")
}

fn post(path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::builder().method(Method::POST).uri(path).header("host", "localhost");
    request.header("content-type", "application/json").body(Full::new(body)).expect("a request")
}

fn write(method: Method, path: &str, content: &str, body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    request.header("content-type", content).body(Full::new(body)).expect("a request")
}

/// A change of one value.
fn mood(n: usize) -> Bytes {
    format!("{{\"data\":{{\"mood\":\"{n}\"}}}}").into()
}

fn applied_map(name: &str, n: usize) -> Bytes {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"text": "x".repeat(PAYLOAD), "mood": n.to_string()},
    });
    object.to_string().into()
}

fn pod(n: usize) -> Bytes {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{n}"), "labels": {"app": "many", "n": n.to_string()}},
        "spec": {"nodeName": "nowhere", "containers": [{
            "name": "main", "image": "registry.example.com/app:1.0",
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        }]},
    });
    object.to_string().into()
}

fn definition(n: usize) -> Bytes {
    let text = "What this field is for, in a sentence or two of the length that generated definitions have.";
    let property = |at: usize| (format!("field{at}"), serde_json::json!({"type": "string", "description": text}));
    let properties: serde_json::Map<String, serde_json::Value> = (0..PROPERTIES).map(property).collect();
    let object = serde_json::json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("kinds{n}.bench.example.com")},
        "spec": {
            "group": "bench.example.com", "scope": "Namespaced",
            "names": {"plural": format!("kinds{n}"), "kind": format!("Kind{n}")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": properties}},
            }}}],
        },
    });
    object.to_string().into()
}

fn config_map(name: &str) -> Bytes {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"text": "x".repeat(PAYLOAD)},
    });
    object.to_string().into()
}

/// One request and the whole of its answer.
async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> hyper::Result<(StatusCode, usize)> {
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok((status, length))
}

async fn fetch(server: &Server, tls: &TlsConnector, path: &str) -> Bytes {
    let mut connection = connect(server.port, tls).await.expect("a connection");
    connection.ready().await.expect("a connection");
    let answer = connection.send_request(get(path)).await.expect("an answer");
    assert!(answer.status().is_success(), "GET {path}: {}", answer.status());
    answer.into_body().collect().await.expect("a body").to_bytes()
}

/// Enough objects for the LIST, should the CREATEs have made fewer.
async fn fill(server: &Server, tls: &TlsConnector, made: usize) {
    let mut connection = connect(server.port, tls).await.expect("a connection");
    for n in made..OBJECTS {
        exchange(&mut connection, post(MAPS, config_map(&format!("map-{n}")))).await.expect("an answer");
    }
}

/// Requests answered per second on all connections together.
async fn rate(
    server: &Server,
    tls: &TlsConnector,
    time: Duration,
    request: impl Fn(usize) -> Request<Full<Bytes>>,
) -> f64 {
    let connections = (0..CONNECTIONS).map(|_| async { connect(server.port, tls).await.expect("a connection") });
    let connections = futures::future::join_all(connections).await;
    let begun = Instant::now();
    let loops = connections.into_iter().map(|mut connection| {
        let request = &request;
        async move {
            let mut done = 0;
            while begun.elapsed() < time {
                let (status, _) = exchange(&mut connection, request(done)).await.expect("an answer");
                assert!(status.is_success(), "{status}");
                done += 1;
            }
            done
        }
    });
    let done: usize = futures::future::join_all(loops).await.into_iter().sum();
    done as f64 / begun.elapsed().as_secs_f64()
}

/// The rate of a hyper server that does nothing but answer these bytes.
async fn bare_rate(dir: &Path, tls: &TlsConnector, body: &[u8], time: Duration) -> f64 {
    let file = dir.join("body");
    std::fs::write(&file, body).expect("a file");
    let server = Server::bare(dir, &file);
    server.wait_until_ready(tls, Instant::now()).await;
    rate(&server, tls, time, |_| get("/")).await
}

async fn bare_server(port: &str, body: &Path) {
    let pki = PathBuf::from(std::env::var_os("SERVER_PKI").expect("SERVER_PKI"));
    let pki = Pki::new(pki).apiserver();
    let certificate = CertificateDer::from_pem_file(&pki.cert).expect("the certificate");
    let key = PrivateKeyDer::from_pem_file(&pki.key).expect("the key");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a configuration")));
    let body = Bytes::from(std::fs::read(body).expect("the body"));
    let address = format!("127.0.0.1:{port}");
    let listener = tokio::net::TcpListener::bind(address).await.expect("the port");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (acceptor, body) = (acceptor.clone(), body.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = service_fn(move |_| {
                let body = body.clone();
                async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(body))) }
            });
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

/// Writes of a page, each followed by an fsync.
fn fsync_rate(dir: &Path, time: Duration) -> f64 {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(dir.join("fsync")).expect("a file");
    let begun = Instant::now();
    let mut done = 0u64;
    while begun.elapsed() < time {
        file.write_all_at(&[0; 4096], (done % 1024) * 4096).expect("a write");
        file.sync_data().expect("an fsync");
        done += 1;
    }
    done as f64 / begun.elapsed().as_secs_f64()
}
