//! Priority: a pod's class becomes its number; without a class, the global default's.

use super::Review;
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::core::pod::admit::{SYSTEM_CLASSES, apply_priority_class};

/// Runs after `admit::admit_create`, which knows the system classes and the default of zero.
pub fn admit(review: &Review<'_>, pod: &mut Object) -> Result<(), ApiError> {
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
    if SYSTEM_CLASSES.iter().any(|(class, _)| *class == name) {
        return Ok(());
    }
    let class = if name.is_empty() {
        review.priority_classes.iter().find(|c| c["globalDefault"] == true)
    } else {
        let found = review.priority_classes.iter().find(|c| c.name() == name);
        if found.is_none() {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(ApiError::forbidden(review.def, review.name, why));
        }
        found
    };
    if let Some(class) = class {
        apply_priority_class(pod, class);
    }
    Ok(())
}
