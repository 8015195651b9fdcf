//! POST to a collection: decode → default → admit → prepare → validate → allocate → commit.

use super::managed::{self, Ownership};
use super::stored::{Stored, Written};
use super::{Answer, ObjectAnswer, Outcome, Stage, decode, form, owners, policies, quotas, services};
use crate::admission::{self, Operation, Review, suffix};
use crate::clock;
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::field::Cause;
use crate::request::Sub;
use crate::request::options::WriteOptions;
use crate::store::Expect;
use bytes::Bytes;

/// Tries of a generated name before its clash is reported (apiserver's `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: usize = 8;
/// A generated name leaves room for its suffix below 63 characters.
const GENERATED_BASE: usize = 58;

pub(super) async fn create(stage: &Stage<'_>, options: &WriteOptions, body: Bytes) -> Result<Outcome, ApiError> {
    let def = &stage.target.def;
    let decoded = decode::object(stage, def.gv, def.kind, &body, options.validation)?;
    create_object(stage, options, form::to_storage(def, decoded.value), Ownership::Writer, decoded.warnings).await
}

/// Creates the storage form `object`; PUT and apply to an absent name end here too.
pub(super) async fn create_object(
    stage: &Stage<'_>,
    options: &WriteOptions,
    mut object: Object,
    ownership: Ownership,
    mut warnings: Vec<String>,
) -> Result<Outcome, ApiError> {
    let def = &stage.target.def;
    if def.custom.as_ref().is_some_and(|custom| custom.terminating) {
        return Err(ApiError::DefinitionTerminating { verb: "create" });
    }
    place(stage, &mut object)?;
    if !object.meta_str("resourceVersion").is_empty() && object.meta_str("resourceVersion") != "0" {
        return Err(ApiError::Plain("resourceVersion should not be set on objects to be created".into()));
    }
    form::storage_schema(def)?.default(&mut object);
    (def.strategy.default)(&mut object);
    wipe(&mut object);
    warnings.extend(owners::dedupe(&mut object));
    form::storage_schema(def)?.canonicalize(&mut object);
    match ownership {
        Ownership::Writer => managed::track(stage, options, None, &mut object)?,
        Ownership::Applied(managed) => managed::set(&mut object, managed),
    }
    admit(stage, Operation::Create, Some(&mut object), None).await?;
    stamp(&mut object);
    (def.strategy.prepare_create)(&mut object);
    let base = object.meta_str("generateName").to_owned();
    let generate = object.name().is_empty() && !base.is_empty();

    for attempt in 1.. {
        if generate {
            let cut = base.char_indices().nth(GENERATED_BASE).map_or(base.len(), |(at, _)| at);
            object.meta_mut().insert("name".into(), format!("{}{}", &base[..cut], suffix()).into());
            // A default may be made of the name.
            (def.strategy.default)(&mut object);
        }
        let errors = def.validate(&object);
        if !errors.is_empty() {
            return Err(ApiError::invalid(def, object.name(), errors));
        }
        let mut texts = check(stage, &object, None).await?;
        let asked = policies::check(stage, Operation::Create, (Some(&object), None), options.dry_run);
        texts.extend(asked.await?);
        if attempt == 1 {
            quotas::charge(stage, Operation::Create, &object, None, options.dry_run).await?;
        }
        let held = services::allocate(stage.api, def, &mut object, options.dry_run).await?;
        texts.extend((def.strategy.warnings)(&object, None));
        let name = object.name().to_owned();
        if options.dry_run && stage.api.read(def, object.namespace(), &name).await?.is_some() {
            return Err(ApiError::already_exists(def, &name));
        }
        // Only a generated name is tried more than once.
        let last = !generate || attempt == NAME_ATTEMPTS;
        let new = if last { std::mem::take(&mut object) } else { object.clone() };
        let written = stage.api.write(def, new, Expect::Absent, options.dry_run).await?;
        services::release(stage.api, held).await;
        match written {
            Written::Done(stored) => {
                warnings.extend(texts);
                let answer = Answer::Object(ObjectAnswer { def: def.clone(), bytes: stored.bytes, code: 201 });
                return Ok(Outcome { answer, warnings });
            }
            Written::Lost(_) if !last => {}
            Written::Lost(_) => return Err(ApiError::already_exists(def, &name)),
        }
    }
    unreachable!("the loop ends by returning")
}

/// The namespace of the URL is the object's, whether it says so or not.
pub(super) fn place(stage: &Stage<'_>, object: &mut Object) -> Result<(), ApiError> {
    let namespace = stage.namespace();
    if !stage.target.def.namespaced {
        return Ok(());
    }
    if !object.namespace().is_empty() && object.namespace() != namespace {
        return Err(ApiError::BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request".into(),
        ));
    }
    object.meta_mut().insert("namespace".into(), namespace.into());
    Ok(())
}

/// Takes out what only the server sets.
fn wipe(object: &mut Object) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink"] {
        object.meta_mut().remove(field);
    }
}

fn stamp(object: &mut Object) {
    let now = rfc3339();
    let meta = object.meta_mut();
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), now.into());
}

/// `metav1.Now()`: UTC, whole seconds.
pub(super) fn rfc3339() -> String {
    after_seconds(0)
}

/// The wall time that many seconds from now.
pub(super) fn after_seconds(seconds: i64) -> String {
    let now = clock::now().wall;
    let at = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Looks up what the plugins need and runs them.
pub(super) async fn admit(
    stage: &Stage<'_>,
    operation: Operation,
    object: Option<&mut Object>,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    let (api, def, namespace) = (stage.api, &stage.target.def, stage.namespace());
    let creates = operation == Operation::Create && def.namespaced;
    let namespace_object = if creates { api.read_core("namespaces", "", namespace).await? } else { None };
    let pod = creates && def.resource == "pods" && stage.target.sub.is_none();
    let account = match object.as_deref().filter(|_| pod) {
        Some(pod) => {
            let name = admission::service_account::account_name(pod).to_owned();
            api.read_core("serviceaccounts", namespace, &name).await?
        }
        None => None,
    };
    let classes = if pod { priority_classes(stage).await? } else { Vec::new() };
    let runtime_class = match object.as_deref().filter(|_| pod).and_then(|pod| pod["spec"]["runtimeClassName"].as_str())
    {
        Some(name) => match crate::registry::find("node.k8s.io", "v1", "runtimeclasses") {
            Some(def) => api.read(def, "", name).await?,
            None => None,
        },
        None => None,
    };
    let limit_ranges = match def.resource {
        "pods" | "persistentvolumeclaims" if operation != Operation::Delete && stage.target.sub.is_none() => {
            limit_ranges(stage, namespace).await?
        }
        _ => Vec::new(),
    };
    let chosen_from =
        object.as_deref().and_then(|o| admission::default_class::classes_for(def, stage.target.sub, operation, o));
    let defaults = match chosen_from {
        Some(storage) => all_of(stage, storage).await?,
        None => Vec::new(),
    };
    let name = match stage.target.name.as_str() {
        "" => object.as_deref().map(|o| o.name().to_owned()).unwrap_or_default(),
        name => name.to_owned(),
    };
    let value = |stored: &Option<Stored>| stored.as_ref().map(|s| s.value.clone());
    let (namespace_object, account) = (value(&namespace_object), value(&account));
    let runtime_class = value(&runtime_class);
    let review = Review {
        user: stage.user,
        operation,
        def,
        sub: stage.target.sub,
        namespace,
        name: &name,
        namespace_object: namespace_object.as_ref(),
        service_account: account.as_ref(),
        priority_classes: &classes,
        runtime_class: runtime_class.as_ref(),
        limit_ranges: &limit_ranges,
        classes: &defaults,
        old,
    };
    admission::admit(&review, object)
}

/// Runs the plugins that only look, on the object as it will be; what they warn of.
pub(super) async fn check(stage: &Stage<'_>, new: &Object, old: Option<&Object>) -> Result<Vec<String>, ApiError> {
    use crate::admission::pod_security;
    let def = &stage.target.def;
    let looked_at = matches!(stage.target.sub, None | Some(Sub::EphemeralContainers));
    if looked_at && pod_security::applies(def) {
        return match stage.api.read_core("namespaces", "", stage.namespace()).await? {
            Some(namespace) => pod_security::check(def, &namespace.value, new.name(), new, old),
            None => Ok(Vec::new()),
        };
    }
    if def.resource == "namespaces" && def.gv.group.is_empty() && stage.target.sub.is_none() {
        let errors = pod_security::label_errors(new, old);
        if !errors.is_empty() {
            return Err(ApiError::invalid(def, new.name(), errors));
        }
    }
    Ok(Vec::new())
}

async fn limit_ranges(stage: &Stage<'_>, namespace: &str) -> Result<Vec<Object>, ApiError> {
    let prefix = crate::store::key::StoreKey::prefix("limitranges", Some(namespace));
    let snapshot = stage.api.cache("limitranges")?.latest().await?;
    snapshot.range(&prefix, None).map(|entry| super::stored::value(&entry.bytes)).collect()
}

/// All objects below a storage prefix.
async fn all_of(stage: &Stage<'_>, storage: &str) -> Result<Vec<Object>, ApiError> {
    let snapshot = stage.api.cache(storage)?.latest().await?;
    snapshot.map.values().map(|entry| super::stored::value(&entry.bytes)).collect()
}

async fn priority_classes(stage: &Stage<'_>) -> Result<Vec<Object>, ApiError> {
    all_of(stage, "priorityclasses").await
}

/// `metadata.resourceVersion` of an update as a revision.
pub(super) fn parse_version(text: &str) -> Result<Option<crate::revision::Revision>, ApiError> {
    match text {
        "" | "0" => Ok(None),
        text => match text.parse() {
            Ok(number) => Ok(Some(crate::revision::Revision(number))),
            Err(_) => Err(ApiError::Plain(format!("strconv.ParseUint: parsing \"{text}\": invalid syntax"))),
        },
    }
}

/// The 422 of a PUT that must say which version it replaces and does not.
pub(super) fn version_required(def: &crate::registry::ResourceDef, name: &str) -> ApiError {
    // Upstream names the resource here, where other refusals name the kind.
    let what = crate::error::Qualified::resource(def);
    let text = "Invalid value: 0: must be specified for an update".to_owned();
    ApiError::invalid_field(what, name, Cause::Invalid, "metadata.resourceVersion", text)
}
