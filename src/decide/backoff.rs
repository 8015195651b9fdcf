//! When a container that ended may start again: CrashLoopBackOff, derivable from restart counts after a crash of ours.

use super::{Scene, restart_count};
use crate::model::observed::{ContainerState, ObservedContainer};
use std::time::Duration;
use tokio::time::Instant;

/// First delay; doubles with each restart (`pkg/kubelet/kubelet.go` `backOffPeriod`).
pub const FIRST_DELAY_SECONDS: u64 = 10;
/// The delay never exceeds this (`MaxCrashLoopBackOff`, `MaxImageBackOff`).
pub const MAX_DELAY_SECONDS: u64 = 300;
/// A run at least this long makes the backoff begin anew (twice the maximum, `flowcontrol.Backoff`).
pub const RESET_AFTER_SECONDS: i64 = 600;

/// When to start a container again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Now,
    /// `delay` is the whole backoff, as the message names it.
    At {
        at: Instant,
        delay: Duration,
    },
}

/// The delay before retry number `failures` + 1, counted from 1: 10 s, 20 s, … 5 min.
pub fn delay(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let seconds = FIRST_DELAY_SECONDS.saturating_mul(1 << doublings.min(10));
    Duration::from_secs(seconds.min(MAX_DELAY_SECONDS))
}

/// The first restart is prompt; each later one waits, counted from the end of the run before.
pub(crate) fn restart_due(scene: &Scene<'_>, container: &ObservedContainer) -> Due {
    let ContainerState::Exited { finished_at, .. } = &container.state else { return Due::Now };
    let base = scene.memory.backoff_base.get(&container.name).copied().unwrap_or(0);
    let delay = delay(restart_count(container).saturating_sub(base));
    // Both clocks: a wall clock set back must not lengthen the wait, a restart of ours must not begin it anew.
    let by_wall = Duration::try_from(scene.now.wall.duration_since(*finished_at)).unwrap_or_default();
    let by_mono =
        scene.memory.ended.get(&container.id).map_or(Duration::ZERO, |seen| scene.now.mono.duration_since(*seen));
    let waited = by_wall.max(by_mono);
    if waited >= delay { Due::Now } else { Due::At { at: scene.now.mono + (delay - waited), delay } }
}
