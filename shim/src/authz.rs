//! May this user do that? A pure function of the user, the request's attributes and what nodes are related to.

pub mod bootstrap;
pub mod node;

use crate::authn::{MASTERS, User};
use crate::error::{ApiError, Qualified};
use crate::request::info::RequestInfo;

/// What is decided on.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub is_resource: bool,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Of requests outside the API.
    pub path: &'a str,
}

impl<'a> From<&'a RequestInfo> for Attributes<'a> {
    fn from(info: &'a RequestInfo) -> Self {
        Self {
            verb: &info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
        }
    }
}

/// The answer; a denial may carry a reason for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(String),
}

/// Does a pod of that node use the object? Asked only for nodes and only when the answer depends on it.
pub type Related<'a> = &'a dyn Fn(&str, &Attributes<'_>) -> bool;

/// Decides one request.
pub fn decide(user: &User, attributes: &Attributes<'_>, related: Related<'_>) -> Decision {
    if user.is_in(MASTERS) {
        return Decision::Allow;
    }
    if let Some(node) = user.as_node() {
        match node::decide(node, attributes, related) {
            Decision::Allow => return Decision::Allow,
            denied => {
                return if bootstrap::allows(user, attributes) { Decision::Allow } else { denied };
            }
        }
    }
    if bootstrap::allows(user, attributes) { Decision::Allow } else { Decision::Deny(String::new()) }
}

/// The 403 of a denied request, in apiserver's words.
pub fn forbidden(user: &User, a: &Attributes<'_>, reason: &str) -> ApiError {
    if !a.is_resource {
        return ApiError::ForbiddenPath(format!("User \"{}\" cannot {} path \"{}\"", user.name, a.verb, a.path));
    }
    let resource = match a.subresource {
        "" => a.resource.to_owned(),
        sub => format!("{}/{sub}", a.resource),
    };
    let place = match a.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let mut why = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        user.name, a.verb, a.group
    );
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    ApiError::Forbidden { what: Qualified::new(a.group, a.resource), name: a.name.into(), why, causes: Vec::new() }
}

#[cfg(test)]
mod tests;
