//! The group batch: work that ends.

pub mod cronjob;
pub mod job;
mod schedule;
