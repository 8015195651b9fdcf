//! Updates and table rows against the recorded answers: each scenario is walked with the object as recorded so far.

use super::super::*;
use super::golden::{causes, scenarios};
use super::{read, shared};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// The definition, and the path of the object alone (without a subresource), of a request for one object.
fn addressed(step: &Value) -> Option<(&'static ResourceDef, String, Option<String>)> {
    let path = step["path"].as_str()?.split('?').next()?.to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (resource, name, sub) = match rest {
        ["namespaces", _, resource, name] => (*resource, *name, None),
        ["namespaces", _, resource, name, sub] => (*resource, *name, Some((*sub).to_owned())),
        [resource, name] => (*resource, *name, None),
        [resource, name, sub] => (*resource, *name, Some((*sub).to_owned())),
        _ => return None,
    };
    Some((find(group, version, resource)?, format!("{resource}/{name}"), sub))
}

/// The answer of the named step with pointers set and removed, as the replayer does it.
fn edited(base: &Value, step: &Value) -> Value {
    let mut body = base.clone();
    for (pointer, value) in step["set"].as_object().into_iter().flatten() {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        match body.pointer_mut(parent) {
            Some(Value::Array(list)) if last == "-" => list.push(value.clone()),
            Some(Value::Array(list)) => list[last.parse::<usize>().unwrap()] = value.clone(),
            Some(Value::Object(map)) => {
                map.insert(last.replace("~1", "/"), value.clone());
            }
            _ => {}
        }
    }
    for pointer in step["remove"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        if let Some(Value::Object(map)) = body.pointer_mut(parent) {
            map.remove(&last.replace("~1", "/"));
        }
    }
    body
}

#[test]
fn updates_are_refused_for_the_recorded_causes() {
    let Some(shared) = shared() else { return };
    let (mut steps, mut matched) = (0, 0);
    let mut report = BTreeMap::new();
    for category in ["validation", "subresources"] {
        for file in scenarios(&shared, category) {
            let text = read(file.clone())
                .to_string()
                .replace("<rand>", "xxxxx")
                .replace("<uid>", super::golden::UID)
                .replace("${id}", "abc12")
                .replace("${ns}", "g-abc12");
            let scenario: Value = serde_json::from_str(&text).unwrap();
            let (mut answers, mut current) = (HashMap::new(), HashMap::new());
            for step in scenario["steps"].as_array().unwrap() {
                let body = &step["expect"]["body"];
                let id = step["id"].as_str().unwrap_or("");
                answers.insert(id, body);
                let status = step["expect"]["status"].as_i64().unwrap_or(0);
                if let Some((def, key, None)) = addressed(step)
                    && let (Some(from), "PUT") = (step["bodyFrom"].as_str(), step["method"].as_str().unwrap_or(""))
                    && let (Some(base), Some(old)) = (answers.get(from), current.get(&key))
                    && matches!(status, 200 | 422)
                {
                    steps += 1;
                    let mut new = edited(base, step);
                    (def.strategy.default)(&mut new);
                    (def.strategy.prepare_update)(&mut new, old);
                    let mut errors = (def.strategy.validate)(&new);
                    errors.extend((def.strategy.validate_update)(&new, old));
                    let found: Vec<Value> =
                        errors.iter().map(|e| json!({"reason": e.cause.reason(), "field": e.field})).collect();
                    let got = causes(&json!({"details": {"causes": found}})).0;
                    let want = causes(body).0;
                    if got == want {
                        matched += 1;
                    } else {
                        let name = format!("{category}/{} {id}", file.file_stem().unwrap().to_string_lossy());
                        report.insert(name, format!("\n  got  {got:?}\n  want {want:?}"));
                    }
                }
                if let (200 | 201, Some(name)) = (status, body["metadata"]["name"].as_str()) {
                    let resource = all().iter().find(|d| Some(d.kind) == body["kind"].as_str()).map(|d| d.resource);
                    if let Some(resource) = resource {
                        current.insert(format!("{resource}/{name}"), body.clone());
                    }
                }
            }
        }
    }
    for (name, text) in &report {
        eprintln!("{name}: {text}");
    }
    eprintln!("causes match in {matched} of {steps} updates");
    assert_eq!(matched, steps);
}

#[test]
fn rows_show_the_recorded_cells() {
    let Some(shared) = shared() else { return };
    let (mut rows, mut matched) = (0, 0);
    let mut report = BTreeMap::new();
    for category in ["table", "crud"] {
        for file in scenarios(&shared, category) {
            let scenario = read(file.clone());
            let mut current: HashMap<String, Value> = HashMap::new();
            for step in scenario["steps"].as_array().unwrap() {
                let body = &step["expect"]["body"];
                if body["kind"] == "Table"
                    && let Some((def, key, None)) = addressed(step)
                    && let Some(object) = current.get(&key)
                {
                    rows += 1;
                    let stored = match def.conversion {
                        Some(conversion) => (conversion.to_storage)(object.clone()),
                        None => object.clone(),
                    };
                    let now = "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second();
                    let mut got = (def.row)(&stored, now);
                    // The replayer took a cell out that differs from run to run: the restarts' time, or a flow
                    // schema's condition, which another part of kube-apiserver sets.
                    let mut wanted_cells = body["rows"][0]["cells"].as_array().unwrap().clone();
                    if def.kind == "FlowSchema" {
                        got.truncate(5);
                        wanted_cells.truncate(5);
                    }
                    if got.len() > wanted_cells.len() {
                        got.remove(3);
                    }
                    let got = Value::from(got);
                    let want = &Value::from(wanted_cells);
                    let same = |(got, want): (&Value, &Value)| {
                        got == want
                            || want == "<age>"
                            || want == "<time>"
                            || want.as_str().is_some_and(|w| w.contains("${id}"))
                            || (def.kind == "Event" && got.as_str().is_some_and(|g| g.ends_with('d')))
                    };
                    let (got_list, want_list) = (got.as_array().unwrap(), want.as_array().unwrap());
                    let columns: Vec<Value> =
                        body["columnDefinitions"].as_array().into_iter().flatten().cloned().collect();
                    let named = |c: &Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority});
                    let cells = got_list.len() == want_list.len() && got_list.iter().zip(want_list).all(same);
                    let conditions = Value::from((def.row_conditions)(&stored));
                    let wanted = body["rows"][0].get("conditions").cloned().unwrap_or(json!([]));
                    let heads = columns.is_empty() || columns == def.columns.iter().map(named).collect::<Vec<_>>();
                    if cells && heads && conditions == wanted {
                        matched += 1;
                    } else {
                        let name = format!("{category}/{} {}", file.file_stem().unwrap().to_string_lossy(), step["id"]);
                        report.insert(name, format!("heads {heads}\n  got  {got}\n  want {want}"));
                    }
                }
                // Where the object itself is not recorded, it is made of the request.
                if body.is_null()
                    && let Some((def, namespaced)) = super::golden::created(step)
                    && let Some(object) = super::created::create(def, namespaced, step)
                {
                    current.insert(
                        format!("{}/{}", def.resource, step["body"]["metadata"]["name"].as_str().unwrap()),
                        object,
                    );
                }
                if body.is_null()
                    && step["method"] == "PATCH"
                    && let Some((_, key, Some(_))) = addressed(step)
                    && let Some(object) = current.get_mut(&key)
                {
                    *object = crate::schema::json_merge(object, &step["body"]);
                }
                if step["method"] == "DELETE"
                    && let Some((_, key, None)) = addressed(step)
                    && let Some(object) = current.get_mut(&key)
                {
                    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z".into();
                }
                if body["kind"] != "Table"
                    && let Some(name) = body["metadata"]["name"].as_str()
                    && let Some(def) = all().iter().find(|d| Some(d.kind) == body["kind"].as_str())
                {
                    current.insert(format!("{}/{name}", def.resource), body.clone());
                }
            }
        }
    }
    for (name, text) in &report {
        eprintln!("{name}: {text}");
    }
    eprintln!("{matched} of {rows} rows are as recorded");
    assert_eq!(matched, rows);
}
