//! The server over real TLS and its in-process clients, on the memory store.

use crate::support::Fixture;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"on": "yes"}}, "data": {"k": "v"}})).unwrap()
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete_and_a_watch_sees_it_all() {
    let fixture = Fixture::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(fixture.server.client("admin", &["system:masters"]));
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = api.watch(&WatchParams::default().labels("on=yes"), &version).await.unwrap().boxed();

    let created = api.create(&PostParams::default(), &config_map("a")).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.resource_version.is_some());
    let again = api.create(&PostParams::default(), &config_map("a")).await.unwrap_err();
    assert!(again.to_string().contains("already exists"), "{again}");

    let patched = api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "2"}}))).await.unwrap();
    assert_eq!(patched.data.unwrap()["k"], "2");
    let stale = api.replace("a", &PostParams::default(), &created).await.unwrap_err();
    assert!(stale.to_string().contains("the object has been modified"), "{stale}");
    let label = Patch::Strategic(json!({"metadata": {"labels": {"more": "1"}}}));
    api.patch("a", &PatchParams::default(), &label).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let gone = api.get("a").await.unwrap_err();
    assert!(gone.to_string().contains("configmaps \"a\" not found"), "{gone}");

    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(match watch.next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => "other",
        });
    }
    assert_eq!(seen, ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]);
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_pod_is_admitted_bound_once_and_deleted_with_grace() {
    let fixture = Fixture::start().await;
    let client = fixture.server.client("admin", &["system:masters"]);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::default_namespaced(client.clone());
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(pod.spec.unwrap().service_account_name.as_deref(), Some("default"));

    let bind = || {
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
        let request =
            http::Request::post("/api/v1/namespaces/default/pods/p/binding").header("content-type", "application/json");
        client.request_text(request.body(body.to_string().into_bytes()).unwrap())
    };
    bind().await.unwrap();
    let twice = bind().await.unwrap_err();
    assert!(twice.to_string().contains("pod p is already assigned to node \"n1\""), "{twice}");

    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let going = pods.get("p").await.unwrap();
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(30));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
    fixture.server.stop().await;
}

#[tokio::test]
async fn who_asks_decides_what_is_answered() {
    let fixture = Fixture::start().await;
    let plain: Api<Pod> = Api::default_namespaced(fixture.server.client("jo", &[]));
    let refused = plain.list(&ListParams::default()).await.unwrap_err();
    let text =
        "pods is forbidden: User \"jo\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert!(refused.to_string().contains(text), "{refused}");
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_client_certificate_names_the_user_over_tls() {
    let fixture = Fixture::start().await;
    let answer = get(&fixture, true, "/api/v1/namespaces/kube-system").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\"name\":\"kube-system\""), "{answer}");
    let anonymous = get(&fixture, false, "/api/v1/namespaces/kube-system").await;
    assert!(anonymous.starts_with("HTTP/1.1 403 Forbidden"), "{anonymous}");
    assert!(get(&fixture, false, "/readyz").await.ends_with("ok"));
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_by_version_across_a_restart() {
    let fixture = Fixture::start().await.restart().await;
    let api = |fixture: &Fixture| -> Api<ConfigMap> {
        Api::default_namespaced(fixture.server.client("admin", &["system:masters"]))
    };
    let before = api(&fixture);
    before.create(&PostParams::default(), &config_map("kept")).await.unwrap();
    let seen = before.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    before.create(&PostParams::default(), &config_map("missed")).await.unwrap();
    before.delete("kept", &DeleteParams::default()).await.unwrap();

    let fixture = fixture.restart().await;
    let after = api(&fixture);
    let mut watch = after.watch(&WatchParams::default(), &seen).await.unwrap().boxed();
    after.create(&PostParams::default(), &config_map("live")).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.push(match watch.next().await.unwrap().unwrap() {
            WatchEvent::Added(object) => ("ADDED", object.metadata.name.unwrap()),
            WatchEvent::Deleted(object) => ("DELETED", object.metadata.name.unwrap()),
            other => panic!("{other:?}"),
        });
    }
    let named = |kind, name: &str| (kind, name.to_owned());
    assert_eq!(events, [named("ADDED", "missed"), named("DELETED", "kept"), named("ADDED", "live")]);
    fixture.server.stop().await;
}

#[tokio::test]
async fn reviews_answer_as_requests_would_be() {
    let fixture = Fixture::start().await;
    let ask = async |user: &str, groups: &[&str], path: &str, body: serde_json::Value| {
        let client = fixture.server.client(user, groups);
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer = client.request_text(request.body(body.to_string().into_bytes()).unwrap()).await;
        answer.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap()["status"].clone())
    };
    let me = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let status = ask("jo", &["g"], "/apis/authentication.k8s.io/v1/selfsubjectreviews", me).await.unwrap();
    assert_eq!(status, json!({"userInfo": {"username": "jo", "groups": ["g", "system:authenticated"]}}));
    for (user, groups, allowed) in [("jo", &[][..], false), ("admin", &["system:masters"][..], true)] {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"namespace": "default", "verb": "list", "resource": "pods"}},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(ask(user, groups, path, body).await.unwrap(), json!({"allowed": allowed}));
    }
    let rules = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let status = ask("admin", &["system:masters"], path, rules.clone()).await.unwrap();
    assert_eq!(status["resourceRules"], json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
    let status = ask("jo", &[], path, rules).await.unwrap();
    assert_eq!(status["resourceRules"][1]["resources"], json!(["selfsubjectreviews"]));
    let other = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "jo", "nonResourceAttributes": {"path": "/version", "verb": "get"}},
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert!(ask("jo", &[], path, other.clone()).await.unwrap_err().to_string().contains("is forbidden"));
    assert_eq!(ask("admin", &["system:masters"], path, other).await.unwrap(), json!({"allowed": false}));
    fixture.server.stop().await;
}

/// One raw request over TLS, with the administrator's certificate or without any.
async fn get(fixture: &Fixture, with_certificate: bool, path: &str) -> String {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture.pki.ca().cert).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = if with_certificate {
        let paths = fixture.admin();
        let chain = CertificateDer::pem_file_iter(paths.certificate).unwrap().map(Result::unwrap).collect();
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(paths.key).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let stream = tokio::net::TcpStream::connect(fixture.server.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server may end the connection without a TLS goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
