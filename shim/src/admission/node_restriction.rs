//! NodeRestriction: an agent writes its own Node, its own Lease, and only the pods bound to its node.

use super::{Operation, Review};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::request::Sub;

pub fn admit(review: &Review<'_>, object: Option<&Object>) -> Result<(), ApiError> {
    let Some(node) = review.user.as_node() else { return Ok(()) };
    let deny = |why: String| Err(ApiError::forbidden(review.def, review.name, why));
    match (review.def.gv.group, review.def.resource) {
        ("", "nodes") => {
            if review.name != node {
                return deny(format!("node \"{node}\" is not allowed to modify node \"{}\"", review.name));
            }
            let (Some(old), Some(new)) = (review.old, object) else { return Ok(()) };
            if review.sub.is_none() && old["spec"]["taints"] != new["spec"]["taints"] {
                return deny(format!("node \"{node}\" is not allowed to modify taints"));
            }
            Ok(())
        }
        ("", "pods") => match (review.operation, review.sub) {
            (Operation::Create, None) => {
                let mirror =
                    object.and_then(Meta::annotations).is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
                let bound = object.is_some_and(|pod| pod["spec"]["nodeName"] == node);
                match (mirror, bound) {
                    (false, _) => deny(format!(
                        "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
                    )),
                    (true, false) => {
                        deny(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"))
                    }
                    (true, true) => Ok(()),
                }
            }
            (Operation::Create, Some(Sub::Eviction))
            | (Operation::Update, Some(Sub::Status))
            | (Operation::Delete, _) => match review.old {
                Some(pod) if pod["spec"]["nodeName"] != node => deny(match review.operation {
                    Operation::Delete => {
                        format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")
                    }
                    _ => {
                        format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself")
                    }
                }),
                _ => Ok(()),
            },
            _ => deny("node is not allowed to make this request".into()),
        },
        ("coordination.k8s.io", "leases") if review.name != node => deny(format!(
            "can only access node lease with the same name as the requesting node, name: {}, node: {node}",
            review.name
        )),
        _ => Ok(()),
    }
}
