//! Whether and how long a pod may stay under NoExecute taints. Pure.

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use std::time::Duration;

/// What is read of a pod.
#[derive(Debug)]
pub(super) struct PodSeen {
    pub uid: String,
    pub node: Box<str>,
    pub deleted: bool,
    /// Those that can match a NoExecute taint.
    pub tolerations: Vec<Toleration>,
}

impl PodSeen {
    pub(super) fn keep(pod: Pod) -> Self {
        let spec = pod.spec.unwrap_or_default();
        let mut tolerations = spec.tolerations.unwrap_or_default();
        tolerations.retain(|t| matches!(t.effect.as_deref(), None | Some("" | "NoExecute")));
        Self {
            uid: pod.metadata.uid.unwrap_or_default(),
            node: spec.node_name.unwrap_or_default().into(),
            deleted: pod.metadata.deletion_timestamp.is_some(),
            tolerations,
        }
    }
}

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stays,
    /// It goes this long after the taints began to count; zero is at once.
    Goes(Duration),
}

/// `taints`: the node's NoExecute taints. The shortest `tolerationSeconds` among the tolerations in use counts.
pub(super) fn judge(pod: &PodSeen, taints: &[Taint]) -> Verdict {
    if pod.deleted {
        return Verdict::Stays;
    }
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let Some(used) = pod.tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Verdict::Goes(Duration::ZERO);
        };
        if let Some(seconds) = used.toleration_seconds {
            // Negative is zero: at once.
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            shortest = Some(shortest.map_or(limit, |s| s.min(limit)));
        }
    }
    shortest.map_or(Verdict::Stays, Verdict::Goes)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or("");
    let value = toleration.value.as_deref().unwrap_or("");
    (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => value == taint.value.as_deref().unwrap_or(""),
            Some(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(tolerations: Value, taints: Value, expected: Verdict) {
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations}});
        let pod = PodSeen::keep(serde_json::from_value(pod).unwrap());
        let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
        assert_eq!(judge(&pod, &taints), expected, "{tolerations} under {taints:?}");
    }

    #[test]
    fn a_pod_stays_as_long_as_its_shortest_toleration() {
        let goes = |seconds| Verdict::Goes(Duration::from_secs(seconds));
        let a = || json!({"key": "a", "effect": "NoExecute"});
        let b = || json!({"key": "b", "value": "v", "effect": "NoExecute"});
        check(json!([]), json!([]), Verdict::Stays);
        check(json!([]), json!([a()]), goes(0));
        check(json!([{"operator": "Exists"}]), json!([a(), b()]), Verdict::Stays);
        check(json!([{"key": "a", "operator": "Exists"}]), json!([a(), b()]), goes(0));
        check(json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), json!([a()]), goes(0));
        check(json!([{"key": "b", "value": "v"}]), json!([b()]), Verdict::Stays);
        check(json!([{"key": "b", "value": "w"}]), json!([b()]), goes(0));
        check(json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 300}]), json!([a()]), goes(300));
        check(json!([{"key": "a", "operator": "Exists", "tolerationSeconds": -5}]), json!([a()]), goes(0));
        check(
            json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 300}, {"key": "b", "operator": "Exists", "tolerationSeconds": 60}]),
            json!([a(), b()]),
            goes(60),
        );
        // The first toleration that matches is the one in use.
        check(
            json!([{"operator": "Exists"}, {"key": "a", "operator": "Exists", "tolerationSeconds": 1}]),
            json!([a()]),
            Verdict::Stays,
        );
    }

    #[test]
    fn a_pod_that_is_going_anyway_is_left_alone() {
        let pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": []}});
        let pod = PodSeen::keep(serde_json::from_value(pod).unwrap());
        let taint = Taint { key: "a".into(), effect: "NoExecute".into(), ..Taint::default() };
        assert_eq!(judge(&pod, &[taint]), Verdict::Stays);
    }
}
