//! Lists, watches and the server's manners as a client sees them: pages, bookmarks, WebSockets, audit log, metrics.

use crate::support::Fixture;
#[allow(dead_code, reason = "these tests restart no server")]
use futures::{AsyncBufReadExt, SinkExt, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use skiff_shim::audit::{AuditConfig, LogConfig};
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn admin(fixture: &Fixture) -> kube::Client {
    fixture.server.client("admin", &["system:masters"])
}

async fn get(client: &kube::Client, path: &str) -> Value {
    let text = client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn create(client: &kube::Client, name: &str, labels: Value) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}});
    let request = http::Request::post(MAPS).header("content-type", "application/json");
    let text = client.request_text(request.body(object.to_string().into_bytes()).unwrap()).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The first `count` events of a watch.
async fn watch(client: &kube::Client, path: &str, accept: &str, count: usize) -> Vec<Value> {
    let request = http::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
    let lines = client.request_stream(request).await.unwrap().lines();
    lines.take(count).map_ok(|line| serde_json::from_str(&line).unwrap()).try_collect().await.unwrap()
}

#[tokio::test]
async fn pages_are_of_one_version_whatever_happens_meanwhile() {
    let fixture = Fixture::start().await;
    let client = admin(&fixture);
    for name in ["a", "b", "c", "d", "e"] {
        create(&client, name, json!({})).await;
    }
    let first = get(&client, &format!("{MAPS}?limit=2")).await;
    let delete = http::Request::delete(format!("{MAPS}/d")).body(Vec::new()).unwrap();
    client.request_text(delete).await.unwrap();
    create(&client, "bb", json!({})).await;
    let mut names = Vec::new();
    let mut page = first.clone();
    loop {
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["metadata"]["continue"].as_str() else { break };
        let following = page["metadata"]["remainingItemCount"].as_u64().unwrap();
        assert_eq!(names.len() as u64 + following, 5);
        page = get(&client, &format!("{MAPS}?limit=2&continue={next}")).await;
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_watch_begins_with_what_there_is_and_says_where_that_ends() {
    let fixture = Fixture::start().await;
    let client = admin(&fixture);
    create(&client, "in", json!({"on": "yes"})).await;
    create(&client, "out", json!({"on": "no"})).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=on%3Dyes";
    let events = watch(&client, &format!("{MAPS}?{query}"), "application/json", 2).await;
    assert_eq!((&events[0]["type"], &events[0]["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("in")));
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(events[1]["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let events = watch(&client, &format!("{MAPS}?watch=true"), table, 2).await;
    assert_eq!(events[0]["object"]["columnDefinitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(events[1]["object"]["columnDefinitions"], Value::Null);

    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let named = "/api/v1/watch/namespaces/default/configmaps/out";
    let events = watch(&client, named, metadata, 1).await;
    assert_eq!(events[0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(events[0]["object"]["metadata"]["name"], "out");
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_watch_from_before_what_is_kept_is_told_so() {
    let fixture = Fixture::start().await;
    let events = watch(&admin(&fixture), &format!("{MAPS}?watch=true&resourceVersion=1"), "application/json", 1).await;
    assert_eq!((&events[0]["type"], &events[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(events[0]["object"]["reason"], "Expired");
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_watch_over_a_websocket_sends_an_event_a_message() {
    let fixture = Fixture::start().await;
    let client = admin(&fixture);
    create(&client, "first", json!({})).await;
    let address = fixture.server.address();
    let request = format!("wss://{address}{MAPS}?watch=true").into_client_request().unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async(request, tls(&fixture).await).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut names = Vec::new();
    for _ in 0..2 {
        let Message::Text(text) = socket.next().await.unwrap().unwrap() else { panic!("a text message") };
        let event: Value = serde_json::from_str(&text).unwrap();
        names.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
        if names.len() == 1 {
            socket.send(Message::Ping(Default::default())).await.unwrap();
            assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Pong(_)));
            create(&client, "second", json!({})).await;
        }
    }
    assert_eq!(names, ["first", "second"]);
    // A server that stops says goodbye.
    let ((), last) = tokio::join!(fixture.server.stop(), socket.next());
    assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
}

#[tokio::test]
async fn the_audit_log_records_what_its_policy_asks_for() {
    let files = tempfile::tempdir().unwrap();
    let (policy, log) = (files.path().join("policy.yaml"), files.path().join("audit.log"));
    std::fs::write(
        &policy,
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {level: None, users: [silent]}\n\
         - {level: RequestResponse, resources: [{group: \"\", resources: [configmaps]}], omitManagedFields: true}\n\
         - {level: Metadata}\n",
    )
    .unwrap();
    let path = log.clone();
    let fixture = Fixture::configured("", |config| {
        let log = LogConfig { path, max_size_mib: 1, max_backups: 1, max_age_days: 1 };
        config.audit = AuditConfig { policy_file: Some(policy), log: Some(log) };
    })
    .await;
    let client = admin(&fixture);
    create(&client, "made", json!({})).await;
    let silent = fixture.server.client("silent", &["system:masters"]);
    get(&silent, MAPS).await;
    let refused = http::Request::get("/api/v1/secrets").header("user-agent", "test").body(Vec::new()).unwrap();
    fixture.server.client("jo", &["g"]).request_text(refused).await.unwrap_err();
    watch(&client, &format!("{MAPS}?watch=true"), "application/json", 1).await;
    fixture.server.stop().await;

    let text = std::fs::read_to_string(&log).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // The server's own requests are recorded too, whenever they come.
    let events: Vec<Value> = all.filter(|event| event["user"]["username"] != "system:apiserver").collect();
    let shown: Vec<String> = events
        .iter()
        .map(|e| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {} {}",
                text(&e["level"]),
                text(&e["stage"]),
                text(&e["verb"]),
                text(&e["user"]["username"]),
                text(&e["objectRef"]["name"]),
                e["responseStatus"]["code"]
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "RequestResponse ResponseComplete create admin made 201",
            "Metadata ResponseComplete list jo - 403",
            "RequestResponse ResponseStarted watch admin - 200",
            "RequestResponse ResponseComplete watch admin - 200",
        ]
    );
    assert_eq!(events[0]["requestObject"]["metadata"]["name"], "made");
    assert_eq!(events[0]["responseObject"]["kind"], "ConfigMap");
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(events[1]["responseStatus"]["reason"], "Forbidden");
    assert_eq!((&events[1]["userAgent"], events[1].get("requestObject")), (&json!("test"), None));
    assert_eq!(events[1]["annotations"]["authorization.k8s.io/decision"], "forbid");
}

#[tokio::test]
async fn metrics_have_upstreams_names() {
    let fixture = Fixture::start().await;
    let client = admin(&fixture);
    create(&client, "counted", json!({})).await;
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    for wanted in [
        "# TYPE apiserver_request_total counter",
        "apiserver_request_total{verb=\"POST\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",\
         scope=\"namespace\",dry_run=\"\",component=\"apiserver\",code=\"201\"} 1",
        "apiserver_request_duration_seconds_count{verb=\"POST\",group=\"\",version=\"v1\",resource=\"configmaps\"",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"}",
        "apiserver_storage_objects{resource=\"leases.coordination.k8s.io\"} 0",
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} 1",
        "apiserver_watch_cache_events_received_total{group=\"\",resource=\"configmaps\"} 1",
        "process_resident_memory_bytes ",
        "etcd_request_duration_seconds_count{operation=\"create\",type=\"configmaps\"} 1",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert!(!text.contains("# EOF"));
    fixture.server.stop().await;
}

async fn tls(fixture: &Fixture) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture.pki.ca().cert).unwrap()).unwrap();
    let paths = fixture.admin();
    let chain = CertificateDer::pem_file_iter(paths.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(paths.key).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key);
    let stream = tokio::net::TcpStream::connect(fixture.server.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config.unwrap()));
    connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
}
