//! The group autoscaling: one kind, stored as v2, served as v1 too.

mod convert;
pub mod horizontalpodautoscaler;
mod metrics;
