//! Admission decisions, plugin by plugin.

use super::*;
use crate::registry;
use serde_json::json;

fn review<'a>(user: &'a User, operation: Operation, resource: &str, name: &'a str) -> Review<'a> {
    Review {
        user,
        operation,
        def: registry::find("", "v1", resource).unwrap(),
        sub: None,
        namespace: "ns",
        name,
        namespace_object: None,
        service_account: None,
        priority_classes: &[],
        old: None,
    }
}

#[test]
fn nothing_is_created_in_a_missing_or_terminating_namespace() {
    let user = User::apiserver();
    let mut pod = json!({"metadata": {"name": "late"}, "spec": {}});
    let mut at = review(&user, Operation::Create, "configmaps", "late");
    assert_eq!(admit(&at, Some(&mut pod)).unwrap_err().to_string(), "namespaces \"ns\" not found");
    let going = json!({"metadata": {"name": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    at.namespace_object = Some(&going);
    assert_eq!(
        admit(&at, Some(&mut pod)).unwrap_err().to_string(),
        "configmaps \"late\" is forbidden: unable to create new content in namespace ns because it is being terminated"
    );
    let immortal = review(&user, Operation::Delete, "namespaces", "kube-system");
    assert!(admit(&immortal, None).unwrap_err().to_string().ends_with("this namespace may not be deleted"));
}

#[test]
fn a_pod_gets_its_account_its_token_and_its_default_tolerations() {
    let user = User::apiserver();
    let (namespace, account) = (json!({"metadata": {"name": "ns"}}), json!({"metadata": {"name": "default"}}));
    let mut at = review(&user, Operation::Create, "pods", "p");
    at.namespace_object = Some(&namespace);
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
    assert_eq!(
        admit(&at, Some(&mut pod.clone())).unwrap_err().to_string(),
        "pods \"p\" is forbidden: error looking up service account ns/default: serviceaccount \"default\" not found"
    );
    at.service_account = Some(&account);
    admit(&at, Some(&mut pod)).unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], pod["spec"]["volumes"][0]["name"]);
    let once = pod.clone();
    admit(&at, Some(&mut pod)).unwrap();
    assert_eq!(pod, once, "admission is idempotent");
}

#[test]
fn an_agent_writes_only_what_is_its_own() {
    let node = User::authenticated("system:node:n1", ["system:nodes".to_owned()]);
    let foreign = json!({"spec": {"nodeName": "n2"}});
    let mut at = review(&node, Operation::Delete, "pods", "p");
    at.old = Some(&foreign);
    assert!(admit(&at, None).is_err());
    let own = json!({"spec": {"nodeName": "n1"}});
    at.old = Some(&own);
    assert!(admit(&at, None).is_ok());
    assert!(admit(&review(&node, Operation::Update, "nodes", "n2"), None).is_err());
    assert!(admit(&review(&node, Operation::Update, "nodes", "n1"), None).is_ok());
}
