//! `audit.k8s.io/v1` Policy: which requests are recorded, and how much of them. Deciding is pure.

use crate::authn::User;
use crate::authz::Attributes;
use serde::Deserialize;
use std::path::Path;

/// How much of a request is recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When in the life of a request an event is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Stage {
    RequestReceived,
    /// Of watches and streams: the answer's headers were sent.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// What is wrong with a policy file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("is no policy: {0}")]
    Parse(String),
    #[error("apiVersion {0:?} and kind {1:?}: only audit.k8s.io/v1 Policy is understood")]
    Kind(String, String),
    #[error("has no rules: add one, as in {{level: Metadata}}")]
    NoRules,
    #[error("rules[{0}]: a rule applies to resources and namespaces or to nonResourceURLs, not to both")]
    Mixed(usize),
    #[error("rules[{0}].nonResourceURLs: {1:?} must begin with / or be *, with * only at the end")]
    Path(usize, String),
}

/// A policy: the first rule that matches decides.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde::de::IgnoredAny,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omit_stages: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

impl Policy {
    pub(super) fn read(path: &Path) -> Result<Self, PolicyError> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = serde_saphyr::from_str(text).map_err(|e| PolicyError::Parse(e.to_string()))?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(PolicyError::Kind(policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::NoRules);
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if of_resources && !rule.non_resource_urls.is_empty() {
                return Err(PolicyError::Mixed(index));
            }
            let wrong = |url: &&String| {
                let stem = url.strip_suffix('*').unwrap_or(url);
                url.as_str() != "*" && (!url.starts_with('/') || stem.contains('*'))
            };
            if let Some(url) = rule.non_resource_urls.iter().find(wrong) {
                return Err(PolicyError::Path(index, url.clone()));
            }
        }
        Ok(policy)
    }

    /// What is recorded of a request; a user who could not be authenticated is `None`.
    pub(super) fn decide(&self, user: Option<&User>, request: &Attributes<'_>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, request)) else {
            return Verdict { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false };
        };
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(&rule.omit_stages);
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Verdict { level: rule.level, omit_stages, omit_managed_fields }
    }
}

impl Rule {
    fn matches(&self, user: Option<&User>, request: &Attributes<'_>) -> bool {
        let is = |list: &[String], text: &str| list.is_empty() || list.iter().any(|item| item == text);
        let user_matches = match user {
            Some(user) => {
                is(&self.users, &user.name)
                    && (self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.is_in(group)))
            }
            None => self.users.is_empty() && self.user_groups.is_empty(),
        };
        if !user_matches || !is(&self.verbs, request.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return request.is_resource
                && is(&self.namespaces, request.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(request)));
        }
        self.non_resource_urls.is_empty()
            || (!request.is_resource && self.non_resource_urls.iter().any(|url| path_matches(request.path, url)))
    }
}

impl GroupResources {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == request.name);
        if self.group != request.group {
            return false;
        }
        // Upstream's order: a rule without resources is about all of them, whatever names it has.
        self.resources.is_empty() || (named && self.resources.iter().any(|wanted| resource_matches(request, wanted)))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`.
fn resource_matches(request: &Attributes<'_>, wanted: &str) -> bool {
    match wanted.split_once('/') {
        None => wanted == "*" || (wanted == request.resource && request.subresource.is_empty()),
        Some(("*", sub)) => !request.subresource.is_empty() && request.subresource == sub,
        Some((resource, "*")) => request.resource == resource,
        Some((resource, sub)) => request.resource == resource && request.subresource == sub,
    }
}

fn path_matches(path: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(stem) => path.starts_with(stem),
        None => path == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
- level: None
  nonResourceURLs: [/healthz*, /version]
- level: RequestResponse
  resources:
  - group: ""
    resources: [pods, "*/scale", services/*]
  omitManagedFields: true
- level: Request
  namespaces: [kube-system]
  resources: [{group: "", resources: [configmaps], resourceNames: [audited]}]
  omitStages: [ResponseStarted]
- level: None
  userGroups: ["system:nodes"]
- level: Metadata
  namespaces: [""]
"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(POLICY).unwrap();
        let proxy = User { name: "system:kube-proxy".into(), ..User::default() };
        let node = User { name: "system:node:n".into(), groups: vec!["system:nodes".into()], ..User::default() };
        let of = |verb, resource, subresource, namespace, name| Attributes {
            verb,
            is_resource: true,
            group: "",
            resource,
            subresource,
            namespace,
            name,
            path: "",
        };
        let path = |path| Attributes { is_resource: false, path, ..of("get", "", "", "", "") };
        for (user, request, level) in [
            (Some(&proxy), of("watch", "endpoints", "", "", ""), Level::None),
            (Some(&proxy), of("list", "endpoints", "", "", ""), Level::Metadata),
            (Some(&proxy), path("/healthz/etcd"), Level::None),
            (Some(&proxy), path("/version"), Level::None),
            (Some(&proxy), path("/metrics"), Level::None),
            (Some(&proxy), of("get", "pods", "", "d", "a"), Level::RequestResponse),
            (Some(&proxy), of("get", "pods", "log", "d", "a"), Level::None),
            (Some(&proxy), of("update", "replicationcontrollers", "scale", "d", "a"), Level::RequestResponse),
            (Some(&proxy), of("get", "services", "", "d", "a"), Level::RequestResponse),
            (Some(&proxy), of("get", "services", "status", "d", "a"), Level::RequestResponse),
            (Some(&proxy), of("get", "configmaps", "", "kube-system", "audited"), Level::Request),
            (Some(&proxy), of("get", "configmaps", "", "kube-system", "other"), Level::None),
            (Some(&node), of("get", "nodes", "", "", "n"), Level::None),
            (None, of("get", "nodes", "", "", "n"), Level::Metadata),
        ] {
            assert_eq!(policy.decide(user, &request).level, level, "{request:?}");
        }
        let verdict = policy.decide(None, &of("get", "configmaps", "", "kube-system", "audited"));
        assert_eq!(verdict.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(policy.decide(None, &of("get", "pods", "", "d", "a")).omit_managed_fields);
    }

    #[test]
    fn a_policy_that_means_nothing_is_refused_with_the_reason() {
        let with = |rules: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
        for (text, wanted) in [
            (with("rules: []"), "has no rules: add one, as in {level: Metadata}"),
            (
                "apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]".into(),
                "apiVersion \"audit.k8s.io/v1beta1\" and kind \"Policy\": only audit.k8s.io/v1 Policy is understood",
            ),
            (
                with("rules: [{level: None, namespaces: [a], nonResourceURLs: [/x]}]"),
                "rules[0]: a rule applies to resources and namespaces or to nonResourceURLs, not to both",
            ),
            (
                with("rules: [{level: None}, {level: None, nonResourceURLs: [x]}]"),
                "rules[1].nonResourceURLs: \"x\" must begin with / or be *, with * only at the end",
            ),
        ] {
            assert_eq!(Policy::parse(&text).unwrap_err().to_string(), wanted);
        }
        for text in [with("rules: [{level: Everything}]"), with("rulez: []"), "[".into()] {
            assert!(matches!(Policy::parse(&text), Err(PolicyError::Parse(_))), "{text}");
        }
    }
}
