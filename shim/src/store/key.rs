//! Store keys, parsed once: `/registry/<prefix>/[<namespace>/]<name>`.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// The storage prefix of what servers on one store claim for the length of a request; no resource of the API.
pub const CLAIMS: &str = "skiff-claims";

/// The full key of one object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey(Arc<str>);

impl StoreKey {
    /// Key of an object; `prefix` is the resource's storage prefix (`pods`, `minions`, `services/specs`).
    pub fn object(prefix: &str, namespace: Option<&str>, name: &str) -> Self {
        match namespace {
            Some(ns) => Self(format!("/registry/{prefix}/{ns}/{name}").into()),
            None => Self(format!("/registry/{prefix}/{name}").into()),
        }
    }
    /// The prefix that all keys of a resource (in a namespace, or everywhere) start with; ends in `/`.
    pub fn prefix(prefix: &str, namespace: Option<&str>) -> String {
        match namespace {
            Some(ns) => format!("/registry/{prefix}/{ns}/"),
            None => format!("/registry/{prefix}/"),
        }
    }
    /// A key as an engine read it back.
    pub fn from_stored(key: &str) -> Self {
        Self(key.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The last segment: the object's name.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
    /// The last segment but one: the object's namespace, if it has one.
    pub fn namespace(&self) -> &str {
        self.0.rsplit('/').nth(1).unwrap_or_default()
    }
}

/// Bounds of the keys that start with `prefix` and come after `after`; the upper bound is left to the caller's
/// `starts_with`.
pub(crate) fn prefix_range<'a>(prefix: &'a str, after: Option<&'a StoreKey>) -> (Bound<&'a str>, Bound<&'a str>) {
    match after {
        Some(after) if after.as_str() >= prefix => (Bound::Excluded(after.as_str()), Bound::Unbounded),
        _ => (Bound::Included(prefix), Bound::Unbounded),
    }
}

/// The least string above every key that starts with `prefix`; `None` when there is none (empty prefix).
pub(crate) fn prefix_end(prefix: &str) -> Option<String> {
    let last = prefix.chars().next_back()?;
    let mut end = prefix[..prefix.len() - last.len_utf8()].to_owned();
    // Keys are ASCII paths; the skip over surrogates and past the last scalar only keeps this total.
    end.push((u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32)?);
    Some(end)
}

/// The storage prefix that a key belongs to: `pods`, `services/specs`, `example.com/widgets` (only custom resources and
/// the two kinds of definitions carry their group, which has a dot; only services have two kinds under one word).
pub fn resource_of(key: &str) -> &str {
    let path = key.strip_prefix("/registry/").unwrap_or(key);
    let first = path.find('/').unwrap_or(path.len());
    if path[..first] != *"services" && !path[..first].contains('.') {
        return &path[..first];
    }
    let second = path.get(first + 1..).and_then(|rest| rest.find('/')).map_or(path.len(), |end| first + 1 + end);
    &path[..second]
}

impl std::borrow::Borrow<str> for StoreKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_resource() {
        for (key, resource) in [
            ("/registry/pods/d/a", "pods"),
            ("/registry/minions/n1", "minions"),
            ("/registry/services/specs/d/a", "services/specs"),
            ("/registry/services/endpoints/d/a", "services/endpoints"),
            ("/registry/example.com/widgets/d/a", "example.com/widgets"),
            (
                "/registry/apiextensions.k8s.io/customresourcedefinitions/a.b",
                "apiextensions.k8s.io/customresourcedefinitions",
            ),
            ("/registry/x", "x"),
            ("elsewhere", "elsewhere"),
        ] {
            assert_eq!(resource_of(key), resource, "{key}");
        }
    }
}
