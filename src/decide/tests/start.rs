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
          kill b-0 within 30s: Stopping container b
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
