//! What an update of a pod may change: `ValidatePodUpdate`, `ValidatePodEphemeralContainersUpdate`.

use super::qos;
use crate::meta::Object;
use crate::registry::field::{Errors, Path};
use crate::registry::meta;
use crate::registry::value::{entries, items, same, text};
use serde_json::Value;

const ALLOWED_TEXT: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Errors of an update that `validate` of the new pod does not find.
pub fn validate(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    for key in ["containers", "initContainers"] {
        if items(&spec[key]).len() != items(&before[key]).len() {
            errors.push(path.child(key).forbidden("pod updates may not add or remove containers"));
            return errors;
        }
    }
    deadline(spec, before, &path, &mut errors);
    tolerations(spec, before, &path, &mut errors);
    let gated = !items(&before["schedulingGates"]).is_empty();
    gates(spec, before, &path, &mut errors);
    // All that may change is put back; what still differs may not.
    let mut rest = spec.clone();
    for key in ["containers", "initContainers"] {
        for (index, container) in items(&before[key]).iter().enumerate() {
            put_back(&mut rest[key][index], container, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put_back(&mut rest, before, key);
    }
    let negative = before["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0);
    if negative && spec["terminationGracePeriodSeconds"].as_i64() == Some(1) {
        put_back(&mut rest, before, "terminationGracePeriodSeconds");
    }
    if gated {
        node_selector(spec, before, &path, &mut errors);
        put_back(&mut rest, before, "nodeSelector");
        gated_affinity(spec, before, &path, &mut errors);
        put_back(&mut rest, before, "affinity");
    }
    if rest != *before {
        let changed = differences(&rest, before);
        errors.push(path.forbidden(&format!("{ALLOWED_TEXT}\n{changed}")));
    }
    errors
}

/// The names and values of the fields that differ, one a line, old above new.
fn differences(new: &Value, old: &Value) -> String {
    let mut lines = String::new();
    let keys = entries(old).map(|(key, _)| key).chain(entries(new).map(|(key, _)| key).filter(|k| old[*k].is_null()));
    for key in keys.filter(|key| new[*key] != old[*key]) {
        lines.push_str(&format!("- {key}: {}\n+ {key}: {}\n", old[key], new[key]));
    }
    lines
}

fn put_back(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

fn deadline(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("activeDeadlineSeconds");
    match (spec["activeDeadlineSeconds"].as_i64(), before["activeDeadlineSeconds"].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            errors.push(path.invalid(new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            errors.push(path.invalid(Value::Null, "must not update from a positive integer to nil value"))
        }
        _ => {}
    }
}

/// Tolerations may be added, and the old ones' seconds changed.
fn tolerations(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    let bare = |toleration: &Value| {
        let mut bare = toleration.clone();
        if let Some(map) = bare.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        bare
    };
    let new: Vec<Value> = items(&spec["tolerations"]).iter().map(bare).collect();
    if !items(&before["tolerations"]).iter().all(|old| new.contains(&bare(old))) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(path.child("tolerations").forbidden(text));
    }
}

/// Gates may only go.
fn gates(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    let old: Vec<&str> = items(&before["schedulingGates"]).iter().map(|g| text(&g["name"])).collect();
    for (index, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let name = text(&gate["name"]);
        if !old.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(path.child("schedulingGates").index(index).child("name").forbidden(&detail));
        }
    }
}

/// While a pod is gated its node selector may become narrower.
fn node_selector(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    if entries(&before["nodeSelector"]).any(|(key, value)| spec["nodeSelector"][key] != *value) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(path.child("nodeSelector").invalid(spec["nodeSelector"].clone(), detail));
    }
}

/// … and its node affinity: terms stay, expressions may be added to them.
fn gated_affinity(spec: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let (new, old) = (&spec["affinity"]["nodeAffinity"][REQUIRED], &before["affinity"]["nodeAffinity"][REQUIRED]);
    let path = path.child("affinity").child("nodeAffinity").child(REQUIRED).child("nodeSelectorTerms");
    let (new, old) = (items(&new["nodeSelectorTerms"]), items(&old["nodeSelectorTerms"]));
    if old.is_empty() {
        return;
    }
    if new.len() != old.len() {
        errors
            .push(path.invalid(new.to_vec(), "no additions/deletions to non-empty NodeSelectorTerms list are allowed"));
        return;
    }
    for (index, (new, old)) in new.iter().zip(old).enumerate() {
        for key in ["matchExpressions", "matchFields"] {
            let added = items(&new[key]);
            if !items(&old[key]).iter().all(|requirement| added.contains(requirement)) {
                let detail = "only additions are allowed (no mutations or deletions)";
                errors.push(path.index(index).invalid(new.clone(), detail));
            }
        }
    }
}

/// `pods/ephemeralcontainers`: everything but the list is the old pod's.
pub fn prepare_ephemeral(new: &mut Object, old: &Object) {
    let list = new["spec"]["ephemeralContainers"].take();
    let metadata = new["metadata"].take();
    *new = old.clone();
    put_back(&mut new["metadata"], &metadata, "resourceVersion");
    if list.is_array() {
        new["spec"]["ephemeralContainers"] = list;
    } else if let Some(spec) = new["spec"].as_object_mut() {
        spec.remove("ephemeralContainers");
    }
    crate::registry::value::bump_generation(new, old, new["spec"] != old["spec"]);
}

/// Ephemeral containers may be added and never change.
pub fn validate_ephemeral(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    super::validate::pod_spec(&new["spec"], &Path::new("spec"), &mut errors);
    let path = Path::new("spec").child("ephemeralContainers");
    let new = items(&new["spec"]["ephemeralContainers"]);
    for old in items(&old["spec"]["ephemeralContainers"]) {
        let name = text(&old["name"]);
        match new.iter().position(|c| text(&c["name"]) == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(path.forbidden(&detail));
            }
            Some(index) if new[index] != *old => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(path.forbidden(&detail));
            }
            Some(_) => {}
        }
    }
    errors
}

/// `/resize` changes resources of the pod and its containers, and their resize policies, nothing else.
pub fn prepare_resize(new: &mut Object, old: &Object) {
    let asked = std::mem::replace(new, old.clone());
    for list in ["containers", "initContainers"] {
        for container in new["spec"][list].as_array_mut().into_iter().flatten() {
            let wanted = items(&asked["spec"][list]).iter().find(|c| c["name"] == container["name"]);
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = wanted.map(|c| &c[field]).filter(|v| !v.is_null()) {
                    container[field] = value.clone();
                }
            }
        }
    }
    if asked["spec"]["resources"].is_object() {
        new["spec"]["resources"] = asked["spec"]["resources"].clone();
    }
    if !same(&new["spec"], &old["spec"])
        && let Some(generation) = old["metadata"]["generation"].as_i64()
    {
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// `ValidatePodResize`: of CPU and memory, such that the class of service stays.
pub fn validate_resize(new: &Object, old: &Object) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    if qos::class(new) != qos::class(old) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(path.invalid(qos::class(old), detail));
    }
    let mut others =
        changes(&new["spec"]["resources"], &old["spec"]["resources"], &path.child("resources"), &mut errors);
    for list in ["containers", "initContainers"] {
        for (index, (container, before)) in items(&new["spec"][list]).iter().zip(items(&old["spec"][list])).enumerate()
        {
            let path = path.child(list).index(index).child("resources");
            others |= changes(&container["resources"], &before["resources"], &path, &mut errors);
        }
    }
    if others {
        errors.push(path.forbidden("only cpu and memory resources are mutable"));
    }
    errors
}

/// What was asked for may change and not be taken back. True: others than CPU and memory differ.
fn changes(now: &Value, before: &Value, path: &Path, errors: &mut Errors) -> bool {
    let resizable = |name: &&String| matches!(name.as_str(), "cpu" | "memory");
    let fixed = |list: &Value| -> Vec<(String, Value)> {
        entries(list).filter(|(name, _)| !resizable(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let mut others = false;
    for (kind, text) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let (now, held) = (&now[kind], &before[kind]);
        if entries(held).map(|(name, _)| name).filter(resizable).any(|name| now[name].is_null()) {
            errors.push(path.child(kind).forbidden(&format!("{text} cannot be removed")));
        }
        others |= fixed(now) != fixed(held);
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resources_of_the_pod_as_a_whole_are_resized_by_the_same_rules() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a"}], "resources": resources}});
        let old = pod(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
        for (resources, expected) in [
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}), vec![]),
            (json!({"requests": {"cpu": "1"}}), vec!["spec.resources.limits"]),
        ] {
            let mut new = pod(resources.clone());
            prepare_resize(&mut new, &old);
            assert_eq!(new["spec"]["resources"], resources);
            let fields: Vec<String> = validate_resize(&new, &old).into_iter().map(|error| error.field).collect();
            assert_eq!(fields, expected, "{new}");
        }
    }

    #[test]
    fn a_resize_keeps_the_class_of_service_and_all_but_cpu_and_memory() {
        let pod =
            |resources: Value| json!({"spec": {"containers": [{"name": "a", "image": "i", "resources": resources}]}});
        let old = pod(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
        for (resources, expected) in [
            (json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}), vec![]),
            (json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}), vec![]),
            (json!({"requests": {"cpu": "1"}}), vec!["spec.containers[0].resources.limits"]),
            (json!({}), vec!["spec", "spec.containers[0].resources.requests", "spec.containers[0].resources.limits"]),
            (json!({"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2"}}), vec!["spec"]),
        ] {
            let mut new = pod(resources);
            new["spec"]["containers"][0]["image"] = "other".into();
            prepare_resize(&mut new, &old);
            assert_eq!(new["spec"]["containers"][0]["image"], "i");
            let fields: Vec<String> = validate_resize(&new, &old).into_iter().map(|error| error.field).collect();
            assert_eq!(fields, expected, "{new}");
        }
    }
}
