//! serviceaccount-controller: every active namespace has the service account `default`.

use super::per_namespace::{self, PerNamespace, Step};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;

struct DefaultAccount;

impl PerNamespace for DefaultAccount {
    type Kind = ServiceAccount;
    type Seen = ();
    const NAME: &'static str = "default";

    fn keep(_: ServiceAccount) {}

    fn decide(&self, seen: Option<&()>) -> Step<ServiceAccount> {
        match seen {
            Some(()) => Step::Nothing,
            None => Step::Create(Box::new(ServiceAccount {
                metadata: ObjectMeta { name: Some(Self::NAME.into()), ..ObjectMeta::default() },
                ..ServiceAccount::default()
            })),
        }
    }
}

/// Creates the account in new namespaces and again where it was deleted, for ever.
pub(super) async fn run(client: Client) {
    per_namespace::run(client, DefaultAccount).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::script::Script;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn namespace(name: &str, phase: &str) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": "1"}, "status": {"phase": phase}})
    }

    #[tokio::test(start_paused = true)]
    async fn active_namespaces_get_the_account_and_get_it_again_after_its_deletion() {
        let account = json!({"metadata": {"namespace": "has", "name": "default", "resourceVersion": "2"}});
        let namespaces = [namespace("has", "Active"), namespace("new", "Active"), namespace("going", "Terminating")];
        let script = Script::default()
            .on("GET /api/v1/namespaces?", 200, json!({"metadata": {"resourceVersion": "4"}, "items": namespaces}))
            .on("GET /api/v1/serviceaccounts?", 200, json!({"metadata": {"resourceVersion": "4"}, "items": [account]}))
            .on("POST /api/v1/namespaces/new/serviceaccounts", 500, json!({"code": 500, "message": "no"}))
            .on("POST /api/v1/namespaces/new/serviceaccounts", 201, json!({"metadata": {"name": "default"}}))
            .on_watch(
                "GET /api/v1/serviceaccounts?",
                &[json!({"type": "DELETED", "object": {"metadata": {"namespace": "has", "name": "default", "resourceVersion": "5"}}})],
            )
            .on("POST /api/v1/namespaces/has/serviceaccounts", 201, json!({"metadata": {"name": "default"}}));
        let _ = tokio::time::timeout(Duration::from_secs(20), run(script.client())).await;
        let mut posts: Vec<String> = script.asked().into_iter().filter(|line| line.starts_with("POST")).collect();
        posts.sort();
        let post = |namespace: &str| {
            format!(
                "POST /api/v1/namespaces/{namespace}/serviceaccounts?&fieldManager=kube-controller-manager {}",
                r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#
            )
        };
        assert_eq!(posts[0], post("has"));
        assert!(posts.len() >= 3 && posts[1..].iter().all(|p| *p == post("new")), "{posts:#?}");
    }
}
