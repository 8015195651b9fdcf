//! The only reader of time: wall time for what the API and CRI show, monotonic time for every wait.
#![allow(clippy::disallowed_methods)]

pub mod crowd;
pub(crate) mod rate;

use jiff::Timestamp;
use tokio::time::Instant;

/// A reading of both clocks at one moment; a wall-clock jump never lengthens a wait.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Timestamp,
    pub mono: Instant,
}

/// Reads both clocks (tests pause the monotonic one with `tokio::time::pause`).
pub fn now() -> Now {
    Now { wall: Timestamp::now(), mono: Instant::now() }
}
