//! Claims and ingresses that name no class get the default one: `DefaultStorageClass` and `DefaultIngressClass`.

use super::{Operation, Review};
use crate::meta::{Meta, Object};
use crate::registry::core::persistentvolumeclaim;
use crate::registry::networking::{ingress, ingressclass};
use crate::registry::storage::storageclass;
use crate::registry::{ResourceDef, value};
use crate::request::Sub;
use std::cmp::Reverse;

/// Where the classes are stored that a new object without one of its own chooses from.
pub fn classes_for(def: &ResourceDef, sub: Option<Sub>, operation: Operation, object: &Object) -> Option<&'static str> {
    if operation != Operation::Create || sub.is_some() {
        return None;
    }
    let annotated = |key: &str| object["metadata"]["annotations"][key].is_string();
    if is(def, &persistentvolumeclaim::DEF) {
        let named =
            object["spec"]["storageClassName"].is_string() || annotated(persistentvolumeclaim::CLASS_ANNOTATION);
        return (!named).then_some(storageclass::DEF.storage);
    }
    if is(def, &ingress::DEF) {
        let named = object["spec"]["ingressClassName"].is_string() || annotated(ingress::CLASS_ANNOTATION);
        return (!named).then_some(ingressclass::DEF.storage);
    }
    None
}

fn is(def: &ResourceDef, other: &ResourceDef) -> bool {
    def.gv == other.gv && def.resource == other.resource
}

/// Gives the object the newest of the classes that are marked as default.
pub(super) fn admit(review: &Review<'_>, object: &mut Object) {
    let is_claim = is(review.def, &persistentvolumeclaim::DEF);
    let is_default = if is_claim { storageclass::is_default } else { ingressclass::is_default };
    let field = if is_claim { "storageClassName" } else { "ingressClassName" };
    let marked = review.classes.iter().filter(|class| is_default(class));
    let newest = marked.max_by_key(|class| (class.meta_str("creationTimestamp"), Reverse(class.name())));
    if let Some(class) = newest {
        value::object_entry(value::root(object), "spec").insert(field.to_owned(), class.name().into());
    }
}
