//! Who is looked at after which change, and what is decided then.

use super::attempt::{OwnerState, Verdict, verdict};
use super::*;
use serde_json::{Value, json};

fn found(plural: &str) -> Arc<Found> {
    Arc::new(Found::for_tests(plural))
}

fn item(meta: Value) -> Arc<Item> {
    Arc::new(Item::of(&serde_json::from_value(meta).unwrap()))
}

fn owned_by(uid: &str, owners: &[(&str, bool)]) -> Arc<Item> {
    let references: Vec<Value> = owners
        .iter()
        .map(|(uid, blocks)| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": uid, "blockOwnerDeletion": blocks})
        })
        .collect();
    item(json!({"uid": uid, "ownerReferences": references}))
}

fn going(uid: &str, finalizer: &str) -> Arc<Item> {
    item(json!({"uid": uid, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]}))
}

fn shown(works: Vec<Work>) -> String {
    let one = |work: Work| match work {
        Work::Check(uid) => format!("check {uid}"),
        Work::Orphan(uid) => format!("orphan {uid}"),
    };
    works.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_change_makes_those_worth_a_look_whom_it_concerns() {
    let (pods, sets) = (found("pods"), found("replicasets"));
    let key = |name: &str| ObjectKey::new("n", name);
    let mut graph = Graph::default();
    let mut apply = |found: &Arc<Found>, name: &str, item: Arc<Item>| shown(graph.applied(found, key(name), item));
    // Its owner has not been seen.
    assert_eq!(apply(&pods, "a", owned_by("a", &[("o", true)])), "check a");
    assert_eq!(apply(&sets, "o", item(json!({"uid": "o"}))), "");
    assert_eq!(apply(&pods, "b", owned_by("b", &[("o", false)])), "");
    assert_eq!(apply(&pods, "b", owned_by("b", &[("o", false)])), "");
    assert_eq!(apply(&sets, "o", going("o", "foregroundDeletion")), "check a, check b, check o");
    let (owner, b): (Uid, Uid) = ("o".into(), "b".into());
    assert_eq!(graph.blocking(&owner), ["a".into()]);
    assert!(graph.has_dependents(&owner) && !graph.has_dependents(&b));
    // The last one that blocks is gone: the owner need not wait.
    assert_eq!(shown(graph.deleted(&owned_by("a", &[("o", true)]))), "check o");
    assert_eq!(shown(graph.deleted(&going("o", ""))), "check b");
    assert_eq!(shown(graph.applied(&sets, key("p"), going("p", "orphan"))), "orphan p");
    assert_eq!(shown(graph.forget(&sets.api)), "");
    assert_eq!(shown(graph.forget(&pods.api)), "");
}

#[test]
fn a_dependent_stays_while_one_owner_does() {
    use OwnerState::{Gone, Solid, Waiting};
    let plain = ObjectMeta::default();
    let orphaning = ObjectMeta { finalizers: Some(vec!["orphan".into()]), ..ObjectMeta::default() };
    for (states, has_dependents, meta, wanted) in [
        (vec![], true, &plain, Verdict::Keep),
        (vec![Solid], true, &plain, Verdict::Keep),
        (vec![Solid, Gone], true, &plain, Verdict::Disown(vec![1])),
        (vec![Waiting, Solid, Gone], true, &plain, Verdict::Disown(vec![0, 2])),
        (vec![Gone], true, &plain, Verdict::Delete("Background")),
        (vec![Gone], false, &orphaning, Verdict::Delete("Orphan")),
        (vec![Gone, Waiting], true, &plain, Verdict::Delete("Foreground")),
        (vec![Waiting], false, &plain, Verdict::Delete("Background")),
    ] {
        assert_eq!(verdict(&states, has_dependents, meta), wanted, "{states:?}");
    }
}
