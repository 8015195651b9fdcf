//! Plans of a pod that is to have other resources, and the node's word on them.

use super::*;
use crate::decide::resize::{Fixed, Verdict, judge};
use crate::model::memory::Resize;
use crate::model::node::NodeFacts;
use crate::model::pod::PendingResize;
use crate::model::resources::Allocation;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn given(cpu: &str) -> ResourceRequirements {
    serde_json::from_value(json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}})).expect("resources")
}

/// `a` runs with 100m and is granted 200m; `b` has nothing.
fn granted(case: &mut Case, pod_done: bool) {
    case.pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "200m"}});
    case.memory.resources.insert(ContainerId::new("a-0"), given("100m"));
    case.memory.resize = Some(Resize { generation: Some(1), pod_done, error: None });
}

#[test]
fn a_granted_resize_reaches_the_pod_and_the_container_that_differs() {
    check(
        |case| granted(case, false),
        &expect![[r#"
            Sync
              Resize { containers: [(a, a-0)] }
            Running +PRTSC +I +R +CR +PS +PRIP
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn it_is_complete_when_pod_and_containers_have_what_they_are_granted() {
    check(
        |case| {
            granted(case, true);
            case.memory.resources.insert(ContainerId::new("a-0"), given("200m"));
        },
        &expect![[r#"
            Sync
              event ResizeCompleted: Pod resize completed: {"containers":[{"name":"a","resources":{"limits":{"cpu":"200m"},"requests":{"cpu":"200m"}}},{"name":"b","resources":{}}],"generation":1}
            Running +PRTSC +I +R +CR +PS +PRIP
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn a_policy_may_ask_for_a_restart_which_waits_for_the_pods_cgroup() {
    let restarts = |case: &mut Case, pod_done| {
        granted(case, pod_done);
        case.pod["spec"]["containers"][0]["resizePolicy"] =
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    };
    check(
        |case| restarts(case, false),
        &expect![[r#"
            Sync
              Resize { containers: [] }
            Running +PRTSC +I +R +CR +PS +PRIP
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
    check(
        |case| restarts(case, true),
        &expect![[r#"
            Sync
              renew a-0 within 30s: Container a resize requires restart
            Running +PRTSC +I +R +CR +PS +PRIP
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn another_limit_of_the_pod_reaches_the_containers_that_have_none_of_their_own() {
    check(
        |case| {
            let own = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "100m", "memory": "16Mi"}});
            case.pod["spec"]["containers"][0]["resources"] = own.clone();
            case.pod["spec"]["resources"] = json!({"limits": {"cpu": "300m", "memory": "64Mi"}});
            let own = serde_json::from_value(own).expect("resources");
            case.memory.resources.insert(ContainerId::new("a-0"), own);
            case.memory.resize = Some(Resize { generation: Some(1), pod_done: false, error: None });
        },
        &expect![[r#"
            Sync
              Resize { containers: [(b, b-0)] }
            Running +PRTSC +I +R +CR +PS +PRIP
              a: running, ready, restarts 0
              b: running, ready, restarts 0
        "#]],
    );
}

#[test]
fn a_failed_resize_waits_and_says_why() {
    check(
        |case| {
            granted(case, false);
            let retry = Retry { message: "no".to_owned(), failures: 1, at: Instant::now() + Duration::from_secs(7) };
            case.memory.resize = Some(Resize { generation: Some(1), pod_done: false, error: Some(retry) });
        },
        &expect![[r#"
            Sync
            Running +PRTSC +I +R +CR +PS +PRIP
              a: running, ready, restarts 0
              b: running, ready, restarts 0
            wake in 7s
        "#]],
    );
}

#[test]
fn the_node_grants_defers_or_refuses() {
    let pod = |uid: &str, cpu: &str| -> Arc<Pod> {
        let value = json!({"metadata": {"name": "p", "namespace": "d", "uid": uid, "generation": 2},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    };
    let node = NodeFacts {
        allocatable: [("cpu", "2"), ("memory", "1Gi"), ("pods", "10")]
            .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
            .into(),
        ..Default::default()
    };
    let granted = Allocation::of(pod("u", "100m").spec.as_ref().expect("a spec"));
    for (cpu, is_static, expected) in [
        ("100m", false, "unchanged"),
        ("500m", false, "granted"),
        (
            "1500m",
            false,
            "Deferred: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
        ),
        ("3", false, "Infeasible: Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"),
        ("500m", true, "Infeasible: In-place resize of static-pods is not supported"),
    ] {
        let wanted = DesiredPod { is_static, ..DesiredPod::new(pod("u", cpu)).expect("a whole pod") };
        let answer = match judge(&wanted, &granted, || vec![pod("other", "1")], &node, Fixed::default()) {
            Verdict::Unchanged => "unchanged".to_owned(),
            Verdict::Granted => "granted".to_owned(),
            Verdict::Pending(pending) => format!("{}: {}", pending.reason, pending.message),
        };
        assert_eq!(answer, expected, "{cpu}");
    }
}

#[test]
fn what_a_static_policy_gave_stays_as_it_is() {
    let pod = |cpu: &str, memory: &str, limited: bool| {
        let amounts = json!({"cpu": cpu, "memory": memory});
        let mut resources = json!({"requests": amounts});
        if limited {
            resources["limits"] = amounts;
        }
        let value = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [{"name": "c", "resources": resources}]}});
        Arc::new(serde_json::from_value::<Pod>(value).expect("a pod"))
    };
    let node = NodeFacts {
        allocatable: [("cpu", "8"), ("memory", "8Gi"), ("pods", "10")]
            .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
            .into(),
        ..Default::default()
    };
    let (cpu, memory) = (Fixed { cpu: true, memory: false }, Fixed { cpu: false, memory: true });
    let no_cpu = (
        "guaranteed_pod_cpu_manager_static_policy",
        "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"",
    );
    let no_memory = (
        "guaranteed_pod_memory_manager_static_policy",
        "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\"",
    );
    for (fixed, limited, to, expected) in [
        (cpu, true, ("3", "1Gi"), Some(no_cpu)),
        (cpu, true, ("2", "2Gi"), None),
        (cpu, false, ("3", "1Gi"), None),
        (memory, true, ("3", "1Gi"), None),
        (memory, true, ("2", "2Gi"), Some(no_memory)),
        (Fixed::default(), true, ("3", "2Gi"), None),
    ] {
        let granted = Allocation::of(pod("2", "1Gi", limited).spec.as_ref().expect("a spec"));
        let wanted = DesiredPod::new(pod(to.0, to.1, limited)).expect("a whole pod");
        let refused = match judge(&wanted, &granted, Vec::new, &node, fixed) {
            Verdict::Granted => None,
            Verdict::Pending(PendingResize { reason: "Infeasible", never: Some(never), message, .. }) => {
                Some((never, message))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(refused.as_ref().map(|(never, why)| (*never, why.as_str())), expected, "{fixed:?} {to:?}");
    }
}
