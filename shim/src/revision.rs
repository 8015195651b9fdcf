//! The store's revision: one global, strictly increasing number, never reused; `resourceVersion` on the wire.

use std::fmt;

/// A store revision. Zero is "none yet" and, in a request, "any".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
