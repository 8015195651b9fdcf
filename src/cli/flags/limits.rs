//! kube-apiserver's flags of how much it takes on at once, and for how long.

use super::duration;
use clap::Args;
use skiff_shim::config::Limits;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server limits")]
pub(crate) struct LimitFlags {
    /// Reading requests served at once; more are told to come back (429). 0 is no limit
    #[arg(long, default_value_t = Limits::default().max_requests_inflight, value_name = "count")]
    max_requests_inflight: usize,
    /// Writing requests served at once; more are told to come back (429). 0 is no limit
    #[arg(long, default_value_t = Limits::default().max_mutating_requests_inflight, value_name = "count")]
    max_mutating_requests_inflight: usize,
    /// How long a request may take that is neither a watch nor a stream, as in 1m0s
    #[arg(long, default_value = "1m0s", value_parser = duration, value_name = "duration")]
    request_timeout: Duration,
    /// Seconds after which a watch without a timeout of its own is ended at the earliest, and twice which at the latest
    #[arg(long, default_value_t = Limits::default().min_request_timeout.as_secs(), value_name = "seconds")]
    min_request_timeout: u64,
    /// How long the server still serves, unready already, once it is asked to stop
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "duration")]
    shutdown_delay_duration: Duration,
    /// Requests at once on one HTTP/2 connection
    #[arg(long, default_value_t = Limits::default().max_streams_per_connection, value_name = "count",
          value_parser = clap::value_parser!(u32).range(1..))]
    http2_max_streams_per_connection: u32,
}

impl LimitFlags {
    pub(super) fn resolve(&self) -> Limits {
        Limits {
            max_requests_inflight: self.max_requests_inflight,
            max_mutating_requests_inflight: self.max_mutating_requests_inflight,
            request_timeout: self.request_timeout,
            min_request_timeout: Duration::from_secs(self.min_request_timeout),
            shutdown_delay: self.shutdown_delay_duration,
            max_streams_per_connection: self.http2_max_streams_per_connection,
        }
    }
}
