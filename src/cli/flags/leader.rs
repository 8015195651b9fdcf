//! kube-controller-manager's flags of leader election.

use super::duration;
use crate::cli::machine;
use clap::Args;
use skiff_shim::config::{Election, Timing};
use std::time::Duration;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Leader election")]
pub(crate) struct LeaderFlags {
    /// Run controllers and scheduler only while this server leads; on by default with etcd, which others may share, and off
    /// with an embedded store, which nobody does
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    leader_elect: Option<bool>,
    /// How long others wait after the last renewal that they saw
    #[arg(long, default_value = "15s", value_parser = duration, value_name = "duration")]
    leader_elect_lease_duration: Duration,
    /// How long a leader that cannot renew still leads
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "duration")]
    leader_elect_renew_deadline: Duration,
    /// How often a leader renews
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "duration")]
    leader_elect_retry_period: Duration,
}

impl LeaderFlags {
    /// `shared`: other servers may run on the same store.
    pub(super) fn resolve(&self, shared: bool) -> anyhow::Result<Option<Election>> {
        if !self.leader_elect.unwrap_or(shared) {
            return Ok(None);
        }
        let timing = Timing {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        };
        timing.check().map_err(anyhow::Error::msg)?;
        let identity = format!("{}_{}", machine::hostname(), uuid::Uuid::new_v4()).into();
        Ok(Some(Election { identity, timing }))
    }
}
