//! Store keys, parsed once: `/registry/<prefix>/[<namespace>/]<name>`.

use std::fmt;
use std::sync::Arc;

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
