//! The group policy: how many pods may be missing at once.

pub mod poddisruptionbudget;
