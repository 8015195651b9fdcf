//! Method and path of a request → what the caller must be allowed to do with the node, as the kubelet asks it
//! (`KubeletFineGrainedAuthz` included).

use http::Method;

/// The question put to the authorizer: one of `subresources` of the node is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct Attributes {
    pub(in crate::server) verb: &'static str,
    pub(in crate::server) subresources: Vec<&'static str>,
}

pub(in crate::server) fn attributes(method: &Method, path: &str) -> Attributes {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let under = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let first = |table: &[(&str, &'static str)]| table.iter().find(|(root, _)| under(root)).map(|(_, name)| *name);
    let fine = first(&[("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")]);
    let coarse = first(&[
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        // As other subresources of that name (pods/log).
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "flagz"),
    ]);
    Attributes { verb, subresources: fine.into_iter().chain([coarse.unwrap_or("proxy")]).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_kubelets_subresources() {
        for (request, expected) in [
            ("GET /pods", "get pods,proxy"),
            ("GET /runningpods/", "get pods,proxy"),
            ("GET /healthz", "get healthz,proxy"),
            ("GET /healthz/syncloop", "get healthz,proxy"),
            ("GET /configz", "get configz,proxy"),
            ("GET /stats/summary", "get stats"),
            ("GET /metrics", "get metrics"),
            ("GET /metrics/cadvisor", "get metrics"),
            ("GET /logs/syslog", "get log"),
            ("POST /checkpoint/ns/p/c", "create checkpoint"),
            ("GET /flagz", "get flagz"),
            ("GET /statusz", "get statusz"),
            ("POST /exec/ns/p/c", "create proxy"),
            ("GET /exec/ns/p/c", "get proxy"),
            ("GET /containerLogs/ns/p/c", "get proxy"),
            ("GET /podsomething", "get proxy"),
            ("PUT /x", "update proxy"),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            let found = attributes(&method.parse().unwrap(), path);
            assert_eq!(format!("{} {}", found.verb, found.subresources.join(",")), expected, "{request}");
        }
    }
}
