//! RoleBindings and ClusterRoleBindings.

use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path};
use crate::registry::gv::RBAC_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{default_text, items, items_mut, object_entry, root, same, text};
use crate::registry::{Column, ResourceDef, Strategy, meta, names};
use serde_json::Value;

pub const ROLE_BINDING: ResourceDef = ResourceDef {
    gv: RBAC_V1,
    resource: "rolebindings",
    singular: "rolebinding",
    kind: "RoleBinding",
    storage: "rolebindings",
    storage_gv: RBAC_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        default,
        validate: |binding| validate(binding, true),
        validate_update,
        validate_name: names::path_segment,
        allow_create_on_update: true,
        ..Strategy::BASIC
    },
    ..ResourceDef::BASIC
};

pub const CLUSTER_ROLE_BINDING: ResourceDef = ResourceDef {
    gv: RBAC_V1,
    resource: "clusterrolebindings",
    singular: "clusterrolebinding",
    kind: "ClusterRoleBinding",
    namespaced: false,
    storage: "clusterrolebindings",
    storage_gv: RBAC_V1,
    columns: CLUSTER_COLUMNS,
    row,
    strategy: &Strategy {
        default,
        validate: |binding| validate(binding, false),
        validate_update,
        validate_name: names::path_segment,
        allow_create_on_update: true,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

const GROUP: &str = "rbac.authorization.k8s.io";

fn default(binding: &mut Object) {
    let map = root(binding);
    default_text(object_entry(map, "roleRef"), "apiGroup", GROUP);
    for subject in items_mut(map, "subjects") {
        match subject.get("kind").map_or("", text) {
            "User" | "Group" => default_text(subject, "apiGroup", GROUP),
            _ => {}
        }
    }
}

fn validate(binding: &Object, namespaced: bool) -> Errors {
    let mut errors = meta::validate(binding, namespaced, names::path_segment);
    let (role, path) = (&binding["roleRef"], Path::new("roleRef"));
    let group = text(&role["apiGroup"]);
    if group != GROUP {
        errors.push(path.child("apiGroup").not_supported(group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = text(&role["kind"]);
    if !kinds.contains(&kind) {
        errors.push(path.child("kind").not_supported(kind, kinds));
    }
    match text(&role["name"]) {
        "" => errors.push(path.child("name").required("")),
        name => errors.extend(path.child("name").all_invalid(name, names::path_segment(name, false))),
    }
    for (index, subject) in items(&binding["subjects"]).iter().enumerate() {
        self::subject(subject, namespaced, &Path::new("subjects").index(index), &mut errors);
    }
    errors
}

fn subject(subject: &Value, namespaced: bool, path: &Path, errors: &mut Errors) {
    let (name, group) = (text(&subject["name"]), text(&subject["apiGroup"]));
    if name.is_empty() {
        errors.push(path.child("name").required(""));
    }
    match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.extend(path.child("name").all_invalid(name, names::dns1123_subdomain(name, false)));
            }
            if !group.is_empty() {
                errors.push(path.child("apiGroup").not_supported(group, &[""]));
            }
            // Upstream lets a role binding's account be of no namespace.
            if !namespaced && text(&subject["namespace"]).is_empty() {
                errors.push(path.child("namespace").required(""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(path.child("apiGroup").not_supported(group, &[GROUP]));
            }
        }
        other => errors.push(path.child("kind").not_supported(other, &["ServiceAccount", "User", "Group"])),
    }
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    if !same(&new["roleRef"], &old["roleRef"]) {
        errors.push(Path::new("roleRef").invalid(new["roleRef"].clone(), "cannot change roleRef"));
    }
    errors
}

fn row(binding: &Object, now: i64) -> Vec<Value> {
    let role = &binding["roleRef"];
    let names = |kind: &str| {
        let of_kind = items(&binding["subjects"]).iter().filter(|s| text(&s["kind"]) == kind);
        let shown = of_kind.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", text(&s["namespace"]), text(&s["name"])),
            _ => text(&s["name"]).to_owned(),
        });
        Value::from(shown.collect::<Vec<_>>().join(", "))
    };
    vec![
        binding.name().into(),
        format!("{}/{}", text(&role["kind"]), text(&role["name"])).into(),
        age(binding, now),
        names("User"),
        names("Group"),
        names("ServiceAccount"),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Role",
        "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    AGE,
    text_column("Users", "Users in the roleBinding").wide(),
    text_column("Groups", "Groups in the roleBinding").wide(),
    text_column("ServiceAccounts", "ServiceAccounts in the roleBinding").wide(),
];

const CLUSTER_COLUMNS: &[Column] = &[
    NAME,
    text_column(
        "Role",
        "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    AGE,
    text_column("Users", "Users in the clusterRoleBinding").wide(),
    text_column("Groups", "Groups in the clusterRoleBinding").wide(),
    text_column("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding").wide(),
];
