//! ServiceAccounts.

use crate::meta::{Meta, Object};
use crate::registry::gv::AUTHENTICATION_V1;
use crate::registry::table::{AGE, NAME, age};
use crate::registry::{Column, ResourceDef, Strategy, Subresource};
use serde_json::Value;

pub const DEF: ResourceDef = ResourceDef {
    resource: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    short_names: &["sa"],
    storage: "serviceaccounts",
    returns_deleted: true,
    subresources: &[Subresource { name: "token", kind: "TokenRequest", gv: AUTHENTICATION_V1, verbs: &["create"] }],
    columns: COLUMNS,
    row,
    strategy: &Strategy { warnings, allow_unconditional_update: false, ..Strategy::BASIC },
    ..ResourceDef::BASIC
};

/// Restricts pods of the account to the secrets that it names.
const ENFORCE_MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

/// Said when the annotation is first set.
fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let set = |account: &Object| account["metadata"]["annotations"][ENFORCE_MOUNTABLE_SECRETS].is_string();
    if !set(new) || old.is_some_and(set) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{ENFORCE_MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}

fn row(account: &Object, now: i64) -> Vec<Value> {
    vec![account.name().into(), age(account, now)]
}

const COLUMNS: &[Column] = &[NAME, AGE];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_deprecated_annotation_is_warned_of_once() {
        let (plain, set) =
            (json!({"metadata": {}}), json!({"metadata": {"annotations": {ENFORCE_MOUNTABLE_SECRETS: "true"}}}));
        for (new, old, wanted) in [(&plain, None, 0), (&set, None, 1), (&set, Some(&plain), 1), (&set, Some(&set), 0)] {
            assert_eq!(warnings(new, old).len(), wanted, "{new} {old:?}");
        }
    }
}
