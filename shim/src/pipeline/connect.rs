//! Subresources that an agent answers: which node, which path on it, and whether it can speak what the client asks for.

use super::{Answer, Outcome, Stage};
use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::field::{Cause, FieldError};
use crate::request::Sub;
use crate::request::query::Query;
use crate::request::query::encode_into;
use serde_json::Value;

/// The agent's port when the node does not say (upstream's default).
const AGENT_PORT: u64 = 10250;
/// The feature that a node must declare for `v5.channel.k8s.io` and tunnelled port-forward to reach it.
const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";

/// How the bytes go once connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// One request and its answer as it is (proxied requests).
    Plain,
    /// One request whose answer may go on for long; an error becomes a `Status`.
    Logs,
    /// An upgraded connection (exec, attach, port-forward).
    Upgrade,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// Path and query on the agent.
    pub path: String,
    pub stream: Stream,
    /// Whether the node takes WebSocket v5 and SPDY in WebSocket frames.
    pub websockets: bool,
}

pub(super) async fn connect(stage: &Stage<'_>, path: &str, query: &Query) -> Result<Outcome, ApiError> {
    let (target, sub) = (stage.target, stage.target.sub.unwrap_or(Sub::Proxy));
    match target.def.resource {
        "nodes" => {
            let node = find(stage, "nodes", "", &target.name).await?;
            let query = query.encode_without(&[]);
            return connection(&node, format!("/{path}"), &query, Stream::Plain);
        }
        "services" => {
            let _ = find(stage, "services", stage.namespace(), &service_name(&target.name)).await?;
            return Err(ApiError::Unavailable(format!("no endpoints available for service \"{}\"", target.name)));
        }
        _ => {}
    }
    let pod = find(stage, "pods", stage.namespace(), &target.name).await?;
    if sub == Sub::Proxy {
        return proxy_pod(&pod, path, query);
    }
    let (verb, stream, options) = match sub {
        Sub::Log => {
            check_log_options(&target.name, query)?;
            ("containerLogs", Stream::Logs, query.encode_without(&["container"]))
        }
        Sub::PortForward => ("portForward", Stream::Upgrade, port_forward_options(query)),
        Sub::Attach => ("attach", Stream::Upgrade, stream_options(query)),
        _ => ("exec", Stream::Upgrade, stream_options(query)),
    };
    let path = if sub == Sub::PortForward {
        format!("/{verb}/{}/{}", stage.namespace(), target.name)
    } else {
        let container = container(&pod, query.get("container").unwrap_or(""))?;
        format!("/{verb}/{}/{}/{container}", stage.namespace(), target.name)
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if node.is_empty() {
        // A pod without a node has no log yet; upstream answers with nothing.
        return match sub {
            Sub::Log => Ok(Answer::Document { code: 204, value: Value::Null }.into()),
            _ => Err(ApiError::BadRequest(format!("pod {} does not have a host assigned", target.name))),
        };
    }
    let node = find(stage, "nodes", "", node).await?;
    connection(&node, path, &options, stream)
}

async fn find(stage: &Stage<'_>, resource: &str, namespace: &str, name: &str) -> Result<Object, ApiError> {
    let found = stage.api.read_core(resource, namespace, name).await?;
    let found = found.ok_or_else(|| ApiError::NotFound { what: Qualified::new("", resource), name: name.into() })?;
    Ok(found.value)
}

/// `https:name:port` and `name:port` name the service in the middle.
fn service_name(text: &str) -> String {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [_, name, _] | [name, _] => name.into(),
        _ => text.into(),
    }
}

fn connection(node: &Object, path: String, query: &str, stream: Stream) -> Result<Outcome, ApiError> {
    let addresses = node["status"]["addresses"].as_array();
    let address =
        |kind: &str| addresses.into_iter().flatten().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str());
    // `--kubelet-preferred-address-types` as kubeadm sets it.
    let host = ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|kind| address(kind));
    let host = host.ok_or_else(|| {
        ApiError::Internal(format!("no preferred addresses found for node \"{}\"; known addresses: []", node.name()))
    })?;
    let port =
        node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().filter(|p| *p > 0).unwrap_or(AGENT_PORT);
    let features = node["status"]["declaredFeatures"].as_array();
    Ok(Answer::Connect(Connection {
        host: host.into(),
        port: u16::try_from(port).unwrap_or(AGENT_PORT as u16),
        tls: true,
        path: if query.is_empty() { path } else { format!("{path}?{query}") },
        stream,
        websockets: features.into_iter().flatten().any(|f| f == WEBSOCKETS),
    })
    .into())
}

/// `pods/proxy`: straight to the pod's address.
fn proxy_pod(pod: &Object, path: &str, query: &Query) -> Result<Outcome, ApiError> {
    let ip = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty());
    let ip = ip.ok_or_else(|| ApiError::Unavailable("address not allowed".into()))?;
    let first = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|c| c["ports"][0]["containerPort"].as_u64());
    let query = query.encode_without(&[]);
    let path = if query.is_empty() { format!("/{path}") } else { format!("/{path}?{query}") };
    let port = first.and_then(|p| u16::try_from(p).ok()).unwrap_or(80);
    Ok(Answer::Connect(Connection {
        host: ip.into(),
        port,
        tls: false,
        path,
        stream: Stream::Plain,
        websockets: false,
    })
    .into())
}

/// The container meant: the one named, the only one, or the annotated default.
fn container(pod: &Object, asked: &str) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<&str> {
        pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let has = |name: &str| main.iter().chain(&init).chain(&ephemeral).any(|n| *n == name);
    if !asked.is_empty() {
        return if has(asked) {
            Ok(asked.into())
        } else {
            Err(ApiError::BadRequest(format!("container {asked} is not valid for pod {}", pod.name())))
        };
    }
    let default =
        pod.annotations().and_then(|a| a.get("kubectl.kubernetes.io/default-container")).and_then(Value::as_str);
    if let Some(name) = default.filter(|name| has(name)) {
        return Ok(name.into());
    }
    match main[..] {
        [only] => Ok(only.into()),
        _ => {
            let mut text = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                main.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(ApiError::BadRequest(text))
        }
    }
}

fn stream_options(query: &Query) -> String {
    let mut out = String::new();
    let mut push = |name: &str, value: &str| {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        encode_into(&mut out, value);
    };
    // The agent's names for the standard streams differ from the API's.
    for (api, agent) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(api) == Some(true) {
            push(agent, "1");
        }
    }
    for word in query.all("command") {
        push("command", word);
    }
    out
}

fn port_forward_options(query: &Query) -> String {
    let ports: Vec<String> = query.all("ports").map(|p| format!("port={p}")).collect();
    ports.join("&")
}

fn check_log_options(pod: &str, query: &Query) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    for (field, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        let Some(text) = query.get(field) else { continue };
        let number: i64 = text
            .parse()
            .map_err(|_| ApiError::BadRequest(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")))?;
        if number < least {
            let text = match least {
                0 => "must be greater than or equal to 0",
                _ => "must be greater than 0",
            };
            errors.push(FieldError {
                cause: Cause::Invalid,
                field: field.into(),
                message: format!("Invalid value: {number}: {text}"),
            });
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        let message = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".into();
        errors.push(FieldError { cause: Cause::Forbidden, field: "[]".into(), message });
    }
    // Behind the gate PodLogsQuerySplitStreams, which is off.
    if query.get("stream").is_some_and(|stream| stream != "All") {
        let message = "Forbidden: may not be specified".into();
        errors.push(FieldError { cause: Cause::Forbidden, field: "stream".into(), message });
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::Invalid { what: Qualified::new("", "PodLogOptions"), name: pod.into(), errors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_the_one_named_the_only_one_or_the_annotated_default() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let mut two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(container(&one, "zzz").unwrap_err().to_string(), "container zzz is not valid for pod p");
        assert_eq!(
            container(&two, "").unwrap_err().to_string(),
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        two["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(container(&two, "").unwrap(), "b");
    }

    #[test]
    fn log_options_that_do_not_fit_are_all_named() {
        for (query, wanted) in [
            ("tailLines=0&sinceSeconds=1", vec![]),
            ("tailLines=-1", vec!["tailLines"]),
            ("stream=All", vec![]),
            ("stream=Stderr&limitBytes=0", vec!["limitBytes", "stream"]),
        ] {
            let fields: Vec<String> = match check_log_options("p", &Query::parse(query)) {
                Ok(()) => Vec::new(),
                Err(ApiError::Invalid { errors, .. }) => errors.into_iter().map(|error| error.field).collect(),
                Err(other) => panic!("{query}: {other}"),
            };
            assert_eq!(fields, wanted, "{query}");
        }
    }

    #[test]
    fn stream_options_take_the_names_that_agents_know() {
        let query = Query::parse("stdin=true&stdout=true&tty=false&command=sh&command=-c&container=x");
        assert_eq!(stream_options(&query), "input=1&output=1&command=sh&command=-c");
    }
}
