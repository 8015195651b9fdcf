//! ValidatingAdmissionPolicies in the pipeline: those that a request concerns are read off the caches, with what their
//! bindings name as parameters, and asked.

use super::Stage;
use super::stored::value;
use crate::admission::policy::{self, Bound, Params, Request};
use crate::admission::{Operation, Review};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::Def;
use crate::registry::admissionregistration::policies::{VALIDATING, VALIDATING_BINDING};
use crate::registry::labels::format_selector;
use crate::registry::value::text;
use crate::selector::LabelSelector;
use crate::store::cache::Snapshot;
use crate::store::key::StoreKey;
use serde_json::Value;

/// Asks the policies; texts for `Warning` headers come back.
///
/// # Errors
/// The first refusal.
pub(super) async fn check(
    stage: &Stage<'_>,
    operation: Operation,
    (object, old): (Option<&Object>, Option<&Object>),
    dry_run: bool,
) -> Result<Vec<String>, ApiError> {
    let bindings = snapshot(stage, VALIDATING_BINDING.storage).await?;
    // Policies may not be about policies, or a wrong one could never be taken back.
    if bindings.map.is_empty() || stage.target.def.gv.group == VALIDATING.gv.group {
        return Ok(Vec::new());
    }
    let policies = snapshot(stage, VALIDATING.storage).await?;
    let namespaced = stage.target.def.namespaced;
    let namespace = match stage.namespace() {
        name if namespaced => stage.api.read_core("namespaces", "", name).await?.map(|stored| stored.value),
        _ => None,
    };
    let name = match (stage.target.name.as_str(), object) {
        ("", Some(object)) => object.name().to_owned(),
        (name, _) => name.to_owned(),
    };
    let bare = Review::bare(stage.user, &stage.target.def, operation, stage.target.sub);
    let review = Review { namespace: stage.namespace(), name: &name, old, ..bare };
    let request = Request { review: &review, object, namespace: namespace.as_ref(), dry_run };
    let mut bound = Vec::new();
    for entry in bindings.map.values() {
        let binding = value(&entry.bytes)?;
        let key = StoreKey::object(VALIDATING.storage, None, text(&binding["spec"]["policyName"]));
        let Some(policy) = policies.get(&key) else { continue };
        let policy = value(&policy.bytes)?;
        if policy::concerns(&request, &policy, &binding) {
            for params in params(stage, &review, &policy, &binding).await? {
                bound.push(Bound { policy: policy.clone(), binding: binding.clone(), params });
            }
        }
    }
    policy::validate(&request, &bound, &stage.api.programs)
}

async fn snapshot(stage: &Stage<'_>, storage: &str) -> Result<Snapshot, ApiError> {
    Ok(stage.api.cache(storage)?.latest().await?)
}

/// The objects that a binding names as parameters, each asked for by itself.
async fn params(
    stage: &Stage<'_>,
    review: &Review<'_>,
    policy: &Object,
    binding: &Object,
) -> Result<Vec<Params>, ApiError> {
    let (kind, reference) = (&policy["spec"]["paramKind"], &binding["spec"]["paramRef"]);
    if !kind.is_object() || !reference.is_object() {
        return Ok(vec![Params::None]);
    }
    let Some(def) = resource_of(stage, kind) else { return Ok(vec![Params::Missing]) };
    let namespace = match (def.namespaced, text(&reference["namespace"])) {
        (false, _) => "",
        (true, "") => review.namespace,
        (true, named) => named,
    };
    let name = text(&reference["name"]);
    let found: Vec<Object> = if name.is_empty() {
        let selector = LabelSelector::parse(&format_selector(&reference["selector"])).map_err(ApiError::Plain)?;
        let prefix = StoreKey::prefix(def.storage, def.namespaced.then_some(namespace));
        let snapshot = stage.api.cache_of(&def)?.latest().await?;
        let entries = snapshot.range(&prefix, None).filter(|entry| selector.matches(&entry.labels));
        entries.map(|entry| value(&entry.bytes)).collect::<Result<_, _>>()?
    } else {
        stage.api.read(&def, namespace, name).await?.map(|stored| stored.value).into_iter().collect()
    };
    if found.is_empty() {
        let denies = reference["parameterNotFoundAction"] == "Deny";
        return Ok(if denies { vec![Params::Missing] } else { Vec::new() });
    }
    Ok(found.into_iter().map(Params::Of).collect())
}

fn resource_of(stage: &Stage<'_>, kind: &Value) -> Option<Def> {
    let (version, kind) = (text(&kind["apiVersion"]), text(&kind["kind"]));
    stage.api.catalog.served().all().find(|def| def.kind == kind && def.gv.to_string() == version)
}
