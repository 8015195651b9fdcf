//! `skiff store` beside a running server and after it, and the quota as clients see it.

use crate::server::{MAPS, Server, text, version};
use serde_json::Value;

#[test]
fn a_backup_is_made_online_and_restored_offline() {
    let mut server = Server::start(&[]);
    for name in ["a", "b"] {
        assert_eq!(server.create(name, "1").code, 201);
    }
    let backup = server.path("backup.db");
    let told = server.store_ok(&["backup", text(&backup)]);
    assert!(told.contains("backup.db: ") && told.contains(" keys at revision "), "{told}");
    assert!(server.store_ok(&["check"]).ends_with("state.db: sound\n"));
    assert!(server.store_ok(&["check", text(&backup)]).ends_with("backup.db: sound\n"));
    let later = version(&server.create("later", "1").body);

    let pid = server.pid().to_string();
    let refused = server.store_refused(&["restore", text(&backup)]);
    assert!(refused.contains(&pid), "{refused}");
    let refused = server.store_refused(&["compact"]);
    assert!(refused.contains(&pid), "{refused}");
    assert_eq!(server.names(), ["a", "b", "later"]);

    server.stop();
    let told = server.store_ok(&["restore", text(&backup)]);
    assert!(told.contains("state.db.replaced"), "{told}");
    server.boot();
    assert_eq!(server.names(), ["a", "b"]);
    // A client that had seen more lists anew.
    let resumed = server.curl("GET", &format!("{MAPS}?watch=1&resourceVersion={later}&timeoutSeconds=1"), None);
    assert_eq!((&resumed.body["type"], &resumed.body["object"]["code"]), (&"ERROR".into(), &410.into()), "{resumed:?}");
    assert!(version(&server.create("next", "1").body) > later);
}

#[test]
fn stats_are_told_by_resource() {
    let mut server = Server::start(&[]);
    server.create("a", "1");
    let stats: Value = serde_json::from_str(&server.store_ok(&["stats", "--output=json"])).expect("JSON");
    assert_eq!(stats["resources"]["configmaps"]["keys"], 1);
    assert_eq!(stats["resources"]["services/specs"]["keys"], 1);
    assert!(stats["keys"].as_u64() >= Some(6) && stats["bytes"].as_u64() > Some(500), "{stats}");
    let shown = server.store_ok(&["stats"]);
    assert!(shown.contains("RESOURCE") && shown.lines().any(|line| line.starts_with("configmaps ")), "{shown}");
    server.stop();
    let told = server.store_ok(&["compact"]);
    assert!(told.contains("compacted at revision"), "{told}");
    let stats: Value = serde_json::from_str(&server.store_ok(&["stats", "--output=json"])).expect("JSON");
    assert_eq!(stats["revision"], stats["compactedRevision"]);
    server.boot();
    assert_eq!(server.names(), ["a"]);
}

#[test]
fn a_copy_holds_every_key_and_takes_over_the_clients() {
    let mut server = Server::start(&[]);
    for n in 0..5 {
        server.create(&format!("map-{n}"), "1");
    }
    let newest = version(&server.curl("GET", MAPS, None).body);
    let source = format!("sqlite:{}", server.data().join("store/state.db").display());
    let copied = server.path("copy.db");
    let target = format!("sqlite:{}", copied.display());
    let refused = server.store_refused(&["copy", "--from", &source, "--to", &target]);
    assert!(refused.contains(&server.pid().to_string()), "{refused}");
    server.stop();
    let told = server.store_ok(&["copy", "--from", &source, "--to", &target]);
    assert!(told.contains("keys, ") && told.contains("as they were at revision"), "{told}");
    let refused = server.store_refused(&["copy", "--from", &source, "--to", &target]);
    assert!(refused.contains("the target is not empty"), "{refused}");
    assert!(server.store_ok(&["restore", text(&copied), "--bump-revision=0"]).contains("revisions go on at"));
    server.boot();
    assert_eq!(server.names().len(), 5);
    assert!(version(&server.curl("GET", MAPS, None).body) > newest);
}

#[test]
fn damage_is_named_with_the_remedy() {
    let mut server = Server::start(&[]);
    server.create("a", "1");
    server.stop();
    let file = server.data().join("store/state.db");
    let mut bytes = std::fs::read(&file).expect("the store");
    bytes[4096..].fill(0x5a);
    std::fs::write(&file, bytes).expect("the store");
    let line = server.store_refused(&["check"]);
    assert!(line.contains("is damaged") && line.contains("restore"), "{line}");
    let line = server.store_refused(&["backup", text(&server.path("backup.db"))]);
    assert!(line.contains("is damaged"), "{line}");
    assert!(!server.path("backup.db").exists() && !server.path("backup.db.part").exists());
}

#[test]
fn at_the_quota_clients_get_507_and_can_delete() {
    let server = Server::start(&["--quota-backend-bytes=1048576"]);
    let data = "x".repeat(50_000);
    let mut made = 0;
    let refusal = loop {
        let answer = server.create(&format!("map-{made}"), &data);
        if answer.code != 201 {
            break answer;
        }
        made += 1;
    };
    assert_eq!((refusal.code, &refusal.body["reason"]), (507, &"InsufficientStorage".into()), "{refusal:?}");
    let message = refusal.body["message"].as_str().expect("a message");
    assert!(message.starts_with("the store is full: ") && message.contains("--quota-backend-bytes"), "{message}");
    assert!(made > 5, "{made}");
    assert_eq!(server.names().len(), made);
    for n in 0..3 {
        assert_eq!(server.curl("DELETE", &format!("{MAPS}/map-{n}"), None).code, 200);
    }
    assert_eq!(server.create("again", &data).code, 201);
    let metrics = server.curl("GET", "/metrics", None);
    let metrics = metrics.body.as_str().expect("text");
    for wanted in
        ["etcd_server_quota_backend_bytes 1048576", "apiserver_storage_size_bytes{storage_cluster_id=\"sqlite-0\"}"]
    {
        assert!(metrics.contains(wanted), "{wanted} is not in\n{metrics}");
    }
}
