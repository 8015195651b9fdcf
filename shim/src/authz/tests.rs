//! Who may do what, as a table.

use super::*;
use crate::request::query::Query;
use serde_json::json;

fn ask(user: &User, method: &str, path: &str) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let info = RequestInfo::parse(method, path, &Query::parse(query));
    let attributes = Attributes::from(&info);
    match decide(user, &attributes, &|_, a| a.name == "used") {
        Decision::Allow => "allow".into(),
        Decision::Deny(reason) => forbidden(user, &attributes, &reason).to_string(),
    }
}

#[test]
fn built_in_identities_reach_what_is_theirs_and_nothing_else() {
    let admin = User::authenticated("admin", ["system:masters".to_owned()]);
    let node = User::authenticated("system:node:n1", ["system:nodes".to_owned()]);
    let scheduler = User::authenticated("system:kube-scheduler", []);
    let plain = User::authenticated("jo", []);
    let bot = User::service_account("kube-system", "namespace-controller", "");
    let anonymous = User::anonymous();
    let kubeadm = ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"].map(str::to_owned);
    let token = User::authenticated("system:bootstrap:abcdef", kubeadm);
    let signer = User::service_account("kube-system", "certificate-controller", "");
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let allowed = [
        (&token, "POST", REQUESTS),
        (&token, "POST", &*format!("{REQUESTS}/x/nodeclient")),
        (&node, "POST", REQUESTS),
        (&node, "POST", &*format!("{REQUESTS}/x/selfnodeclient")),
        (&node, "PATCH", "/apis/storage.k8s.io/v1/csinodes/n1"),
        (&signer, "PATCH", &*format!("{REQUESTS}/x/approval")),
        (&admin, "DELETE", "/api/v1/nodes/n1"),
        (&node, "GET", "/api/v1/nodes/n1"),
        (&node, "GET", "/api/v1/nodes?watch=true&fieldSelector=metadata.name=n1"),
        (&node, "GET", "/api/v1/namespaces/a/secrets/used"),
        (&node, "PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"),
        (&node, "PATCH", "/api/v1/namespaces/a/pods/p/status"),
        (&scheduler, "POST", "/api/v1/namespaces/a/pods/p/binding"),
        (&bot, "DELETE", "/apis/apps/v1/namespaces/a/deployments"),
        (&plain, "GET", "/apis/apps/v1"),
        (&anonymous, "GET", "/readyz"),
    ];
    for (user, method, path) in allowed {
        assert_eq!(ask(user, method, path), "allow", "{} {method} {path}", user.name);
    }
    for (user, path) in [
        (&token, "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/selfnodeclient"),
        (&token, "/api/v1/namespaces/kube-system/secrets"),
        (&node, "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/nodeclient"),
        (&plain, REQUESTS),
        (&User::authenticated("system:bootstrap:abcdef", ["system:bootstrappers".to_owned()]), REQUESTS),
    ] {
        assert_ne!(ask(user, "POST", path), "allow", "{} {path}", user.name);
    }
    let denied = [
        (
            &plain,
            "GET",
            "/api/v1/namespaces/default/pods",
            "pods \"\" is forbidden: User \"jo\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (&anonymous, "GET", "/api/v1", "forbidden: User \"system:anonymous\" cannot get path \"/api/v1\""),
        (
            &node,
            "GET",
            "/api/v1/nodes/n2",
            "nodes \"n2\" is forbidden: User \"system:node:n1\" cannot get resource \"nodes\" in API group \"\" at the cluster scope: node 'n1' cannot read 'n2', only its own Node object",
        ),
        (
            &node,
            "GET",
            "/api/v1/namespaces/a/secrets/other",
            "secrets \"other\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \"\" in the namespace \"a\": no relationship found between node 'n1' and this object",
        ),
        (
            &node,
            "PATCH",
            "/api/v1/namespaces/a/pods/p",
            "pods \"p\" is forbidden: User \"system:node:n1\" cannot patch resource \"pods\" in API group \"\" in the namespace \"a\"",
        ),
        (
            &scheduler,
            "GET",
            "/api/v1/secrets",
            "secrets \"\" is forbidden: User \"system:kube-scheduler\" cannot list resource \"secrets\" in API group \"\" at the cluster scope",
        ),
    ];
    for (user, method, path, text) in denied {
        assert_eq!(ask(user, method, path), text);
    }
}

#[test]
fn a_pod_uses_what_its_volumes_environment_and_pulls_name() {
    let pod = json!({"spec": {
        "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"secret": {"secretName": "s"}}, {"csi": {"driver": "d", "nodePublishSecretRef": {"name": "k"}}}, {"projected": {"sources": [{"configMap": {"name": "c"}}]}}],
        "initContainers": [{"envFrom": [{"configMapRef": {"name": "e"}}]}],
    }});
    for (resource, name, used) in [
        ("secrets", "s", true),
        ("secrets", "pull", true),
        ("secrets", "k", true),
        ("secrets", "c", false),
        ("configmaps", "c", true),
        ("configmaps", "e", true),
        ("serviceaccounts", "sa", true),
        ("serviceaccounts", "s", false),
    ] {
        assert_eq!(node::pod_uses(&pod, resource, name), used, "{resource}/{name}");
    }
}

#[test]
fn a_secret_that_a_volumes_driver_needs_on_the_node_leads_to_its_claim() {
    let volume = json!({"spec": {"claimRef": {"namespace": "a", "name": "c"}, "csi": {
        "controllerPublishSecretRef": {"namespace": "sys", "name": "attach"},
        "nodeStageSecretRef": {"namespace": "sys", "name": "stage"},
    }}});
    let claim = |namespace, name| node::claim_with_secret(&volume, namespace, name);
    assert_eq!(claim("sys", "stage"), Some(("a".to_owned(), "c".to_owned())));
    assert_eq!((claim("a", "stage"), claim("sys", "attach")), (None, None));
}
