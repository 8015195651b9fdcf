//! Requests and limits of containers: `validateContainerResourceRequirements`.

use crate::registry::field::{Errors, Path};
use crate::registry::names;
use crate::registry::quantity::Nanos;
use crate::registry::value::{entries, text};
use serde_json::Value;

/// Names without a slash that a container may request.
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Other names without a slash that mean something somewhere.
const STANDARD_RESOURCES: [&str; 20] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "cpu",
    "memory",
    "ephemeral-storage",
];

fn is_huge(resource: &str) -> bool {
    resource.starts_with("hugepages-")
}

/// What may be requested without a limit: the machine's own resources but huge pages.
fn may_overcommit(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    native && !is_huge(resource)
}

pub(crate) fn container(resources: &Value, path: &Path, errors: &mut Errors) {
    let (mut huge, mut needed) = (false, false);
    for list in ["limits", "requests"] {
        for (resource, quantity) in entries(&resources[list]) {
            one(resource, quantity, &path.child(list).key(resource), errors);
            huge |= is_huge(resource);
            needed |= matches!(resource.as_str(), "cpu" | "memory");
        }
    }
    for (resource, request) in entries(&resources["requests"]) {
        let limit = &resources["limits"][resource];
        let detail = |relation: &str| format!("must be {relation} {resource} limit of {}", text(limit));
        match (Nanos::parse(request), Nanos::parse(limit)) {
            (Some(wanted), Some(limit)) if wanted != limit && !may_overcommit(resource) => {
                errors.push(path.child("requests").invalid(request.clone(), &detail("equal to")));
            }
            (Some(wanted), Some(limit)) if wanted > limit => {
                errors.push(path.child("requests").invalid(request.clone(), &detail("less than or equal to")));
            }
            (Some(_), None) if !may_overcommit(resource) => {
                errors.push(path.child("limits").required("Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
    if huge && !needed {
        errors.push(path.forbidden("HugePages require cpu or memory"));
    }
}

/// One resource's name and quantity.
fn one(resource: &str, quantity: &Value, path: &Path, errors: &mut Errors) {
    container_resource_name(resource, path, errors);
    validate_quantity(resource, quantity, path, errors);
}

/// `ValidateResourceName`: a qualified name, or a plain one that means something.
pub(crate) fn resource_name(resource: &str, path: &Path, errors: &mut Errors) {
    errors.extend(path.all_invalid(resource, names::qualified_name(resource)));
    if !resource.contains('/') && !is_huge(resource) && !STANDARD_RESOURCES.contains(&resource) {
        errors.push(path.invalid(resource, "must be a standard resource type or fully qualified"));
    }
}

/// … that a container may ask for.
pub(crate) fn container_resource_name(resource: &str, path: &Path, errors: &mut Errors) {
    resource_name(resource, path, errors);
    if !resource.contains('/') && !is_huge(resource) && !CONTAINER_RESOURCES.contains(&resource) {
        errors.push(path.invalid(resource, "must be a standard resource for containers"));
    }
}

/// Not negative, and whole where only whole ones can be given out.
pub(crate) fn validate_quantity(resource: &str, quantity: &Value, path: &Path, errors: &mut Errors) {
    let Some(nanos) = Nanos::parse(quantity) else { return };
    if nanos.0 < 0 {
        errors.push(path.invalid(quantity.clone(), "must be greater than or equal to 0"));
    }
    if resource.contains('/') && !resource.contains("kubernetes.io/") && !nanos.is_integer() {
        errors.push(path.invalid(quantity.clone(), "must be an integer"));
    }
}
