//! Roles and ClusterRoles.

use crate::meta::Object;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::RBAC_V1;
use crate::registry::value::{is_empty, items};
use crate::registry::{ResourceDef, Strategy, labels, meta, names};
use serde_json::Value;

pub const ROLE: ResourceDef = ResourceDef {
    gv: RBAC_V1,
    resource: "roles",
    singular: "role",
    kind: "Role",
    storage: "roles",
    storage_gv: RBAC_V1,
    strategy: &Strategy {
        validate: validate_role,
        validate_name: names::path_segment,
        allow_create_on_update: true,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

pub const CLUSTER_ROLE: ResourceDef = ResourceDef {
    gv: RBAC_V1,
    resource: "clusterroles",
    singular: "clusterrole",
    kind: "ClusterRole",
    namespaced: false,
    storage: "clusterroles",
    storage_gv: RBAC_V1,
    strategy: &Strategy {
        validate: validate_cluster_role,
        validate_name: names::path_segment,
        allow_create_on_update: true,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

fn validate_role(role: &Object) -> Errors {
    let mut errors = meta::validate(role, true, names::path_segment);
    rules(role, true, &mut errors);
    errors
}

fn validate_cluster_role(role: &Object) -> Errors {
    let mut errors = meta::validate(role, false, names::path_segment);
    rules(role, false, &mut errors);
    let aggregation = &role["aggregationRule"];
    if aggregation.is_object() {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = items(&aggregation["clusterRoleSelectors"]);
        if selectors.is_empty() {
            errors.push(path.required("at least one clusterRoleSelector required if aggregationRule is non-nil"));
        }
        for (index, selector) in selectors.iter().enumerate() {
            labels::validate_selector(selector, &path.index(index), &mut errors);
        }
    }
    errors
}

fn rules(role: &Object, namespaced: bool, errors: &mut Errors) {
    for (index, rule) in items(&role["rules"]).iter().enumerate() {
        one_rule(rule, namespaced, &Path::new("rules").index(index), errors);
    }
}

fn one_rule(rule: &Value, namespaced: bool, path: &Path, errors: &mut Errors) {
    if is_empty(&rule["verbs"]) {
        errors.push(path.child("verbs").required("verbs must contain at least one value"));
    }
    let urls = items(&rule["nonResourceURLs"]);
    if !urls.is_empty() {
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(path.child("nonResourceURLs").invalid(rule["nonResourceURLs"].clone(), detail));
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !is_empty(&rule[*field])) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(path.child("nonResourceURLs").invalid(rule["nonResourceURLs"].clone(), detail));
        }
        return;
    }
    if is_empty(&rule["apiGroups"]) {
        errors.push(path.child("apiGroups").required("resource rules must supply at least one api group"));
    }
    if is_empty(&rule["resources"]) {
        errors.push(path.child("resources").required("resource rules must supply at least one resource"));
    }
}
