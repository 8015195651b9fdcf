//! Method and URL to request, as tables.

use super::*;

fn resolve(method: &str, url: &str) -> String {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let query = Query::parse(query);
    let info = RequestInfo::parse(method, path, &query);
    match ApiRequest::resolve(&Served::default(), &info, &query, "application/merge-patch+json") {
        Err(error) => error.to_string(),
        Ok(ApiRequest::Resource(target, action)) => {
            let action = format!("{action:?}");
            let action: String = action.chars().take_while(|c| c.is_alphanumeric()).collect();
            let sub = target.sub.map_or("", Sub::name);
            format!(
                "{action} {} {} {} {sub}",
                target.def.resource,
                target.namespace.as_deref().unwrap_or("-"),
                target.name
            )
        }
        Ok(ApiRequest::Discovery(document)) => format!("{document:?}"),
        Ok(ApiRequest::OpenApi(path)) => format!("OpenApi({path:?})"),
        Ok(ApiRequest::Version) => "Version".into(),
        Ok(_) => "another".into(),
    }
}

#[test]
fn every_shape_of_url_becomes_its_request() {
    for (method, url, wanted) in [
        ("GET", "/api/v1/pods", "List pods -  "),
        ("GET", "/api/v1/namespaces/a/pods", "List pods a  "),
        ("GET", "/api/v1/namespaces/a/pods?watch=1", "Watch pods a  "),
        ("GET", "/api/v1/watch/namespaces/a/pods", "Watch pods a  "),
        ("GET", "/api/v1/namespaces/a", "Get namespaces - a "),
        ("PUT", "/api/v1/namespaces/a/finalize", "Update namespaces - a finalize"),
        ("PATCH", "/api/v1/namespaces/a/pods/p/status", "Patch pods a p status"),
        ("POST", "/api/v1/namespaces/a/pods/p/exec?command=ls", "Connect pods a p exec"),
        ("DELETE", "/api/v1/namespaces/a/pods", "DeleteCollection pods a  "),
        ("DELETE", "/api/v1/namespaces/a/pods/p", "Delete pods a p "),
        ("GET", "/apis/coordination.k8s.io/v1/leases", "List leases -  "),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", "List pods -  "),
        ("GET", "/api", "Core"),
        ("GET", "/apis/apps", "Group(\"apps\")"),
        ("GET", "/api/v1/", "Resources { group: \"\", version: \"v1\" }"),
        ("GET", "/version", "Version"),
        ("GET", "/openapi/v3/api/v1", "OpenApi(Some(\"api/v1\"))"),
        ("POST", "/api/v1/pods", "the server does not allow this method on the requested resource"),
        ("PUT", "/api/v1/namespaces/default/pods", "the server does not allow this method on the requested resource"),
        (
            "POST",
            "/api/v1/namespaces/default/pods/x",
            "the server does not allow this method on the requested resource",
        ),
        ("OPTIONS", "/api/v1/nodes", "the server does not allow this method on the requested resource"),
        ("GET", "/api/v1/namespaces/a/foos", "the server could not find the requested resource"),
        ("GET", "/api/v1/pods/x", "the server could not find the requested resource"),
        ("GET", "/apis/nosuch/v1/foos", "404 page not found"),
        ("GET", "/nonesuch", "404 page not found"),
        ("GET", "//api/v1", "404 page not found"),
    ] {
        assert_eq!(resolve(method, url), wanted, "{method} {url}");
    }
}

#[test]
fn bad_options_are_refused_in_upstream_words() {
    for (url, wanted) in [
        ("/api/v1/configmaps?limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "/api/v1/configmaps?fieldSelector=spec.x%3D1",
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("/api/v1/pods?fieldSelector=spec.bogus%3D1", "field label not supported: spec.bogus"),
        ("/api/v1/pods?resourceVersionMatch=Exact", "ListOptions.meta.k8s.io \"\" is invalid"),
    ] {
        assert_eq!(resolve("GET", url), wanted, "{url}");
    }
    assert_eq!(resolve("GET", "/api/v1/configmaps?limit=-1"), "List configmaps -  ");
}
