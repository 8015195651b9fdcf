//! PriorityClasses.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::admit::SYSTEM_CLASSES;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::SCHEDULING_V1;
use crate::registry::table::{AGE, NAME, age, boolean, integer, text_column};
use crate::registry::value::{bump_generation, default_text, root, text, truth};
use crate::registry::{Column, ResourceDef, Strategy, meta};
use serde_json::{Value, json};

pub const DEF: ResourceDef = ResourceDef {
    gv: SCHEDULING_V1,
    resource: "priorityclasses",
    singular: "priorityclass",
    kind: "PriorityClass",
    short_names: &["pc"],
    namespaced: false,
    storage: "priorityclasses",
    storage_gv: SCHEDULING_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy { default, prepare_create, prepare_update, validate, validate_update, ..Strategy::CLUSTER },
    ..ResourceDef::BASIC
};

/// Above it are the system's own classes.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

fn default(class: &mut Object) {
    default_text(root(class), "preemptionPolicy", "PreemptLowerPriority");
}

fn prepare_create(class: &mut Object) {
    class.meta_mut().insert("generation".to_owned(), 1.into());
}

fn prepare_update(new: &mut Object, old: &Object) {
    bump_generation(new, old, false);
}

fn validate(class: &Object) -> Errors {
    let mut errors = meta::validate_cluster(class);
    let (name, value) = (class.name(), class["value"].as_i64().unwrap_or(0));
    if name.starts_with("system-") {
        let known = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
        let why = match known {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, wanted)) if *wanted != value => Some(format!("value of {name} PriorityClass must be {wanted}")),
            Some(_) if truth(&class["globalDefault"]) => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            let detail =
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            errors.push(Path::new("metadata").child("name").forbidden(&detail));
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.push(Path::new("value").forbidden(&detail));
    }
    let policy = text(&class["preemptionPolicy"]);
    if !matches!(policy, "PreemptLowerPriority" | "Never") {
        errors.push(Path::new("preemptionPolicy").not_supported(policy, &["PreemptLowerPriority", "Never"]));
    }
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    if new["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
        errors.push(Path::new("value").forbidden("may not be changed in an update."));
    }
    meta::immutable(&new["preemptionPolicy"], &old["preemptionPolicy"], &Path::new("preemptionPolicy"), &mut errors);
    errors
}

/// The two classes that exist from the start.
pub fn bootstrap() -> Vec<Object> {
    let text = |name: &str| match name {
        "system-node-critical" => "Used for system critical pods that must not be moved from their current node.",
        _ => {
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
        }
    };
    let class = |(name, value): (&str, i64)| {
        json!({
            "kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1", "metadata": {"name": name, "generation": 1},
            "value": value, "description": text(name), "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    SYSTEM_CLASSES.into_iter().map(class).collect()
}

fn row(class: &Object, now: i64) -> Vec<Value> {
    vec![
        class.name().into(),
        class["value"].as_i64().unwrap_or(0).into(),
        truth(&class["globalDefault"]).into(),
        age(class, now),
        text(&class["preemptionPolicy"]).into(),
    ]
}

const COLUMNS: &[Column] = &[
    NAME,
    integer(
        "Value",
        "value represents the integer value of this priority class. This is the actual priority that pods receive when they have the name of this class in their pod spec.",
    ),
    boolean(
        "Global-Default",
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class. Only one PriorityClass can be marked as `globalDefault`. However, if more than one PriorityClasses exists with their `globalDefault` field set to true, the smallest value of such global default PriorityClasses will be used as the default priority.",
    ),
    AGE,
    text_column(
        "PreemptionPolicy",
        "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, PreemptLowerPriority. Defaults to PreemptLowerPriority if unset.",
    ),
];
