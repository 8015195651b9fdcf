//! Plans of a pod that starts: sandbox, volumes, images, containers; a sandbox that is lost.

use super::*;

#[test]
fn a_healthy_pod_is_left_alone() {
    check(
        |_| {},
        &expect![[r#"
        Sync
        Running +PRTSC +I +R +CR +PS
          a: running, ready, restarts 0
          b: running, ready, restarts 0
    "#]],
    );
}

#[test]
fn a_new_pod_gets_sandbox_and_volumes_at_once_and_images_once_the_volumes_are_there() {
    check(
        |case| {
            case.seen = ObservedPod::default();
            case.memory.volumes = VolumesState::Unplaced;
        },
        &expect![[r#"
            Sync
              PlaceVolumes
              RunSandbox { attempt: 0 }
            Pending -PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    check(
        |case| {
            case.seen = ObservedPod::default();
            case.memory.running.insert(StepKey::Sandbox);
        },
        &expect![[r#"
            Sync
              EnsureImage { container: a }
              EnsureImage { container: b }
            Pending -PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
}

#[test]
fn containers_start_together_once_sandbox_volumes_and_images_are_there() {
    check(
        |case| {
            case.seen.containers.clear();
            case.images(&["a", "b"]);
        },
        &expect![[r#"
            Sync
              start a#0 in s0
              start b#0 in s0
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    check(
        |case| {
            case.seen.containers.clear();
            case.images(&["a"]);
            case.memory.running.insert(StepKey::Image(ContainerName::new("b")));
        },
        &expect![[r#"
            Sync
              start a#0 in s0
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
}

#[test]
fn a_lost_sandbox_is_stopped_and_then_replaced() {
    let lose = |case: &mut Case| {
        case.seen.sandboxes[0].ready = false;
        case.seen.sandboxes[0].ips.clear();
        case.seen.containers[0].state = exited(137, 1);
    };
    check(
        lose,
        &expect![[r#"
            Sync
              renew b-0 within 30s: Stopping container b
            Running -PRTSC +I -R -CR +PS
              a: terminated Error 137, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| {
            lose(case);
            case.seen.containers[1].state = exited(137, 1);
        },
        &expect![[r#"
            Sync
              StopSandbox { id: s0 }
              event SandboxChanged: Pod sandbox changed, it will be killed and re-created.
            Running -PRTSC +I -R -CR +PS
              a: terminated Error 137, restarts 0
              b: terminated Error 137, restarts 0
        "#]],
    );
    check(
        |case| {
            lose(case);
            case.seen.containers[1].state = exited(137, 1);
            case.memory.stopped_sandboxes.insert(SandboxId::new("s0"));
        },
        &expect![[r#"
            Sync
              RunSandbox { attempt: 1 }
              EnsureImage { container: a }
              EnsureImage { container: b }
            Running -PRTSC +I -R -CR +PS
              a: terminated Error 137, restarts 0
              b: terminated Error 137, restarts 0
        "#]],
    );
}

#[test]
fn a_post_start_hook_holds_back_what_comes_after_its_container() {
    let hooked = |case: &mut Case| {
        case.pod["spec"]["containers"][0]["lifecycle"] = json!({"postStart": {"sleep": {"seconds": 1}}});
        case.seen.containers.clear();
        case.images(&["a", "b"]);
    };
    check(
        hooked,
        &expect![[r#"
        Sync
          start a#0 in s0
        Pending +PRTSC +I -R -CR +PS
          a: waiting ContainerCreating, restarts 0
          b: waiting ContainerCreating, restarts 0
    "#]],
    );
    check(
        |case| {
            hooked(case);
            case.memory.running.insert(StepKey::Start(ContainerName::new("a")));
        },
        &expect![[r#"
            Sync
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    check(
        |case| {
            hooked(case);
            case.seen.containers = vec![container("a", 0, running())];
            case.memory.hooks.insert(ContainerId::new("a-0"));
        },
        &expect![[r#"
            Sync
            Pending +PRTSC +I -R -CR +PS
              a: waiting ContainerCreating, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    check(
        |case| {
            hooked(case);
            case.seen.containers = vec![container("a", 0, running())];
        },
        &expect![[r#"
            Sync
              start b#0 in s0
            Pending +PRTSC +I -R -CR +PS
              a: running, ready, restarts 0
              b: waiting ContainerCreating, restarts 0
        "#]],
    );
    // Nobody waits for an image that cannot be had now.
    check(
        |case| {
            hooked(case);
            let now = Instant::now();
            let retry = Retry { message: "no".to_owned(), failures: 1, at: now + Duration::from_secs(10) };
            let failed = ImageState::Failed { reason: "ErrImagePull", retry, since: now };
            case.memory.images.insert(ContainerName::new("a"), failed);
        },
        &expect![[r#"
            Sync
              start b#0 in s0
            Pending +PRTSC +I -R -CR +PS
              a: waiting ErrImagePull, restarts 0
              b: waiting ContainerCreating, restarts 0
            wake in 2s
        "#]],
    );
    // Nor does one that comes before it.
    check(
        |case| {
            hooked(case);
            case.pod["spec"]["containers"].as_array_mut().expect("a list").reverse();
        },
        &expect![[r#"
            Sync
              start b#0 in s0
              start a#0 in s0
            Pending +PRTSC +I -R -CR +PS
              b: waiting ContainerCreating, restarts 0
              a: waiting ContainerCreating, restarts 0
        "#]],
    );
}
