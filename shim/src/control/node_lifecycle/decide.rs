//! What a node's conditions and taints ought to be, given whether it is silent. Pure.

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// NoSchedule taints by condition: while the condition has this status, the node has this taint.
const TAINTS_BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// The conditions that only a living agent can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What is read of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeSeen {
    pub uid: String,
    pub version: String,
    pub created: Option<Timestamp>,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub conditions: Vec<NodeCondition>,
}

impl NodeSeen {
    pub(super) fn keep(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        Self {
            uid: node.metadata.uid.unwrap_or_default(),
            version: node.metadata.resource_version.unwrap_or_default(),
            created: node.metadata.creation_timestamp.map(|time| time.0),
            unschedulable: spec.unschedulable.unwrap_or(false),
            taints: spec.taints.unwrap_or_default(),
            conditions: node.status.and_then(|status| status.conditions).unwrap_or_default(),
        }
    }

    fn condition(&self, kind: &str) -> Option<&NodeCondition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }

    pub(super) fn ready(&self) -> Option<&NodeCondition> {
        self.condition("Ready")
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready().is_some_and(|ready| ready.status == "True")
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.ready().is_some_and(|ready| ready.status == "Unknown")
    }
}

/// What to write; nothing of it where nothing changes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Conditions to patch.
    pub conditions: Vec<Value>,
    /// The whole new list of taints.
    pub taints: Option<Vec<Taint>>,
}

/// `silent`: the node's grace is over. `all_down`: no node is Ready, so none is evicted.
pub(super) fn plan(node: &NodeSeen, silent: bool, all_down: bool, now: Timestamp) -> Plan {
    let conditions = if silent { unknown(node, now) } else { Vec::new() };
    let taints = taints(node, silent, all_down, now);
    Plan { conditions, taints: (!same(&taints, &node.taints)).then_some(taints) }
}

fn unknown(node: &NodeSeen, now: Timestamp) -> Vec<Value> {
    let mut out = Vec::new();
    for kind in VOUCHED {
        match node.condition(kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(_) => out.push(json!({
                "type": kind, "status": "Unknown", "lastTransitionTime": second(now),
                "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
            })),
            None => out.push(json!({
                "type": kind, "status": "Unknown", "lastTransitionTime": second(now),
                "lastHeartbeatTime": second(node.created.unwrap_or(now)),
                "reason": "NodeStatusNeverUpdated", "message": "Kubelet never posted node status.",
            })),
        }
    }
    out
}

/// The node's taints with ours as they ought to be: others' first and untouched, ours kept with their `timeAdded`.
fn taints(node: &NodeSeen, silent: bool, all_down: bool, now: Timestamp) -> Vec<Taint> {
    let status = |kind: &str| match node.condition(kind) {
        _ if silent && VOUCHED.contains(&kind) => Some("Unknown"),
        Some(condition) => Some(condition.status.as_str()),
        None => None,
    };
    let by_condition = TAINTS_BY_CONDITION.iter().filter(|(kind, bad, _)| status(kind) == Some(*bad));
    let mut wanted: Vec<(&str, &str)> = by_condition.map(|(_, _, key)| (*key, "NoSchedule")).collect();
    if node.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match status("Ready") {
        Some("False") if !all_down => wanted.push((NOT_READY, "NoExecute")),
        Some("Unknown") if !all_down => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let kept = node.taints.iter().filter(|taint| !is_ours(taint) || wanted.contains(&id(taint)));
    let mut out: Vec<Taint> = kept.cloned().collect();
    for (key, effect) in wanted {
        if !out.iter().any(|taint| id(taint) == (key, effect)) {
            let time_added = Timestamp::from_second(now.as_second()).ok().map(Time);
            out.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    out
}

fn id(taint: &Taint) -> (&str, &str) {
    (&taint.key, &taint.effect)
}

/// Whether only we put and remove this taint.
fn is_ours(taint: &Taint) -> bool {
    let (key, effect) = id(taint);
    match effect {
        "NoSchedule" => key == UNSCHEDULABLE || TAINTS_BY_CONDITION.iter().any(|(_, _, ours)| *ours == key),
        "NoExecute" => key == NOT_READY || key == UNREACHABLE,
        _ => false,
    }
}

fn same(a: &[Taint], b: &[Taint]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| id(a) == id(b))
}

/// The status patch for a pod of a node that nobody hears of; `None`: it is not Ready anyway.
pub(super) fn not_ready(pod: &Pod, now: Timestamp) -> Option<Value> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": second(now)});
    Some(json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}))
}

/// As `metav1.Time` is written.
fn second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)]) -> NodeSeen {
        let conditions: Vec<Value> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        let taints: Vec<Value> = taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        let node = json!({"metadata": {"uid": "u"}, "spec": {"taints": taints}, "status": {"conditions": conditions}});
        NodeSeen::keep(serde_json::from_value(node).unwrap())
    }

    /// `None`: nothing to write.
    fn taints_of(node: &NodeSeen, silent: bool, all_down: bool) -> Option<String> {
        let short = |taint: &Taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect);
        let taints = plan(node, silent, all_down, NOW.parse().unwrap()).taints?;
        Some(taints.iter().map(short).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn taints_follow_conditions_and_others_taints_stay() {
        let both = "not-ready:NoSchedule not-ready:NoExecute";
        let ready = ("Ready", "True");
        for (conditions, taints, all_down, expected) in [
            (vec![ready], vec![], false, None),
            // What admission put on the new node goes with the first Ready.
            (vec![ready], vec![(NOT_READY, "NoSchedule")], false, Some("")),
            (vec![ready], vec![("gpu", "NoSchedule"), (UNREACHABLE, "NoExecute")], false, Some("gpu:NoSchedule")),
            (vec![("Ready", "False")], vec![], false, Some(both)),
            (vec![("Ready", "False")], vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")], false, None),
            (vec![("Ready", "Unknown")], vec![], false, Some("unreachable:NoSchedule unreachable:NoExecute")),
            (
                vec![("Ready", "Unknown")],
                vec![("a", "NoExecute"), (NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
                false,
                Some("a:NoExecute unreachable:NoSchedule unreachable:NoExecute"),
            ),
            // With no node left, nothing is evicted.
            (vec![("Ready", "False")], vec![(NOT_READY, "NoExecute")], true, Some("not-ready:NoSchedule")),
            (vec![ready, ("DiskPressure", "True")], vec![], false, Some("disk-pressure:NoSchedule")),
            (vec![ready, ("NetworkUnavailable", "False")], vec![], false, None),
        ] {
            let node = node(&conditions, &taints);
            assert_eq!(taints_of(&node, false, all_down).as_deref(), expected, "{conditions:?} {taints:?}");
        }
        let cordoned = NodeSeen { unschedulable: true, ..node(&[ready], &[]) };
        assert_eq!(taints_of(&cordoned, false, false).as_deref(), Some("unschedulable:NoSchedule"));
    }

    #[test]
    fn a_silent_node_is_unknown_in_all_that_only_its_agent_can_vouch_for() {
        let seen = node(&[("Ready", "True"), ("MemoryPressure", "False"), ("NetworkUnavailable", "False")], &[]);
        let seen = NodeSeen { created: Some("2026-01-01T00:00:00Z".parse().unwrap()), ..seen };
        let written = plan(&seen, true, false, NOW.parse().unwrap());
        let stopped = |kind: &str| {
            json!({"type": kind, "status": "Unknown", "lastTransitionTime": NOW, "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status."})
        };
        let never = |kind: &str| {
            json!({"type": kind, "status": "Unknown", "lastTransitionTime": NOW, "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                "reason": "NodeStatusNeverUpdated", "message": "Kubelet never posted node status."})
        };
        assert_eq!(
            written.conditions,
            [stopped("Ready"), stopped("MemoryPressure"), never("DiskPressure"), never("PIDPressure")]
        );
        // The taints fit the silence already.
        assert_eq!(taints_of(&seen, true, false).as_deref(), Some("unreachable:NoSchedule unreachable:NoExecute"));
        let all: Vec<(&str, &str)> = VOUCHED.iter().map(|kind| (*kind, "Unknown")).collect();
        let told = node(&all, &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        assert_eq!(plan(&told, true, false, NOW.parse().unwrap()), Plan::default());
    }

    #[test]
    fn only_a_ready_pod_is_marked() {
        for (status, marked) in [("True", true), ("False", false)] {
            let pod =
                json!({"metadata": {"uid": "u"}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
            let patch = not_ready(&serde_json::from_value(pod).unwrap(), NOW.parse().unwrap());
            assert_eq!(patch.is_some(), marked);
        }
        assert_eq!(not_ready(&Pod::default(), NOW.parse().unwrap()), None);
    }
}
