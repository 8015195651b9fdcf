//! HorizontalPodAutoscalers, in both served versions.

use super::{convert, metrics};
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::{AUTOSCALING_V1, AUTOSCALING_V2};
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{
    clear_status, default_text, default_value, is_empty, items, keep_all_but_status, keep_status, object_entry, root,
    text,
};
use crate::registry::{Column, Conversion, ResourceDef, STATUS_VERBS, Strategy, Subresource, meta, names, template};
use serde_json::{Map, Value, json};

pub const V2: ResourceDef = ResourceDef {
    gv: AUTOSCALING_V2,
    resource: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    kind: "HorizontalPodAutoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    storage: "horizontalpodautoscalers",
    storage_gv: AUTOSCALING_V2,
    subresources: &[Subresource {
        name: "status",
        kind: "HorizontalPodAutoscaler",
        gv: AUTOSCALING_V2,
        verbs: STATUS_VERBS,
    }],
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        prepare_create: clear_status,
        prepare_update: keep_status,
        prepare_status: keep_all_but_status,
        validate,
        validate_status,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

pub const V1: ResourceDef = ResourceDef {
    gv: AUTOSCALING_V1,
    subresources: &[Subresource {
        name: "status",
        kind: "HorizontalPodAutoscaler",
        gv: AUTOSCALING_V1,
        verbs: STATUS_VERBS,
    }],
    conversion: Some(&Conversion { to_storage: convert::to_v2, to_served: convert::to_v1 }),
    ..V2
};

/// What scaling up and down do when a behaviour says nothing else.
const UP_POLICIES: [(&str, i64); 2] = [("Pods", 4), ("Percent", 100)];
const DOWN_POLICIES: [(&str, i64); 1] = [("Percent", 100)];
const POLICY_SECONDS: i64 = 15;

fn default(object: &mut Object) {
    let spec = object_entry(root(object), "spec");
    default_value(spec, "minReplicas", 1);
    if spec.get("metrics").is_none_or(is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.insert("metrics".to_owned(), json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    let Some(behavior) = spec.get_mut("behavior").and_then(Value::as_object_mut) else { return };
    // An empty behaviour is not filled in.
    if ["scaleUp", "scaleDown"].iter().all(|key| behavior.get(*key).is_none_or(Value::is_null)) {
        return;
    }
    let up = object_entry(behavior, "scaleUp");
    default_value(up, "stabilizationWindowSeconds", 0);
    rules(up, &UP_POLICIES);
    rules(object_entry(behavior, "scaleDown"), &DOWN_POLICIES);
}

fn rules(rules: &mut Map<String, Value>, policies: &[(&str, i64)]) {
    default_text(rules, "selectPolicy", "Max");
    if rules.get("policies").is_none_or(is_empty) {
        let list =
            policies.iter().map(|(kind, value)| json!({"type": kind, "value": value, "periodSeconds": POLICY_SECONDS}));
        rules.insert("policies".to_owned(), list.collect());
    }
}

fn validate(object: &Object) -> Errors {
    let mut errors = meta::validate_namespaced(object);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (least, most) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or(0));
    if let Some(least) = least.filter(|least| *least < 1) {
        errors.push(path.child("minReplicas").invalid(least, "must be greater than or equal to 1"));
    }
    if most < 1 {
        errors.push(path.child("maxReplicas").invalid(most, "must be greater than 0"));
    }
    if least.is_some_and(|least| most < least) {
        errors.push(path.child("maxReplicas").invalid(most, "must be greater than or equal to `minReplicas`"));
    }
    reference(&spec["scaleTargetRef"], &path.child("scaleTargetRef"), &mut errors);
    metrics::validate(items(&spec["metrics"]), &path.child("metrics"), &mut errors);
    for direction in ["scaleUp", "scaleDown"] {
        scaling(&spec["behavior"][direction], &path.child("behavior").child(direction), &mut errors);
    }
    errors
}

/// `ValidateCrossVersionObjectReference`.
pub(super) fn reference(reference: &Value, path: &Path, errors: &mut Errors) {
    for field in ["kind", "name"] {
        match text(&reference[field]) {
            "" => errors.push(path.child(field).required("")),
            name => errors.extend(path.child(field).all_invalid(name, names::path_segment(name, false))),
        }
    }
}

fn scaling(rules: &Value, path: &Path, errors: &mut Errors) {
    const MAX_WINDOW_SECONDS: i64 = 3600;
    const MAX_PERIOD_SECONDS: i64 = 1800;
    if !rules.is_object() {
        return;
    }
    template::non_negative(rules, &["stabilizationWindowSeconds"], path, errors);
    if let Some(seconds) = rules["stabilizationWindowSeconds"].as_i64().filter(|s| *s > MAX_WINDOW_SECONDS) {
        let detail = format!("must be less than or equal to {MAX_WINDOW_SECONDS}");
        errors.push(path.child("stabilizationWindowSeconds").invalid(seconds, &detail));
    }
    let choices = ["Disabled", "Max", "Min"];
    if let Some(choice) = rules["selectPolicy"].as_str().filter(|choice| !choices.contains(choice)) {
        errors.push(path.child("selectPolicy").not_supported(choice, &choices));
    }
    let (policies, path) = (items(&rules["policies"]), path.child("policies"));
    if policies.is_empty() {
        errors.push(path.required("must specify at least one Policy"));
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = path.index(index);
        let kind = text(&policy["type"]);
        if !matches!(kind, "Percent" | "Pods") {
            errors.push(path.child("type").not_supported(kind, &["Percent", "Pods"]));
        }
        let number = |field: &str| policy[field].as_i64().unwrap_or(0);
        for field in ["value", "periodSeconds"] {
            if number(field) <= 0 {
                errors.push(path.child(field).invalid(number(field), "must be greater than zero"));
            }
        }
        if number("periodSeconds") > MAX_PERIOD_SECONDS {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            errors.push(path.child("periodSeconds").invalid(number("periodSeconds"), &detail));
        }
    }
}

fn validate_status(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let counts = ["currentReplicas", "desiredReplicas"];
    template::non_negative(&new["status"], &counts, &Path::new("status"), &mut errors);
    errors
}

fn row(object: &Object, now: i64) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let reference = format!("{}/{}", text(&spec["scaleTargetRef"]["kind"]), text(&spec["scaleTargetRef"]["name"]));
    let least = spec["minReplicas"].as_i64().map_or("<unset>".to_owned(), |least| least.to_string());
    vec![
        object.name().into(),
        reference.into(),
        metrics::cell(items(&spec["metrics"]), items(&status["currentMetrics"])).into(),
        least.into(),
        spec["maxReplicas"].as_i64().unwrap_or(0).into(),
        status["currentReplicas"].as_i64().unwrap_or(0).into(),
        age(object, now),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Reference",
        "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be collected, as well as to actually change the replica count.",
    ),
    text_column(
        "Targets",
        "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica count across all metrics will be used).  The desired replica count is calculated multiplying the ratio between the target value and the current value by the current number of pods.  Ergo, metrics used must decrease as the pod count is increased, and vice-versa.  See the individual metric source types for more information about how each type of metric must respond. If not set, the default metric will be set to 80% average CPU utilization.",
    ),
    text_column(
        "MinPods",
        "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.  It defaults to 1 pod.  minReplicas is allowed to be 0 if the alpha feature gate HPAScaleToZero is enabled and at least one Object or External metric is configured.  Scaling is active as long as at least one metric value is available.",
    ),
    text_column(
        "MaxPods",
        "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up. It cannot be less that minReplicas.",
    ),
    text_column(
        "Replicas",
        "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.",
    ),
    AGE,
];
