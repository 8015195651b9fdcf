//! Plans of init containers and sidecars.

use super::*;

#[test]
fn init_containers_run_one_after_the_other() {
    check(
        |case| {
            case.init("i", false);
            case.init("j", false);
            case.seen.containers = vec![container("i", 0, exited(0, 1))];
            case.images(&["j"]);
        },
        &expect![[r#"
            Sync
              start j#0 in s0
            Pending +PRTSC -I -R -CR +PS
              i: terminated Completed 0, ready, restarts 0
              j: waiting PodInitializing, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
    check(
        |case| {
            case.policy("Never");
            case.init("i", false);
            case.seen.containers = vec![container("i", 0, exited(2, 1))];
        },
        &expect![[r#"
            Terminating (Finished, grace 30s)
              StopSandbox { id: s0 }
            Pending +PRTSC -I -R -CR +PS
              i: terminated Error 2, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
}

#[test]
fn a_sidecar_runs_before_the_rest_and_comes_back() {
    check(
        |case| {
            case.init("s", true);
            case.seen.containers = vec![container("s", 0, running())];
            case.images(&["a", "b"]);
        },
        &expect![[r#"
            Sync
              start a#0 in s0
              start b#0 in s0
            Pending +PRTSC +I -R -CR +PS
              s: running, ready, restarts 0
              a: waiting PodInitializing, restarts 0
              b: waiting PodInitializing, restarts 0
        "#]],
    );
    check(
        |case| {
            case.init("s", true);
            case.seen.containers.push(container("s", 0, exited(0, 1)));
            case.images(&["s"]);
        },
        &expect![[r#"
            Sync
              start s#1 in s0
            Running +PRTSC +I -R -CR +PS
              s: terminated Completed 0, restarts 0
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn init_containers_run_anew_in_a_new_sandbox_and_the_pod_shows_it() {
    check(
        |case| {
            case.init("i", false);
            case.images(&["i"]);
            case.seen.sandboxes = vec![sandbox(1), ObservedSandbox { ready: false, ips: Vec::new(), ..sandbox(0) }];
            case.seen.containers = vec![
                container("a", 0, exited(137, 1)),
                container("b", 0, exited(137, 1)),
                container("i", 0, exited(0, 50)),
            ];
        },
        &expect![[r#"
            Sync
              start i#1 in s1
            Pending +PRTSC +I -R -CR +PS
              i: waiting PodInitializing, restarts 0, last 0
              a: terminated Error 137, restarts 0
              b: terminated Error 137, restarts 0
        "#]],
    );
}
