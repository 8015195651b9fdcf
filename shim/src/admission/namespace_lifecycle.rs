//! NamespaceLifecycle: nothing is created in a namespace that is missing or going away, and three are immortal.

use super::{Operation, Review};
use crate::error::{ApiError, Qualified};
use crate::meta::Meta;
use crate::registry::field::{Cause, FieldError};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub fn admit(review: &Review<'_>) -> Result<(), ApiError> {
    let namespaces = review.def.resource == "namespaces" && review.def.gv.group.is_empty();
    if review.operation == Operation::Delete && namespaces && IMMORTAL.contains(&review.name) {
        return Err(ApiError::forbidden(review.def, review.name, "this namespace may not be deleted"));
    }
    if review.operation != Operation::Create || !review.def.namespaced {
        return Ok(());
    }
    let Some(namespace) = review.namespace_object else {
        return Err(ApiError::NotFound { what: Qualified::new("", "namespaces"), name: review.namespace.into() });
    };
    let terminating = namespace.deletion_timestamp().is_some() || namespace["status"]["phase"] == "Terminating";
    if !terminating || review.sub.is_some() {
        return Ok(());
    }
    Err(ApiError::Forbidden {
        what: Qualified::resource(review.def),
        name: review.name.into(),
        why: format!("unable to create new content in namespace {} because it is being terminated", review.namespace),
        causes: vec![FieldError {
            // Shown as `NamespaceTerminating`: the one cause that is not a field validation.
            cause: Cause::Internal,
            field: "metadata.namespace".into(),
            message: format!("namespace {} is being terminated", review.namespace),
        }],
    })
}
