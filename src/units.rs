//! Millicores and bytes: Kubernetes quantities parsed once.

/// CPU in thousandths of a core, rounded up as `resource.Quantity.MilliValue`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Millicores(pub i64);

/// A size in bytes, rounded up as `resource.Quantity.Value`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Bytes(pub i64);
