//! Which pods give way to the node's needs (`pkg/kubelet/eviction`), in the kubelet's order and words.
//!
//! | part | decides |
//! |---|---|
//! | `thresholds` | which thresholds there are, which are crossed, and what the node is short of |
//! | `rank` | which pod goes first |
//! | `words` | what its status and events say |
//! | `local` | which pod uses more of the disk than it may itself |

pub mod local;
pub mod rank;
pub mod thresholds;
pub mod words;

use crate::model::eviction::{Distress, Shortage};
use crate::model::memory::Rejection;
use crate::model::pod::{CONFIG_MIRROR, CONFIG_SOURCE};
use crate::model::qos::QosClass;
use k8s_openapi::api::core::v1::{Pod, Toleration};

/// `SystemCriticalPriority`: that of `system-cluster-critical`.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Pods that the node must have: never evicted, always admitted.
pub fn is_critical(pod: &Pod) -> bool {
    let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let from_elsewhere = annotation(CONFIG_SOURCE).is_some_and(|source| source != "api");
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    from_elsewhere || annotation(CONFIG_MIRROR).is_some() || priority.is_some_and(|given| given >= CRITICAL_PRIORITY)
}

/// A node that is short of something takes critical pods only; one that is short of memory alone, also those that ask for
/// some or put up with it.
pub fn admit(pod: &Pod, distress: &Distress) -> Result<(), Rejection> {
    if distress.shutting_down {
        let message = "Pod was rejected as the node is shutting down.".to_owned();
        return Err(Rejection { reason: "NodeShutdown".into(), message });
    }
    let short = &distress.short;
    if short.is_empty() || is_critical(pod) {
        return Ok(());
    }
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let only_memory = short.iter().all(|what| *what == Shortage::Memory);
    if only_memory && (QosClass::of(pod) != QosClass::BestEffort || tolerations.into_iter().any(tolerates_memory)) {
        return Ok(());
    }
    let list: Vec<String> = short.iter().map(ToString::to_string).collect();
    Err(Rejection {
        reason: crate::model::eviction::EVICTED.into(),
        message: format!("The node had condition: [{}]. ", list.join(" ")),
    })
}

/// Puts up with the taint `node.kubernetes.io/memory-pressure:NoSchedule`.
fn tolerates_memory(toleration: &Toleration) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    let effect = toleration.effect.as_deref().unwrap_or_default();
    matches!(effect, "" | "NoSchedule")
        && (key == MEMORY_TAINT || (key.is_empty() && exists))
        && (exists || toleration.value.as_deref().unwrap_or_default().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn pod(spec: Value, annotations: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = spec.get("containers").cloned().unwrap_or_else(|| json!([{"name": "c"}]));
        serde_json::from_value(json!({"metadata": {"name": "p", "annotations": annotations}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_node_that_is_short_takes_those_it_must() {
        let memory = [Shortage::Memory].into();
        let disk = [Shortage::Disk].into();
        let both = [Shortage::Memory, Shortage::Disk].into();
        let burstable = json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]});
        let tolerant = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"}]});
        let critical = json!({"priority": 2_000_000_000});
        let file = json!({"kubernetes.io/config.source": "file"});
        let none = json!({});
        for (spec, annotations, short, refused) in [
            (json!({}), &none, &BTreeSet::new(), None),
            (json!({}), &none, &memory, Some("[MemoryPressure]")),
            (json!({}), &none, &disk, Some("[DiskPressure]")),
            (json!({}), &none, &both, Some("[MemoryPressure DiskPressure]")),
            (burstable.clone(), &none, &memory, None),
            (burstable.clone(), &none, &disk, Some("[DiskPressure]")),
            (burstable, &none, &both, Some("[MemoryPressure DiskPressure]")),
            (tolerant(MEMORY_TAINT), &none, &memory, None),
            (tolerant(""), &none, &memory, None),
            (tolerant("node.kubernetes.io/disk-pressure"), &none, &disk, Some("[DiskPressure]")),
            (json!({"priority": 1_999_999_999}), &none, &memory, Some("[MemoryPressure]")),
            (critical.clone(), &none, &both, None),
            (json!({}), &file, &both, None),
        ] {
            let distress = Distress { short: short.clone(), shutting_down: false };
            let answer = admit(&pod(spec.clone(), annotations.clone()), &distress);
            let expected = refused.map(|list| format!("The node had condition: {list}. "));
            assert_eq!(answer.err().map(|rejection| rejection.message), expected, "{spec} {short:?}");
        }
        let distress = Distress { shutting_down: true, ..Default::default() };
        assert_eq!(admit(&pod(critical, none), &distress).unwrap_err().reason, "NodeShutdown");
    }
}
