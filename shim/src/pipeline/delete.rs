//! DELETE: preconditions, grace, finalizers, propagation; of one object, of a collection, and by eviction.

use super::create::{admit, after_seconds, rfc3339};
use super::read::select;
use super::stored::{ATTEMPTS, Stored, Written};
use super::{Answer, Collection, ObjectAnswer, Outcome, Stage, decode, definitions, disruption, form, policies};
use crate::admission::Operation;
use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::apiextensions::customresourcedefinition;
use crate::registry::field::Cause;
use crate::registry::gv::POLICY_V1;
use crate::request::Target;
use crate::request::options::{DeleteQuery, ListOptions, WriteOptions};
use crate::store::Expect;
use bytes::Bytes;
use serde_json::{Value, json};

/// Said to who deletes a job without a word on its pods.
const JOB_WARNING: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions`, from body or query.
#[derive(Clone, Debug, Default)]
struct Options {
    dry_run: bool,
    grace: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    policy: Option<Policy>,
    /// `orphanDependents: false` was said: 202 when the object stays for now.
    cascades: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Policy {
    Orphan,
    Background,
    Foreground,
}

pub(super) async fn delete(stage: &Stage<'_>, query: DeleteQuery, body: Bytes) -> Result<Outcome, ApiError> {
    let options = options(stage, query, &body)?;
    let old = stage.api.read(&stage.target.def, stage.namespace(), &stage.target.name).await?;
    let old = old.ok_or_else(|| ApiError::not_found(&stage.target.def, &stage.target.name))?;
    let mut outcome = delete_object(stage, &options, old).await?;
    if stage.target.def.kind == "Job" && options.policy.is_none() {
        outcome.warnings.push(JOB_WARNING.to_owned());
    }
    Ok(outcome)
}

pub(super) async fn collection(
    stage: &Stage<'_>,
    list: &ListOptions,
    query: DeleteQuery,
    body: Bytes,
) -> Result<Outcome, ApiError> {
    let options = options(stage, query, &body)?;
    let def = &stage.target.def;
    let snapshot = stage.api.cache_of(def)?.consistent().await?;
    let entries = select(stage.target, list, &snapshot);
    for entry in &entries {
        let target = Target { name: entry.key.name().to_owned(), ..stage.target.clone() };
        let one = Stage { target: &target, ..*stage };
        let stored =
            Stored { revision: entry.revision, bytes: entry.bytes.clone(), value: super::stored::value(&entry.bytes)? };
        match delete_object(&one, &options, stored).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let answer = Collection { def: def.clone(), revision: snapshot.revision, entries, next: None, remaining: None };
    Ok(Answer::Collection(answer).into())
}

/// `pods/eviction`: a deletion with the options that the Eviction carries, when the pod's disruption budget allows it.
pub(super) async fn evict(stage: &Stage<'_>, write: &WriteOptions, body: Bytes) -> Result<Outcome, ApiError> {
    let body = eviction_in_v1(body);
    let eviction = decode::object(stage, POLICY_V1, "Eviction", &body, write.validation)?.value;
    if !eviction.name().is_empty() && eviction.name() != stage.target.name {
        return Err(ApiError::BadRequest("name in URL does not match name in Eviction object".into()));
    }
    let mut options = parse(&eviction["deleteOptions"])?;
    options.dry_run |= write.dry_run;
    let old = stage.api.read(&stage.target.def, stage.namespace(), &stage.target.name).await?;
    let mut old = old.ok_or_else(|| ApiError::not_found(&stage.target.def, &stage.target.name))?;
    check_preconditions(stage, &options, &old)?;
    disruption::allow(stage, &old.value, options.dry_run).await?;
    if !options.dry_run {
        old = announce(stage, old).await?;
        // The version that the client named was the one before the condition.
        options.version = None;
    }
    delete_object(stage, &options, old).await?;
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::Document { code: 201, value }.into())
}

/// Evictions are still understood in policy/v1beta1, whose fields are the same.
fn eviction_in_v1(body: Bytes) -> Bytes {
    match serde_json::from_slice::<Value>(&body) {
        Ok(mut eviction) if eviction["apiVersion"] == "policy/v1beta1" => {
            eviction["apiVersion"] = POLICY_V1.to_string().into();
            eviction.to_string().into()
        }
        Ok(_) | Err(_) => body,
    }
}

/// The condition by which controllers tell an eviction from a failure, written before the pod goes.
async fn announce(stage: &Stage<'_>, mut pod: Stored) -> Result<Stored, ApiError> {
    let (def, name) = (&stage.target.def, stage.target.name.as_str());
    for _ in 0..ATTEMPTS {
        let mut object = pod.value.clone();
        set_condition(
            &mut object,
            json!({
                "type": "DisruptionTarget", "status": "True", "lastProbeTime": null, "lastTransitionTime": rfc3339(),
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            }),
        );
        match stage.api.write(def, object, Expect::At(pod.revision), false).await? {
            Written::Done(stored) => return Ok(stored),
            Written::Lost(now) => pod = now.ok_or_else(|| ApiError::not_found(def, name))?,
        }
    }
    Err(ApiError::modified(def, name))
}

/// Sets the condition of its type; its time stays where its status does.
fn set_condition(pod: &mut Object, mut condition: Value) {
    match pod["status"]["conditions"].as_array_mut() {
        Some(list) => match list.iter_mut().find(|held| held["type"] == condition["type"]) {
            Some(held) => {
                if held["status"] == condition["status"] {
                    condition["lastTransitionTime"] = held["lastTransitionTime"].clone();
                }
                *held = condition;
            }
            None => list.push(condition),
        },
        None => pod["status"]["conditions"] = json!([condition]),
    }
}

/// A body, when there is one, is used instead of the query.
fn options(stage: &Stage<'_>, query: DeleteQuery, body: &[u8]) -> Result<Options, ApiError> {
    let mut options = if body.is_empty() {
        Options {
            dry_run: query.dry_run,
            grace: query.grace_period_seconds,
            policy: policy(query.propagation_policy.as_deref(), query.orphan_dependents)?,
            cascades: query.orphan_dependents == Some(false),
            ..Options::default()
        }
    } else if stage.content_type == "application/vnd.kubernetes.protobuf" {
        let gv = crate::registry::gv::CORE_V1;
        parse(&decode::object(stage, gv, "DeleteOptions", body, crate::schema::FieldValidation::Ignore)?.value)?
    } else {
        let body = decode::json(stage.content_type, "DeleteOptions", body)?;
        let value: Value = serde_json::from_slice(&body).map_err(|_| {
            ApiError::BadRequest("couldn't get version/kind; json parse error: the body is not JSON".into())
        })?;
        let kind = value["kind"].as_str().unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" {
            return Err(ApiError::BadRequest(format!(
                "no kind \"{kind}\" is registered for version \"{}\" in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
                value["apiVersion"].as_str().unwrap_or("v1")
            )));
        }
        parse(&value)?
    };
    // A negative grace period means "soon", as upstream reads it.
    options.grace = options.grace.map(|g| if g < 0 { 1 } else { g });
    Ok(options)
}

fn parse(value: &Value) -> Result<Options, ApiError> {
    let text = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let orphan = value["orphanDependents"].as_bool();
    let dry_run = value["dryRun"].as_array().filter(|d| !d.is_empty());
    if let Some(values) = dry_run.filter(|d| d.iter().any(|v| v != "All")) {
        let text = format!("Unsupported value: {}: supported values: \"All\"", Value::from(values.clone()));
        let what = Qualified::new("meta.k8s.io", "DeleteOptions");
        return Err(ApiError::invalid_field(what, "", Cause::NotSupported, "dryRun", text));
    }
    Ok(Options {
        dry_run: dry_run.is_some(),
        grace: value["gracePeriodSeconds"].as_i64(),
        uid: text(&value["preconditions"]["uid"]),
        version: text(&value["preconditions"]["resourceVersion"]),
        policy: policy(value["propagationPolicy"].as_str(), orphan)?,
        cascades: orphan == Some(false),
    })
}

fn policy(text: Option<&str>, orphan: Option<bool>) -> Result<Option<Policy>, ApiError> {
    let invalid = |cause: Cause, field: &str, message: String| {
        Err(ApiError::invalid_field(Qualified::new("meta.k8s.io", "DeleteOptions"), "", cause, field, message))
    };
    match (text, orphan) {
        (Some(text), Some(_)) => {
            let text =
                format!("Invalid value: \"{text}\": orphanDependents and deletionPropagation cannot be both set");
            invalid(Cause::Invalid, "propagationPolicy", text)
        }
        (None, None) => Ok(None),
        (None, Some(true)) | (Some("Orphan"), None) => Ok(Some(Policy::Orphan)),
        (None, Some(false)) | (Some("Background"), None) => Ok(Some(Policy::Background)),
        (Some("Foreground"), None) => Ok(Some(Policy::Foreground)),
        (Some(other), None) => {
            let text =
                format!("Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\"");
            invalid(Cause::NotSupported, "propagationPolicy", text)
        }
    }
}

async fn delete_object(stage: &Stage<'_>, options: &Options, old: Stored) -> Result<Outcome, ApiError> {
    let warnings = policies::check(stage, Operation::Delete, (None, Some(&old.value)), options.dry_run).await?;
    let mut outcome = delete_admitted(stage, options, old).await?;
    outcome.warnings.extend(warnings);
    Ok(outcome)
}

async fn delete_admitted(stage: &Stage<'_>, options: &Options, mut old: Stored) -> Result<Outcome, ApiError> {
    let (api, def) = (stage.api, &stage.target.def);
    let name = stage.target.name.as_str();
    for _ in 0..ATTEMPTS {
        check_preconditions(stage, options, &old)?;
        admit(stage, Operation::Delete, None, Some(&old.value)).await?;
        let step = plan(def, options, &old.value);
        let marked = match step {
            Step::Keep => return Ok(answer(stage, options, old.bytes)),
            Step::Remove => None,
            Step::Mark { object, then_remove } => {
                match api.write(def, object, Expect::At(old.revision), options.dry_run).await? {
                    Written::Done(stored) if !then_remove => return Ok(answer(stage, options, stored.bytes)),
                    Written::Done(stored) => Some(stored),
                    Written::Lost(now) => {
                        old = now.ok_or_else(|| ApiError::not_found(def, name))?;
                        continue;
                    }
                }
            }
        };
        // Whoever saw our mark (the node's agent) may have removed the object before us, as upstream allows for too.
        let was_marked = marked.is_some();
        let object = marked.unwrap_or(old);
        match api.remove(def, &object, options.dry_run).await? {
            Ok(_) => return Ok(removed(stage, object)),
            Err(None) if was_marked => return Ok(removed(stage, object)),
            Err(now) => old = now.ok_or_else(|| ApiError::not_found(def, name))?,
        }
    }
    Err(ApiError::modified(def, name))
}

/// What a DELETE does to the object as it is.
enum Step {
    /// It is being deleted already, and nothing changes.
    Keep,
    /// It is marked with its deletion time (and finalizers); then removed at once, or not yet.
    Mark {
        object: Object,
        then_remove: bool,
    },
    Remove,
}

/// Pure but for the time written into `deletionTimestamp` (apiserver's `BeforeDelete` and finalizer rules).
fn plan(def: &crate::registry::ResourceDef, options: &Options, old: &Object) -> Step {
    let mut object = old.clone();
    // What the kind does by default gives way to what the request or an earlier deletion says.
    let said = |finalizer: &&str| matches!(*finalizer, ORPHAN | FOREGROUND);
    let undecided = options.policy.is_none() && !old.finalizers().iter().any(said);
    let policy = if undecided && def.orphans_by_default { Some(Policy::Orphan) } else { options.policy };
    let mut changed = set_finalizers(&mut object, policy);
    if def.storage == customresourcedefinition::DEF.storage && old.deletion_timestamp().is_none() {
        definitions::mark_deleted(&mut object);
        changed = true;
    }
    let namespace_held =
        def.resource == "namespaces" && old["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let finalized = object.finalizers().is_empty() && !namespace_held;
    let mut grace = 0;
    if old.deletion_timestamp().is_some() {
        let current = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
        match (current, options.grace) {
            // Only a shorter grace period may be asked for.
            (Some(current), Some(asked)) if def.strategy.grace.is_some() && asked < current => {
                mark(&mut object, asked, shortened(old, current, asked));
                changed = true;
                grace = asked;
            }
            (Some(current), _) if def.strategy.grace.is_some() && current > 0 => return Step::Keep,
            _ if !finalized && !changed => return Step::Keep,
            _ => {}
        }
    } else {
        if let Some(decide) = def.strategy.grace {
            grace = decide(old, options.grace);
        }
        if def.strategy.grace.is_some() || !finalized || changed {
            mark(&mut object, grace, after_seconds(grace));
            if let Some(generation) = old["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
                object["metadata"]["generation"] = (generation + 1).into();
            }
            if def.resource == "namespaces" {
                object["status"]["phase"] = "Terminating".into();
                object.meta_mut().remove("deletionGracePeriodSeconds");
            }
            changed = true;
        }
    }
    let then_remove = finalized && grace == 0;
    match (changed, then_remove) {
        (true, _) => Step::Mark { object, then_remove },
        (false, true) => Step::Remove,
        (false, false) => Step::Keep,
    }
}

fn mark(object: &mut Object, grace: i64, at: String) {
    let meta = object.meta_mut();
    meta.insert("deletionTimestamp".into(), at.into());
    meta.insert("deletionGracePeriodSeconds".into(), grace.into());
}

/// The deletion time moves with the grace period, counted from when deletion was first asked for.
fn shortened(old: &Object, current: i64, asked: i64) -> String {
    let at: Option<jiff::Timestamp> = old.deletion_timestamp().and_then(|t| t.parse().ok());
    at.and_then(|at| at.checked_add(jiff::SignedDuration::from_secs(asked - current)).ok())
        .map_or_else(rfc3339, |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Sets the garbage collector's finalizers for the policy asked for; whether anything changed.
fn set_finalizers(object: &mut Object, policy: Option<Policy>) -> bool {
    let Some(policy) = policy else { return false };
    let before: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
    let mut after: Vec<String> = before.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    match policy {
        Policy::Orphan => after.push(ORPHAN.into()),
        Policy::Foreground => after.push(FOREGROUND.into()),
        Policy::Background => {}
    }
    if after == before {
        return false;
    }
    if after.is_empty() {
        object.meta_mut().remove("finalizers");
    } else {
        object.meta_mut().insert("finalizers".into(), after.into());
    }
    true
}

fn check_preconditions(stage: &Stage<'_>, options: &Options, old: &Stored) -> Result<(), ApiError> {
    let def = &stage.target.def;
    // Namespaces are deleted by a store of their own, which names the resource.
    let what = || if def.resource == "namespaces" { Qualified::resource(def) } else { Qualified::kind(def) };
    let conflict = |why: String| Err(ApiError::Conflict { what: what(), name: stage.target.name.clone(), why });
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != old.value.uid()) {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.value.uid()
        ));
    }
    let current = old.revision.to_string();
    if let Some(version) = options.version.as_deref().filter(|v| *v != current) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({current}). The object might have been modified"
        ));
    }
    Ok(())
}

/// The object stays for now.
fn answer(stage: &Stage<'_>, options: &Options, bytes: Bytes) -> Outcome {
    let code = if options.cascades { 202 } else { 200 };
    Answer::Object(ObjectAnswer { def: stage.target.def.clone(), bytes, code }).into()
}

/// The object is gone.
fn removed(stage: &Stage<'_>, object: Stored) -> Outcome {
    let def = &stage.target.def;
    if def.returns_deleted && form::is_stored_form(def) {
        return Answer::Object(ObjectAnswer { def: def.clone(), bytes: object.bytes, code: 200 }).into();
    }
    let mut details = json!({"name": stage.target.name, "kind": def.resource, "uid": object.value.uid()});
    if !def.gv.group.is_empty() {
        details["group"] = def.gv.group.into();
    }
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Answer::Document { code: 200, value }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn outcome(resource: &str, object: Value, options: Options) -> String {
        let def = registry::find("", "v1", resource).unwrap();
        match plan(def, &options, &object) {
            Step::Keep => "keep".into(),
            Step::Remove => "remove".into(),
            Step::Mark { object, then_remove } => {
                let meta = &object["metadata"];
                format!(
                    "mark grace={} finalizers={} remove={then_remove}",
                    meta["deletionGracePeriodSeconds"], meta["finalizers"]
                )
            }
        }
    }

    #[test]
    fn an_object_is_removed_or_marked_by_its_finalizers_and_policy() {
        let plain = json!({"metadata": {"name": "a"}});
        let held = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
        let going = json!({"metadata": {"finalizers": ["x/y"], "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}});
        let orphan = Options { policy: Some(Policy::Orphan), ..Options::default() };
        let background = Options { policy: Some(Policy::Background), ..Options::default() };
        for (object, options, wanted) in [
            (plain.clone(), Options::default(), "remove"),
            (plain.clone(), background, "remove"),
            (plain, orphan, "mark grace=0 finalizers=[\"orphan\"] remove=false"),
            (held, Options::default(), "mark grace=0 finalizers=[\"x/y\"] remove=false"),
            (going, Options::default(), "keep"),
        ] {
            assert_eq!(outcome("configmaps", object, options), wanted);
        }
    }

    #[test]
    fn a_namespace_waits_for_its_spec_finalizers() {
        let namespace =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        assert_eq!(
            outcome("namespaces", namespace, Options::default()),
            "mark grace=null finalizers=null remove=false"
        );
    }
}
