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
        runtime_class: None,
        limit_ranges: &[],
        classes: &[],
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
    // A certificate for itself, and for no other.
    let csr = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
        let mut object = json!({"spec": {"request": request, "signerName": "kubernetes.io/kubelet-serving"}});
        let def = registry::find("certificates.k8s.io", "v1", "certificatesigningrequests").unwrap();
        let at = Review { def, namespace: "", ..review(&node, Operation::Create, "nodes", "csr") };
        admit(&at, Some(&mut object)).err().map(|error| error.to_string())
    };
    assert_eq!(csr("system:node:n1"), None);
    assert!(csr("system:node:n2").unwrap().ends_with("can only create a node CSR with CN=system:node:n1"));
}

#[test]
fn a_pods_priority_is_its_classs_and_system_classes_stay() {
    let user = User::apiserver();
    let (namespace, account) = (json!({"metadata": {"name": "ns"}}), json!({"metadata": {"name": "default"}}));
    let classes = [json!({"metadata": {"name": "high"}, "value": 7})];
    let mut at = review(&user, Operation::Create, "pods", "p");
    (at.namespace_object, at.service_account, at.priority_classes) = (Some(&namespace), Some(&account), &classes);
    for (spec, expected) in [
        (json!({}), Ok(0)),
        (json!({"priority": 0}), Ok(0)),
        (json!({"priorityClassName": "high"}), Ok(7)),
        (json!({"priorityClassName": "high", "priority": 7}), Ok(7)),
        (json!({"priority": 5}), Err((5, 0))),
        (json!({"priorityClassName": "high", "priority": 8}), Err((8, 7))),
    ] {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        let got = admit(&at, Some(&mut pod)).map(|()| pod["spec"]["priority"].as_i64().unwrap());
        let expected = expected.map_err(|(asked, computed)| {
            format!(
                "pods \"p\" is forbidden: the integer value of priority ({asked}) must not be provided in pod spec; \
                 priority admission controller computed {computed} from the given PriorityClass name"
            )
        });
        assert_eq!(got.map_err(|error| error.to_string()), expected);
    }
    let mut class = review(&user, Operation::Delete, "pods", "system-node-critical");
    class.def = registry::find("scheduling.k8s.io", "v1", "priorityclasses").unwrap();
    assert_eq!(
        admit(&class, None).unwrap_err().to_string(),
        "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot be deleted"
    );
}

#[test]
fn overhead_and_placement_come_with_the_runtime_class() {
    let user = User::apiserver();
    let (namespace, account) = (json!({"metadata": {"name": "ns"}}), json!({"metadata": {"name": "default"}}));
    let class = json!({
        "metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}},
    });
    let mut at = review(&user, Operation::Create, "pods", "p");
    (at.namespace_object, at.service_account) = (Some(&namespace), Some(&account));
    let run = |at: &Review<'_>, spec: serde_json::Value| {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        admit(at, Some(&mut pod)).map(|()| pod).map_err(|error| error.to_string())
    };
    let refused = |why: &str| Err(format!("pods \"p\" is forbidden: {why}"));
    assert_eq!(
        run(&at, json!({"overhead": {"cpu": "1"}})),
        refused("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
    );
    assert_eq!(run(&at, json!({"runtimeClassName": "vm"})), refused("pod rejected: RuntimeClass \"vm\" not found"));
    at.runtime_class = Some(&class);
    assert_eq!(
        run(&at, json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}})),
        refused("conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no")
    );
    let pod = run(&at, json!({"runtimeClassName": "vm"})).unwrap();
    assert_eq!(
        (&pod["spec"]["overhead"], &pod["spec"]["nodeSelector"]),
        (&json!({"cpu": "250m"}), &json!({"vm": "yes"}))
    );
}

#[test]
fn an_agent_gets_tokens_only_for_its_pods_and_the_audiences_they_name() {
    let pod = json!({
        "metadata": {"uid": "u"},
        "spec": {"nodeName": "n1", "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"serviceAccountToken": {"audience": "vault", "path": "v"}}]}},
        ]},
    });
    let request = |node: &str, uid: &str, audiences: serde_json::Value| {
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
        let request = json!({"spec": {"boundObjectRef": reference, "audiences": audiences}});
        node_restriction::token(node, &request, &pod).err()
    };
    assert_eq!(request("n1", "u", json!(null)), None);
    assert_eq!(request("n1", "u", json!(["vault"])), None);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(request("n1", "u", json!(["bank"])), text("audience \"bank\" not found in pod spec volume"));
    assert_eq!(request("n1", "u", json!(["a", "b"])), text("node may only request 0 or 1 audiences"));
    assert_eq!(request("n1", "", json!(null)), text("node requested token with a pod binding without a uid"));
    assert_eq!(
        request("n2", "u", json!(null)),
        text("node requested token bound to a pod scheduled on a different node")
    );
    let unbound = json!({"spec": {}});
    assert_eq!(node_restriction::token("n1", &unbound, &pod).unwrap_err(), "node requested token not bound to a pod");
}
