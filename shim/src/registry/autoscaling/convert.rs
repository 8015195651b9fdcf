//! autoscaling/v1 ↔ v2: v1 has a field for the processor's utilization and keeps the rest in annotations, as JSON texts
//! in the order of Go's fields.

use super::metrics;
use crate::meta::{Meta, Object};
use crate::registry::value::{entries, items, object_entry, root};
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The stored form of a v1 autoscaler.
pub(super) fn to_v2(mut object: Object) -> Object {
    let mut annotation = |key: &str| -> Value {
        let annotations = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut);
        let text = annotations.and_then(|map| map.remove(key)).unwrap_or(Value::Null);
        text.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
    };
    let (specs, statuses, conditions, behavior) =
        (annotation(METRICS), annotation(CURRENT_METRICS), annotation(CONDITIONS), annotation(BEHAVIOR));
    if object.annotations().is_some_and(Map::is_empty) {
        object.meta_mut().remove("annotations");
    }
    let map = root(&mut object);
    map.insert("apiVersion".to_owned(), "autoscaling/v2".into());
    let spec = object_entry(map, "spec");
    let mut list: Vec<Value> = items(&specs).iter().map(|metric| metric_to_v2(metric, "target")).collect();
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null()) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        list.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !list.is_empty() {
        spec.insert("metrics".to_owned(), list.into());
    }
    if behavior.is_object() {
        spec.insert("behavior".to_owned(), behavior);
    }
    if let Some(status) = map.get_mut("status").and_then(Value::as_object_mut) {
        let mut list: Vec<Value> = items(&statuses).iter().map(|metric| metric_to_v2(metric, "current")).collect();
        if let Some(percent) = status.remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null())
            && !list.iter().any(metrics::is_cpu_utilization)
        {
            list.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}),
            );
        }
        if !list.is_empty() {
            status.insert("currentMetrics".to_owned(), list.into());
        }
        if conditions.is_array() {
            status.insert("conditions".to_owned(), conditions);
        }
    }
    object
}

/// The v1 form of a stored autoscaler.
pub(super) fn to_v1(mut object: Object) -> Object {
    let mut notes: Vec<(&str, String)> = Vec::new();
    let map = root(&mut object);
    map.insert("apiVersion".to_owned(), "autoscaling/v1".into());
    let spec = object_entry(map, "spec");
    let mut list = spec.remove("metrics").unwrap_or(Value::Null);
    if let Some(at) = metrics::cpu_utilization(&list)
        && let Some(metrics) = list.as_array_mut()
    {
        let metric = metrics.remove(at);
        let percent = metric["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
    }
    let others: Vec<String> = items(&list).iter().map(|metric| in_order(&metric_to_v1(metric, "target"))).collect();
    if !others.is_empty() {
        notes.push((METRICS, format!("[{}]", others.join(","))));
    }
    if let Some(behavior) = spec.remove("behavior").filter(Value::is_object) {
        notes.push((BEHAVIOR, in_order(&behavior)));
    }
    if let Some(status) = map.get_mut("status").and_then(Value::as_object_mut) {
        let list = status.remove("currentMetrics").unwrap_or(Value::Null);
        if let Some(at) = metrics::cpu_utilization(&list) {
            let percent = list[at]["resource"]["current"]["averageUtilization"].clone();
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
        let all: Vec<String> = items(&list).iter().map(|metric| in_order(&metric_to_v1(metric, "current"))).collect();
        if !all.is_empty() {
            notes.push((CURRENT_METRICS, format!("[{}]", all.join(","))));
        }
        if let Some(conditions) = status.remove("conditions").filter(|list| !items(list).is_empty()) {
            notes.push((CONDITIONS, in_order(&conditions)));
        }
        status.entry("currentReplicas").or_insert(0.into());
    }
    if !notes.is_empty() {
        let annotations = object_entry(object.meta_mut(), "annotations");
        for (key, text) in notes {
            annotations.insert(key.to_owned(), text.into());
        }
    }
    object
}

/// A v1 metric's amounts are called `targetValue`, `targetAverageValue`, …, a v2 one's are `value`, `averageValue`, …
/// of its target; of statuses the same with `current`.
fn metric_to_v1(metric: &Value, prefix: &str) -> Value {
    let mut out = Map::new();
    for (key, source) in entries(metric) {
        if !source.is_object() {
            out.insert(key.clone(), source.clone());
            continue;
        }
        let amounts = &source[prefix];
        let mut flat = Map::new();
        for (field, value) in entries(source).filter(|(field, _)| *field != prefix) {
            match field.as_str() {
                "metric" => {
                    flat.insert("metricName".to_owned(), value["name"].clone());
                    let selector = if key == "external" { "metricSelector" } else { "selector" };
                    if value["selector"].is_object() {
                        flat.insert(selector.to_owned(), value["selector"].clone());
                    }
                }
                "describedObject" => {
                    flat.insert("target".to_owned(), value.clone());
                }
                _ => {
                    flat.insert(field.clone(), value.clone());
                }
            }
        }
        for (field, value) in entries(amounts).filter(|(_, value)| !value.is_null()) {
            let name = match (key.as_str(), field.as_str()) {
                (_, "type") => continue,
                // An object metric names its average without the prefix.
                ("object", "averageValue") => "averageValue".to_owned(),
                (_, field) => format!("{prefix}{}{}", field[..1].to_uppercase(), &field[1..]),
            };
            flat.insert(name, value.clone());
        }
        // v1 has no way to leave these out.
        let required = match key.as_str() {
            "object" => Some(format!("{prefix}Value")),
            _ => None,
        };
        if let Some(name) = required {
            flat.entry(name).or_insert_with(|| "0".into());
        }
        out.insert(key.clone(), flat.into());
    }
    out.into()
}

fn metric_to_v2(metric: &Value, prefix: &str) -> Value {
    let mut out = Map::new();
    for (key, source) in entries(metric) {
        if !source.is_object() {
            out.insert(key.clone(), source.clone());
            continue;
        }
        let (mut fields, mut amounts, mut name) = (Map::new(), Map::new(), Map::new());
        for (field, value) in entries(source) {
            match (field.as_str(), field.strip_prefix(prefix)) {
                ("metricName", _) => drop(name.insert("name".to_owned(), value.clone())),
                ("metricSelector" | "selector", _) => drop(name.insert("selector".to_owned(), value.clone())),
                ("target", _) => drop(fields.insert("describedObject".to_owned(), value.clone())),
                ("averageValue", _) => drop(amounts.insert(field.clone(), value.clone())),
                (_, Some(rest)) if !rest.is_empty() => {
                    let rest = format!("{}{}", rest[..1].to_lowercase(), &rest[1..]);
                    let filler = key == "object" && rest == "value" && source.get("averageValue").is_some();
                    if !filler {
                        amounts.insert(rest, value.clone());
                    }
                }
                _ => drop(fields.insert(field.clone(), value.clone())),
            }
        }
        if prefix == "target" {
            let kind =
                ["averageUtilization", "averageValue", "value"].into_iter().find(|kind| amounts.contains_key(*kind));
            let kind = match kind {
                Some("averageUtilization") => "Utilization",
                Some("averageValue") => "AverageValue",
                _ => "Value",
            };
            amounts.insert("type".to_owned(), kind.into());
        }
        if !name.is_empty() {
            fields.insert("metric".to_owned(), name.into());
        }
        fields.insert(prefix.to_owned(), amounts.into());
        out.insert(key.clone(), fields.into());
    }
    out.into()
}

/// Go's order of the fields of everything that goes into an annotation.
const ORDER: [&str; 34] = [
    "type",
    "status",
    "lastTransitionTime",
    "reason",
    "message",
    "object",
    "pods",
    "resource",
    "containerResource",
    "external",
    "target",
    "kind",
    "name",
    "apiVersion",
    "metricName",
    "metricSelector",
    "targetValue",
    "currentValue",
    "targetAverageUtilization",
    "targetAverageValue",
    "currentAverageUtilization",
    "currentAverageValue",
    "container",
    "selector",
    "averageValue",
    "matchLabels",
    "matchExpressions",
    "scaleUp",
    "scaleDown",
    "stabilizationWindowSeconds",
    "selectPolicy",
    "policies",
    "tolerance",
    "value",
];

fn in_order(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let rank = |key: &str| ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len());
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_by_key(|(key, _)| (rank(key), key.as_str()));
            let shown: Vec<String> = fields
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), in_order(value)))
                .collect();
            format!("{{{}}}", shown.join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(in_order).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1_has_no_field_for_travels_in_annotations() {
        let v2 = json!({
            "kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {"selectPolicy": "Max"}}, "metrics": [
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "100Mi"}}},
                {"type": "External", "external": {"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "Value", "value": "5"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 75}}},
            ]},
        });
        let v1 = to_v1(v2.clone());
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 75);
        assert_eq!(
            crate::registry::value::text(&v1["metadata"]["annotations"][METRICS]),
            r#"[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"100Mi"}},{"type":"External","external":{"metricName":"q","metricSelector":{"matchLabels":{"a":"b"}},"targetValue":"5"}}]"#
        );
        assert_eq!(to_v2(v1), v2);
    }
}
