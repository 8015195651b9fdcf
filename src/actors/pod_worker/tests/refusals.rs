//! Pods that the node does not take as they are.

use super::*;

#[tokio::test(start_paused = true)]
async fn others_leave_for_a_pod_that_the_node_must_have() {
    let world = World::new();
    world.runtime.ignore_term();
    let life = world.start_agent();
    world.put(|pod| pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1500m"}}));
    world.until("ready", is_ready).await;
    let critical = json!({
        "metadata": {"name": "q", "namespace": "d", "uid": "u2", "generation": 1},
        "spec": {"nodeName": "n", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "priority": 2_000_000_000,
            "containers": [{"name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "1"}}}]},
    });
    world.cluster.put_pod(serde_json::from_value(critical).expect("a pod"));
    let begun = tokio::time::Instant::now();
    world
        .until("failed", |s| {
            let starts = !world.runtime.pod(&PodUid::new("u2")).sandboxes.is_empty();
            assert!(!starts || s["phase"] == "Failed", "it starts when the other has ended, not before");
            s["phase"] == "Failed"
        })
        .await;
    assert!(begun.elapsed() >= Duration::from_secs(30), "the other has its own grace");
    let status = world.status();
    let message = "Preempted in order to admit critical pod";
    assert_eq!((&status["reason"], &status["message"]), (&json!("Preempting"), &json!(message)));
    let conditions = status["conditions"].as_array().expect("conditions");
    let disrupted = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").expect("a condition");
    assert_eq!(
        (&disrupted["reason"], &disrupted["message"]),
        (&json!("TerminationByKubelet"), &json!("Pod was preempted by Kubelet to accommodate a critical pod."))
    );
    for _ in 0..400 {
        if !world.runtime.pod(&PodUid::new("u2")).containers.is_empty() {
            break;
        }
        step().await;
    }
    assert_eq!(world.runtime.pod(&PodUid::new("u2")).containers.len(), 1);
    life.tasks.stop().await;
    let told = world.cluster.events();
    assert!(
        told.iter()
            .any(|event| event.reason.as_deref() == Some("Preempting") && event.message.as_deref() == Some(message))
    );
}

#[tokio::test(start_paused = true)]
async fn without_user_namespaces_in_the_runtime_a_pod_that_wants_one_waits_and_says_why() {
    let world = World::new();
    let life = world.start_agent();
    world.put(|pod| pod["spec"]["hostUsers"] = json!(false));
    let told = |event: &k8s_openapi::api::core::v1::Event| event.reason.as_deref() == Some("FailedCreatePodSandBox");
    for _ in 0..400 {
        if world.cluster.events().iter().any(told) {
            break;
        }
        step().await;
    }
    life.tasks.stop().await;
    let message = world.cluster.events().into_iter().find(told).and_then(|event| event.message);
    assert_eq!(
        message.as_deref(),
        Some(
            "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user namespaces: \
             runtime handlers are not set"
        )
    );
    assert!(world.runtime.pod(&uid()).sandboxes.is_empty());
}
