//! Plans of what nobody needs any more.

use super::*;

#[test]
fn one_dead_container_of_a_name_stays_beside_the_one_that_runs_and_older_ones_go() {
    check(
        |case| {
            case.seen.containers = vec![
                container("a", 3, running()),
                container("a", 2, exited(1, 20)),
                container("a", 1, exited(1, 30)),
                container("a", 0, exited(1, 40)),
                container("b", 0, running()),
            ];
        },
        &expect![[r#"
            Sync
              RemoveContainer { id: a-1 }
              RemoveContainer { id: a-0 }
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 3, last 1
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn an_old_sandbox_goes_once_nothing_lies_in_it() {
    check(
        |case| {
            let old = ObservedSandbox { ready: false, ips: Vec::new(), ..sandbox(0) };
            case.seen.sandboxes = vec![sandbox(1), old];
            for container in &mut case.seen.containers {
                container.sandbox = SandboxId::new("s1");
            }
        },
        &expect![[r#"
            Sync
              RemoveSandbox { id: s0 }
            Running +PRTSC +I +R +CR +PS
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}
