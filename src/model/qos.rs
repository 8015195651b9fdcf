//! A pod's quality-of-service class, as `pkg/apis/core/v1/helper/qos` computes it.

use crate::units::{Bytes, Millicores};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// `status.qosClass`: where in the cgroup tree a pod lives and who is killed first when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of `pod`: the one in its status if there (it never changes), else computed from the spec.
    pub fn of(pod: &Pod) -> Self {
        match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
            Some("Guaranteed") => Self::Guaranteed,
            Some("Burstable") => Self::Burstable,
            Some("BestEffort") => Self::BestEffort,
            _ => Self::compute(pod),
        }
    }

    fn compute(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::BestEffort };
        let empty = ResourceRequirements::default();
        // Resources of the pod as a whole replace those of its containers.
        let resources: Vec<&ResourceRequirements> = match &spec.resources {
            Some(resources) if has_any(resources) => vec![resources],
            _ => {
                let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
                containers.map(|c| c.resources.as_ref().unwrap_or(&empty)).collect()
            }
        };
        let mut requests = Sum::default();
        let mut limits = Sum::default();
        let mut all_limited = true;
        for resources in resources {
            requests.add(Sum::of(resources.requests.as_ref()));
            let limit = Sum::of(resources.limits.as_ref());
            all_limited &= limit.cpu > 0 && limit.memory > 0;
            limits.add(limit);
        }
        if requests == Sum::default() && limits == Sum::default() {
            Self::BestEffort
        } else if all_limited && requests == limits {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }
}

fn has_any(resources: &ResourceRequirements) -> bool {
    resources.requests.as_ref().is_some_and(|r| !r.is_empty())
        || resources.limits.as_ref().is_some_and(|l| !l.is_empty())
}

/// CPU (thousandths) and memory (bytes), the only resources that count here.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    cpu: i64,
    memory: i64,
}

impl Sum {
    fn of(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let get = |name: &str| list.and_then(|list| list.get(name));
        // The API server has refused malformed quantities; one in a static pod counts as absent.
        Self {
            cpu: get("cpu").and_then(|q| Millicores::parse(q).ok()).map_or(0, |v| v.0.max(0)),
            memory: get("memory").and_then(|q| Bytes::parse(q).ok()).map_or(0, |v| v.0.max(0)),
        }
    }

    fn add(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(spec: serde_json::Value) -> &'static str {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap();
        QosClass::of(&pod).as_str()
    }

    #[test]
    fn classes_are_those_of_kubernetes() {
        let container = |resources: &str| -> serde_json::Value {
            let resources: serde_json::Value = serde_json::from_str(resources).unwrap();
            serde_json::json!({ "name": "c", "resources": resources })
        };
        let full = container(r#"{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"1000m","memory":"1024Mi"}}"#);
        let none = container("{}");
        for (containers, init, expected) in [
            (vec![&none], vec![], "BestEffort"),
            (vec![&container(r#"{"requests":{"cpu":"0"}}"#)], vec![], "BestEffort"),
            (vec![&container(r#"{"limits":{"nvidia.com/gpu":"1"}}"#)], vec![], "BestEffort"),
            (vec![&full], vec![], "Guaranteed"),
            (vec![&full, &full], vec![&full], "Guaranteed"),
            (vec![&full, &none], vec![], "Burstable"),
            (vec![&full], vec![&none], "Burstable"),
            (vec![&container(r#"{"requests":{"cpu":"1"}}"#)], vec![], "Burstable"),
            (vec![&container(r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#)], vec![], "Burstable"),
        ] {
            let spec = serde_json::json!({ "containers": containers, "initContainers": init });
            assert_eq!(class(spec.clone()), expected, "{spec}");
        }
        let pod_level = serde_json::json!({
            "containers": [none], "resources": {"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"1","memory":"1Gi"}}
        });
        assert_eq!(class(pod_level), "Guaranteed");
    }
}
