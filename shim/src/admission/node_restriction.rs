//! NodeRestriction: an agent writes its own Node, its own Lease, and only the pods bound to its node.

use super::{Operation, Review};
use crate::error::ApiError;
use crate::meta::{Meta, Object};
use crate::registry::certificates::certificatesigningrequest::common_name;
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
        ("storage.k8s.io", "csinodes") if review.name != node => deny(format!(
            "can only access CSINode with the same name as the requesting node, name: {}, node: {node}",
            review.name
        )),
        ("certificates.k8s.io", "certificatesigningrequests") if review.operation == Operation::Create => {
            match object.filter(|request| NODE_SIGNERS.iter().any(|signer| request["spec"]["signerName"] == *signer)) {
                Some(request) if common_name(request) != review.user.name => {
                    deny(format!("can only create a node CSR with CN={}", review.user.name))
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// The signers of nodes' certificates.
const NODE_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// `serviceaccounts/token`: for a pod on the agent's own node, and an audience that the pod's volumes name. `pod` is
/// the one that the request is bound to, `Null` where there is none.
pub fn token(node: &str, request: &Object, pod: &Object) -> Result<(), String> {
    let reference = &request["spec"]["boundObjectRef"];
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || text("name").is_empty() {
        return Err("node requested token not bound to a pod".into());
    }
    if text("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    if pod["metadata"]["uid"] != text("uid") {
        return Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    let audience = match request["spec"]["audiences"].as_array().map(Vec::as_slice) {
        None | Some([]) => "",
        Some([one]) => one.as_str().unwrap_or(""),
        Some(_) => return Err("node may only request 0 or 1 audiences".into()),
    };
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let named = sources.any(|source| {
        let token = &source["serviceAccountToken"];
        token.is_object() && token["audience"].as_str().unwrap_or("") == audience
    });
    if named { Ok(()) } else { Err(format!("audience \"{audience}\" not found in pod spec volume")) }
}
