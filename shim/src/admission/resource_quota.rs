//! ResourceQuota: what a write adds must fit into the quotas of its namespace. Pure: which amounts each quota then has
//! used comes back, and the caller commits them.

use super::{Operation, Review};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::ResourceDef;
use crate::registry::core::resourcequota::usage::{Amounts, concerns, in_scope, left_open, usage};
use crate::request::Sub;

/// Whether quotas are asked of such a write at all: subresources use nothing but a pod's resize, and an update of most
/// kinds uses nothing more.
pub fn applies(def: &ResourceDef, sub: Option<Sub>, operation: Operation) -> bool {
    let core = |resource: &str| def.gv.group.is_empty() && def.resource == resource;
    def.namespaced
        && match (operation, sub) {
            (Operation::Create, None) => true,
            (Operation::Update, None) => core("services") || core("persistentvolumeclaims"),
            (Operation::Update, Some(Sub::Resize)) => core("pods"),
            _ => false,
        }
}

/// What each quota that the write concerns has used afterwards, by its place among `quotas`.
///
/// # Errors
/// What the object leaves open, or how it exceeds the first quota that it exceeds.
pub fn charge(review: &Review<'_>, object: &Object, quotas: &[Object]) -> Result<Vec<(usize, Amounts)>, ApiError> {
    let (def, refuse) = (review.def, |why: String| ApiError::forbidden(review.def, review.name, why));
    let mut concerned = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        let (hard, used) = (Amounts::of(&quota["status"]["hard"]), Amounts::of(&quota["status"]["used"]));
        let limited: Vec<&str> = hard.names().filter(|name| concerns(def, name)).collect();
        if limited.is_empty() || !in_scope(quota, def, object) {
            continue;
        }
        if def.gv.group.is_empty()
            && def.resource == "pods"
            && let Some(open) = left_open(object, limited.iter().copied())
        {
            return Err(refuse(format!("failed quota: {}: must specify {open}", quota.name())));
        }
        let unknown: Vec<&str> = limited.iter().copied().filter(|name| used.get(name).is_none()).collect();
        if !unknown.is_empty() {
            let list = unknown.join(",");
            return Err(refuse(format!("status unknown for quota: {}, resources: {list}", quota.name())));
        }
        concerned.push((index, quota, hard, used));
    }
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let before = review.old.map(|old| usage(def, old)).unwrap_or_default();
    let added = usage(def, object).beyond(&before);
    let mut charges = Vec::new();
    for (index, quota, hard, used) in concerned {
        let requested = added.only(hard.names());
        if requested.is_empty() {
            continue;
        }
        let mut after = used.clone();
        after.add_all(&requested);
        let over = |name: &&str| after.get(name).map(|n| n.nanos()) > hard.get(name).map(|n| n.nanos());
        let exceeded: Vec<&str> = requested.names().filter(over).collect();
        if !exceeded.is_empty() {
            let shown = |amounts: &Amounts| amounts.only(exceeded.iter().copied()).shown();
            return Err(refuse(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name(),
                shown(&requested),
                shown(&used),
                shown(&hard)
            )));
        }
        charges.push((index, after));
    }
    Ok(charges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::User;
    use serde_json::{Value, json};

    fn outcome(quota: Value, object: Value, old: Option<Value>) -> String {
        let user = User::authenticated("alice", ["dev".to_owned()]);
        let def = crate::registry::find("", "v1", "pods").unwrap();
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let review =
            Review { namespace: "n", name: "p", old: old.as_ref(), ..Review::bare(&user, def, operation, None) };
        let quota = json!({"metadata": {"name": "cap"}, "spec": {"hard": quota["hard"]}, "status": quota});
        match charge(&review, &object, &[quota]) {
            Ok(charges) => charges.iter().map(|(_, used)| used.shown()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    fn pod(requests: Value) -> Value {
        json!({"spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]}})
    }

    #[test]
    fn a_pod_fits_or_is_refused_in_upstreams_words() {
        let quota = json!({"hard": {"cpu": "500m", "memory": "256Mi", "pods": "5"}, "used": {"cpu": "300m", "memory": "100Mi", "pods": "1"}});
        let forbidden = "pods \"p\" is forbidden: ";
        for (object, old, wanted) in [
            (pod(json!({"cpu": "100m", "memory": "100Mi"})), None, "cpu=400m,memory=200Mi,pods=2".to_owned()),
            (
                pod(json!({"cpu": "900m", "memory": "100Mi"})),
                None,
                format!("{forbidden}exceeded quota: cap, requested: cpu=900m, used: cpu=300m, limited: cpu=500m"),
            ),
            (
                pod(json!({})),
                None,
                format!("{forbidden}failed quota: cap: must specify cpu for: main; memory for: main"),
            ),
            (
                pod(json!({"cpu": "300m", "memory": "50Mi"})),
                Some(pod(json!({"cpu": "200m", "memory": "100Mi"}))),
                "cpu=400m,memory=100Mi,pods=1".to_owned(),
            ),
        ] {
            assert_eq!(outcome(quota.clone(), object.clone(), old), wanted, "{object}");
        }
        let counting = json!({"hard": {"pods": "1"}, "used": {}});
        assert_eq!(
            outcome(counting, pod(json!({})), None),
            format!("{forbidden}status unknown for quota: cap, resources: pods")
        );
        assert_eq!(outcome(json!({}), pod(json!({})), None), "", "no status, no quota");
    }
}
