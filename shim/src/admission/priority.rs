//! Priority: a pod's class becomes its number; without a class, the global default's.

use super::{Operation, Review};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::core::pod::admit::{SYSTEM_CLASSES, apply_priority_class};

/// The system's own classes stay (upstream refuses this in the registry).
pub fn keep_system_classes(review: &Review<'_>) -> Result<(), ApiError> {
    let class = review.def.resource == "priorityclasses" && SYSTEM_CLASSES.iter().any(|(name, _)| *name == review.name);
    if review.operation == Operation::Delete && class {
        let why = "this is a system priority class and cannot be deleted";
        return Err(ApiError::forbidden(review.def, review.name, why));
    }
    Ok(())
}

/// Runs on a pod as the client sent it, after `admit::admit_create`, which knows the system classes and the default of
/// zero. `asked` is the number that the client wrote, which must be the one computed.
pub fn admit(review: &Review<'_>, pod: &mut Object, asked: Option<i64>) -> Result<(), ApiError> {
    apply(review, pod)?;
    let computed = pod["spec"]["priority"].as_i64().unwrap_or(0);
    match asked {
        Some(asked) if asked != computed => {
            let why = format!(
                "the integer value of priority ({asked}) must not be provided in pod spec; priority admission \
                 controller computed {computed} from the given PriorityClass name"
            );
            Err(ApiError::forbidden(review.def, review.name, why))
        }
        Some(_) | None => Ok(()),
    }
}

fn apply(review: &Review<'_>, pod: &mut Object) -> Result<(), ApiError> {
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
