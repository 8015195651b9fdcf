//! Tests of the end of a namespace against a scripted API.

use super::*;
use crate::control::tests::script::Script;

fn doomed_namespace() -> Value {
    let now = clock::now().wall.to_string();
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "n", "uid": "u", "resourceVersion": "3", "deletionTimestamp": now, "x-unknown": 1},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}})
}

fn resource(name: &str, scope: &str, verbs: &[&str]) -> Value {
    json!({"resource": name, "scope": scope, "verbs": verbs, "responseKind": {"group": "", "version": "v1", "kind": "K"}})
}

fn metadata_list(version: u32, items: Value) -> Value {
    let items: Vec<Value> = items.as_array().unwrap().iter().map(|meta| json!({"metadata": meta})).collect();
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": version.to_string()}, "items": items})
}

fn served(script: Script) -> Script {
    let all = ["delete", "deletecollection", "get", "list"];
    let core = json!({"items": [{"metadata": {"name": ""}, "versions": [{"version": "v1", "freshness": "Current", "resources": [
        resource("nodes", "Cluster", &all), resource("bindings", "Namespaced", &["create"]),
        resource("configmaps", "Namespaced", &all), resource("services", "Namespaced", &["delete", "list"]),
        resource("pods", "Namespaced", &all)]}]}]});
    script.on("GET /api ", 200, core).on("GET /apis ", 200, json!({"items": []}))
}

/// What was asked besides reading the namespaces, without queries.
async fn asked(script: Script) -> Vec<String> {
    let list = json!({"metadata": {"resourceVersion": "3"}, "items": [doomed_namespace()]});
    let script = script.on("GET /api/v1/namespaces?", 200, list);
    let _ = tokio::time::timeout(Duration::from_secs(25), run(script.client())).await;
    let asked = script.asked();
    asked
        .iter()
        .filter(|line| !line.starts_with("GET /api/v1/namespaces?") && !line.starts_with("GET /api"))
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (method, uri, body) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
            format!("{method} {} {body}", uri.split('?').next().unwrap()).trim_end().to_owned()
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_empty_namespace_is_finalized_at_once_with_all_its_fields() {
    let namespace = doomed_namespace();
    let empty = || metadata_list(4, json!([]));
    let script = served(Script::default())
        .on("GET /api/v1/namespaces/n ", 200, &namespace)
        .on("GET /api/v1/namespaces/n/pods?", 200, empty())
        .on("GET /api/v1/namespaces/n/configmaps?", 200, empty())
        .on("GET /api/v1/namespaces/n/services?", 200, empty())
        .on("PUT /api/v1/namespaces/n/finalize", 200, "{}");
    let mut finalized = namespace;
    finalized["spec"]["finalizers"] = json!([]);
    assert_eq!(asked(script).await, [format!("PUT /api/v1/namespaces/n/finalize {finalized}")]);
}

#[tokio::test(start_paused = true)]
async fn pods_go_first_then_the_rest_and_the_wait_ends_with_the_last_pod() {
    let namespace = doomed_namespace();
    let empty = || metadata_list(9, json!([]));
    let pod = |extra: Value| {
        let mut meta = json!({"name": "p", "uid": "pu"});
        meta.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([meta])
    };
    let going = json!({"deletionTimestamp": clock::now().wall.to_string(), "deletionGracePeriodSeconds": 30});
    let gone = json!({"type": "DELETED", "object": {"metadata": {"name": "p", "resourceVersion": "8"}}});
    let script = served(served(Script::default()))
        .on("GET /api/v1/namespaces/n ", 200, &namespace)
        .on("GET /api/v1/namespaces/n/pods?&limit", 200, metadata_list(4, pod(json!({}))))
        .on("DELETE /api/v1/namespaces/n/pods?", 200, json!({"kind": "Status", "status": "Success"}))
        .on("GET /api/v1/namespaces/n/pods?&limit", 200, metadata_list(5, pod(going)))
        .on("PATCH /api/v1/namespaces/n/status", 200, &namespace)
        .on_watch("GET /api/v1/namespaces/n/pods?&watch", &[gone])
        .on("GET /api/v1/namespaces/n ", 200, &namespace)
        .on("GET /api/v1/namespaces/n/pods?&limit", 200, empty())
        .on("GET /api/v1/namespaces/n/configmaps?", 200, metadata_list(9, json!([{"name": "c", "uid": "cu"}])))
        .on("DELETE /api/v1/namespaces/n/configmaps?", 200, json!({"kind": "Status", "status": "Success"}))
        .on("GET /api/v1/namespaces/n/configmaps?", 200, empty())
        .on("GET /api/v1/namespaces/n/services?", 200, metadata_list(9, json!([{"name": "s", "uid": "su"}])))
        .on("DELETE /api/v1/namespaces/n/services/s", 200, json!({"kind": "Status", "status": "Success"}))
        .on("GET /api/v1/namespaces/n/services?", 200, empty())
        .on("PUT /api/v1/namespaces/n/finalize", 200, "{}");
    let started = clock::now().mono;
    let asked = asked(script).await;
    let short: Vec<&str> = asked.iter().map(|line| line.split(" {").next().unwrap()).collect();
    assert_eq!(
        short,
        [
            "DELETE /api/v1/namespaces/n/pods",
            "PATCH /api/v1/namespaces/n/status",
            "DELETE /api/v1/namespaces/n/configmaps",
            "DELETE /api/v1/namespaces/n/services/s",
            "PUT /api/v1/namespaces/n/finalize",
        ]
    );
    assert!(asked[1].contains("Some resources are remaining: pods. has 1 resource instances"), "{}", asked[1]);
    assert!(asked[0].contains(r#""propagationPolicy":"Background""#) && asked[3].contains(r#""uid":"su""#));
    // `asked` lets the controller run for 25 s; nothing in the script waited for the 16 s of the estimate.
    assert!(clock::now().mono - started < Duration::from_secs(26));
}
