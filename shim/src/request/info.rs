//! Method and path → the attributes that authorization decides on (apiserver's `RequestInfo`), known before routing.

use super::query::{Query, decode};

/// What a request is about, whether or not such a thing is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub method: String,
    /// Decoded.
    pub path: String,
    /// `get`, `list`, `watch`, …; the lower-case method for paths outside the API.
    pub verb: String,
    pub is_resource: bool,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    /// The name in the path, or the one that a field selector pins.
    pub name: String,
    /// The name in the path alone.
    pub path_name: String,
    /// What follows the subresource (`proxy/`'s path), without a leading slash.
    pub rest: String,
}

impl RequestInfo {
    pub fn parse(method: &str, raw_path: &str, query: &Query) -> Self {
        let mut info = Self {
            method: method.into(),
            path: decode(raw_path, false),
            verb: method.to_ascii_lowercase(),
            ..Self::default()
        };
        let trimmed = raw_path.strip_prefix('/').unwrap_or(raw_path);
        let parts: Vec<String> = trimmed.split('/').map(|p| decode(p, false)).collect();
        let mut parts = match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["api", version, _, ..] if !version.is_empty() => {
                info.version = version.into();
                &parts[2..]
            }
            ["apis", group, version, _, ..] if !version.is_empty() => {
                info.group = group.into();
                info.version = version.into();
                &parts[3..]
            }
            _ => return info,
        };
        if parts.iter().all(String::is_empty) {
            return info;
        }
        info.is_resource = true;
        info.verb = match method {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            "GET" | "HEAD" => "get",
            _ => "",
        }
        .into();
        // `/api/v1/watch/pods` is the deprecated spelling of `?watch=true`.
        let watch_prefix = parts[0] == "watch" && parts.len() > 1;
        if watch_prefix {
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].clone();
            if parts.len() > 2 && !matches!(parts[2].as_str(), "" | "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        info.resource = parts[0].clone();
        info.path_name = parts.get(1).cloned().unwrap_or_default();
        info.subresource = parts.get(2).cloned().unwrap_or_default();
        info.rest = parts.get(3..).unwrap_or_default().join("/");
        info.name = info.path_name.clone();
        if info.name.is_empty() {
            match info.verb.as_str() {
                "get" => info.verb = "list".into(),
                "delete" => info.verb = "deletecollection".into(),
                _ => {}
            }
            if info.verb == "list" && (watch_prefix || query.flag("watch") == Some(true)) {
                info.verb = "watch".into();
            }
            if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
                info.name = query.get("fieldSelector").and_then(pinned_name).unwrap_or_default();
            }
        } else if watch_prefix && info.verb == "get" {
            info.verb = "watch".into();
        }
        // Streams are asked for by GET (WebSocket) or POST (SPDY); both are the verb of their method.
        info
    }
}

/// The one name that `metadata.name=x` selects.
fn pinned_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty()).then(|| value.to_owned())
    })
}
