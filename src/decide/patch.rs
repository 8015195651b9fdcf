//! The strategic merge patch that turns the API server's status into ours, touching only what the agent owns.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Conditions that only the agent writes: what it does not show is not there.
pub(crate) const KUBELET_CONDITIONS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
    "PodResizePending",
    "PodResizeInProgress",
];
/// Written by the agent and by others; those that are in neither list belong to somebody else.
pub(crate) const SHARED_CONDITION: &str = "DisruptionTarget";

/// Fields that the agent writes whole: scalars and lists without a merge key.
const OWNED_FIELDS: [&str; 13] = [
    "allocatedResources",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "hostIP",
    "initContainerStatuses",
    "message",
    "observedGeneration",
    "phase",
    "podIP",
    "qosClass",
    "reason",
    "resources",
    "startTime",
];

/// `None` when the API server already shows everything. The result goes under `status`.
pub fn status_patch(api: &PodStatus, ours: &PodStatus) -> Option<Value> {
    let (api, ours) = (to_map(api), to_map(ours));
    let mut patch = Map::new();
    for field in OWNED_FIELDS {
        difference(&mut patch, field, api.get(field), ours.get(field));
    }
    for (field, key) in [("podIPs", "ip"), ("hostIPs", "ip")] {
        keyed_list(&mut patch, field, key, api.get(field), ours.get(field));
    }
    conditions(&mut patch, api.get("conditions"), ours.get("conditions"));
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn to_map(status: &PodStatus) -> Map<String, Value> {
    // A typed status always serialises, and to an object.
    let Ok(Value::Object(mut map)) = serde_json::to_value(status) else { return Map::new() };
    for field in ["containerStatuses", "ephemeralContainerStatuses", "initContainerStatuses"] {
        for container in map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            drop_empty(container);
        }
    }
    map
}

/// API servers write `lastState: {}` of a container that never ended: Go's encoding of a struct cannot leave it out.
fn drop_empty(container: &mut Value) {
    let Some(fields) = container.as_object_mut() else { return };
    fields.retain(|name, value| !(name == "lastState" && value.as_object().is_some_and(Map::is_empty)));
}

/// Of objects the keys that differ: those that are not named stay, those that are to go must be.
fn difference(patch: &mut Map<String, Value>, field: &str, api: Option<&Value>, ours: Option<&Value>) {
    match (api, ours) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let mut inner = Map::new();
            for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                difference(&mut inner, key, old.get(key), new.get(key));
            }
            if !inner.is_empty() {
                patch.insert(field.to_owned(), Value::Object(inner));
            }
        }
        (_, Some(ours)) if api != Some(ours) => drop(patch.insert(field.to_owned(), ours.clone())),
        (Some(_), None) => drop(patch.insert(field.to_owned(), Value::Null)),
        _ => {}
    }
}

/// Lists merged by key: an element that is no longer ours is deleted by name.
fn keyed_list(patch: &mut Map<String, Value>, field: &str, key: &str, api: Option<&Value>, ours: Option<&Value>) {
    let items = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let (api, ours) = (items(api), items(ours));
    if api == ours {
        return;
    }
    let mut list = ours.clone();
    for old in &api {
        if ours.iter().all(|new| new.get(key) != old.get(key)) {
            list.push(json!({ key: old.get(key), "$patch": "delete" }));
        }
    }
    patch.insert(format!("$setElementOrder/{field}"), ours.iter().map(|new| json!({ key: new.get(key) })).collect());
    patch.insert(field.to_owned(), Value::Array(list));
}

fn conditions(patch: &mut Map<String, Value>, api: Option<&Value>, ours: Option<&Value>) {
    let items = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let (api, ours) = (items(api), items(ours));
    let mut changed = Vec::new();
    for condition in &ours {
        let name = condition.get("type").and_then(Value::as_str).unwrap_or("");
        if !KUBELET_CONDITIONS.contains(&name) && name != SHARED_CONDITION {
            continue;
        }
        let old = api.iter().find(|old| old.get("type") == condition.get("type"));
        if let Some(element) = condition_patch(old, condition) {
            changed.push(element);
        }
    }
    for old in &api {
        let known = old.get("type").and_then(Value::as_str).is_some_and(|name| KUBELET_CONDITIONS.contains(&name));
        if known && ours.iter().all(|new| new.get("type") != old.get("type")) {
            changed.push(json!({ "type": old.get("type"), "$patch": "delete" }));
        }
    }
    if !changed.is_empty() {
        patch.insert("conditions".to_owned(), Value::Array(changed));
    }
}

fn condition_patch(old: Option<&Value>, new: &Value) -> Option<Value> {
    let Some(old) = old else { return Some(new.clone()) };
    let mut element = Map::new();
    for field in ["status", "reason", "message", "lastTransitionTime", "observedGeneration"] {
        difference(&mut element, field, old.get(field).filter(|v| !v.is_null()), new.get(field));
    }
    if element.is_empty() {
        return None;
    }
    element.insert("type".to_owned(), new.get("type").cloned().unwrap_or_default());
    Some(Value::Object(element))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(api: Value, ours: Value, expected: &Expect) {
        let parse = |value| serde_json::from_value::<PodStatus>(value).unwrap();
        let text = status_patch(&parse(api), &parse(ours)).map_or("nothing".to_owned(), |patch| patch.to_string());
        expected.assert_eq(&text);
    }

    #[test]
    fn equal_statuses_need_no_patch() {
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        check(status.clone(), status, &expect!["nothing"]);
    }

    #[test]
    fn a_last_state_that_is_empty_is_none() {
        let status = |last: Value| {
            let mut container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
            container["lastState"] = last;
            json!({"containerStatuses": [container.clone()], "initContainerStatuses": [container]})
        };
        check(status(json!({})), status(Value::Null), &expect!["nothing"]);
        check(status(Value::Null), status(json!({})), &expect!["nothing"]);
    }

    #[test]
    fn conditions_of_others_are_left_alone_and_dropped_reasons_are_nulled() {
        check(
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "X"}, {"type": "a/b", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            &expect![[r#"{"conditions":[{"reason":null,"status":"True","type":"Ready"}]}"#]],
        );
    }

    #[test]
    fn of_resources_those_that_are_gone_are_nulled() {
        let api = json!({"allocatedResources": {"cpu": "1", "x/y": "1"},
            "resources": {"limits": {"cpu": "1", "memory": "2"}, "requests": {"cpu": "1"}}});
        check(
            api.clone(),
            json!({"allocatedResources": {"cpu": "2"}, "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}),
            &expect![[r#"{"allocatedResources":{"cpu":"2","x/y":null},"resources":{"limits":{"memory":null}}}"#]],
        );
        check(
            api,
            json!({"resources": {"requests": {"cpu": "1"}}}),
            &expect![[r#"{"allocatedResources":null,"resources":{"limits":null}}"#]],
        );
        check(
            json!({}),
            json!({"resources": {"requests": {"cpu": "1"}}}),
            &expect![[r#"{"resources":{"requests":{"cpu":"1"}}}"#]],
        );
    }

    #[test]
    fn a_changed_address_deletes_the_old_one() {
        check(
            json!({"podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}]}),
            json!({"podIP": "1.1.1.2", "podIPs": [{"ip": "1.1.1.2"}]}),
            &expect![[
                r#"{"$setElementOrder/podIPs":[{"ip":"1.1.1.2"}],"podIP":"1.1.1.2","podIPs":[{"ip":"1.1.1.2"},{"$patch":"delete","ip":"1.1.1.1"}]}"#
            ]],
        );
    }
}
