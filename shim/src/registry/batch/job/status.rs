//! What a job's status may say, and become: `ValidateJobUpdateStatus`. Rules that not every controller keeps are asked of
//! what a write changes, as upstream asks them (`getStatusValidationOptions`).

use super::policy::count_indexes;
use crate::meta::Object;
use crate::registry::field::{Errors, Path};
use crate::registry::value::{items, same, text, truth};
use crate::registry::{meta, template};
use serde_json::Value;

pub(super) fn validate(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    let (status, path) = (&new["status"], Path::new("status"));
    template::non_negative(status, &["active", "succeeded", "failed", "ready", "terminating"], &path, &mut errors);
    uncounted(&status["uncountedTerminatedPods"], &path.child("uncountedTerminatedPods"), &mut errors);
    let write = Write { new, old };
    conditions(&write, &path, &mut errors);
    finished(&write, &path, &mut errors);
    indexes(&write, &path, &mut errors);
    if write.changes(&["ready", "active"]) && write.number("ready") > write.number("active") {
        let detail = "cannot set more ready pods than active";
        errors.push(path.child("ready").invalid(write.number("ready"), detail));
    }
    kept(&write, &path, &mut errors);
    errors
}

/// A write of a status, and the one before it.
struct Write<'a> {
    new: &'a Object,
    old: &'a Object,
}

impl Write<'_> {
    fn is(&self, kind: &str) -> bool {
        holds(self.new, kind)
    }

    fn was(&self, kind: &str) -> bool {
        holds(self.old, kind)
    }

    /// Whether one of these conditions is other than it was.
    fn turns(&self, kinds: &[&str]) -> bool {
        kinds.iter().any(|kind| self.is(kind) != self.was(kind))
    }

    /// Whether one of these fields is other than it was.
    fn changes(&self, fields: &[&str]) -> bool {
        fields.iter().any(|field| !same(&self.new["status"][*field], &self.old["status"][*field]))
    }

    fn number(&self, field: &str) -> i64 {
        self.new["status"][field].as_i64().unwrap_or(0)
    }

    fn indexed(&self) -> bool {
        text(&self.new["spec"]["completionMode"]) == "Indexed"
    }
}

fn holds(job: &Object, kind: &str) -> bool {
    items(&job["status"]["conditions"]).iter().any(|c| text(&c["type"]) == kind && text(&c["status"]) == "True")
}

/// Uids of pods that are yet to be counted, each once.
fn uncounted(pods: &Value, path: &Path, errors: &mut Errors) {
    let mut seen: Vec<&Value> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (index, uid) in items(&pods[list]).iter().enumerate() {
            let path = path.child(list).index(index);
            if text(uid).is_empty() {
                errors.push(path.invalid("", "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(path.duplicate(uid.clone()));
            }
            seen.push(uid);
        }
    }
}

/// Conditions that exclude or need each other, and the time of completion.
fn conditions(write: &Write<'_>, path: &Path, errors: &mut Errors) {
    let both = |a: &str, b: &str| write.is(a) && write.is(b);
    let own = path.child("conditions");
    if write.turns(&["Complete", "Failed"]) && both("Complete", "Failed") {
        errors.push(own.invalid_omitted("cannot set Complete=True and Failed=true conditions"));
    }
    if write.turns(&["Complete", "FailureTarget"]) && both("Complete", "FailureTarget") {
        errors.push(own.invalid_omitted("cannot set Complete=True and FailureTarget=true conditions"));
    }
    let (status, at) = (&write.new["status"], path.child("completionTime"));
    if write.turns(&["Complete"]) || write.changes(&["completionTime"]) {
        match (status["completionTime"].is_null(), write.is("Complete")) {
            (false, false) => {
                let detail = "cannot set completionTime when there is no Complete=True condition";
                errors.push(at.invalid(status["completionTime"].clone(), detail));
            }
            (true, true) => errors.push(at.required("completionTime is required for Complete jobs")),
            _ => {}
        }
    }
    // Times are of one form, in UTC: they compare as texts.
    let (start, end) = (text(&status["startTime"]), text(&status["completionTime"]));
    if write.changes(&["startTime", "completionTime"]) && !start.is_empty() && !end.is_empty() && end < start {
        errors.push(at.invalid(end, "completionTime cannot be set before startTime"));
    }
    if write.turns(&["Failed", "FailureTarget"]) && write.is("Failed") && !write.is("FailureTarget") {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.push(own.invalid_omitted(detail));
    }
    if write.turns(&["Complete", "SuccessCriteriaMet"]) && write.is("Complete") && !write.is("SuccessCriteriaMet") {
        let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(own.invalid_omitted(detail));
    }
}

/// A finished job has started, and nothing of it runs or waits to be counted.
fn finished(write: &Write<'_>, path: &Path, errors: &mut Errors) {
    let status = &write.new["status"];
    if !write.is("Complete") && !write.is("Failed") {
        return;
    }
    let finishes = !write.was("Complete") && !write.was("Failed");
    let asked = |field: &str| finishes || write.changes(&[field]);
    if asked("active") && write.number("active") > 0 {
        errors.push(path.child("active").invalid(write.number("active"), "active>0 is invalid for finished job"));
    }
    if asked("startTime") && status["startTime"].is_null() {
        errors.push(path.child("startTime").required("startTime is required for finished job"));
    }
    let waiting = &status["uncountedTerminatedPods"];
    if asked("uncountedTerminatedPods") && ["succeeded", "failed"].iter().any(|list| !items(&waiting[*list]).is_empty())
    {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(path.child("uncountedTerminatedPods").invalid(waiting.clone(), detail));
    }
    if asked("terminating") && write.number("terminating") > 0 {
        let detail = "terminating>0 is invalid for finished job";
        errors.push(path.child("terminating").invalid(write.number("terminating"), detail));
    }
}

/// Which indexes are done with, of a job that has indexes.
fn indexes(write: &Write<'_>, path: &Path, errors: &mut Errors) {
    let (spec, status) = (&write.new["spec"], &write.new["status"]);
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for field in ["completedIndexes", "failedIndexes"] {
        let listed = text(&status[field]);
        if write.changes(&[field]) && write.indexed() && count_indexes(listed, completions).is_none() {
            let detail = format!("error parsing {field}: cannot convert string to integer for index: \"{listed}\"");
            errors.push(path.child(field).invalid(listed, &detail));
        }
    }
    if write.changes(&["completedIndexes"]) && !write.indexed() && !text(&status["completedIndexes"]).is_empty() {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(path.child("completedIndexes").invalid(text(&status["completedIndexes"]), detail));
    }
    if write.changes(&["failedIndexes"])
        && spec["backoffLimitPerIndex"].is_null()
        && let Some(failed) = status["failedIndexes"].as_str()
    {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(path.child("failedIndexes").invalid(failed, detail));
    }
}

/// What a status has said once it goes on saying.
fn kept(write: &Write<'_>, path: &Path, errors: &mut Errors) {
    let (spec, status, before) = (&write.new["spec"], &write.new["status"], &write.old["status"]);
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if write.was(kind) && !write.is(kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            errors.push(path.child("conditions").invalid_omitted(&detail));
        }
    }
    // Indexed jobs whose completions follow their parallelism may shrink.
    let elastic = write.indexed() && spec["completions"] == spec["parallelism"];
    for (field, may_fall) in [("failed", false), ("succeeded", elastic)] {
        if !may_fall && write.number(field) < before[field].as_i64().unwrap_or(0) {
            let detail = format!("cannot decrease the {field} counter");
            errors.push(path.child(field).invalid(write.number(field), &detail));
        }
    }
    let time = |status: &Value, field: &str| status[field].as_str().map(str::to_owned);
    if let (Some(now), Some(then)) = (time(status, "completionTime"), time(before, "completionTime"))
        && now != then
    {
        errors.push(path.child("completionTime").invalid(now, "completionTime cannot be mutated"));
    }
    // Upstream says "removed" of a changed time too.
    if time(before, "startTime").is_some_and(|then| Some(then) != time(status, "startTime")) && !truth(&spec["suspend"])
    {
        errors.push(path.child("startTime").required("startTime cannot be removed for unsuspended job"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const T0: &str = "2026-01-01T00:00:00Z";
    const T1: &str = "2026-01-01T00:01:00Z";

    fn job(status: Value) -> Object {
        json!({"metadata": {"name": "j"}, "spec": {"completions": 2, "parallelism": 1}, "status": status})
    }

    fn conditions_of(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn a_job_finishes_in_order_and_stays_finished() {
        let running = json!({"startTime": T0, "active": 1, "ready": 1, "failed": 1});
        let (complete, failed) =
            (conditions_of(&["SuccessCriteriaMet", "Complete"]), conditions_of(&["FailureTarget", "Failed"]));
        let done = json!({"startTime": T0, "completionTime": T1, "conditions": complete, "succeeded": 2, "failed": 1});
        for (old, new, fields) in [
            (&json!({}), running.clone(), vec![]),
            (&running, done.clone(), vec![]),
            (&running, json!({"startTime": T0, "conditions": failed, "failed": 2}), vec![]),
            (
                &running,
                json!({"startTime": T0, "completionTime": T1, "conditions": conditions_of(&["Complete"]), "failed": 1}),
                vec!["status.conditions"],
            ),
            (
                &running,
                json!({"startTime": T0, "conditions": conditions_of(&["Failed"]), "active": 1, "failed": 1}),
                vec!["status.conditions", "status.active"],
            ),
            (&running, json!({"startTime": T0, "conditions": complete, "failed": 1}), vec!["status.completionTime"]),
            (&running, json!({"startTime": T0, "completionTime": T1, "failed": 1}), vec!["status.completionTime"]),
            (&running, json!({"startTime": T0, "active": 1, "ready": 2, "failed": 1}), vec!["status.ready"]),
            (&running, json!({"startTime": T1, "failed": 0}), vec!["status.failed", "status.startTime"]),
            (&running, json!({"startTime": T0, "failed": 1, "completedIndexes": "0"}), vec!["status.completedIndexes"]),
            (&done, running.clone(), vec!["status.conditions", "status.succeeded"]),
        ] {
            let errors = validate(&job(new.clone()), &job(old.clone()));
            let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{old} -> {new}");
        }
    }
}
