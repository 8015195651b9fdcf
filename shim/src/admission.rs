//! Admission: ordered, pure mutators and checks between decoding and validation; what they look up is given to them.

pub mod certificate_request;
pub mod default_class;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_security;
pub mod policy;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;

use crate::authn::User;
use crate::error::ApiError;
use crate::meta::Object;
use crate::registry::{self, ResourceDef};
use crate::request::Sub;

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// What the plugins may look at besides the object.
pub struct Review<'a> {
    pub user: &'a User,
    pub operation: Operation,
    pub def: &'a ResourceDef,
    pub sub: Option<Sub>,
    pub namespace: &'a str,
    /// The object's name in the path; a create's own name.
    pub name: &'a str,
    /// The namespace object, when the operation is a create in one.
    pub namespace_object: Option<&'a Object>,
    /// The pod's service account, when a pod is created and the account exists.
    pub service_account: Option<&'a Object>,
    /// All priority classes, when a pod is created.
    pub priority_classes: &'a [Object],
    /// The pod's runtime class, when a pod is created and the class exists.
    pub runtime_class: Option<&'a Object>,
    /// The limit ranges of the namespace, when a pod or a claim is created or changed there.
    pub limit_ranges: &'a [Object],
    /// The classes that the object chooses from, when it names none.
    pub classes: &'a [Object],
    pub old: Option<&'a Object>,
}

impl<'a> Review<'a> {
    /// One for plugins that look at nothing but the request; the caller fills in what else there is.
    pub fn bare(user: &'a User, def: &'a ResourceDef, operation: Operation, sub: Option<Sub>) -> Self {
        Self {
            user,
            operation,
            def,
            sub,
            namespace: "",
            name: "",
            namespace_object: None,
            service_account: None,
            priority_classes: &[],
            runtime_class: None,
            limit_ranges: &[],
            classes: &[],
            old: None,
        }
    }
}

/// Runs the plugins in upstream's order. `object` is the storage form, defaulted; deletes have none.
pub fn admit(review: &Review<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    namespace_lifecycle::admit(review)?;
    priority::keep_system_classes(review)?;
    node_restriction::admit(review, object.as_deref())?;
    let Some(object) = object else { return Ok(()) };
    limit_ranger::admit(review, object)?;
    let core = review.def.gv.group.is_empty() && review.sub.is_none() && review.operation == Operation::Create;
    if core && review.def.resource == "nodes" {
        registry::core::node::admit_create(object);
    }
    if core && review.def.resource == "pods" {
        let asked = object["spec"]["priority"].as_i64();
        registry::core::pod::admit::admit_create(object);
        service_account::admit(review, object)?;
        priority::admit(review, object, asked)?;
        runtime_class::admit(review, object)?;
    }
    default_class::admit(review, object);
    certificate_request::admit(review, object);
    certificate_request::check_subject(review, object)
}

/// Five random characters as `generateName` and generated volume names end in (no vowels, nothing look-alike).
pub fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4().into_bytes();
    random[..5].iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char).collect()
}

#[cfg(test)]
mod tests;
