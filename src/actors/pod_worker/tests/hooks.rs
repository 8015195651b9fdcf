//! Lifecycle hooks that fail, and answers that are none of their business.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn reasons(world: &World) -> Vec<String> {
    world.cluster.events().into_iter().filter_map(|event| event.reason).collect()
}

#[tokio::test(start_paused = true)]
async fn a_failed_post_start_hook_kills_by_way_of_the_pre_stop_hook() {
    let world = World::new();
    world.runtime.fail("exec_sync", RuntimeError::Unavailable("scripted".to_owned()));
    let life = world.start_agent();
    world.put(|pod| {
        pod["spec"]["containers"][0]["lifecycle"] =
            json!({"postStart": {"exec": {"command": ["greet"]}}, "preStop": {"exec": {"command": ["leave"]}}});
    });
    world.until("started again", |s| s["containerStatuses"][0]["restartCount"] == 1 && is_ready(s)).await;
    life.tasks.stop().await;
    let calls = world.runtime.calls();
    let position = |what: &str| calls.iter().position(|call| call.contains(what)).unwrap_or(usize::MAX);
    let order = [position("greet"), position("leave"), position("stop_container")];
    assert!(order.is_sorted() && order[2] < usize::MAX, "{calls:?}");
    let told = world.cluster.events();
    let of = |reason: &str| told.iter().filter(|event| event.reason.as_deref() == Some(reason)).collect::<Vec<_>>();
    assert_eq!(of("FailedPostStartHook")[0].message.as_deref(), Some("PostStartHook failed"));
    assert_eq!(of("Killing")[0].message.as_deref(), Some("FailedPostStartHook"));
}

#[tokio::test(start_paused = true)]
async fn any_answer_to_a_hook_will_do() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let world = World::new();
    let life = world.start_agent();
    life.tasks.spawn("server", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The client may have gone.
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    world.put(|pod| {
        let get = json!({"host": "127.0.0.1", "port": port, "path": "/none"});
        pod["spec"]["containers"][0]["lifecycle"] = json!({"postStart": {"httpGet": get}});
    });
    world.until("ready", is_ready).await;
    life.tasks.stop().await;
    assert!(!reasons(&world).contains(&"FailedPostStartHook".to_owned()), "{:?}", reasons(&world));
}
