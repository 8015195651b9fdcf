//! Where the store's keys lie in etcd: `/registry/…` below `--etcd-prefix`, and nothing else.

use crate::store::key::{StoreKey, prefix_end};

/// The part of every store key that `--etcd-prefix` stands for.
const OWN_ROOT: &str = "/registry";

/// Translates between store keys and etcd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// `/registry` unless `--etcd-prefix` says otherwise; begins with a slash and ends without.
    root: String,
}

impl Keys {
    /// As kube-apiserver reads `--etcd-prefix`: `registry`, `/registry` and `/registry/` are the same.
    pub(super) fn new(prefix: &str) -> Self {
        let inner = prefix.trim_matches('/');
        Self { root: if inner.is_empty() { String::new() } else { format!("/{inner}") } }
    }

    pub(super) fn outward(&self, key: &str) -> String {
        let rest = key.strip_prefix(OWN_ROOT).unwrap_or(key);
        format!("{}{rest}", self.root)
    }

    /// `None`: not below the prefix, or no text (no API object has such a key).
    pub(super) fn inward(&self, key: &[u8]) -> Option<StoreKey> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.root)?;
        if self.root == OWN_ROOT {
            return Some(StoreKey::from_stored(std::str::from_utf8(key).ok()?));
        }
        Some(StoreKey::from_stored(&format!("{OWN_ROOT}{rest}")))
    }

    /// etcd's half-open range of the keys that start with `prefix` and come after `after`.
    pub(super) fn range(&self, prefix: &str, after: Option<&StoreKey>) -> (Vec<u8>, Vec<u8>) {
        let prefix = self.outward(prefix);
        // The least key behind `after` is `after` with a zero byte.
        let behind = after.map(|after| [self.outward(after.as_str()).as_bytes(), b"\0"].concat());
        let start = behind.filter(|start| start.as_slice() >= prefix.as_bytes());
        // etcd's word for "to the end" is a zero byte.
        let end = prefix_end(&prefix).map_or_else(|| vec![0], String::into_bytes);
        (start.unwrap_or_else(|| prefix.into_bytes()), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_below_the_prefix_and_come_back() {
        for (prefix, outward) in [
            ("/registry", "/registry/pods/d/a"),
            ("registry/", "/registry/pods/d/a"),
            ("/k8s/east/", "/k8s/east/pods/d/a"),
            ("/", "/pods/d/a"),
        ] {
            let keys = Keys::new(prefix);
            let key = StoreKey::object("pods", Some("d"), "a");
            assert_eq!(keys.outward(key.as_str()), outward);
            assert_eq!(keys.inward(outward.as_bytes()), Some(key), "{prefix}");
        }
        assert_eq!(Keys::new("/k8s").inward(b"compact_rev_key"), None);
        assert_eq!(Keys::new("/registry").inward(b"/registry/\xff"), None);
    }

    #[test]
    fn a_range_is_the_prefix_or_what_follows_a_key_in_it() {
        let keys = Keys::new("/r");
        let text =
            |(start, end): (Vec<u8>, Vec<u8>)| (String::from_utf8(start).unwrap(), String::from_utf8(end).unwrap());
        let own = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(text(keys.range("/registry/pods/", None)), own("/r/pods/", "/r/pods0"));
        let after = StoreKey::object("pods", Some("d"), "a");
        assert_eq!(text(keys.range("/registry/pods/", Some(&after))), own("/r/pods/d/a\0", "/r/pods0"));
        let before = StoreKey::object("minions", None, "n");
        assert_eq!(text(keys.range("/registry/pods/", Some(&before))), own("/r/pods/", "/r/pods0"));
    }
}
