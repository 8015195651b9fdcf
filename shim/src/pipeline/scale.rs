//! `scale`: an object's replicas, read and written as a `Scale`.

use super::managed::{self, ScaleChange};
use super::stored::{ATTEMPTS, Stored, Written};
use super::{Answer, ObjectAnswer, Outcome, Stage, decode};
use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::Def;
use crate::registry::field::Path;
use crate::registry::scale::{self, ScalePaths};
use crate::request::options::{PatchType, WriteOptions};
use crate::schema::apply::Set;
use crate::schema::{self, Schema, SchemaError};
use crate::store::Expect;
use bytes::Bytes;
use serde_json::Value;

pub(super) async fn get(stage: &Stage<'_>) -> Result<Outcome, ApiError> {
    let (paths, found) = (paths(stage)?, current(stage).await?);
    // A custom object may not have the field; upstream then fails, and so do its clients.
    if stage.target.def.custom.is_some() && !paths.is_set(&found.value) {
        let text = format!("the spec replicas field {:?} does not exist", paths.spec_replicas);
        return Err(ApiError::Internal(text));
    }
    answer(&paths.scale_of(&found.value))
}

pub(super) async fn replace(stage: &Stage<'_>, options: &WriteOptions, body: Bytes) -> Result<Outcome, ApiError> {
    let def = &scale::DEF;
    let wanted = decode::object(stage, def.gv, def.kind, &body, options.validation)?.value;
    write(stage, options, |_| Ok(ScaleChange::To(wanted.clone()))).await
}

pub(super) async fn patch(
    stage: &Stage<'_>,
    kind: PatchType,
    options: &WriteOptions,
    body: Bytes,
) -> Result<Outcome, ApiError> {
    let schema = schema()?;
    if kind == PatchType::Apply {
        let (config, _) = decode::configuration(&body, options.validation)?;
        return write(stage, options, |_| Ok(ScaleChange::Apply(config.clone()))).await;
    }
    let patch: Value =
        serde_json::from_slice(&body).map_err(|e| ApiError::BadRequest(format!("error decoding patch: {e}")))?;
    write(stage, options, |now| apply(schema, kind, &patch, now, options).map(ScaleChange::To)).await
}

fn apply(
    schema: &'static Schema,
    kind: PatchType,
    patch: &Value,
    now: &Object,
    options: &WriteOptions,
) -> Result<Object, ApiError> {
    let patched = match kind {
        PatchType::Json => schema::json_patch(now, patch),
        PatchType::Merge => Ok(schema::json_merge(now, patch)),
        PatchType::Strategic | PatchType::Apply => schema.strategic_merge(now, patch),
    };
    let conformed = patched.and_then(|patched| schema.conform(patched, options.validation));
    conformed.map(|decoded| decoded.value).map_err(|error| match error {
        SchemaError::Patch(text) => ApiError::PatchRejected(text),
        error => ApiError::BadRequest(schema.refusal(&error, b"")),
    })
}

fn schema() -> Result<&'static Schema, ApiError> {
    let def = &scale::DEF;
    Schema::builtin(def.gv, def.kind)
        .ok_or_else(|| ApiError::Internal(format!("no schema for {} {}", def.gv, def.kind)))
}

fn paths(stage: &Stage<'_>) -> Result<ScalePaths, ApiError> {
    stage.target.def.scale.ok_or(ApiError::UnknownResource)
}

async fn current(stage: &Stage<'_>) -> Result<Stored, ApiError> {
    let (def, name) = (&stage.target.def, stage.target.name.as_str());
    stage.api.read(def, stage.namespace(), name).await?.ok_or_else(|| ApiError::not_found(def, name))
}

/// Makes the wanted `Scale` of the one there is and gives the object its replicas, again when another writer was first
/// and the caller did not name the version that it changes.
async fn write(
    stage: &Stage<'_>,
    options: &WriteOptions,
    change: impl Fn(&Object) -> Result<ScaleChange, ApiError>,
) -> Result<Outcome, ApiError> {
    let (def, name, paths) = (&stage.target.def, stage.target.name.as_str(), paths(stage)?);
    let mut old = current(stage).await?;
    let replicas = Set::path(&scale::parts(paths.spec_replicas).collect::<Vec<_>>());
    for _ in 0..ATTEMPTS {
        let now = paths.scale_of(&old.value);
        let (wanted, managers) = managed::scale(stage, options, &old.value, (&now, &replicas), change(&now)?)?;
        if !wanted.name().is_empty() && wanted.name() != name {
            return Err(ApiError::BadRequest(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                wanted.name()
            )));
        }
        let errors = scale::validate(&wanted);
        if !errors.is_empty() && def.custom.is_some() {
            // Of a custom resource the object itself is refused, where its definition says that the number is.
            let replicas = wanted["spec"]["replicas"].clone();
            let error = Path::new(paths.spec_replicas).invalid(replicas, "should be a non-negative integer");
            return Err(ApiError::invalid(def, name, vec![error]));
        }
        if !errors.is_empty() {
            let what = Qualified::new(scale::DEF.gv.group, scale::DEF.kind);
            return Err(ApiError::Invalid { what, name: name.into(), errors });
        }
        let version = wanted.meta_str("resourceVersion");
        let uid = wanted.uid();
        if (!version.is_empty() && version != old.revision.to_string()) || (!uid.is_empty() && uid != old.value.uid()) {
            return Err(ApiError::modified(def, name));
        }
        let mut new = old.value.clone();
        paths.set_replicas(&mut new, wanted["spec"]["replicas"].as_i64().unwrap_or(0));
        managed::set(&mut new, managers);
        (def.strategy.prepare_update)(&mut new, &old.value);
        if new == old.value {
            return answer(&now);
        }
        match stage.api.write(def, new, Expect::At(old.revision), options.dry_run).await? {
            Written::Done(stored) => return answer(&paths.scale_of(&stored.value)),
            Written::Lost(now) => old = now.ok_or_else(|| ApiError::not_found(def, name))?,
        }
    }
    Err(ApiError::modified(def, name))
}

fn answer(scale: &Object) -> Result<Outcome, ApiError> {
    let def = &scale::DEF;
    let bytes = schema()?.encode(scale).into();
    Ok(Answer::Object(ObjectAnswer { def: Def::BuiltIn(def), bytes, code: 200 }).into())
}
