//! Tests of the cluster's state: what counts for a node, from the assumption to the end of a pod.

use super::{asks, cluster, key, merged, pod};
use crate::clock;
use crate::control::scheduler::state::Cluster;
use crate::control::scheduler::view::PodView;
use serde_json::{Value, json};
use std::time::Duration;

fn cpu_used(cluster: &Cluster) -> (i64, i64) {
    cluster.nodes().next().map(|(_, state)| (state.pods, state.used.cpu_millis)).unwrap()
}

fn one_cpu(patch: Value) -> PodView {
    pod(merged(json!({"spec": asks(json!({"cpu": "1"}))}), patch))
}

fn assume(cluster: &mut Cluster) {
    let pod = one_cpu(json!({}));
    cluster.assume(&key("p"), "u", &"n0".into(), &pod.pending().unwrap().wish.usage);
}

/// What happens to an assumed pod, given how it looks once assigned.
type Act = fn(&mut Cluster, &PodView);

#[test]
fn an_assumed_pod_counts_until_it_is_confirmed_refused_replaced_or_forgotten() {
    let now = clock::now().mono;
    let assigned = one_cpu(json!({"spec": {"nodeName": "n0"}}));
    let cases: [(&str, Act, (i64, i64)); 6] = [
        ("still pending", |cluster, _| assert!(!cluster.observe(&key("p"), Some(&one_cpu(json!({}))))), (1, 1000)),
        ("confirmed", |cluster, assigned| assert!(!cluster.observe(&key("p"), Some(assigned))), (1, 1000)),
        ("refused", |cluster, _| assert!(cluster.not_bound(&key("p"), "u")), (0, 0)),
        ("of another uid", |cluster, _| assert!(!cluster.not_bound(&key("p"), "v")), (1, 1000)),
        (
            "replaced",
            |cluster, _| assert!(cluster.observe(&key("p"), Some(&one_cpu(json!({"metadata": {"uid": "v"}}))))),
            (0, 0),
        ),
        ("deleted", |cluster, _| assert!(cluster.observe(&key("p"), None)), (0, 0)),
    ];
    for (name, act, expected) in cases {
        let mut cluster = cluster(&[json!({})], &[]);
        assume(&mut cluster);
        assert_eq!(cpu_used(&cluster), (1, 1000));
        act(&mut cluster, &assigned);
        assert_eq!(cpu_used(&cluster), expected, "{name}");
        assert_eq!(cluster.next_expiry(), None, "{name}");
        assert!(cluster.expire(now).is_empty());
    }
}

#[test]
fn a_binding_that_the_watch_never_shows_is_forgotten_after_thirty_seconds() {
    let now = clock::now().mono;
    let mut cluster = cluster(&[json!({})], &[]);
    assume(&mut cluster);
    cluster.bound(&key("p"), "u", now);
    assert_eq!(cluster.next_expiry(), Some(now + Duration::from_secs(30)));
    assert!(cluster.expire(now + Duration::from_secs(29)).is_empty());
    assert_eq!(cluster.expire(now + Duration::from_secs(30)), [key("p")]);
    assert_eq!(cpu_used(&cluster), (0, 0));

    // One that it shows leaves no timer behind.
    assume(&mut cluster);
    cluster.bound(&key("p"), "u", now);
    cluster.observe(&key("p"), Some(&one_cpu(json!({"spec": {"nodeName": "n0"}}))));
    assert_eq!(cluster.next_expiry(), None);
}

#[test]
fn a_pod_counts_while_it_runs_and_makes_room_when_it_ends() {
    let mut cluster = cluster(&[json!({})], &[]);
    let running = one_cpu(json!({"spec": {"nodeName": "n0"}, "status": {"phase": "Running"}}));
    let deleting = json!({"spec": {"nodeName": "n0"}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    for (pod, frees, expected) in [
        (running, false, (1, 1000)),
        (one_cpu(deleting), false, (1, 1000)),
        (one_cpu(json!({"spec": {"nodeName": "n0"}, "status": {"phase": "Succeeded"}})), true, (0, 0)),
    ] {
        assert_eq!(cluster.observe(&key("p"), Some(&pod)), frees, "{pod:?}");
        assert_eq!(cpu_used(&cluster), expected, "{pod:?}");
    }
}

#[test]
fn pods_may_be_known_before_their_node() {
    let mut cluster = cluster(&[], &[asks(json!({"cpu": "1"}))]);
    assert_eq!(cluster.nodes().count(), 0);
    let view = super::node("n0", json!({}));
    cluster.set_node(&"n0".into(), std::sync::Arc::new(view));
    assert_eq!(cpu_used(&cluster), (1, 1000));
    cluster.remove_node(&"n0".into());
    assert_eq!(cluster.nodes().count(), 0);
}
