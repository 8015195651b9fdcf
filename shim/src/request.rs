//! Method and URL → a closed `ApiRequest`: what is asked for, with every option parsed and checked.

pub mod info;
pub mod options;
pub mod query;

use crate::error::ApiError;
use crate::registry::{self, Def, Served};
use info::RequestInfo;
use options::{DeleteQuery, ListOptions, PatchType, WriteOptions};
use query::Query;

/// Everything the server can be asked to do.
pub enum ApiRequest {
    Resource(Target, Action),
    Discovery(Discovery),
    /// `/openapi/v3` (`None`) or one group version's document (`api/v1`, `apis/apps/v1`).
    OpenApi(Option<String>),
    /// `/openapi/v2`
    Swagger,
    Health(Health),
    Version,
    Metrics,
    OpenIdConfiguration,
    Jwks,
}

/// The object or collection that a resource request is about.
#[derive(Clone)]
pub struct Target {
    pub def: Def,
    /// `None` for cluster-scoped resources and for all namespaces.
    pub namespace: Option<String>,
    /// Empty for a collection.
    pub name: String,
    pub sub: Option<Sub>,
}

/// Subresources, by what the pipeline does with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sub {
    Status,
    Binding,
    Eviction,
    Finalize,
    Token,
    EphemeralContainers,
    Resize,
    Scale,
    Approval,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
}

impl Sub {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
            Self::Token => "token",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Scale => "scale",
            Self::Approval => "approval",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        const ALL: [Sub; 14] = [
            Sub::Status,
            Sub::Binding,
            Sub::Eviction,
            Sub::Finalize,
            Sub::Token,
            Sub::EphemeralContainers,
            Sub::Resize,
            Sub::Scale,
            Sub::Approval,
            Sub::Log,
            Sub::Exec,
            Sub::Attach,
            Sub::PortForward,
            Sub::Proxy,
        ];
        ALL.into_iter().find(|s| s.name() == name)
    }

    /// Answered by the agent of a node, not from the store.
    pub const fn connects(self) -> bool {
        matches!(self, Self::Log | Self::Exec | Self::Attach | Self::PortForward | Self::Proxy)
    }
}

/// What to do with the target.
#[derive(Debug)]
pub enum Action {
    Get {
        resource_version: Option<String>,
    },
    List(ListOptions),
    Watch(ListOptions),
    Create(WriteOptions),
    Update(WriteOptions),
    Patch(PatchType, WriteOptions),
    Delete(DeleteQuery),
    DeleteCollection(ListOptions, DeleteQuery),
    /// A stream to an agent: the path below `proxy/`, and the whole query as it came.
    Connect {
        path: String,
        query: Query,
    },
}

/// Discovery documents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Discovery {
    /// `/`: the paths there are.
    Root,
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    Resources { group: String, version: String },
}

/// `/healthz`, `/livez`, `/readyz`, whole or one check of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// `healthz`, `livez` or `readyz`.
    pub endpoint: &'static str,
    pub check: Option<String>,
    pub verbose: bool,
    pub exclude: Vec<String>,
}

impl ApiRequest {
    /// Whether it may last as long as the client likes: not counted against the requests in flight.
    pub fn is_long_running(&self) -> bool {
        matches!(self, Self::Resource(_, Action::Watch(_) | Action::Connect { .. }))
    }

    /// Resolves what `info` found in method and path against what is served; `content_type` decides a PATCH's kind.
    ///
    /// # Errors
    /// 404 for what is not served, 405, 400 and 422 for options, 415 for an unknown patch type.
    pub fn resolve(served: &Served, info: &RequestInfo, query: &Query, content_type: &str) -> Result<Self, ApiError> {
        if info.is_resource { resolve_resource(served, info, query, content_type) } else { resolve_path(info, query) }
    }
}

fn resolve_resource(
    served: &Served,
    info: &RequestInfo,
    query: &Query,
    content_type: &str,
) -> Result<ApiRequest, ApiError> {
    let Some(def) = served.find(&info.group, &info.version, &info.resource) else {
        // A built-in group answers for all below it, versions that it has not included.
        let built_in = registry::all().iter().any(|def| def.gv.group == info.group);
        return Err(if built_in || served.has_version(&info.group, &info.version) {
            ApiError::UnknownResource
        } else {
            ApiError::UnknownPath
        });
    };
    let sub = match info.subresource.as_str() {
        "" => None,
        name => match (def.subresources.iter().find(|s| s.name == name), Sub::parse(name)) {
            (Some(_), Some(sub)) => Some(sub),
            // Upstream looks for an object where a custom resource has no such subresource.
            _ if def.custom.is_some() => return Err(ApiError::not_found(&def, &info.path_name)),
            _ => return Err(ApiError::UnknownResource),
        },
    };
    if def.namespaced && info.namespace.is_empty() && !info.path_name.is_empty() {
        return Err(ApiError::UnknownResource);
    }
    if !def.namespaced && !info.namespace.is_empty() && def.resource != "namespaces" {
        return Err(ApiError::UnknownResource);
    }
    let verbs = match sub {
        None => def.verbs,
        Some(sub) => def.subresources.iter().find(|s| s.name == sub.name()).map_or(&[][..], |s| s.verbs),
    };
    let connect = sub.is_some_and(Sub::connects);
    // A collection without its namespace can be listed and watched, nothing else.
    let scoped = !def.namespaced || !info.namespace.is_empty();
    let of_one = match info.verb.as_str() {
        "get" | "update" | "patch" | "delete" => !info.path_name.is_empty(),
        "create" => info.path_name.is_empty() || sub.is_some(),
        _ => true,
    };
    let served = verbs.contains(&info.verb.as_str())
        && of_one
        && (scoped || matches!(info.verb.as_str(), "list" | "watch"))
        && !matches!(info.method.as_str(), "HEAD" | "OPTIONS");
    if !served {
        return Err(ApiError::MethodNotAllowed);
    }
    let target = Target {
        def: def.clone(),
        namespace: def.namespaced.then(|| info.namespace.clone()).filter(|n| !n.is_empty()),
        name: info.path_name.clone(),
        sub,
    };
    let action = if connect {
        Action::Connect { path: info.rest.clone(), query: query.clone() }
    } else {
        match info.verb.as_str() {
            "get" => {
                Action::Get { resource_version: query.get("resourceVersion").filter(|v| !v.is_empty()).map(Into::into) }
            }
            "list" => Action::List(ListOptions::parse(query, &def, false)?),
            "watch" => Action::Watch(ListOptions::parse(query, &def, true)?),
            "create" => Action::Create(WriteOptions::parse(query, "CreateOptions")?),
            "update" => Action::Update(WriteOptions::parse(query, "UpdateOptions")?),
            "patch" => {
                let kind = PatchType::parse(content_type)?;
                Action::Patch(kind, WriteOptions::parse_patch(query, kind)?)
            }
            "delete" => Action::Delete(DeleteQuery::parse(query)?),
            "deletecollection" => {
                Action::DeleteCollection(ListOptions::parse(query, &def, false)?, DeleteQuery::parse(query)?)
            }
            _ => return Err(ApiError::MethodNotAllowed),
        }
    };
    Ok(ApiRequest::Resource(target, action))
}

fn resolve_path(info: &RequestInfo, query: &Query) -> Result<ApiRequest, ApiError> {
    let path = info.path.strip_suffix('/').unwrap_or(&info.path);
    let mut parts = path.split('/').skip(1);
    let (first, second, third, more) = (parts.next(), parts.next(), parts.next(), parts.next().is_some());
    let request = match (first, second, third, more) {
        (None | Some(""), None, None, false) => ApiRequest::Discovery(Discovery::Root),
        (Some("api"), None, None, false) => ApiRequest::Discovery(Discovery::Core),
        (Some("api"), Some(version), None, false) => {
            ApiRequest::Discovery(Discovery::Resources { group: String::new(), version: version.into() })
        }
        (Some("apis"), None, None, false) => ApiRequest::Discovery(Discovery::Groups),
        (Some("apis"), Some(group), None, false) => ApiRequest::Discovery(Discovery::Group(group.into())),
        (Some("apis"), Some(group), Some(version), false) => {
            ApiRequest::Discovery(Discovery::Resources { group: group.into(), version: version.into() })
        }
        (Some("openapi"), Some("v2"), None, false) => ApiRequest::Swagger,
        (Some("openapi"), Some("v3"), None, false) => ApiRequest::OpenApi(None),
        (Some("openapi"), Some("v3"), Some(_), _) => {
            ApiRequest::OpenApi(Some(path.trim_start_matches("/openapi/v3/").to_owned()))
        }
        (Some(name @ ("healthz" | "livez" | "readyz")), check, None, false) => ApiRequest::Health(Health {
            endpoint: match name {
                "healthz" => "healthz",
                "livez" => "livez",
                _ => "readyz",
            },
            check: check.map(Into::into),
            verbose: query.get("verbose").is_some(),
            exclude: query.all("exclude").map(Into::into).collect(),
        }),
        (Some("version"), None, None, false) => ApiRequest::Version,
        (Some("metrics"), None, None, false) => ApiRequest::Metrics,
        (Some(".well-known"), Some("openid-configuration"), None, false) => ApiRequest::OpenIdConfiguration,
        (Some("openid"), Some("v1"), Some("jwks"), false) => ApiRequest::Jwks,
        _ => return Err(ApiError::UnknownPath),
    };
    if info.method == "GET" || info.method == "HEAD" { Ok(request) } else { Err(ApiError::MethodNotAllowed) }
}

#[cfg(test)]
mod tests;
