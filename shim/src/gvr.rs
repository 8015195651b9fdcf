//! Group, version, kind and resource names.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// An API group and version; the core group is the empty string.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupVersion {
    pub group: &'static str,
    pub version: &'static str,
}

impl fmt::Display for GroupVersion {
    /// As `apiVersion` writes it: `v1`, `apps/v1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(self.version) } else { write!(f, "{}/{}", self.group, self.version) }
    }
}

impl GroupVersion {
    /// The group version of a custom resource.
    pub fn interned(group: &str, version: &str) -> Self {
        Self { group: intern(group), version: intern(version) }
    }
}

/// The one copy of a name that an API has. Names travel as `&'static str`; those of custom resources come at run time and
/// stay for the life of the process: a few hundred bytes for each distinct definition there ever was, none for a change.
pub fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = Box::leak(name.into());
    names.insert(name);
    name
}

/// The one copy of a list of names.
pub fn intern_all<'a>(list: impl IntoIterator<Item = &'a str>) -> &'static [&'static str] {
    static LISTS: Mutex<BTreeSet<&'static [&'static str]>> = Mutex::new(BTreeSet::new());
    let list: Vec<&'static str> = list.into_iter().map(intern).collect();
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lists.get(&list[..]) {
        return known;
    }
    let list: &'static [&'static str] = Box::leak(list.into());
    lists.insert(list);
    list
}

/// The order of versions in discovery: stable before beta before alpha, the newest first, then other names by alphabet
/// (apimachinery's `CompareKubeAwareVersionStrings`, turned round).
pub fn version_order(a: &str, b: &str) -> Ordering {
    match (maturity(a), maturity(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// `v2` is (3, 2, 0), `v1beta2` (2, 1, 2), `v1alpha1` (1, 1, 1); other names have none.
fn maturity(version: &str) -> Option<(u8, u64, u64)> {
    let number = |text: &str| match text.strip_prefix(['1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        Some(rest) if rest.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u64>().ok(),
        Some(_) | None => None,
    };
    let rest = version.strip_prefix('v')?;
    for (level, name) in [(1, "alpha"), (2, "beta")] {
        if let Some((major, minor)) = rest.split_once(name) {
            return Some((level, number(major)?, number(minor)?));
        }
    }
    Some((3, number(rest)?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        let (first, again) = (intern("example.com"), intern(&String::from("example.com")));
        assert!(std::ptr::eq(first, again));
        assert!(std::ptr::eq(intern_all(["a", "b"]), intern_all(["a", "b"])));
    }

    #[test]
    fn versions_sort_by_maturity_then_newest_first() {
        let mut versions = ["foo10", "v1", "v1alpha1", "v10", "v2beta1", "bar", "v2", "v1beta2", "v01", "v1alpha2"];
        versions.sort_by(|a, b| version_order(a, b));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha2", "v1alpha1", "bar", "foo10", "v01"]);
    }
}
