//! PodSecurity: a namespace's labels say which of the Pod Security Standards its pods must keep, and which to warn of.

mod baseline;
mod pod;
mod restricted;

use crate::error::{ApiError, Qualified};
use crate::meta::{Meta, Object};
use crate::registry::field::{Errors, Path, quoted};
use crate::registry::value::{items, text};
use crate::registry::{ResourceDef, field::FieldError};
use pod::Pod;
use serde_json::Value;
use std::fmt;

const PREFIX: &str = "pod-security.kubernetes.io/";
const LEVELS: [(&str, Level); 3] =
    [("privileged", Level::Privileged), ("baseline", Level::Baseline), ("restricted", Level::Restricted)];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A release whose standards count; the newest there are when none is named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Version {
    Minor(u32),
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        match text {
            "latest" => Some(Version::Latest),
            text => Some(Version::Minor(text.strip_prefix("v1.")?.parse().ok()?)),
        }
    }
}

/// A level in a version: `baseline:latest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Standard {
    level: Level,
    version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = LEVELS.iter().find(|(_, level)| *level == self.level).map_or("", |(name, _)| name);
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Policy {
    enforce: Standard,
    warn: Standard,
}

impl Policy {
    fn of(namespace: &Object) -> Policy {
        let label = |name: &str| namespace.labels().and_then(|l| l.get(&format!("{PREFIX}{name}"))).map(text);
        // A label that nobody understands asks for the most where it refuses, for the least where it warns.
        let standard = |mode: &str, unknown: Level| Standard {
            level: label(mode).map_or(Level::Privileged, |text| level(text).unwrap_or(unknown)),
            version: label(&format!("{mode}-version")).and_then(Version::parse).unwrap_or(Version::Latest),
        };
        let enforce = standard("enforce", Level::Restricted);
        let warn = if label("warn").is_some() { standard("warn", Level::Privileged) } else { enforce };
        Policy { enforce, warn }
    }
}

fn level(text: &str) -> Option<Level> {
    LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level)
}

/// One thing that a standard forbids: `privileged (container "a" must not set …)`.
struct Violation {
    reason: String,
    detail: String,
}

/// Everything in the pod that the standard forbids; empty when there is nothing.
fn violations(standard: Standard, pod: &Pod<'_>) -> String {
    let mut found = Vec::new();
    if standard.level >= Level::Baseline {
        baseline::check(standard, pod, &mut found);
    }
    if standard.level == Level::Restricted {
        restricted::check(standard.version, pod, &mut found);
    }
    let shown =
        |v: &Violation| if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) };
    found.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Whether objects of that resource hold a pod, and where.
fn template(resource: &str) -> Option<&'static str> {
    Some(match resource {
        "pods" => "",
        "podtemplates" => "/template",
        "cronjobs" => "/spec/jobTemplate/spec/template",
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "jobs" | "replicationcontrollers" => {
            "/spec/template"
        }
        _ => return None,
    })
}

/// Whether writes of that resource are held against a namespace's labels.
pub fn applies(def: &ResourceDef) -> bool {
    matches!(def.gv.group, "" | "apps" | "batch") && template(def.resource).is_some()
}

/// Refuses a pod that the namespace does not allow; texts to warn of. An update counts when it changes what runs.
pub fn check(
    def: &ResourceDef,
    namespace: &Object,
    name: &str,
    object: &Object,
    old: Option<&Object>,
) -> Result<Vec<String>, ApiError> {
    let Some(at) = template(def.resource) else { return Ok(Vec::new()) };
    let policy = Policy::of(namespace);
    if policy.enforce.level == Level::Privileged && policy.warn.level == Level::Privileged {
        return Ok(Vec::new());
    }
    let Some(template) = object.pointer(at) else { return Ok(Vec::new()) };
    let pod = Pod::of(template);
    if at.is_empty() {
        if old.is_some_and(|old| !is_significant(object, old)) {
            return Ok(Vec::new());
        }
        let why = violations(policy.enforce, &pod);
        if !why.is_empty() {
            return Err(ApiError::Forbidden {
                what: Qualified::resource(def),
                name: name.into(),
                why: format!("violates PodSecurity {}: {why}", quoted(&policy.enforce.to_string())),
                causes: Vec::new(),
            });
        }
    }
    let doubt = violations(policy.warn, &pod);
    Ok(match doubt.is_empty() {
        true => Vec::new(),
        false => vec![format!("would violate PodSecurity {}: {doubt}", quoted(&policy.warn.to_string()))],
    })
}

/// Of a pod's update only images, ephemeral containers and profiles in annotations can matter.
fn is_significant(new: &Object, old: &Object) -> bool {
    let images = |pod: &Object| -> Vec<(String, String)> {
        let lists = ["containers", "initContainers"].into_iter().flat_map(|list| items(&pod["spec"][list]));
        lists.map(|c| (text(&c["name"]).to_owned(), text(&c["image"]).to_owned())).collect()
    };
    let ephemeral = |pod: &Object| pod["spec"]["ephemeralContainers"].clone();
    let profiles = |pod: &Object| -> Vec<(String, Value)> {
        let known = |key: &str| {
            key.starts_with("seccomp.security.alpha.") || key.starts_with("container.apparmor.security.beta.")
        };
        pod.annotations()
            .into_iter()
            .flatten()
            .filter(|(key, _)| known(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    images(new) != images(old) || ephemeral(new) != ephemeral(old) || profiles(new) != profiles(old)
}

/// Errors of a namespace's own labels, when they change.
pub fn label_errors(namespace: &Object, old: Option<&Object>) -> Errors {
    let path = Path::new("metadata").child("labels");
    let own = |object: &Object, label: &str| object.labels().and_then(|l| l.get(label)).map(|v| text(v).to_owned());
    let mut errors: Vec<FieldError> = Errors::new();
    for mode in ["enforce", "audit", "warn"] {
        for (suffix, detail) in
            [("", "must be one of privileged, baseline, restricted"), ("-version", "must be \"latest\" or \"v1.x\"")]
        {
            let label = format!("{PREFIX}{mode}{suffix}");
            let Some(value) = own(namespace, &label) else { continue };
            let known = if suffix.is_empty() { level(&value).is_some() } else { Version::parse(&value).is_some() };
            let same = old.is_some_and(|old| own(old, &label).as_deref() == Some(&*value));
            if !known && !same {
                errors.push(path.key(&label).invalid(value, detail));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests;
