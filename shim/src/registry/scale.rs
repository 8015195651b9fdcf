//! The `scale` subresource: any kind with a number of replicas, as a `Scale`.

use super::field::{Errors, Path};
use super::gv::AUTOSCALING_V1;
use super::table::{AGE, NAME, age, integer};
use super::{Column, ResourceDef, STATUS_VERBS, Subresource, labels, template};
use crate::meta::{Meta, Object};
use serde_json::{Map, Value, json};

/// The subresource as discovery lists it.
pub const SCALE: Subresource = Subresource { name: "scale", kind: "Scale", gv: AUTOSCALING_V1, verbs: STATUS_VERBS };

/// A `Scale` as an answer is encoded; it is no resource of its own.
pub static DEF: ResourceDef = ResourceDef {
    gv: AUTOSCALING_V1,
    resource: "scales",
    singular: "scale",
    kind: "Scale",
    storage_gv: AUTOSCALING_V1,
    columns: COLUMNS,
    row,
    ..ResourceDef::BASIC
};

fn row(scale: &Object, now: i64) -> Vec<Value> {
    let number = |part: &str| Value::from(scale[part]["replicas"].as_i64().unwrap_or(0));
    vec![scale.name().into(), number("spec"), number("status"), age(scale, now)]
}

/// `ValidateScale`.
pub fn validate(scale: &Object) -> Errors {
    let mut errors = Errors::new();
    template::non_negative(&scale["spec"], &["replicas"], &Path::new("spec"), &mut errors);
    errors
}

/// Where a kind keeps what its `Scale` shows: dotted paths from the root of its object, as a custom resource
/// definition writes them (`.spec.replicas`).
#[derive(Clone, Copy, Debug)]
pub struct ScalePaths {
    pub spec_replicas: &'static str,
    pub status_replicas: &'static str,
    /// A label selector, a plain map of labels, or a selector that is a string already.
    pub selector: Option<&'static str>,
}

impl ScalePaths {
    /// Where the built-in workloads keep it.
    pub const WORKLOAD: Self =
        Self { spec_replicas: ".spec.replicas", status_replicas: ".status.replicas", selector: Some(".spec.selector") };

    /// The object as a `Scale`.
    pub fn scale_of(&self, object: &Object) -> Object {
        let mut metadata = Map::new();
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object["metadata"].get(field) {
                metadata.insert(field.to_owned(), value.clone());
            }
        }
        let number = |path: &str| at(object, path).as_i64().unwrap_or(0);
        let mut spec = Map::new();
        if number(self.spec_replicas) != 0 {
            spec.insert("replicas".to_owned(), number(self.spec_replicas).into());
        }
        let mut status = Map::new();
        status.insert("replicas".to_owned(), number(self.status_replicas).into());
        let selector = match self.selector.map(|path| at(object, path)) {
            Some(Value::String(text)) => text.clone(),
            Some(selector) => labels::format_selector(selector),
            None => String::new(),
        };
        if !selector.is_empty() {
            status.insert("selector".to_owned(), selector.into());
        }
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
    }

    /// Whether the object says how many replicas it wants.
    pub fn is_set(&self, object: &Object) -> bool {
        !at(object, self.spec_replicas).is_null()
    }

    /// Gives the object that many replicas.
    pub fn set_replicas(&self, object: &mut Object, replicas: i64) {
        let mut slot = object;
        for part in parts(self.spec_replicas) {
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            slot = &mut slot[part];
        }
        *slot = replicas.into();
    }
}

/// The fields that a dotted path names, outermost first.
pub fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter(|part| !part.is_empty())
}

fn at<'a>(object: &'a Object, path: &str) -> &'a Value {
    parts(path).fold(object, |value, part| &value[part])
}

/// Without the format that the name columns of resources have.
const SCALE_NAME: Column = Column { format: "", ..NAME };

const COLUMNS: &[Column] = &[
    SCALE_NAME,
    integer("Desired", "replicas is the desired number of instances for the scaled object."),
    integer("Available", "replicas is the actual number of observed instances of the scaled object."),
    AGE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector_and_sets_replicas() {
        let mut object = json!({
            "metadata": {"name": "a", "namespace": "n", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"b": "c"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}},
            "status": {"replicas": 1},
        });
        let scale = ScalePaths::WORKLOAD.scale_of(&object);
        assert_eq!(scale["metadata"], json!({"name": "a", "namespace": "n"}));
        assert_eq!(scale["spec"], json!({"replicas": 2}));
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a,b=c"}));
        ScalePaths::WORKLOAD.set_replicas(&mut object, 0);
        assert_eq!(ScalePaths::WORKLOAD.scale_of(&object)["spec"], json!({}));
    }
}
