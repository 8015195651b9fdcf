//! Labels or selectable fields of one object in one allocation: a tenth of what a map of strings would take.

use crate::selector::{Lookup, Pairs};

/// Pairs in name order, each as the lengths of its name (u16) and value (u32), then both texts. No pairs, no allocation.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Compact(Box<[u8]>);

/// Bytes of the two lengths before each pair.
const LENGTHS: usize = 6;

impl Compact {
    /// The pairs for which `keep` holds.
    pub(super) fn of(pairs: &Pairs, keep: impl Fn(&str, &str) -> bool) -> Self {
        let kept = || pairs.iter().filter(|(name, value)| keep(name, value));
        let mut out = Vec::with_capacity(kept().map(|(name, value)| LENGTHS + name.len() + value.len()).sum());
        for (name, value) in kept() {
            // A name is a field path or a label key, a value fits a request: neither length can overflow.
            let (Ok(name_length), Ok(value_length)) = (u16::try_from(name.len()), u32::try_from(value.len())) else {
                continue;
            };
            out.extend_from_slice(&name_length.to_le_bytes());
            out.extend_from_slice(&value_length.to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        Self(out.into())
    }

    /// Names and values, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (lengths, after) = rest.split_first_chunk::<LENGTHS>()?;
            let [n0, n1, v0, v1, v2, v3] = *lengths;
            let (name, after) = after.split_at_checked(usize::from(u16::from_le_bytes([n0, n1])))?;
            let (value, after) = after.split_at_checked(u32::from_le_bytes([v0, v1, v2, v3]) as usize)?;
            rest = after;
            // Both were strings when they were put in.
            Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
        })
    }
}

impl Lookup for Compact {
    fn value(&self, name: &str) -> Option<&str> {
        self.iter().find(|(have, _)| *have == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_again_whatever_they_contain() {
        let pairs: Pairs = [("a", "1"), ("b", ""), ("c\0d", "x\0y"), ("ü", "ñ"), ("z", "left out")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        let compact = Compact::of(&pairs, |name, _| name != "z");
        for (name, value) in [("a", Some("1")), ("b", Some("")), ("c\0d", Some("x\0y")), ("ü", Some("ñ")), ("z", None)]
        {
            assert_eq!(compact.value(name), value, "{name}");
        }
        assert_eq!(compact.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "c\0d", "ü"]);
        assert_eq!(Compact::default().value("a"), None);
    }
}
