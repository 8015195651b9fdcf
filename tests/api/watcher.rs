//! kube-rs' watcher, with and without streaming lists: the initial list, changes, a server that restarts, history that is
//! gone, bookmarks.

use crate::server::{Server, free_port};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::pin::Pin;
use std::process::Command;
use std::time::Duration;

/// What anything may take on a busy two-core machine.
const PATIENCE: Duration = Duration::from_secs(60);

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<ConfigMap>>>>>;

/// ConfigMaps of `default`, through the server as it is now.
async fn maps(server: &Server) -> Api<ConfigMap> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let kubeconfig =
        Kubeconfig::read_from(server.path("data/admin.kubeconfig")).expect("the administrator's kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a configuration")).expect("a client");
    Api::default_namespaced(client)
}

async fn create(maps: &Api<ConfigMap>, name: &str) {
    let labels = json!({"watched": "yes"});
    let map = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "data": {"mood": "quiet"}}));
    maps.create(&PostParams::default(), &map.expect("a ConfigMap")).await.expect("it is created");
}

/// The next event in words, and what went wrong before it.
async fn next(events: &mut Events) -> (String, Vec<String>) {
    let mut errors = Vec::new();
    let mood = |map: ConfigMap| format!("{} {}", map.name_any(), map.data.unwrap_or_default()["mood"]);
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            return match events.next().await.expect("a watcher never ends") {
                Err(error) => {
                    errors.push(error.to_string());
                    continue;
                }
                Ok(Event::Init) => "init".to_owned(),
                Ok(Event::InitApply(map)) => format!("there is {}", mood(map)),
                Ok(Event::InitDone) => "done".to_owned(),
                Ok(Event::Apply(map)) => format!("now {}", mood(map)),
                Ok(Event::Delete(map)) => format!("no more {}", mood(map)),
            };
        }
    });
    match found.await {
        Ok(found) => (found, errors),
        Err(_) => panic!("no event within {PATIENCE:?}, only {errors:?}"),
    }
}

/// Everything a watcher says next, one event for each that is expected.
async fn says(events: &mut Events, expected: &[&str]) -> Vec<String> {
    let mut errors = Vec::new();
    for expected in expected {
        let (found, before) = next(events).await;
        errors.extend(before);
        assert_eq!(found, *expected, "after {errors:?}");
    }
    errors
}

#[tokio::test]
async fn a_watcher_lists_follows_resumes_and_lists_again() {
    let mut server = Server::durable();
    let port = server.port;
    let here = maps(&server).await;
    create(&here, "a").await;
    create(&here, "b").await;
    // The second asks for its initial objects as part of the watch.
    let selected = watcher::Config::default().labels("watched=yes");
    let mut watchers: Vec<Events> = [selected.clone(), selected.streaming_lists()]
        .into_iter()
        .map(|config| Box::pin(watcher::watcher(here.clone(), config)) as Events)
        .collect();
    for events in &mut watchers {
        says(events, &["init", "there is a quiet", "there is b quiet", "done"]).await;
    }
    create(&here, "c").await;
    let loud = Patch::Merge(json!({"data": {"mood": "loud"}}));
    here.patch("a", &PatchParams::default(), &loud).await.expect("it is patched");
    let unwatched = Patch::Merge(json!({"metadata": {"labels": {"watched": null}}}));
    here.patch("c", &PatchParams::default(), &unwatched).await.expect("it is patched");
    here.delete("b", &DeleteParams::default()).await.expect("it is deleted");
    for events in &mut watchers {
        says(events, &["now c quiet", "now a loud", "no more c quiet", "no more b quiet"]).await;
    }

    // What happened while it could not be reached is not missed, nor is anything told twice.
    while_away(&mut server, "d").await;
    server.boot(port);
    create(&here, "e").await;
    for events in &mut watchers {
        says(events, &["now d quiet", "now e quiet"]).await;
    }

    // Where the history is gone it is told so, and begins anew.
    while_away(&mut server, "f").await;
    let mut compact = Command::new(env!("CARGO_BIN_EXE_skiff"));
    let compact = compact.args(["store", "compact", "--data-dir"]).arg(server.path("data")).output();
    assert!(compact.expect("skiff runs").status.success());
    server.boot(port);
    for events in &mut watchers {
        let there = ["a loud", "d quiet", "e quiet", "f quiet"].map(|map| format!("there is {map}"));
        let expected = [&["init"], there.each_ref().map(String::as_str).as_slice(), &["done"]].concat();
        let errors = says(events, &expected).await;
        assert!(errors.iter().any(|error| error.contains("too old resource version")), "{errors:?}");
    }
}

/// One change that is made when the watchers cannot see it: the server is at another port meanwhile.
async fn while_away(server: &mut Server, name: &str) {
    server.stop();
    server.boot(free_port());
    create(&maps(server).await, name).await;
    server.stop();
}

#[tokio::test]
async fn a_bookmark_tells_a_quiet_watch_how_far_the_server_is() {
    let server = Server::start();
    let maps = maps(&server).await;
    create(&maps, "a").await;
    let from = maps.get("a").await.expect("it is there").resource_version().expect("it has a version");
    create(&maps, "b").await;
    let seen = maps.get("b").await.expect("it is there").resource_version().expect("it has a version");
    // A bookmark comes two seconds before the end.
    let params = WatchParams::default().labels("watched=no").timeout(3);
    let events = maps.watch(&params, &from).await.expect("a watch").map(|event| match event.expect("an event") {
        WatchEvent::Bookmark(mark) => mark.metadata.resource_version,
        other => panic!("{other:?} is not selected"),
    });
    let marks = tokio::time::timeout(PATIENCE, events.collect::<Vec<String>>()).await.expect("the watch ends");
    assert_eq!(marks.last(), Some(&seen));
}
