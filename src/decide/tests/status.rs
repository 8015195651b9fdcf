//! What is shown of a pod.

use super::*;

#[test]
fn a_terminal_phase_never_goes_back() {
    check(
        |case| {
            case.memory.status.phase = Some("Succeeded".to_owned());
            case.memory.cleaned = true;
            case.seen = ObservedPod::default();
        },
        &expect![[r#"
            Clean (Finished, grace 30s)
            Succeeded -PRTSC +I -R -CR +PS
        "#]],
    );
}

#[test]
fn without_limits_of_its_own_a_container_shows_the_pods() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {
            "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img",
                "resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "16Mi"}}}],
            "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}, "requests": {"cpu": "50m"}},
        },
    });
    let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).expect("a pod"))).expect("a whole pod");
    let Case { seen, memory, .. } = healthy();
    let now = Now { wall: time(NOW), mono: Instant::now() };
    let scene = Scene { pod: &pod, seen: &seen, memory: &memory, now, node_ips: &[], delays: Default::default() };
    let status = plan(scene).status;
    assert_eq!(json!(status.allocated_resources), json!({"cpu": "50m", "memory": "16Mi"}));
    let shown = status.container_statuses.expect("statuses");
    assert_eq!(json!(shown[0].resources), json!(null));
    assert_eq!(json!(shown[1].allocated_resources), json!({"memory": "16Mi"}));
    let expected = json!({"limits": {"cpu": "100m", "memory": "16Mi"}, "requests": {"cpu": "100m", "memory": "16Mi"}});
    assert_eq!(json!(shown[1].resources), expected);
}

#[test]
fn a_running_container_shows_only_after_its_post_start_hook() {
    let waiting = expect![[r#"
        Sync
        Pending +PRTSC +I -R -CR +PS
          a: waiting ContainerCreating, restarts 0
          b: running, ready, restarts 0
    "#]];
    let hooked = |case: &mut Case| {
        case.pod["spec"]["containers"][0]["lifecycle"] = json!({"postStart": {"sleep": {"seconds": 1}}});
        let wanted = serde_json::from_value(case.pod["spec"]["containers"][0].clone()).expect("a container");
        case.seen.containers[0].annotations.insert(CONTAINER_HASH.to_owned(), container_hash(&wanted));
    };
    check(
        |case| {
            hooked(case);
            case.memory.running.insert(StepKey::Start(ContainerName::new("a")));
        },
        &waiting,
    );
    check(
        |case| {
            hooked(case);
            case.memory.hooks.insert(ContainerId::new("a-0"));
        },
        &waiting,
    );
}

#[test]
fn a_sidecar_that_starts_again_does_not_take_its_pod_back_to_pending() {
    let starting = |case: &mut Case| {
        case.init("s", true);
        case.pod["spec"]["initContainers"][0]["startupProbe"] = json!({"exec": {"command": ["true"]}});
        let wanted = serde_json::from_value(case.pod["spec"]["initContainers"][0].clone()).expect("a container");
        let mut sidecar = container("s", 1, running());
        sidecar.annotations.insert(CONTAINER_HASH.to_owned(), container_hash(&wanted));
        case.seen.containers.push(sidecar);
    };
    check(
        starting,
        &expect![[r#"
            Sync
            Running +PRTSC +I -R -CR +PS
              s: running, restarts 1
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| {
            case.seen.containers.clear();
            starting(case);
        },
        &expect![[r#"
            Sync
            Pending +PRTSC -I -R -CR +PS
              s: running, restarts 1
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
}

#[test]
fn a_pod_fails_with_an_init_container_that_is_not_tried_again() {
    check(
        |case| {
            case.init("i", false);
            case.pod["spec"]["initContainers"][0]["restartPolicy"] = json!("Never");
            let mut ended = container("i", 0, exited(5, 1));
            ended.annotations.remove(CONTAINER_HASH);
            case.seen.containers = vec![ended];
            case.seen.sandboxes[0].ready = false;
            case.memory.cleaned = true;
        },
        &expect![[r#"
            Clean (Finished, grace 30s)
            Failed -PRTSC -I -R -CR +PS
              i: terminated Error 5, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
}

#[test]
fn conditions_of_others_are_as_the_api_server_has_them() {
    let gate = |status: &str| json!([{"type": "example.com/lb", "status": status}]);
    check(
        |case| {
            case.pod["spec"]["readinessGates"] = json!([{"conditionType": "example.com/lb"}]);
            case.pod["status"] = json!({"conditions": gate("True")});
            case.memory.status = serde_json::from_value(json!({"conditions": gate("False")})).expect("a status");
        },
        &expect![[r#"
            Sync
            Running + +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn termination_messages_of_a_pod_share_twelve_kibibytes() {
    for (containers, expected) in [(1, 4096), (3, 4096), (4, 3072), (6, 2048)] {
        let names: Vec<String> = (0..containers).map(|number| format!("c{number}")).collect();
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "img"})).collect();
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"restartPolicy": "Never", "containers": list}});
        let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).expect("a pod"))).expect("a whole pod");
        let ended = ContainerState::Exited {
            started_at: time(NOW - 50),
            finished_at: time(NOW - 10),
            exit_code: 1,
            reason: "Error".to_owned(),
            message: "m".repeat(4096),
        };
        let seen = ObservedPod {
            sandboxes: vec![sandbox(0)],
            containers: names.iter().map(|name| container(name, 0, ended.clone())).collect(),
        };
        let memory = PodMemory { volumes: VolumesState::Placed, ..Default::default() };
        let now = Now { wall: time(NOW), mono: Instant::now() };
        let scene = Scene { pod: &pod, seen: &seen, memory: &memory, now, node_ips: &[], delays: Default::default() };
        let shown = plan(scene).status.container_statuses.expect("statuses");
        let length = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
            Some(status.state.as_ref()?.terminated.as_ref()?.message.as_ref()?.len())
        };
        assert!(shown.iter().all(|status| length(status) == Some(expected)), "{containers} containers");
    }
}

#[test]
fn what_ended_shows_so_until_the_hook_of_its_next_run_is_over() {
    check(
        |case| {
            case.pod["spec"]["containers"][0]["lifecycle"] = json!({"postStart": {"sleep": {"seconds": 1}}});
            let shown = json!({"containerStatuses": [{"name": "a", "image": "img", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "PostStartHookError"}},
                "lastState": {"terminated": {"exitCode": 1}}}]});
            case.memory.status = serde_json::from_value(shown).expect("a status");
            case.seen.containers[0] = container("a", 1, running());
            case.memory.hooks.insert(ContainerId::new("a-1"));
        },
        &expect![[r#"
            Sync
            Running +PRTSC +I -R -CR +PS
              a: waiting PostStartHookError, restarts 0, last 1
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn initialized_is_not_taken_back() {
    check(
        |case| {
            case.init("s", true);
            case.seen.containers = vec![container("s", 1, exited(1, 3))];
            let shown = json!({"conditions": [{"type": "Initialized", "status": "True"}]});
            case.memory.status = serde_json::from_value(shown).expect("a status");
        },
        &expect![[r#"
            Sync
              event BackOff: Back-off restarting failed container s in pod p_d(u)
            Pending +I +PRTSC -R -CR +PS
              s: waiting CrashLoopBackOff, restarts 1, last 1
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
            wake in 7s
        "#]],
    );
}

#[test]
fn a_static_pod_whose_manifest_goes_does_not_end_in_failure() {
    let phase = |policy: &str, code: i32| {
        let mut case = healthy();
        case.policy(policy);
        case.delete(20);
        case.seen.containers = vec![container("a", 0, exited(code, 1)), container("b", 0, exited(0, 1))];
        case.seen.sandboxes[0].ready = false;
        case.memory.stopped_sandboxes.insert(SandboxId::new("s0"));
        let pod = DesiredPod::new(Arc::new(serde_json::from_value(case.pod).expect("a pod"))).expect("a whole pod");
        let pod = DesiredPod { gone: true, is_static: true, ..pod };
        let (seen, memory) = (&case.seen, &case.memory);
        let now = Now { wall: time(NOW), mono: Instant::now() };
        plan(Scene { pod: &pod, seen, memory, now, node_ips: &[], delays: case.delays }).status.phase
    };
    for (policy, code, expected) in
        [("Always", 143, "Running"), ("OnFailure", 143, "Running"), ("Never", 143, "Failed"), ("Never", 0, "Succeeded")]
    {
        assert_eq!(phase(policy, code).as_deref(), Some(expected), "{policy} {code}");
    }
}
