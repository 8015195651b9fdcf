//! End to end: one `skiff standalone` a test, judged by kubectl, curl and the machine itself.

// Real processes are waited for with real deadlines.
#![allow(clippy::disallowed_methods)]

mod adopt;
mod bad_input;
mod boot;
mod csi;
mod devices;
mod eviction;
mod exposition;
mod faults;
mod flow;
#[path = "../harness/node.rs"]
mod harness;
mod join;
mod kubectl;
mod pinning;
mod pods;
mod registry;
mod restart;
mod scrape;
