//! PUT and PATCH, of objects and their subresources: read → change → default → admit → prepare → validate → commit.

use super::create::{admit, check, create_object, parse_version, place, rfc3339, version_required};
use super::managed::{self, Ownership};
use super::stored::{ATTEMPTS, Stored, Written, splice_version};
use super::{Answer, ObjectAnswer, Outcome, Stage, authorize, decode, form, owners, policies, quotas, services};
use crate::admission::Operation;
use crate::authz::Attributes;
use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::certificates::certificatesigningrequest;
use crate::registry::core::{namespace, persistentvolume, pod};
use crate::registry::field::{Cause, quoted};
use crate::request::Sub;
use crate::request::options::{PatchType, WriteOptions};
use crate::schema::apply::same_but_times;
use crate::schema::{self, AnySchema, FieldValidation, SchemaError};
use crate::store::Expect;
use bytes::Bytes;
use serde_json::Value;

/// Operations in one JSON patch (apiserver's `maxJSONPatchOperations`).
const MAX_PATCH_OPERATIONS: usize = 10_000;

/// What is done to the object.
enum Change {
    /// Its new storage form.
    Put(Object),
    Patch(PatchType, Value),
    /// Server-side apply of a configuration.
    Apply(Value),
}

pub(super) async fn replace(stage: &Stage<'_>, options: &WriteOptions, body: Bytes) -> Result<Outcome, ApiError> {
    let target = stage.target;
    let def = &target.def;
    let decoded = decode::object(stage, def.gv, def.kind, &body, options.validation)?;
    let mut object = form::to_storage(def, decoded.value);
    check_name(stage, &object)?;
    place(stage, &mut object)?;
    let found = stage.api.read(def, stage.namespace(), &target.name).await?;
    if found.is_none() && target.sub.is_none() && def.strategy.allow_create_on_update {
        may_create(stage).await?;
        object.meta_mut().remove("resourceVersion");
        return create_object(stage, options, object, Ownership::Writer, decoded.warnings).await;
    }
    change(stage, options, found, Change::Put(object), decoded.warnings).await
}

/// A write that finds nothing to change and creates instead needs the right to.
async fn may_create(stage: &Stage<'_>) -> Result<(), ApiError> {
    let target = stage.target;
    let attributes = Attributes {
        verb: "create",
        is_resource: true,
        group: target.def.gv.group,
        resource: target.def.resource,
        subresource: "",
        namespace: stage.namespace(),
        name: &target.name,
        path: "",
    };
    authorize(stage.api, stage.user, &attributes).await
}

/// Server-side apply: merges the configuration into what there is, or creates it.
async fn apply_config(stage: &Stage<'_>, options: &WriteOptions, body: &[u8]) -> Result<Outcome, ApiError> {
    let target = stage.target;
    let def = &target.def;
    let (config, doubts) = decode::configuration(body, options.validation)?;
    for _ in 0..ATTEMPTS {
        let found = stage.api.read(def, stage.namespace(), &target.name).await?;
        if found.is_some() || target.sub.is_some() {
            return change(stage, options, found, Change::Apply(config), doubts).await;
        }
        may_create(stage).await?;
        let merged = managed::apply(stage, options, None, &config)?;
        let mut warnings = doubts.clone();
        let object = merged.object.unwrap_or_else(|| config.clone());
        if !object.uid().is_empty() {
            return Err(uid_mismatch(stage, object.uid()));
        }
        let object = conform(stage, object, options.validation, &mut warnings)?;
        match create_object(stage, options, object, Ownership::Applied(merged.managed), warnings).await {
            // Somebody else has just created it: apply to theirs.
            Err(ApiError::AlreadyExists { .. }) if !options.dry_run => {}
            outcome => return outcome,
        }
    }
    Err(ApiError::modified(def, &target.name))
}

fn uid_mismatch(stage: &Stage<'_>, uid: &str) -> ApiError {
    ApiError::Conflict {
        what: Qualified::resource(&stage.target.def),
        name: stage.target.name.clone(),
        why: format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found"),
    }
}

pub(super) async fn patch(
    stage: &Stage<'_>,
    kind: PatchType,
    options: &WriteOptions,
    body: Bytes,
) -> Result<Outcome, ApiError> {
    if kind == PatchType::Apply {
        return apply_config(stage, options, &body).await;
    }
    let patch: Value = serde_json::from_slice(&body).map_err(|e| {
        ApiError::BadRequest(if body.is_empty() {
            "unexpected end of JSON input".into()
        } else {
            format!("error decoding patch: {e}")
        })
    })?;
    match (&patch, kind) {
        (Value::Array(operations), PatchType::Json) if operations.len() > MAX_PATCH_OPERATIONS => {
            return Err(ApiError::TooLarge(format!(
                "The allowed maximum operations in a JSON patch is {MAX_PATCH_OPERATIONS}, got {}",
                operations.len()
            )));
        }
        (Value::Array(_), PatchType::Json) | (Value::Object(_), PatchType::Merge | PatchType::Strategic) => {}
        // An empty JSON patch, as upstream reads it.
        (Value::Null, PatchType::Json) => {}
        (other, PatchType::Json) => {
            let found = go_type(other);
            return Err(ApiError::BadRequest(format!(
                "error decoding patch: json: cannot unmarshal {found} into Go value of type []handlers.jsonPatchOp"
            )));
        }
        (other, PatchType::Merge | PatchType::Strategic | PatchType::Apply) => {
            let found = go_type(other);
            return Err(ApiError::BadRequest(format!(
                "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )));
        }
    }
    let found = stage.api.read(&stage.target.def, stage.namespace(), &stage.target.name).await?;
    change(stage, options, found, Change::Patch(kind, patch), Vec::new()).await
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Applies the change to the current object and commits, again when another writer was first and the caller did not
/// name the version that it changes.
async fn change(
    stage: &Stage<'_>,
    options: &WriteOptions,
    mut current: Option<Stored>,
    change: Change,
    warnings: Vec<String>,
) -> Result<Outcome, ApiError> {
    let (api, target) = (stage.api, stage.target);
    let def = &target.def;
    for _ in 0..ATTEMPTS {
        let Some(old) = current else { return Err(ApiError::not_found(def, &target.name)) };
        let mut warnings = warnings.clone();
        let (mut new, ownership) = match &change {
            Change::Put(object) => (object.clone(), Ownership::Writer),
            Change::Patch(kind, patch) => {
                (apply(stage, *kind, patch, &old, options.validation, &mut warnings)?, Ownership::Writer)
            }
            Change::Apply(config) => {
                let merged = managed::apply(stage, options, Some(&old.value), config)?;
                let object = match merged.object {
                    Some(object) => conform(stage, object, options.validation, &mut warnings)?,
                    None => old.value.clone(),
                };
                (object, Ownership::Applied(merged.managed))
            }
        };
        let wanted = parse_version(new.meta_str("resourceVersion"))?;
        match wanted {
            None if !def.strategy.allow_unconditional_update => return Err(version_required(def, &target.name)),
            Some(version) if version != old.revision => return Err(ApiError::modified(def, &target.name)),
            _ => {}
        }
        if let Change::Put(_) = change {
            check_uid(stage, &old, &new)?;
        }
        let schema = form::storage_schema(def)?;
        warnings.extend(owners::dedupe(&mut new));
        schema.default(&mut new);
        (def.strategy.default)(&mut new);
        keep_server_metadata(&mut new, &old.value);
        schema.canonicalize(&mut new);
        match ownership {
            Ownership::Writer => managed::track(stage, options, Some(&old.value), &mut new)?,
            Ownership::Applied(managed) => managed::set(&mut new, managed),
        }
        // Strategies keep the old metadata or the new, but never who owns what.
        let managers = new.meta_mut().remove("managedFields");
        admit(stage, Operation::Update, Some(&mut new), Some(&old.value)).await?;
        prepare(target.sub, stage, &mut new, &old.value);
        managed::set(&mut new, managers);
        validate(target.sub, stage, &new, &old.value)?;
        warnings.extend(check(stage, &new, Some(&old.value)).await?);
        let asked = policies::check(stage, Operation::Update, (Some(&new), Some(&old.value)), options.dry_run);
        warnings.extend(asked.await?);
        quotas::charge(stage, Operation::Update, &new, Some(&old.value), options.dry_run).await?;
        let held = match target.sub {
            None => services::allocate(api, def, &mut new, options.dry_run).await?,
            Some(_) => None,
        };
        warnings.extend((def.strategy.warnings)(&new, Some(&old.value)));

        if is_gone(&new) {
            match api.remove(def, &old, options.dry_run).await? {
                // Several may race to remove what has nothing left to wait for: it is gone, whoever was first.
                Ok(_) | Err(None) => {
                    new.meta_mut().insert("resourceVersion".into(), old.revision.to_string().into());
                    let bytes = Bytes::from(form::storage_schema(def)?.encode(&new));
                    return Ok(Outcome {
                        answer: Answer::Object(ObjectAnswer { def: def.clone(), bytes, code: 200 }),
                        warnings,
                    });
                }
                Err(now) if wanted.is_none() || !matches!(change, Change::Put(_)) => current = now,
                Err(_) => return Err(ApiError::modified(def, &target.name)),
            }
            services::release(api, held).await;
            continue;
        }
        if unchanged(def, &mut new, &old)? {
            let answer = Answer::Object(ObjectAnswer { def: def.clone(), bytes: old.bytes, code: 200 });
            return Ok(Outcome { answer, warnings });
        }
        let written = api.write(def, new, Expect::At(old.revision), options.dry_run).await?;
        services::release(api, held).await;
        match written {
            Written::Done(stored) => {
                let answer = Answer::Object(ObjectAnswer { def: def.clone(), bytes: stored.bytes, code: 200 });
                return Ok(Outcome { answer, warnings });
            }
            // A PUT or patch that names its version has lost; others are tried again on what is there now.
            Written::Lost(_) if wanted.is_some() && matches!(change, Change::Put(_)) => {
                return Err(ApiError::modified(def, &target.name));
            }
            Written::Lost(now) => current = now,
        }
    }
    Err(ApiError::modified(def, &target.name))
}

/// Custom resources know no strategic merge.
fn unknown_patch() -> ApiError {
    ApiError::UnsupportedMediaType(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, \
         application/merge-patch+json, application/apply-patch+yaml"
            .into(),
    )
}

/// The object as the patch makes it, in storage form.
fn apply(
    stage: &Stage<'_>,
    kind: PatchType,
    patch: &Value,
    old: &Stored,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Object, ApiError> {
    let def = &stage.target.def;
    let schema = form::schema(def)?;
    let served = form::to_served(def, old.value.clone());
    let patched = match kind {
        // Applied elsewhere.
        PatchType::Apply => Ok(served.clone()),
        PatchType::Json => schema::json_patch(&served, patch),
        PatchType::Merge => Ok(schema::json_merge(&served, patch)),
        PatchType::Strategic => match schema {
            AnySchema::BuiltIn(schema) => schema.strategic_merge(&served, patch),
            AnySchema::Custom(_) => return Err(unknown_patch()),
        },
    }
    .map_err(|error| match (kind, error) {
        (PatchType::Strategic, SchemaError::Patch(text) | SchemaError::Unmergeable(text)) => ApiError::Plain(text),
        (_, error) => decode::refuse(schema, error, b""),
    })?;
    let patched = keep_type(kind, patched, &served)?;
    let shown = patched.to_string();
    let decoded = schema.conform(patched, validation).map_err(|error| match kind {
        PatchType::Strategic => unfit(go_value(patch), &error.to_string()),
        PatchType::Json | PatchType::Merge | PatchType::Apply => unfit(shown, &error.to_string()),
    })?;
    warnings.extend(decoded.warnings);
    let mut object = form::to_storage(def, decoded.value);
    check_name(stage, &object)?;
    place(stage, &mut object)?;
    Ok(object)
}

/// A merged object of an apply as the schema has it, in storage form.
fn conform(
    stage: &Stage<'_>,
    object: Value,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Object, ApiError> {
    let def = &stage.target.def;
    let schema = form::schema(def)?;
    let decoded = schema.conform(object, validation).map_err(|e| ApiError::Plain(e.to_string()))?;
    warnings.extend(decoded.warnings);
    let mut object = form::to_storage(def, decoded.value);
    check_name(stage, &object)?;
    place(stage, &mut object)?;
    Ok(object)
}

/// A patch may not make another kind of the object; a strategic one is applied to the type itself and cannot.
fn keep_type(kind: PatchType, mut patched: Value, served: &Value) -> Result<Value, ApiError> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (own, own_version) = (text(served, "kind"), text(served, "apiVersion"));
    if (text(&patched, "kind"), text(&patched, "apiVersion")) == (own.clone(), own_version.clone()) {
        return Ok(patched);
    }
    if kind == PatchType::Strategic {
        patched["kind"] = own.into();
        patched["apiVersion"] = own_version.into();
        return Ok(patched);
    }
    let (wanted, version) = (text(&patched, "kind"), text(&patched, "apiVersion"));
    let short = |version: &str| version.rsplit('/').next().unwrap_or_default().to_owned();
    let why = match (wanted.as_str(), version.as_str()) {
        ("", _) => "Object 'Kind' is missing in '".to_owned() + &patched.to_string() + "'",
        (_, "") => format!("Object 'apiVersion' is missing in '{patched}'"),
        _ if version == own_version => {
            format!("converting ({}.{wanted}) to (core.{own}): unknown conversion", short(&version))
        }
        _ => format!("no kind \"{wanted}\" is registered for version \"{version}\" in scheme"),
    };
    Err(unfit(patched.to_string(), &why))
}

/// The 422 of a patch whose result is no object of its kind.
fn unfit(shown: String, why: &str) -> ApiError {
    let message = format!("Invalid value: {}: {why}", quoted(&shown));
    ApiError::invalid_field(Qualified::default(), "", Cause::Invalid, "patch", message)
}

/// As Go's `%+v` shows a decoded JSON value.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut fields: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            fields.sort_unstable();
            format!("map[{}]", fields.join(" "))
        }
    }
}

fn check_name(stage: &Stage<'_>, object: &Object) -> Result<(), ApiError> {
    let wanted = stage.target.name.as_str();
    match object.name() {
        "" => Err(ApiError::BadRequest(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        ))),
        name if name == wanted => Ok(()),
        name => Err(ApiError::BadRequest(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        ))),
    }
}

/// An update that names another uid is meant for an object that is gone.
fn check_uid(stage: &Stage<'_>, old: &Stored, new: &Object) -> Result<(), ApiError> {
    let def = &stage.target.def;
    if new.uid().is_empty() || new.uid() == old.value.uid() {
        return Ok(());
    }
    let key = super::stored::key(def, stage.namespace(), &stage.target.name);
    Err(ApiError::Conflict {
        what: Qualified::resource(def),
        name: stage.target.name.clone(),
        why: format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
             UID in precondition: {}, UID in object meta: {}",
            new.uid(),
            old.value.uid()
        ),
    })
}

/// The uid may be left out but not change (validation refuses it); the rest is the server's alone.
fn keep_server_metadata(new: &mut Object, old: &Object) {
    let meta = new.meta_mut();
    if meta.get("uid").is_none_or(Value::is_null) {
        meta.insert("uid".into(), old["metadata"]["uid"].clone());
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        match &old["metadata"][field] {
            Value::Null => meta.remove(field),
            kept => meta.insert(field.into(), kept.clone()),
        };
    }
}

fn prepare(sub: Option<Sub>, stage: &Stage<'_>, new: &mut Object, old: &Object) {
    let strategy = stage.target.def.strategy;
    match sub {
        Some(Sub::Status) => (strategy.prepare_status)(new, old),
        Some(Sub::Approval) => certificatesigningrequest::prepare_approval(new, old),
        Some(Sub::Finalize) => namespace::prepare_finalize(new, old),
        Some(Sub::EphemeralContainers) => pod::update::prepare_ephemeral(new, old),
        Some(Sub::Resize) => pod::update::prepare_resize(new, old),
        _ => (strategy.prepare_update)(new, old),
    }
    if sub == Some(Sub::Status) && stage.target.def.resource == persistentvolume::DEF.resource {
        persistentvolume::stamp_phase(new, old, &rfc3339());
    }
    if stage.target.def.resource == certificatesigningrequest::DEF.resource {
        certificatesigningrequest::stamp_conditions(new, old, &rfc3339());
    }
}

fn validate(sub: Option<Sub>, stage: &Stage<'_>, new: &Object, old: &Object) -> Result<(), ApiError> {
    let def = &stage.target.def;
    let errors = match sub {
        Some(Sub::Status) => def.validate_status(new, old),
        Some(Sub::Approval) => certificatesigningrequest::validate_approval(new, old),
        Some(Sub::Finalize) => namespace::validate_finalize(new, old),
        Some(Sub::EphemeralContainers) => pod::update::validate_ephemeral(new, old),
        Some(Sub::Resize) => {
            let mut errors = pod::update::validate_resize(new, old);
            errors.extend((def.strategy.validate)(new));
            errors
        }
        _ => {
            // Upstream checks the metadata twice, in the registry and in the strategy; the causes show it.
            let mut errors = crate::registry::meta::validate_update(new, old);
            errors.extend(def.validate_update(new, old));
            errors
        }
    };
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(def, &stage.target.name, errors)) }
}

/// An object that was being deleted disappears with its last finalizer.
fn is_gone(object: &Object) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let held = object["kind"] == "Namespace" && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    object.deletion_timestamp().is_some() && object.finalizers().is_empty() && grace == 0 && !held
}

/// Nothing is written when nothing changes but the times of managers.
fn unchanged(def: &crate::registry::ResourceDef, new: &mut Object, old: &Stored) -> Result<bool, ApiError> {
    let (mine, theirs) = (&new["metadata"]["managedFields"], &old.value["metadata"]["managedFields"]);
    if mine != theirs && same_but_times(mine, theirs) {
        let (said, kept) = (mine.clone(), theirs.clone());
        managed::set(new, Some(kept));
        if same(def, new, old)? {
            return Ok(true);
        }
        managed::set(new, Some(said));
        return Ok(false);
    }
    same(def, new, old)
}

fn same(def: &crate::registry::ResourceDef, new: &Object, old: &Stored) -> Result<bool, ApiError> {
    let mut new = new.clone();
    new.meta_mut().remove("resourceVersion");
    new.meta_mut().remove("selfLink");
    let encoded = form::storage_schema(def)?.encode(&new);
    Ok(splice_version(&encoded, old.revision) == old.bytes)
}
