//! Callers against a scripted API server: its fake takes a token for its user's name, and lets `get-stats` get stats.

use super::*;
use crate::cluster::fake::FakeCluster;

fn auth(fields: serde_json::Value) -> (Auth, Arc<FakeCluster>) {
    let mut config = KubeletConfiguration::defaulted();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    if let Some(mode) = text(&fields["mode"]) {
        config.authorization.mode = mode;
    }
    config.authentication.anonymous.enabled = fields["anonymous"].as_bool();
    if fields["tokens"] == false {
        config.authentication.webhook.enabled = Some(false);
    }
    let fake = Arc::new(FakeCluster::default());
    (Auth::new(&config, "n1".into(), fake.clone()), fake)
}

fn named(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() }
}

async fn ask(auth: &Auth, certificate: Option<&User>, token: Option<&str>, path: &str) -> String {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    }
    match auth.decide(certificate, &Method::GET, path, &headers).await {
        Access::Allowed => "allowed".into(),
        Access::Unauthorized => "unauthorized".into(),
        Access::Forbidden(text) | Access::Unknown(text) => text,
    }
}

#[tokio::test]
async fn callers_are_known_by_certificate_or_token_and_may_what_the_api_server_says() {
    let forbidden =
        |user: &str, what: &str| format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[{what}])");
    let (stats, masters) = (named("get-stats", &[]), named("admin", &[MASTERS]));
    for (config, certificate, token, path, expected) in [
        ("{}", None, None, "/pods", "unauthorized".to_owned()),
        ("{}", Some(&masters), None, "/exec/ns/p/c", "allowed".into()),
        ("{}", Some(&stats), None, "/stats/summary", "allowed".into()),
        ("{}", Some(&stats), None, "/metrics", forbidden("get-stats", "metrics")),
        ("{}", Some(&stats), None, "/pods", forbidden("get-stats", "pods proxy")),
        ("{}", None, Some("get-pods"), "/pods", "allowed".into()),
        // The coarse permission of old is enough for what has a fine one now.
        ("{}", None, Some("get-proxy"), "/pods", "allowed".into()),
        ("{}", None, Some("bad"), "/pods", "unauthorized".into()),
        (r#"{"anonymous": true}"#, None, None, "/pods", forbidden("system:anonymous", "pods proxy")),
        (r#"{"anonymous": true}"#, None, Some("bad"), "/pods", "unauthorized".into()),
        (r#"{"tokens": false}"#, None, Some("get-pods"), "/pods", "unauthorized".into()),
        (r#"{"mode": "AlwaysAllow"}"#, Some(&stats), None, "/metrics", "allowed".into()),
        (r#"{"mode": "AlwaysAllow"}"#, None, None, "/metrics", "unauthorized".into()),
    ] {
        let (auth, _) = auth(serde_json::from_str(config).unwrap());
        assert_eq!(ask(&auth, certificate, token, path).await, expected, "{config} {certificate:?} {token:?} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_are_asked_for_once_while_they_hold() {
    let (auth, fake) = auth(serde_json::json!({}));
    let reviews = || fake.calls().iter().filter(|call| call.starts_with("review_")).count();
    for _ in 0..3 {
        assert_eq!(ask(&auth, None, Some("get-stats"), "/stats").await, "allowed");
        assert!(ask(&auth, None, Some("get-stats"), "/metrics").await.starts_with("Forbidden"));
    }
    assert_eq!(reviews(), 3, "one token, one permission, one refusal");
    // A refusal is forgotten after 30 s, a token after 2 min, a permission after 5.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let _ = ask(&auth, None, Some("get-stats"), "/metrics").await;
    let _ = ask(&auth, None, Some("get-stats"), "/stats").await;
    assert_eq!(reviews(), 4);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let _ = ask(&auth, None, Some("get-stats"), "/stats").await;
    assert_eq!(reviews(), 5);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_no_permission_and_is_asked_again() {
    let (auth, fake) = auth(serde_json::json!({}));
    let away = || ClusterError::Unavailable("away".into());
    fake.fail("review_access", away());
    let stats = named("get-stats", &[]);
    let text = "Authorization error (user=get-stats, verb=get, resource=nodes, subresource=stats)";
    assert_eq!(ask(&auth, Some(&stats), None, "/stats").await, text);
    assert_eq!(ask(&auth, Some(&stats), None, "/stats").await, "allowed");
    fake.fail("review_token", away());
    assert_eq!(ask(&auth, None, Some("get-stats"), "/stats").await, "unauthorized");
    assert_eq!(ask(&auth, None, Some("get-stats"), "/stats").await, "allowed");
}

#[test]
fn a_certificates_subject_is_the_user() {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver-kubelet-client");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let cert = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let user = User::from_certificate(cert.der()).unwrap();
    assert_eq!(user, named("kube-apiserver-kubelet-client", &["system:masters", AUTHENTICATED]));
}
