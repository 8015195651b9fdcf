//! RuntimeClass: a pod gets its class's overhead and scheduling constraints, and has no overhead without one.

use super::Review;
use crate::error::ApiError;
use crate::meta::Object;
use serde_json::{Value, json};

pub fn admit(review: &Review<'_>, pod: &mut Object) -> Result<(), ApiError> {
    let refuse = |why: String| Err(ApiError::forbidden(review.def, review.name, why));
    let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or("").to_owned();
    let class = match (name.as_str(), review.runtime_class) {
        ("", _) => None,
        (_, Some(class)) => Some(class),
        (name, None) => return refuse(format!("pod rejected: RuntimeClass \"{name}\" not found")),
    };
    let fixed = class.map(|class| &class["overhead"]["podFixed"]).filter(|fixed| !fixed.is_null());
    match (fixed, &pod["spec"]["overhead"]) {
        (Some(_), Value::Null) | (None, Value::Null) => {}
        (Some(fixed), own) if own == fixed => {}
        (Some(_), _) => {
            return refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (None, _) => {
            return refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
    }
    if let Some(fixed) = fixed {
        pod["spec"]["overhead"] = fixed.clone();
    }
    let Some(class) = class else { return Ok(()) };
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let own = &pod["spec"]["nodeSelector"][key];
        if !own.is_null() && own != value {
            let shown = |value: &Value| value.as_str().unwrap_or("").to_owned();
            return refuse(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                shown(value),
                shown(own)
            ));
        }
        if !pod["spec"]["nodeSelector"].is_object() {
            pod["spec"]["nodeSelector"] = json!({});
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    for toleration in class["scheduling"]["tolerations"].as_array().into_iter().flatten() {
        match pod["spec"]["tolerations"].as_array_mut() {
            Some(list) if list.contains(toleration) => {}
            Some(list) => list.push(toleration.clone()),
            None => pod["spec"]["tolerations"] = json!([toleration]),
        }
    }
    Ok(())
}
