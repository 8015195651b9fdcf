//! The kube client against a server that answers from a script: broken streams, refused options, lost positions.

use super::*;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// One answer: status and body lines; a stream that is `held` stays open after them.
struct Answer {
    code: u16,
    lines: Vec<Value>,
    held: bool,
}

fn answer(code: u16, body: Value) -> Answer {
    Answer { code, lines: vec![body], held: false }
}

fn stream(lines: Vec<Value>, held: bool) -> Answer {
    Answer { code: 200, lines, held }
}

struct Server {
    listener: TcpListener,
    script: Mutex<VecDeque<Answer>>,
    /// Request lines and bodies, as they came.
    seen: Mutex<Vec<String>>,
}

impl Server {
    async fn start(script: Vec<Answer>) -> (Arc<Self>, KubeCluster) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let file = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, file.to_string()).unwrap();
        let cluster = KubeCluster::connect(&kubeconfig, "n1").await.unwrap();
        (Arc::new(Self { listener, script: Mutex::new(script.into()), seen: Mutex::default() }), cluster)
    }

    /// Serves one request a connection, for ever.
    async fn run(self: Arc<Self>) {
        let mut held = Vec::new();
        loop {
            let (mut socket, _) = self.listener.accept().await.unwrap();
            let request = read_request(&mut socket).await;
            self.seen.lock().unwrap().push(request);
            let Some(answer) = self.script.lock().unwrap().pop_front() else { continue };
            let head =
                format!("HTTP/1.1 {} X\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n", answer.code);
            socket.write_all(head.as_bytes()).await.unwrap();
            for line in &answer.lines {
                socket.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            }
            if answer.held {
                held.push(socket);
            }
        }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn read_request(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = socket.read(&mut chunk).await.unwrap();
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) || read == 0 {
            let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
            // The server's own time-out is drawn at random.
            let line = line.split("&timeoutSeconds=").enumerate().map(|(n, part)| match n {
                0 => part.to_owned(),
                _ => part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned(),
            });
            return format!("{} {body}", line.collect::<String>()).trim().to_owned();
        }
    }
}

fn pod(name: &str, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string(),
        "managedFields": [{"manager": "kubectl"}]}})
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: u64, ends: bool) -> Value {
    let annotations = if ends { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    event(
        "BOOKMARK",
        json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"resourceVersion": version.to_string(), "annotations": annotations}}),
    )
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code})
}

/// The first `count` changes, as text.
async fn follow(script: Vec<Answer>, count: usize) -> (Vec<String>, Vec<String>) {
    let (server, cluster) = Server::start(script).await;
    let (changes, mut told) = mpsc::channel(16);
    let mut lines = Vec::new();
    let collect = async {
        while lines.len() < count {
            let Some(change) = told.recv().await else { break };
            let name = |pod: &Arc<Pod>| {
                assert_eq!(pod.metadata.managed_fields, None);
                pod.metadata.name.clone().unwrap_or_default()
            };
            lines.push(match change {
                PodChange::Listed(pods) => format!("listed {}", pods.iter().map(name).collect::<Vec<_>>().join(" ")),
                PodChange::Applied(pod) => format!("applied {}", name(&pod)),
                PodChange::Deleted(pod) => format!("deleted {}", name(&pod)),
            });
        }
    };
    tokio::select! {
        () = collect => {}
        () = server.clone().run() => {}
        () = cluster.follow_pods(changes) => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => {}
    }
    (lines, server.seen())
}

const WATCH: &str = "GET /api/v1/pods?watch=1&allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dn1";

#[tokio::test]
async fn a_streamed_list_is_followed_and_a_cut_stream_resumed_where_it_ended() {
    let (changes, seen) = follow(
        vec![
            stream(
                vec![
                    event("ADDED", pod("a", 3)),
                    event("ADDED", pod("b", 5)),
                    event("ADDED", pod("c", 5)),
                    event("MODIFIED", pod("b", 6)),
                    event("DELETED", pod("c", 7)),
                    bookmark(7, true),
                    event("MODIFIED", pod("a", 8)),
                    bookmark(9, false),
                ],
                false,
            ),
            stream(vec![event("DELETED", pod("b", 10))], true),
        ],
        3,
    )
    .await;
    assert_eq!(changes, ["listed a b", "applied a", "deleted b"]);
    assert_eq!(
        seen,
        [
            format!("{WATCH}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
            format!("{WATCH}&resourceVersion=9")
        ]
    );
}

#[tokio::test]
async fn a_server_without_streamed_lists_is_listed_in_pages_and_again_after_410() {
    let list = |items: Vec<Value>, version: &str, more: &str| {
        answer(
            200,
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": more}, "items": items}),
        )
    };
    let (changes, seen) = follow(
        vec![
            answer(422, status(422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")),
            list(vec![pod("a", 1)], "4", "t/1"),
            list(vec![pod("b", 2)], "4", ""),
            stream(vec![event("ERROR", status(410, "too old resource version: 4 (9)"))], false),
            list(vec![pod("b", 2)], "12", ""),
            stream(vec![event("ADDED", pod("c", 13))], true),
        ],
        3,
    )
    .await;
    assert_eq!(changes, ["listed a b", "listed b", "applied c"]);
    let list = "GET /api/v1/pods?limit=500&fieldSelector=spec.nodeName%3Dn1";
    assert_eq!(
        seen[1..],
        [
            list.to_owned(),
            format!("{list}&continue=t%2F1"),
            format!("{WATCH}&resourceVersion=4"),
            list.to_owned(),
            format!("{WATCH}&resourceVersion=12"),
        ]
    );
}

#[tokio::test]
async fn a_server_that_lost_its_latest_revisions_is_listed_again() {
    let (changes, seen) = follow(
        vec![
            stream(vec![event("ADDED", pod("a", 3)), bookmark(13, true)], false),
            answer(504, status(504, "Timeout: Too large resource version: 13, current: 2")),
            stream(vec![bookmark(2, true)], true),
        ],
        2,
    )
    .await;
    assert_eq!(changes, ["listed a", "listed "]);
    assert_eq!(seen[1], format!("{WATCH}&resourceVersion=13"));
    assert_eq!(seen[2], seen[0]);
}

#[tokio::test]
async fn writes_carry_the_uid_and_a_pod_that_is_gone_is_no_error() {
    let conflict = status(
        409,
        "Operation cannot be fulfilled on pods \"p\": Precondition failed: UID in precondition: u, UID in object meta: v",
    );
    let (server, cluster) = Server::start(vec![
        answer(200, pod("p", 2)),
        answer(409, conflict.clone()),
        answer(404, status(404, "pods \"p\" not found")),
        answer(409, conflict),
        answer(404, status(404, "configmaps \"x\" not found")),
        answer(503, status(503, "etcdserver: leader changed")),
    ])
    .await;
    let (key, uid) = (PodKey::new("ns", "p"), PodUid::new("u"));
    let patch = json!({"status": {"phase": "Running"}});
    let calls = async {
        assert!(cluster.patch_pod_status(&key, &uid, &patch).await.unwrap().is_some());
        assert!(cluster.patch_pod_status(&key, &uid, &patch).await.unwrap().is_none());
        assert!(cluster.patch_pod_status(&key, &uid, &patch).await.unwrap().is_none());
        cluster.delete_pod(&key, &uid).await.unwrap();
        assert_eq!(cluster.config_map("ns", "x").await.unwrap_err().to_string(), "configmap \"x\" not found");
        assert!(matches!(cluster.node("n1").await, Err(ClusterError::Unavailable(_))));
    };
    tokio::select! {
        () = calls => {}
        () = server.clone().run() => {}
    }
    let seen = server.seen();
    assert_eq!(
        seen[0],
        r#"PATCH /api/v1/namespaces/ns/pods/p/status {"metadata":{"uid":"u"},"status":{"phase":"Running"}}"#
    );
    assert_eq!(
        seen[3],
        r#"DELETE /api/v1/namespaces/ns/pods/p {"apiVersion":"v1","gracePeriodSeconds":0,"kind":"DeleteOptions","preconditions":{"uid":"u"}}"#
    );
}

#[tokio::test]
async fn an_unreadable_kubeconfig_and_an_absent_server_say_so() {
    let missing = KubeCluster::connect(std::path::Path::new("/no/such/file"), "n1").await.err().unwrap();
    assert!(missing.to_string().starts_with("kubeconfig /no/such/file cannot be used: "), "{missing}");
    let (server, cluster) = Server::start(Vec::new()).await;
    drop(server);
    let error = cluster.node("n1").await.unwrap_err().to_string();
    assert!(error.starts_with("API server is unavailable: ") && error.contains("refused"), "{error}");
}
