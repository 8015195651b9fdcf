//! RuntimeClasses.

use crate::meta::{Meta, Object};
use crate::registry::core::pod::validate;
use crate::registry::field::{Errors, Path};
use crate::registry::gv::NODE_V1;
use crate::registry::table::{AGE, NAME, age, text_column};
use crate::registry::value::{items, same, text};
use crate::registry::{Column, ResourceDef, Strategy, labels, meta, names};
use serde_json::{Value, json};

pub const DEF: ResourceDef = ResourceDef {
    gv: NODE_V1,
    resource: "runtimeclasses",
    singular: "runtimeclass",
    kind: "RuntimeClass",
    namespaced: false,
    storage: "runtimeclasses",
    storage_gv: NODE_V1,
    columns: COLUMNS,
    row,
    strategy: &Strategy {
        validate: validate_class,
        validate_update,
        allow_unconditional_update: false,
        ..Strategy::CLUSTER
    },
    ..ResourceDef::BASIC
};

fn validate_class(class: &Object) -> Errors {
    let mut errors = meta::validate_cluster(class);
    let handler = text(&class["handler"]);
    errors.extend(Path::new("handler").all_invalid(handler, names::dns1123_label(handler, false)));
    if class["overhead"].is_object() {
        // As upstream does: with the rules, and the paths, of a container's limits.
        let limits = json!({"limits": class["overhead"]["podFixed"]});
        validate::container_resources(&limits, &Path::new("overhead"), &mut errors);
    }
    let (scheduling, path) = (&class["scheduling"], Path::new("scheduling"));
    labels::validate(&scheduling["nodeSelector"], &path.child("nodeSelector"), &mut errors);
    let (tolerations, path) = (items(&scheduling["tolerations"]), path.child("tolerations"));
    validate::tolerations(tolerations, &path, &mut errors);
    for (index, toleration) in tolerations.iter().enumerate() {
        if tolerations[..index].iter().any(|earlier| same(earlier, toleration)) {
            errors.push(path.index(index).duplicate(toleration.clone()));
        }
    }
    errors
}

fn validate_update(new: &Object, old: &Object) -> Errors {
    let mut errors = meta::validate_update(new, old);
    meta::immutable(&new["handler"], &old["handler"], &Path::new("handler"), &mut errors);
    errors
}

fn row(class: &Object, now: i64) -> Vec<Value> {
    vec![class.name().into(), text(&class["handler"]).into(), age(class, now)]
}

const COLUMNS: &[Column] = &[NAME, text_column("Handler", ""), AGE];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_and_scheduling_are_checked() {
        let toleration = json!({"key": "a", "operator": "Exists"});
        for (class, fields) in [
            (json!({"overhead": {"podFixed": {"cpu": "1", "memory": "1Gi"}}}), vec![]),
            (json!({"overhead": {"podFixed": {"cpu": "-1"}}}), vec!["overhead.limits[cpu]"]),
            (json!({"scheduling": {"nodeSelector": {"a b": "c"}}}), vec!["scheduling.nodeSelector"]),
            (
                json!({"scheduling": {"tolerations": [{"operator": "Equal"}]}}),
                vec!["scheduling.tolerations[0].operator"],
            ),
            (json!({"scheduling": {"tolerations": [toleration, toleration]}}), vec!["scheduling.tolerations[1]"]),
        ] {
            let mut object = class.clone();
            object["metadata"] = json!({"name": "c"});
            object["handler"] = "h".into();
            let found: Vec<String> = validate_class(&object).into_iter().map(|error| error.field).collect();
            assert_eq!(found, fields, "{class}");
        }
    }
}
