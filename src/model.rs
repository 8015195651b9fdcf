//! The agent's data: what is wanted, what is seen, what is remembered, what to do. No behaviour beyond access.

pub mod cpuset;
pub mod devices;
pub mod dns;
pub mod eviction;
pub mod memory;
pub mod node;
pub mod observed;
pub mod pod;
pub mod qos;
pub mod resources;
pub mod stats;
pub mod step;
pub mod topology;
