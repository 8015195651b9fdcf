//! What can go wrong with an API request, as callers branch on it; `http::status` alone turns it into a `Status`.

use crate::registry::ResourceDef;
use crate::registry::field::{Cause, FieldError};
use crate::revision::Revision;
use crate::store::StoreError;

/// A group and a resource (or kind): what an error is about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Qualified {
    pub group: String,
    pub resource: String,
}

impl Qualified {
    pub fn new(group: &str, resource: &str) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
    /// The resource of a definition: `pods`, `leases.coordination.k8s.io`.
    pub fn resource(def: &ResourceDef) -> Self {
        Self::new(def.gv.group, def.resource)
    }
    /// Its kind: `Pod`, `Lease.coordination.k8s.io` (Invalid errors and delete preconditions name kinds, as stored).
    pub fn kind(def: &ResourceDef) -> Self {
        Self::new(def.storage_gv.group, def.kind)
    }
}

impl std::fmt::Display for Qualified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// A refused or failed request; texts are kube-apiserver's.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    BadRequest(String),
    #[error("Unauthorized")]
    Unauthorized,
    /// `what "name" is forbidden: reason`; the name may be empty.
    #[error("{what} \"{name}\" is forbidden: {why}")]
    Forbidden { what: Qualified, name: String, why: String, causes: Vec<FieldError> },
    /// A path outside the API that the user may not see.
    #[error("forbidden: {0}")]
    ForbiddenPath(String),
    /// A ValidatingAdmissionPolicy refuses, for the reason that it gives.
    #[error("{what} \"{name}\" is forbidden: {why}")]
    PolicyDenied { what: Qualified, name: String, why: String, reason: &'static str },
    #[error("{what} \"{name}\" not found")]
    NotFound { what: Qualified, name: String },
    /// No such resource is served.
    #[error("the server could not find the requested resource")]
    UnknownResource,
    /// No such path: answered in plain text.
    #[error("404 page not found")]
    UnknownPath,
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// The definition of a custom resource is being deleted.
    #[error("{verb} not allowed while custom resource definition is terminating")]
    DefinitionTerminating { verb: &'static str },
    #[error("{0}")]
    NotAcceptable(String),
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("{what} \"{name}\" already exists")]
    AlreadyExists { what: Qualified, name: String },
    #[error("Operation cannot be fulfilled on {what} \"{name}\": {why}")]
    Conflict { what: Qualified, name: String, why: String },
    /// An apply that changes what other managers own.
    #[error("{message}")]
    ApplyConflict { message: String, conflicts: Vec<crate::schema::apply::Conflict> },
    /// The revision (or the continue token's) is no longer kept.
    #[error("{0}")]
    Expired(String),
    /// The same of a continue token, with one that goes on from there at the present: upstream's `inconsistentContinue`.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list."
    )]
    ExpiredPage { next: String },
    #[error("{what} \"{name}\" is invalid")]
    Invalid { what: Qualified, name: String, errors: Vec<FieldError> },
    /// A patch that does not apply: 422 with the patch library's text as the cause.
    #[error("{0}")]
    PatchRejected(String),
    #[error("Request entity too large: {0}")]
    TooLarge(String),
    /// The request took longer than it may.
    #[error("Timeout: {0}")]
    Timeout(String),
    #[error("{message}")]
    TooManyRequests { message: String, retry_after_seconds: u32 },
    /// An eviction that a disruption budget does not allow now.
    #[error("Cannot evict pod as it would violate the pod's disruption budget.")]
    Disrupting { cause: String, retry_after_seconds: Option<u32> },
    #[error("Timeout: Too large resource version: {asked}, current: {current}")]
    FutureVersion { asked: Revision, current: Revision },
    /// A plain error of ours or upstream's that carries no reason: 500 with the bare text.
    #[error("{0}")]
    Plain(String),
    /// Nothing more can be stored until something is removed.
    #[error("the store is full: {0}")]
    InsufficientStorage(String),
    #[error("Internal error occurred: {0}")]
    Internal(String),
    #[error("{0}")]
    Unavailable(String),
    /// An agent could not be reached.
    #[error("{0}")]
    BadGateway(String),
}

impl ApiError {
    pub fn not_found(def: &ResourceDef, name: &str) -> Self {
        Self::NotFound { what: Qualified::resource(def), name: name.into() }
    }
    pub fn already_exists(def: &ResourceDef, name: &str) -> Self {
        Self::AlreadyExists { what: Qualified::resource(def), name: name.into() }
    }
    pub fn forbidden(def: &ResourceDef, name: &str, why: impl Into<String>) -> Self {
        Self::Forbidden { what: Qualified::resource(def), name: name.into(), why: why.into(), causes: Vec::new() }
    }
    /// The loser of an optimistic race reads this.
    pub fn modified(def: &ResourceDef, name: &str) -> Self {
        Self::Conflict {
            what: Qualified::resource(def),
            name: name.into(),
            why: "the object has been modified; please apply your changes to the latest version and try again".into(),
        }
    }
    pub fn invalid(def: &ResourceDef, name: &str, errors: Vec<FieldError>) -> Self {
        Self::Invalid { what: Qualified::kind(def), name: name.into(), errors }
    }
    /// One field's error of an object of that kind.
    pub fn invalid_field(what: Qualified, name: &str, cause: Cause, field: &str, message: String) -> Self {
        Self::Invalid { what, name: name.into(), errors: vec![FieldError { cause, field: field.into(), message }] }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            // Callers that expect a race handle `Lost` themselves; what is left cannot say whose it was.
            StoreError::Lost(_) => Self::Internal("the object was changed by another writer".into()),
            StoreError::Compacted { oldest } => Self::Expired(format!(
                "The resourceVersion for the provided list is too old; the oldest kept is {oldest}."
            )),
            StoreError::Future { asked, current } => Self::FutureVersion { asked, current },
            StoreError::Full(text) => Self::InsufficientStorage(text),
            // kube-apiserver hands etcd's error on as it is, a 500 without a reason; clients look for its text.
            StoreError::TooLarge(text) => Self::Plain(text),
            StoreError::Corrupt(text) => Self::Internal(format!("the store is corrupt: {text}")),
            StoreError::Unavailable(text) => Self::Unavailable(format!("the store is unavailable: {text}")),
        }
    }
}
