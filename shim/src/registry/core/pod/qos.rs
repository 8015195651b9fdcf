//! A pod's quality of service class, by its requests and limits of CPU and memory.

use crate::meta::Object;
use crate::registry::quantity::Nanos;
use crate::registry::value::{entries, items};
use serde_json::Value;
use std::collections::BTreeMap;

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort` (`ComputePodQOS`).
pub fn class(pod: &Object) -> &'static str {
    let spec = &pod["spec"];
    // Pod-level resources decide alone when they are set.
    let own = &spec["resources"];
    let all: Vec<&Value> = if own["requests"].is_object() || own["limits"].is_object() {
        vec![own]
    } else {
        items(&spec["containers"]).iter().chain(items(&spec["initContainers"])).map(|c| &c["resources"]).collect()
    };
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut every_limit_set = true;
    for resources in all {
        add(&mut requests, &resources["requests"]);
        every_limit_set &= add(&mut limits, &resources["limits"]) == COUNTED.len();
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if every_limit_set && limits.len() == COUNTED.len() && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds the counted resources that are above zero; how many there were.
fn add<'a>(sums: &mut BTreeMap<&'a str, i128>, list: &'a Value) -> usize {
    let mut counted = 0;
    for (resource, quantity) in entries(list) {
        let nanos = Nanos::parse(quantity).map_or(0, |n| n.0);
        if COUNTED.contains(&resource.as_str()) && nanos > 0 {
            *sums.entry(resource.as_str()).or_insert(0) += nanos;
            counted += 1;
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::class;
    use serde_json::json;

    #[test]
    fn the_class_follows_requests_and_limits() {
        for (resources, want) in [
            (json!([{}]), "BestEffort"),
            (json!([{"requests": {"cpu": "0"}}]), "BestEffort"),
            (json!([{"requests": {"cpu": "100m"}}]), "Burstable"),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}]),
                "Guaranteed",
            ),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}, {}]),
                "Burstable",
            ),
            (json!([{"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}]), "Burstable"),
        ] {
            let containers: Vec<_> = resources.as_array().unwrap().iter().map(|r| json!({"resources": r})).collect();
            assert_eq!(class(&json!({"spec": {"containers": containers}})), want, "{resources}");
        }
    }
}
