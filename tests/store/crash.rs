//! `kill -9` of the server under 16 clients that create and watches that resume by resourceVersion.

use crate::server::{MAPS, Server, config_map, version};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CLIENTS: usize = 16;
const WATCHES: usize = 3;
const ROUNDS: usize = 4;
/// How long the clients work before each kill.
const WORK: Duration = Duration::from_millis(1500);

/// Creates until the server is gone; what was acknowledged.
fn create(server: &Server, name: &str, gone: &AtomicBool) -> Vec<(String, u64)> {
    let mut made = Vec::new();
    for n in 0.. {
        let name = format!("{name}-{n}");
        match server.try_curl("POST", MAPS, Some(&config_map(&name, &name))) {
            Some(answer) if answer.code == 201 => made.push((name, version(&answer.body))),
            Some(other) => panic!("{name}: {other:?}"),
            None => {
                assert!(gone.load(Ordering::Acquire), "{name}: no answer from a server that runs");
                break;
            }
        }
    }
    made
}

/// Follows from `after` on until the server is gone; what it saw.
fn follow(server: &Server, after: u64) -> Vec<(String, u64)> {
    let path = format!("{MAPS}?watch=1&resourceVersion={after}");
    let mut child = server
        .curl_command(&path)
        .arg("--no-buffer")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("curl");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut seen = Vec::new();
    // A line that was cut off is no event.
    for event in lines.map_while(Result::ok).map_while(|line| serde_json::from_str::<Value>(&line).ok()) {
        assert_eq!(event["type"], "ADDED", "resumed at {after}: {event}");
        let name = event["object"]["metadata"]["name"].as_str().expect("a name").to_owned();
        seen.push((name, version(&event["object"])));
    }
    child.wait().expect("its end");
    seen
}

#[test]
fn nothing_acknowledged_is_lost_and_watches_resume_without_gap_or_repeat() {
    let mut server = Server::start(&[]);
    let start = version(&server.curl("GET", MAPS, None).body);
    let acknowledged = Mutex::new(BTreeMap::new());
    let mut watches: Vec<Vec<(String, u64)>> = vec![Vec::new(); WATCHES];
    for round in 0..ROUNDS {
        let gone = AtomicBool::new(false);
        let running = &server;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (gone, acknowledged) = (&gone, &acknowledged);
                scope.spawn(move || {
                    let made = create(running, &format!("map-{round}-{client}"), gone);
                    acknowledged.lock().expect("no client panicked").extend(made);
                });
            }
            for seen in &mut watches {
                let after = seen.last().map_or(start, |(_, revision)| *revision);
                scope.spawn(move || seen.extend(follow(running, after)));
            }
            std::thread::sleep(WORK);
            gone.store(true, Ordering::Release);
            let killed = std::process::Command::new("kill").args(["-9", &running.pid().to_string()]).status();
            assert!(killed.is_ok_and(|status| status.success()));
        });
        server.kill();
        server.boot();
    }
    let acknowledged = acknowledged.into_inner().expect("no client panicked");
    assert!(acknowledged.len() > ROUNDS * CLIENTS, "{} writes", acknowledged.len());
    let list = server.curl("GET", MAPS, None);
    let items = list.body["items"].as_array().expect("items");
    let there: BTreeMap<&str, u64> =
        items.iter().map(|item| (item["metadata"]["name"].as_str().expect("a name"), version(item))).collect();
    for (name, revision) in &acknowledged {
        assert_eq!(there.get(&**name), Some(revision), "{name}");
    }
    // The rest of each watch's history ends with a marker that it has not seen yet.
    let marker = version(&server.create("marker", "").body);
    let mut whole: Vec<(String, u64)> = there.iter().map(|(name, revision)| ((*name).to_owned(), *revision)).collect();
    whole.sort_by_key(|(_, revision)| *revision);
    for (number, seen) in watches.into_iter().enumerate() {
        let after = seen.last().map_or(start, |(_, revision)| *revision);
        let (kept, missed): (Vec<_>, Vec<_>) = whole.iter().cloned().partition(|(_, revision)| *revision <= after);
        assert_eq!(seen, kept, "watch {number}");
        let rest = server.curl_command(&format!("{MAPS}?watch=1&resourceVersion={after}&timeoutSeconds=1")).output();
        let rest = String::from_utf8(rest.expect("curl").stdout).expect("text");
        let rest: Vec<u64> = rest
            .lines()
            .map(|line| version(&serde_json::from_str::<Value>(line).expect("an event")["object"]))
            .collect();
        let wanted: Vec<u64> = missed.iter().map(|(_, revision)| *revision).chain([marker]).collect();
        assert_eq!(rest, wanted, "watch {number} goes on after {after}");
    }
}
