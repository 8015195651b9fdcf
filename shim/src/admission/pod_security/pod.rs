//! A pod as the standards look at it, and the words that their texts are made of.

use super::Violation;
use crate::meta::{Meta, Object};
use crate::registry::field::quoted;
use crate::registry::value::{items, text};
use serde_json::Value;

/// A pod or a template of pods.
pub(super) struct Pod<'a> {
    pub object: &'a Object,
    pub spec: &'a Value,
    /// All containers: those that start first come first.
    pub containers: Vec<&'a Value>,
}

impl<'a> Pod<'a> {
    pub(super) fn of(object: &'a Object) -> Pod<'a> {
        let spec = &object["spec"];
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        Pod { object, spec, containers: lists.into_iter().flat_map(|list| items(&spec[list])).collect() }
    }

    pub(super) fn is_windows(&self) -> bool {
        text(&self.spec["os"]["name"]) == "windows"
    }

    pub(super) fn annotations(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.object.annotations().into_iter().flatten()
    }

    /// Names of the containers of which that holds.
    pub(super) fn where_(&self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|c| holds(c)).map(|c| text(&c["name"])).collect()
    }

    /// Who sets what must not be set: the pod, the containers, or both.
    pub(super) fn setters(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let mut setters = Vec::new();
        if bad(&self.spec["securityContext"]) {
            setters.push("pod".to_owned());
        }
        let containers = self.where_(|c| bad(&c["securityContext"]));
        if !containers.is_empty() {
            setters.push(named("container", &containers));
        }
        setters
    }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn named(word: &str, names: &[impl AsRef<str>]) -> String {
    format!("{} {}", plural(word, names.len()), quote_all(names))
}

pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

pub(super) fn quote_all(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| quoted(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// The values, each once, sorted.
pub(super) fn unique<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    values.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

pub(super) fn forbid(found: &mut Vec<Violation>, reason: &str, detail: String) {
    found.push(Violation { reason: reason.to_owned(), detail });
}
