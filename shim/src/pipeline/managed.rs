//! `metadata.managedFields` of every write: who writes, in which version, and which fields the server resets.

use super::create::rfc3339;
use super::form;
use super::{Api, Stage};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::{self, Def, ResourceDef};
use crate::request::Sub;
use crate::request::options::{FIELD_MANAGER_MAX_BYTES, WriteOptions};
use crate::schema::AnySchema;
use crate::schema::apply::{AnyType, ApplyError, Managers, Set, Versions, Writer, is_reset};
use serde_json::{Value, json};
use std::cell::OnceCell;

/// The server's own name as a manager.
const OWN: &str = "kube-apiserver";

/// Whose the fields of a new object are.
pub(super) enum Ownership {
    /// The writer's.
    Writer,
    /// As an apply has found out.
    Applied(Option<Value>),
}

/// Brings `new`'s managedFields up to date: the writer owns what differs from `old`. Both are storage forms, canonical.
pub(super) fn track(
    stage: &Stage<'_>,
    options: &WriteOptions,
    old: Option<&Object>,
    new: &mut Object,
) -> Result<(), ApiError> {
    let at = At::new(stage, options)?;
    track_at(&at, old, new, stage.target.sub.is_none())
}

/// As `track`, of an answer that is not stored and of a kind of its own.
pub(super) fn track_answer(
    stage: &Stage<'_>,
    schema: AnySchema<'_>,
    options: &WriteOptions,
    answer: &mut Object,
) -> Result<(), ApiError> {
    schema.canonicalize(answer);
    let at = At::of(stage, schema, options, stage.target.sub.map_or("", Sub::name));
    track_at(&at, None, answer, false)
}

/// As `track`, of the status that the server itself writes.
pub(super) fn track_own(stage: &Stage<'_>, def: &Def, old: &Object, new: &mut Object) -> Result<(), ApiError> {
    let options = WriteOptions { field_manager: OWN.into(), ..WriteOptions::default() };
    let schema = form::schema(def)?;
    schema.canonicalize(new);
    let at = At { reset: reset(def, Some(Sub::Status)), ..At::of(stage, schema, &options, Sub::Status.name()) };
    track_at(&at, Some(old), new, false)
}

fn track_at(at: &At<'_>, old: Option<&Object>, new: &mut Object, may_claim: bool) -> Result<(), ApiError> {
    let def = at.def;
    let claimed = new.meta_mut().remove("managedFields").unwrap_or_default();
    let live = old.map_or(&Value::Null, |old| &old["metadata"]["managedFields"]);
    // A subresource's writer cannot set them; an object's may, to hand fields over or to start afresh.
    let managers = if may_claim && is_reset(&claimed) {
        Managers::default()
    } else {
        let claimed = if may_claim { Managers::read(&claimed).unwrap_or_default() } else { Managers::default() };
        if claimed.is_empty() { Managers::read(live).unwrap_or_default() } else { claimed }
    };
    // Who was never tracked is not tracked now: only an apply begins anew.
    if managers.is_empty() && old.is_some() {
        return Ok(());
    }
    let served = |object: &Object| form::to_served(def, object.clone());
    let written = if !at.converts {
        managers.update(&at.versions(), old.unwrap_or(&at.empty), new, at.writer())
    } else {
        let old = old.map(served);
        managers.update(&at.versions(), old.as_ref().unwrap_or(&at.empty), &served(new), at.writer())
    };
    set(new, written.write());
    Ok(())
}

/// What applying `config` makes of the object: its new storage form, decoded anew, with managedFields.
pub(super) struct Merged {
    /// The served form, to be conformed to the schema; `None` when nothing but managers changes.
    pub object: Option<Value>,
    pub managed: Option<Value>,
}

/// Applies `config` to the object (none: to nothing).
pub(super) fn apply(
    stage: &Stage<'_>,
    options: &WriteOptions,
    live: Option<&Object>,
    config: &Value,
) -> Result<Merged, ApiError> {
    let at = At::new(stage, options)?;
    let managed = live.map_or(&Value::Null, |live| &live["metadata"]["managedFields"]);
    let managers =
        Managers::read(managed).map_err(|e| ApiError::Plain(format!("failed to decode managed fields: {e}")))?;
    let mut served = live.map_or_else(|| at.empty.clone(), |live| form::to_served(&stage.target.def, live.clone()));
    served.meta_mut().remove("managedFields");
    let applied = managers.apply(&at.versions(), &served, config, at.writer(), options.force).map_err(refuse)?;
    Ok(Merged { object: applied.object, managed: applied.managers.write() })
}

/// How a `Scale` changes.
pub(super) enum ScaleChange {
    /// To this.
    To(Object),
    Apply(Value),
}

/// The new `Scale`, and the managedFields of the object that it is of.
pub(super) fn scale(
    stage: &Stage<'_>,
    options: &WriteOptions,
    object: &Object,
    (now, replicas): (&Object, &Set),
    change: ScaleChange,
) -> Result<(Object, Option<Value>), ApiError> {
    let def = Def::BuiltIn(&registry::scale::DEF);
    let at = At::of(stage, form::schema(&def)?, options, Sub::Scale.name());
    let parents = Managers::read(&object["metadata"]["managedFields"]).unwrap_or_default();
    let managers = parents.to_scale(replicas, &at.version);
    let mut now = now.clone();
    form::schema(&def)?.canonicalize(&mut now);
    let (new, managers) = match change {
        ScaleChange::To(mut new) => {
            form::schema(&def)?.canonicalize(&mut new);
            let managers =
                if parents.is_empty() { managers } else { managers.update(&at.versions(), &now, &new, at.writer()) };
            (new, managers)
        }
        ScaleChange::Apply(config) => {
            let applied = managers.apply(&at.versions(), &now, &config, at.writer(), options.force).map_err(refuse)?;
            (applied.object.unwrap_or(now), applied.managers)
        }
    };
    let version = stage.target.def.gv.to_string();
    Ok((new, parents.with_scale(managers, replicas, &version).write()))
}

fn refuse(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::BadRequest(text) => ApiError::BadRequest(text),
        ApplyError::Misfit(text) => ApiError::Plain(text),
        ApplyError::Conflicts(conflicts) => ApiError::ApplyConflict { message, conflicts },
    }
}

/// Puts managedFields into an object, or takes them out.
pub(super) fn set(object: &mut Object, managed: Option<Value>) {
    match managed {
        Some(managed) => drop(object.meta_mut().insert("managedFields".into(), managed)),
        None => drop(object.meta_mut().remove("managedFields")),
    }
}

/// Where, when and by whom fields are owned in one request.
struct At<'a> {
    api: &'a Api,
    def: &'a Def,
    schema: AnySchema<'a>,
    /// Whether objects come in a storage form that is not the one that is served.
    converts: bool,
    /// The versions that the kind is served in, found when one is asked for that is not the request's.
    others: OnceCell<Vec<Def>>,
    manager: String,
    subresource: &'static str,
    version: String,
    now: String,
    empty: Value,
    reset: Set,
}

impl<'a> At<'a> {
    /// Of the resource that is written.
    fn new(stage: &Stage<'a>, options: &WriteOptions) -> Result<At<'a>, ApiError> {
        let (def, sub) = (&stage.target.def, stage.target.sub);
        let at = Self::of(stage, form::schema(def)?, options, sub.map_or("", Sub::name));
        Ok(At { converts: !form::is_stored_form(def), reset: reset(def, sub), ..at })
    }

    /// Of another kind that the request is about.
    fn of(stage: &Stage<'a>, schema: AnySchema<'a>, options: &WriteOptions, subresource: &'static str) -> At<'a> {
        let version = schema.api_version();
        let mut empty = json!({"kind": schema.kind(), "apiVersion": version, "metadata": {}});
        schema.canonicalize(&mut empty);
        let manager = match options.field_manager.as_str() {
            "" => from_agent(stage.agent),
            named => named.to_owned(),
        };
        At {
            api: stage.api.as_ref(),
            def: &stage.target.def,
            schema,
            converts: false,
            others: OnceCell::new(),
            manager,
            subresource,
            version,
            now: rfc3339(),
            empty,
            reset: Set::default(),
        }
    }

    fn writer(&self) -> Writer<'_> {
        Writer { manager: &self.manager, subresource: self.subresource, version: &self.version, now: &self.now }
    }

    fn versions(&self) -> Versions<'_, AnyType<'_>> {
        Versions {
            of: Box::new(|version| match version == self.version {
                true => Some(self.schema.typed()),
                false => form::schema(self.served_as(version)?).ok().map(AnySchema::typed),
            }),
            convert: Box::new(|object, version| {
                let from = object["apiVersion"].as_str().unwrap_or_default();
                if from == version {
                    return Some(object.clone());
                }
                let (from, to) = (self.served_as(from)?, self.served_as(version)?);
                let mut converted = form::to_served(to, form::to_storage(from, object.clone()));
                form::schema(to).ok()?.canonicalize(&mut converted);
                Some(converted)
            }),
            empty: &self.empty,
            reset: &self.reset,
        }
    }

    /// The resource as it is served in that version.
    fn served_as(&self, version: &str) -> Option<&Def> {
        if version == self.version {
            return Some(self.def);
        }
        let others = self.others.get_or_init(|| {
            let same = |d: &Def| d.storage == self.def.storage && d.kind == self.def.kind;
            self.api.catalog.served().all().filter(same).collect()
        });
        others.iter().find(|d| d.gv.to_string() == version)
    }
}

/// The manager's name of a client that gives none: its user agent up to the first slash.
fn from_agent(agent: &str) -> String {
    let mut out = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > FIELD_MANAGER_MAX_BYTES {
            break;
        }
        out.push(c);
    }
    out
}

/// What the strategy keeps whatever is sent (upstream's `GetResetFields`): writing it owns nothing.
fn reset(def: &ResourceDef, sub: Option<Sub>) -> Set {
    let paths: &[&[&str]] = match sub {
        Some(Sub::Status) => match def.resource {
            "pods" => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            "deployments" => &[&["spec"], &["metadata", "labels"]],
            "certificatesigningrequests" => &[&["spec"], &["status", "conditions"]],
            "volumeattachments" => &[&["spec"], &["metadata"]],
            _ => &[&["spec"]],
        },
        Some(Sub::Approval) => &[&["spec"], &["status", "certificate"]],
        _ if def.resource == "certificatesigningrequests" => &[&["spec"], &["status"]],
        _ if def.subresource("status").is_some() => &[&["status"]],
        _ => &[],
    };
    paths.iter().fold(Set::default(), |all, path| all.union(&Set::path(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_named_after_its_user_agent() {
        for (agent, name) in [
            ("kubectl/v1.37.0 (linux/amd64) kubernetes/abc", "kubectl"),
            ("", ""),
            ("a\u{7}b", "ab"),
            (&*"x".repeat(200), &*"x".repeat(128)),
        ] {
            assert_eq!(from_agent(agent), name);
        }
    }
}
