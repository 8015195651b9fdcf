//! The standards over pods that keep or break them one by one.

use super::*;
use serde_json::json;

fn of(level: Level, version: Version, spec: Value) -> String {
    let object = json!({"metadata": {}, "spec": spec});
    violations(Standard { level, version }, &Pod::of(&object))
}

#[test]
fn baseline_names_what_escalates() {
    for (spec, text) in [
        (json!({"containers": [{"name": "a"}]}), ""),
        (
            json!({"containers": [{"name": "a", "securityContext": {"privileged": true}}, {"name": "b", "ports": [{"hostPort": 1}]}], "hostPID": true}),
            "host namespaces (hostPID=true), hostPort (container \"b\" uses hostPort 1), privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "BPF"]}}}]}),
            "non-default capabilities (container \"a\" must not include \"BPF\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volumes \"v\", \"w\")",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}, "procMount": "Unmasked"}}]}),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\"), seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            json!({"containers": [{"name": "a"}], "securityContext": {"sysctls": [{"name": "kernel.msgmax"}], "seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\"), forbidden sysctls (kernel.msgmax)",
        ),
    ] {
        assert_eq!(of(Level::Baseline, Version::Latest, spec), text);
    }
}

#[test]
fn restricted_asks_for_hardening() {
    let hard = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    for (spec, text) in [
        (json!({"containers": [{"name": "a", "securityContext": hard}]}), ""),
        (
            json!({"containers": [{"name": "a", "securityContext": hard}], "volumes": [{"name": "v", "nfs": {}}, {"name": "c", "configMap": {}}]}),
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
        ),
        (
            json!({"securityContext": {"runAsNonRoot": false, "runAsUser": 0, "seccompProfile": {"type": "Unconfined"}},
                "containers": [{"name": "a", "securityContext": hard}]}),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0), seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ),
    ] {
        assert_eq!(of(Level::Restricted, Version::Latest, spec), text);
    }
    assert_eq!(of(Level::Restricted, Version::Minor(1), json!({"containers": []})), "");
}

#[test]
fn labels_choose_the_standards_and_warnings_follow_what_is_enforced() {
    let namespace = |labels: Value| json!({"metadata": {"labels": labels}});
    for (labels, enforce, warn) in [
        (json!({}), "privileged:latest", "privileged:latest"),
        (json!({"pod-security.kubernetes.io/enforce": "baseline"}), "baseline:latest", "baseline:latest"),
        (
            json!({"pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/warn": "y", "pod-security.kubernetes.io/enforce-version": "v1.25"}),
            "restricted:v1.25",
            "privileged:latest",
        ),
    ] {
        let policy = Policy::of(&namespace(labels));
        assert_eq!((policy.enforce.to_string().as_str(), policy.warn.to_string().as_str()), (enforce, warn));
    }
    let errors = label_errors(&namespace(json!({"pod-security.kubernetes.io/enforce": "x"})), None);
    assert_eq!(
        errors[0].to_string(),
        "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted"
    );
}

#[test]
fn a_pod_is_refused_a_template_only_warned_of_and_small_updates_pass() {
    let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let spec = json!({"containers": [{"name": "a", "image": "x"}], "hostNetwork": true});
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let pods = crate::registry::find("", "v1", "pods").unwrap();
    let refused = check(pods, &namespace, "p", &pod, None).unwrap_err();
    let text = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert_eq!(refused.to_string(), text);
    assert_eq!(check(pods, &namespace, "p", &pod, Some(&pod)).unwrap(), Vec::<String>::new());
    let deployments = crate::registry::find("apps", "v1", "deployments").unwrap();
    let deployment = json!({"spec": {"template": {"spec": spec}}});
    assert_eq!(
        check(deployments, &namespace, "d", &deployment, None).unwrap(),
        ["would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"]
    );
}
