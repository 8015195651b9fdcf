//! Server-side apply: who owns which field of an object, and what an applied object changes. Pure; the pipeline calls it.
//!
//! The rules are those of Kubernetes' structured-merge-diff. `set` holds fields, `types` says what a type is to an applier,
//! `fields`, `compare`, `merge` and `remove` walk objects by their types, `managers` puts it together.

mod compare;
mod element;
mod fields;
mod managers;
mod merge;
mod remove;
mod set;
#[cfg(test)]
mod tests;
mod types;

pub use compare::{Diff, compare};
pub use fields::{fields, misfits};
pub use managers::{
    Applied, ApplyError, Conflict, Manager, Managers, Operation, Versions, Writer, is_reset, same_but_times,
};
pub use set::Set;
pub use types::{AnyType, Builtin, Custom, Entry, Form, Scalar, Typed};
