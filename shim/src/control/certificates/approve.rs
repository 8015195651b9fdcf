//! certificatesigningrequest-approving-controller: client certificates of kubelets are approved when who asks may have
//! one made for nodes (`nodeclient`) or for itself (`selfnodeclient`). Serving certificates are for others to approve.

use super::request::{Asked, KUBELET_CLIENT};
use super::{CallError, call, follow, has, is_issued, with_condition, write};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;

/// Approves, for ever.
pub(in crate::control) async fn run(client: Client) {
    follow(client.clone(), |request| waits(&request), |name| handle(client.clone(), name)).await;
}

fn waits(request: &CertificateSigningRequest) -> bool {
    request.spec.signer_name == KUBELET_CLIENT
        && !is_issued(request)
        && !["Approved", "Denied"].iter().any(|condition| has(request, condition))
}

async fn handle(client: Client, name: std::sync::Arc<str>) -> Result<(), CallError> {
    let request = call(Api::<CertificateSigningRequest>::all(client.clone()).get(&name)).await?;
    if !waits(&request) {
        return Ok(());
    }
    let asked = match Asked::read(&request) {
        Ok(asked) => asked,
        Err(why) => {
            tracing::info!(request = %name, why, "certificate signing request not recognized");
            return Ok(());
        }
    };
    for permission in recognized(&asked) {
        if is_allowed(&client, &request, permission.subresource).await? {
            tracing::info!(request = %name, user = asked.username, "certificate signing request approved");
            let conditions = with_condition(&request, "Approved", "AutoApproved", permission.message);
            return write(&client, "approval", &request, json!({"conditions": conditions})).await;
        }
    }
    Ok(())
}

/// What would allow a request, and what the approval then says.
#[derive(Debug, PartialEq, Eq)]
struct Permission {
    subresource: &'static str,
    message: &'static str,
}

const OWN: Permission = Permission {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const ANY: Permission = Permission {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

fn recognized(asked: &Asked) -> &'static [Permission] {
    match (asked.check_kubelet_client(), asked.username == asked.common_name) {
        (Ok(()), true) => &[OWN, ANY],
        (Ok(()), false) => &[ANY],
        (Err(_), _) => &[],
    }
}

/// Whether who asks may `create` that subresource of requests.
async fn is_allowed(
    client: &Client,
    request: &CertificateSigningRequest,
    subresource: &str,
) -> Result<bool, CallError> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                subresource: Some(subresource.to_owned()),
                verb: Some("create".into()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = call(Api::all(client.clone()).create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::request;
    use super::*;
    use crate::control::tests::script::Script;
    use serde_json::Value;

    const USAGES: &[&str] = &["client auth", "digital signature"];

    #[test]
    fn a_node_renews_its_own_and_a_bootstrapper_gets_any() {
        let mut asked = Asked::read(&request(KUBELET_CLIENT, USAGES, &[])).unwrap();
        assert_eq!(recognized(&asked), &[OWN, ANY]);
        asked.username = "system:bootstrap:abcdef".into();
        assert_eq!(recognized(&asked), &[ANY]);
        asked.usages.push("server auth".into());
        assert_eq!(recognized(&asked), &[]);
    }

    #[tokio::test]
    async fn what_the_review_allows_is_approved_and_nothing_else() {
        let mut csr = request(KUBELET_CLIENT, USAGES, &[]);
        csr.metadata.name = Some("csr-1".into());
        csr.metadata.resource_version = Some("7".into());
        csr.spec.username = Some("system:bootstrap:abcdef".into());
        let answer = |allowed: bool| json!({"spec": {}, "status": {"allowed": allowed}});
        for allowed in [true, false] {
            let script = Script::default()
                .on("GET ", 200, serde_json::to_string(&csr).unwrap())
                .on("POST /apis/authorization.k8s.io/v1/subjectaccessreviews", 201, answer(allowed))
                .on("PATCH ", 200, serde_json::to_string(&csr).unwrap());
            handle(script.client(), "csr-1".into()).await.unwrap();
            let asked = script.asked();
            let (line, body) = asked[1].split_once(" {").unwrap();
            assert!(line.starts_with("POST /apis/authorization.k8s.io/v1/subjectaccessreviews"), "{line}");
            assert!(body.contains("\"subresource\":\"nodeclient\""), "{body}");
            let patch = asked.get(2).map(|line| line.split_once(" {").unwrap());
            assert_eq!(patch.is_some(), allowed, "{asked:?}");
            if let Some((line, body)) = patch {
                assert!(line.contains("certificatesigningrequests/csr-1/approval"), "{line}");
                let body: Value = serde_json::from_str(&format!("{{{body}")).unwrap();
                assert_eq!(body["metadata"]["resourceVersion"], "7");
                assert_eq!(body["status"]["conditions"][0]["reason"], "AutoApproved");
            }
        }
    }
}
