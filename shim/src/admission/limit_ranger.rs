//! LimitRanger: a namespace's limit ranges give pods their default requests and limits, and bound them.

use super::{Operation, Review};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::quantity::Nanos;
use crate::registry::value::{entries, items, items_mut, object_entry, object_mut, text};
use serde_json::{Map, Value};

/// Tells which requests and limits were not the client's.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Pods as they are created, and claims as they are created or grow.
pub fn admit(review: &Review<'_>, object: &mut Object) -> Result<(), ApiError> {
    let core = review.def.gv.group.is_empty() && review.sub.is_none();
    if !core || review.limit_ranges.is_empty() {
        return Ok(());
    }
    let errors = match (review.def.resource, review.operation) {
        ("pods", Operation::Create) => {
            for range in review.limit_ranges {
                fill(object, range);
            }
            bounded(review.limit_ranges, |limit, errors| pod(limit, object, errors))
        }
        ("persistentvolumeclaims", Operation::Create | Operation::Update) => {
            bounded(review.limit_ranges, |limit, errors| claim(limit, object, errors))
        }
        _ => return Ok(()),
    };
    match errors {
        None => Ok(()),
        Some(why) => Err(ApiError::forbidden(review.def, review.name, why)),
    }
}

/// What the first limit range that is not kept says of it.
fn bounded(ranges: &[Object], mut check: impl FnMut(&Value, &mut Vec<String>)) -> Option<String> {
    for range in ranges {
        let mut errors = Vec::new();
        for limit in items(&range["spec"]["limits"]) {
            check(limit, &mut errors);
        }
        match &errors[..] {
            [] => {}
            [only] => return Some(only.clone()),
            several => return Some(format!("[{}]", several.join(", "))),
        }
    }
    None
}

/// Sets what the containers leave open, and notes it in an annotation.
fn fill(pod: &mut Object, range: &Object) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for limit in items(&range["spec"]["limits"]).iter().filter(|limit| text(&limit["type"]) == "Container") {
        requests.extend(entries(&limit["defaultRequest"]).map(|(k, v)| (k.clone(), v.clone())));
        limits.extend(entries(&limit["default"]).map(|(k, v)| (k.clone(), v.clone())));
    }
    let mut notes = Vec::new();
    if let Some(spec) = object_mut(pod, "spec") {
        for (list, prefix) in [("containers", "container"), ("initContainers", "init container")] {
            for container in items_mut(spec, list) {
                let name = container.get("name").map(text).unwrap_or_default().to_owned();
                for (field, defaults, what) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                    let set = complete(container, field, defaults);
                    if !set.is_empty() {
                        notes.push(format!("{} {what} for {prefix} {name}", set.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        object_entry(pod.meta_mut(), "annotations").insert(ANNOTATION.to_owned(), note.into());
    }
}

/// The resources that the container did not name, which it has now.
fn complete(container: &mut Map<String, Value>, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    if defaults.is_empty() {
        return set;
    }
    let amounts = object_entry(object_entry(container, "resources"), field);
    for (resource, amount) in
        defaults.iter().filter(|(resource, _)| !amounts.contains_key(*resource)).collect::<Vec<_>>()
    {
        amounts.insert(resource.clone(), amount.clone());
        set.push(resource.clone());
    }
    set
}

fn pod(limit: &Value, pod: &Object, errors: &mut Vec<String>) {
    let kind = text(&limit["type"]);
    match kind {
        "Container" => {
            for list in ["containers", "initContainers"] {
                for container in items(&pod["spec"][list]) {
                    let resources = &container["resources"];
                    bounds(limit, kind, &resources["requests"], &resources["limits"], errors);
                }
            }
        }
        "Pod" => {
            let (requests, limits) = (total(pod, "requests"), total(pod, "limits"));
            bounds(limit, kind, &requests, &limits, errors);
        }
        _ => {}
    }
}

/// A pod's need: the sum of its containers and sidecars, or its hungriest init container with the sidecars before it.
fn total(pod: &Object, field: &str) -> Value {
    let amount = |value: &Value| Nanos::parse(value).unwrap_or(Nanos(0)).0;
    let mut sums: std::collections::BTreeMap<&str, (Nanos, Nanos, &Value)> = std::collections::BTreeMap::new();
    for container in items(&pod["spec"]["containers"]) {
        for (resource, value) in entries(&container["resources"][field]) {
            let entry = sums.entry(resource).or_insert((Nanos(0), Nanos(0), value));
            entry.0.0 += amount(value);
        }
    }
    for container in items(&pod["spec"]["initContainers"]) {
        let sidecar = text(&container["restartPolicy"]) == "Always";
        for (resource, value) in entries(&container["resources"][field]) {
            let entry = sums.entry(resource).or_insert((Nanos(0), Nanos(0), value));
            if sidecar {
                entry.0.0 += amount(value);
            } else {
                entry.1 = entry.1.max(Nanos(amount(value)));
            }
        }
    }
    let written = |nanos: Nanos, like: &Value| {
        let binary = text(like).ends_with('i') && nanos.is_integer();
        let plain = if nanos.is_integer() { nanos.units().to_string() } else { format!("{}m", nanos.0 / 1_000_000) };
        let shown = if binary { binary_units(nanos.units()) } else { plain };
        Value::from(shown)
    };
    Value::Object(sums.into_iter().map(|(r, (sum, init, like))| (r.to_owned(), written(sum.max(init), like))).collect())
}

/// `1073741824` → `1Gi`.
fn binary_units(units: i128) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut units, mut at) = (units, 0);
    while units != 0 && units % 1024 == 0 && at + 1 < SUFFIXES.len() {
        units /= 1024;
        at += 1;
    }
    format!("{units}{}", SUFFIXES[at])
}

fn bounds(limit: &Value, kind: &str, requests: &Value, limits: &Value, errors: &mut Vec<String>) {
    let known = |amounts: &Value, resource: &str| {
        Nanos::parse(&amounts[resource]).map(|n| (n, text(&amounts[resource]).to_owned()))
    };
    for (resource, bound) in entries(&limit["min"]) {
        let Some(least) = Nanos::parse(bound) else { continue };
        let head = format!("minimum {resource} usage per {kind} is {}", text(bound));
        match (known(requests, resource), known(limits, resource)) {
            (None, _) => errors.push(format!("{head}.  No request is specified")),
            (Some((request, shown)), _) if request < least => errors.push(format!("{head}, but request is {shown}")),
            (_, Some((limit, shown))) if limit < least => errors.push(format!("{head}, but limit is {shown}")),
            _ => {}
        }
    }
    for (resource, bound) in entries(&limit["max"]) {
        let Some(most) = Nanos::parse(bound) else { continue };
        let head = format!("maximum {resource} usage per {kind} is {}", text(bound));
        match (known(requests, resource), known(limits, resource)) {
            (_, None) => errors.push(format!("{head}.  No limit is specified")),
            (_, Some((limit, shown))) if limit > most => errors.push(format!("{head}, but limit is {shown}")),
            (Some((request, shown)), _) if request > most => errors.push(format!("{head}, but request is {shown}")),
            _ => {}
        }
    }
    for (resource, bound) in entries(&limit["maxLimitRequestRatio"]) {
        let Some(most) = Nanos::parse(bound) else { continue };
        let head = format!("{resource} max limit to request ratio per {kind} is {}", text(bound));
        let positive = |amounts: &Value| known(amounts, resource).filter(|(n, _)| n.0 > 0).map(|(n, _)| n.0 as f64);
        match (positive(requests), positive(limits)) {
            (None, _) => errors.push(format!("{head}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit / request;
                if ratio > most.0 as f64 / 1e9 {
                    errors.push(format!("{head}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn claim(limit: &Value, claim: &Object, errors: &mut Vec<String>) {
    let kind = text(&limit["type"]);
    if kind != "PersistentVolumeClaim" {
        return;
    }
    let requests = &claim["spec"]["resources"]["requests"];
    for (bound, word) in [("min", "minimum"), ("max", "maximum")] {
        for (resource, amount) in entries(&limit[bound]) {
            let head = format!("{word} {resource} usage per {kind} is {}", text(amount));
            match (Nanos::parse(&requests[resource]), Nanos::parse(amount)) {
                (None, _) => errors.push(format!("{head}.  No request is specified")),
                (Some(asked), Some(allowed))
                    if (bound == "min" && asked < allowed) || (bound == "max" && asked > allowed) =>
                {
                    errors.push(format!("{head}, but request is {}", text(&requests[resource])));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range() -> Object {
        json!({"spec": {"limits": [{
            "type": "Container", "default": {"cpu": "500m", "memory": "256Mi"}, "defaultRequest": {"cpu": "100m", "memory": "256Mi"},
            "min": {"cpu": "50m"}, "max": {"cpu": "1", "memory": "1Gi"},
        }]}})
    }

    #[test]
    fn containers_get_what_they_leave_open_and_a_note_says_so() {
        let mut object =
            json!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}});
        fill(&mut object, &range());
        assert_eq!(
            object["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}})
        );
        let note = &object["metadata"]["annotations"][ANNOTATION];
        assert_eq!(note, "LimitRanger plugin set: cpu, memory request for container a; memory limit for container a");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_in_upstreams_words() {
        let ranges = [range()];
        for (resources, why) in [
            (json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}}), None),
            (
                json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
                Some("minimum cpu usage per Container is 50m, but request is 10m"),
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3", "memory": "2Gi"}}),
                Some(
                    "[maximum cpu usage per Container is 1, but limit is 3, maximum memory usage per Container is 1Gi, but limit is 2Gi]",
                ),
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                Some("minimum cpu usage per Container is 50m.  No request is specified"),
            ),
        ] {
            let object = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
            assert_eq!(bounded(&ranges, |limit, errors| pod(limit, &object, errors)).as_deref(), why);
        }
    }

    #[test]
    fn a_pods_need_is_its_containers_or_its_hungriest_start() {
        let object = json!({"spec": {
            "containers": [{"resources": {"requests": {"cpu": "300m", "memory": "512Mi"}}}, {"resources": {"requests": {"cpu": "700m", "memory": "512Mi"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "2"}}}],
        }});
        assert_eq!(total(&object, "requests"), json!({"cpu": "2", "memory": "1Gi"}));
    }
}
